"""The command line as a whole: fast, light, and clear about what went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli, MakeProject, edit_config

COMMANDS = [
    "new",
    "fetch",
    "run",
    "status",
    "evaluate",
    "chat",
    "generate",
    "models",
    "validate",
    "migrate",
    "schema",
    "doctor",
]


def imported(arguments: list[str], cwd: Path) -> set[str]:
    """The top-level modules that a command line imports, in a process of its own."""
    program = (
        "import sys, atexit; atexit.register(lambda: print('\\nMODULES', *{m.partition('.')[0] for m in sys.modules}));"
        "from phi_scaffold.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["new", "p", "--yes", "--no-git"], ["models"], ["doctor", "--json"]])
def test_no_ml_library_is_imported(arguments: list[str], tmp_path: Path) -> None:
    heavy = {"torch", "transformers", "peft", "onnxruntime_genai", "numpy", "huggingface_hub"}
    assert not imported(arguments, tmp_path) & heavy


def test_validate_imports_no_ml_library(make_project: MakeProject) -> None:
    project = make_project()
    assert not imported(["validate", str(project.config)], project.root) & {"torch", "transformers", "numpy"}


def test_help_imports_neither_copier_nor_pydantic_nor_rich(tmp_path: Path) -> None:
    assert not imported(["--help"], tmp_path) & {"copier", "pydantic", "rich"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.code == 0
    assert f"Example: phi-scaffold {command}" in result.out
    assert "--debug" in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["runn"], 2, "run"),
        (["run", "--untill", "merge"], 2, "--until"),
        (["run"], 2, "not in a phi-scaffold project"),
        (["run", "--project", "nowhere"], 2, "no folder nowhere"),
        (["run", "--config", "nowhere.json"], 2, "no config"),
        (["validate", "nowhere.json"], 2, "no config"),
        (["new"], 2, "Missing argument"),
        (["models", "smolm2-135m"], 2, "did you mean `smollm2-135m`"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli(*arguments)
    assert result.code == code
    assert says in result.err
    assert "Traceback" not in result.err


def test_an_invalid_config_lists_its_faults_and_exits_with_3(cli: Cli, make_project: MakeProject) -> None:
    project = make_project()
    edit_config(project, lambda c: c["passes"]["finetune"].update(alhpa=1))
    for arguments in (
        ["validate", project.config],
        ["run", "--project", project.root],
        ["status", "--project", project.root],
    ):
        result = cli(*arguments)
        assert result.code == 3
        assert "error: unknown key `alhpa` - did you mean `alpha`? (unknown-key)" in result.out + result.err
    found = cli("validate", project.config, "--json").json
    assert found["valid"] is False
    assert {k: found["findings"][0][k] for k in ("rule", "key", "suggestion", "severity")} == {
        "rule": "unknown-key",
        "key": "passes.finetune.alhpa",
        "suggestion": "alpha",
        "severity": "error",
    }


def test_without_a_runtime_the_setup_script_is_named_and_the_code_is_5(
    cli: Cli, make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    project = make_project()
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else real(name, *a))
    result = cli("run", "--project", project.root)
    assert result.code == 5
    assert "setup/setup.sh" in result.err


def test_a_command_goes_on_in_the_projects_own_environment(make_project: MakeProject) -> None:
    project = make_project("with space é")
    python = project.root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "handed over: $@"\n')
    python.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "PHI_SCAFFOLD_HANDED_OVER"}
    done = subprocess.run(
        [sys.executable, "-m", "phi_scaffold", "status", "--json"],
        cwd=project.root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "handed over: -P -m phi_scaffold status --json"


def test_debug_shows_the_traceback(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phi_runtime.core.errors import UsageError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        cli("run", "--debug")


def test_models_tells_sizes_in_bytes_and_what_fits(cli: Cli) -> None:
    models = {m["id"]: m for m in cli("models", "--json").json["models"]}
    assert models["smollm2-135m"]["fits"]["lora"] is True
    assert models["smollm2-135m"]["parameters"] == 134_515_008
    mini = models["microsoft/Phi-3-mini-4k-instruct"]
    assert mini["qlora_bytes"] < mini["lora_bytes"] < mini["full_bytes"]
    # research: about 2.72 GB for the int4 model with blocks of 32
    assert mini["int4_size_bytes"] == pytest.approx(2.72e9, rel=0.01)


def test_doctor_reports_two_flavours_of_one_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from phi_scaffold import doctor

    monkeypatch.setattr(
        doctor, "versions", lambda names: {n: "1.0" for n in names if n in ("onnxruntime", "onnxruntime-gpu")}
    )
    finding = doctor._flavours()
    assert finding.level == "fault"
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in finding.fix
    assert "pip install onnxruntime-gpu==1.0" in finding.fix
