"""The first hour of a newcomer, out of the built wheel: an empty home, no identity for git, no caches, a tiny model."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import clean_environment, share_libraries

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
CONFIG = "fine-tuning/olive-config.json"
STAGES = ["fetch", "finetune", "merge", "export", "evaluate"]
REVIEWS = "text,label\n" + "".join(
    f'"Day {i}: the {thing}, {word}",{label}\n'
    for i, thing in enumerate(("soup", "room", "staff", "view", "bed", "price") * 5)
    for word, label in (("lovely", "good"), ("dreadful", "bad"))
)


@dataclass
class Shell:
    """A shell of the newcomer in a folder."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *command: str | Path, code: int = 0, input: str = "") -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in command]
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, input=input, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def json(self, *command: str | Path, code: int = 0) -> Any:
        """The last line that a command prints with --json."""
        return json.loads(self(*command, "--json", code=code).stdout.splitlines()[-1])


@pytest.fixture
def shell(light: Path, tmp_path: Path) -> Callable[[str], Shell]:
    """Opens a shell in a folder of the newcomer's, in which `phi-scaffold` is that of the wheel."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in clean_environment().items() if not k.startswith(("XDG_", "GIT_", "HF_", "PIP_CACHE"))}
    environment = kept | {"HOME": str(home), "PATH": f"{light}:{kept['PATH']}", "PYTHON": sys.executable}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "HF_HUB_OFFLINE": "1", "EMAIL": ""}
    return lambda folder: Shell(tmp_path / folder, environment)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_newcomer_gets_from_the_readme_to_an_updated_project(
    shell: Callable[[str], Shell], tiny_phi3: Path, tmp_path: Path
) -> None:
    phi = "phi-scaffold"
    here, mood = shell("."), shell("mood")

    # README: new, setup, run, chat
    assert here.json(phi, "new", "mood", "--model", tiny_phi3, "--yes")["git"]
    share_libraries(tmp_path / "mood" / ".venv")
    mood("bash", "setup/setup.sh")
    edit(tmp_path / "mood" / "fine-tuning" / "evaluation.json", '"max_rows": 200', '"max_rows": 8')
    short = ("--set", "passes.finetune.training_args.max_steps=4")
    finished = mood.json(phi, "run", *short)
    assert (finished["event"], mood.json(phi, "status", *short)["stages"][-1]["state"]) == ("run-finished", "cached")
    assert (tmp_path / "mood" / "gen-model" / "report.html").is_file()
    assert mood(phi, "chat", *short, "--max-new-tokens", "4", input="What a day!\n").stdout
    assert mood(".venv/bin/python", "inferences/chat_onnx.py", "--prompt", "What a day!").returncode == 0

    # Own data
    (tmp_path / "reviews.csv").write_text(REVIEWS, encoding="utf-8")
    made = here.json(phi, "new", "own", "--data", "reviews.csv", "--model", tiny_phi3, "--yes")
    assert any("60 rows" in note for note in made["notes"])
    own = shell("own")
    share_libraries(tmp_path / "own" / ".venv")
    own("bash", "setup/setup.sh")
    assert own.json(phi, "data", "check")["usable"]

    # Edit, break, and fix by the message
    config = tmp_path / "own" / CONFIG
    edit(config, '"num_train_epochs"', '"max_steps": 4, "num_train_epochs"')
    assert own.json(phi, "validate")["findings"] == []
    edit(config, '"alpha"', '"alhpa"')
    broken = own.json(phi, "run", code=3)
    assert (broken["event"], broken["exit_code"]) == ("error", 3)
    (finding,) = own.json(phi, "validate", code=3)["findings"]
    line = next(n for n, text in enumerate(config.read_text().splitlines(), 1) if "alhpa" in text)
    assert (finding["rule"], finding["line"], finding["suggestion"]) == ("unknown-key", line, "alpha")
    edit(config, '"alhpa"', f'"{finding["suggestion"]}"')
    data = tmp_path / "own" / "datasets" / "reviews.csv"
    data.rename(data.with_suffix(".bak"))
    (missing,) = own.json(phi, "validate", code=3)["findings"]
    assert "reviews.csv" in missing["message"] + missing["fix"]
    data.with_suffix(".bak").rename(data)
    assert own.json(phi, "validate")["findings"] == []

    # Run, chat
    assert own.json(phi, "run")["event"] == "run-finished"
    assert [stage["name"] for stage in own.json(phi, "status")["stages"]] == STAGES
    assert own.json(phi, "generate", "a day", "--max-new-tokens", "2")["model"] == "onnx"
    assert own(phi, "chat", "--max-new-tokens", "4", input="a day\n").stdout

    # Update: the project is of the first release, which had no .vscode/mcp.json
    edit(tmp_path / "own" / ".copier-answers.yml", _version_line(own), "phi_scaffold_version: 0.1.0\n")
    (tmp_path / "own" / ".vscode" / "mcp.json").unlink()
    refused = own.json(phi, "update", code=6)
    add, commit = refused["fix"].partition(", or")[0].split(" && ")
    own(*shlex.split(add))
    own(*shlex.split(commit), code=128)  # git does not know who you are
    own("git", "config", "user.email", "me@example.org")
    own("git", "config", "user.name", "Me")
    own(*shlex.split(commit))
    files = {file["path"]: file["change"] for file in own.json(phi, "update")["files"]}
    assert files[".vscode/mcp.json"] == "added"
    assert "conflict" not in files.values()
    assert own.json(phi, "update")["files"] == []
    assert own.json(phi, "validate")["valid"]

    # Clean
    assert own.json(phi, "clean")["deleted_bytes"] == 0
    assert own.json(phi, "clean", "tokens", "--yes")["deleted_bytes"] > 0
    assert {stage["state"] for stage in own.json(phi, "status")["stages"]} == {"cached"}


def _version_line(own: Shell) -> str:
    lines = (own.folder / ".copier-answers.yml").read_text(encoding="utf-8").splitlines(keepends=True)
    return next(line for line in lines if line.startswith("phi_scaffold_version: "))
