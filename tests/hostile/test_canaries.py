"""Secrets of the user stay where they are: a project uses them all, and none is in anything that it writes or prints."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from phi_runtime.core.project import ProjectFolder
from phi_scaffold.cli import main
from tests.conftest import Cli, MakeProject, Result, edit_config
from tests.phi_runtime.serving.conftest import ended, started

VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PHI_SCAFFOLD_API_KEY", "OPENAI_API_KEY", "WANDB_API_KEY"),
    *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AZURE_CLIENT_SECRET", "AWS_SECRET_ACCESS_KEY"),
)
PLACED = (
    "netrc",
    "mlflow",
    "hub login",
    "connection string",
    "sas",
    "endpoint",
    "index",
    "proxy",
    ".env",
    "config",
    "data url",
)


@pytest.fixture
def canaries() -> dict[str, str]:
    """A secret for each place where a user has one; its characters change when a URL or JSON holds it."""
    return {name: f"c4nary/{secrets.token_hex(8)}+{number:02}=" for number, name in enumerate((*VARIABLES, *PLACED))}


def forms(canary: str) -> Iterator[bytes]:
    """Yield the texts by which a secret can be found: itself, in a URL, and inside of base64 at each offset."""
    core = canary.partition("/")[2].partition("+")[0]  # survives all escapes
    yield core.encode()
    for spelled in {canary, quote(canary), quote(canary, safe="")}:
        for offset in range(3):
            encoded = base64.b64encode(b"\0" * offset + spelled.encode())
            yield encoded[4 if offset else 0 : -4]


@pytest.fixture
def home(tmp_path: Path, canaries: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's home and environment that are full of secrets."""
    before = dict(os.environ)
    home = tmp_path / "home"
    for folder in (".mlflow", ".cache/huggingface", "state", "tmp"):
        (home / folder).mkdir(parents=True)
    for name in VARIABLES:
        monkeypatch.setenv(name, canaries[name])
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("TMPDIR", str(home / "tmp"))
    monkeypatch.setenv("HF_HOME", str(home / ".cache" / "huggingface"))
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{quote(canaries['proxy'], safe='')}@127.0.0.1:9")
    sas, key = canaries["sas"], canaries["connection string"]
    monkeypatch.setenv("AZURE_STORAGE_SAS", f"https://a.blob.core.windows.net/c?sv=2024&sig={quote(sas, safe='')}")
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", f"AccountName=a;AccountKey={key};EndpointSuffix=core.windows.net"
    )
    (home / ".netrc").write_text(f"machine api.wandb.ai login user password {canaries['netrc']}\n", encoding="utf-8")
    (home / ".netrc").chmod(0o600)
    login = f"[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = {canaries['mlflow']}\n"
    (home / ".mlflow" / "credentials").write_text(login, encoding="utf-8")
    (home / ".cache" / "huggingface" / "token").write_text(canaries["hub login"], encoding="utf-8")
    yield home
    os.environ.clear()
    os.environ.update(before)


Say = Callable[..., Result]


@pytest.fixture
def search(
    tmp_path: Path, home: Path, canaries: dict[str, str], make_project: MakeProject, cli: Cli
) -> Iterator[tuple[ProjectFolder, Say]]:
    """A project with secrets, and the command line; what it has printed and written is searched at the end."""
    project = make_project(max_steps=2)
    holders = [file for file in home.rglob("*") if file.is_file()]
    (project.root / ".env").write_text(f"WANDB_API_KEY={canaries['.env']}\n", encoding="utf-8")
    printed: list[bytes] = []

    def say(*arguments: str | Path) -> Result:
        result = cli(*arguments)
        printed.append(f"{arguments}\n{result.out}\n{result.err}".encode())
        return result

    yield project, say
    holders += [project.root / ".env", *project.root.glob("fine-tuning/*config*")]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path not in holders]
    assert len(written) > 20
    found = {
        (name, str(place))
        for name, canary in canaries.items()
        for form in forms(canary)
        for place, content in (*((p[:60], p) for p in printed), *((path, path.read_bytes()) for path in written))
        if form in content
    }
    assert not found, sorted(found)


def test_a_secret_is_found_in_every_form() -> None:
    canary = "c4nary/0123456789abcdef+01="
    texts = [canary, f"?sig={quote(canary, safe='')}&", json.dumps({"a": canary})]
    encoded = [base64.b64encode(f"{prefix}{canary} after".encode()) for prefix in ("", "a", "ab", "user:")]
    for content in (*(text.encode() for text in texts), *encoded):
        assert any(form in content for form in forms(canary)), content


def test_no_secret_is_written_or_printed(
    search: tuple[ProjectFolder, Say], canaries: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, say = search
    assert say("new", home / "other", "--yes", "--no-git", "--json").code == 0
    assert say("validate", project.config).code == 0
    assert say("doctor", "--json", "--project", project.root).code in (0, 5)
    assert say("run", "--until", "finetune", "--json", "--project", project.root).code == 0
    assert say("status", "--json", "--project", project.root).code == 0
    assert say("report", "--project", project.root).code == 0
    assert say("runs", "show", "latest", "--json", "--project", project.root).code == 0
    assert say("runs", "reproduce", "latest", "--dry-run", "--json", "--project", project.root).code == 0
    # Faults whose messages could repeat a secret.
    edit_config(project, lambda c: c["input_model"].update(model_path="org/none"))
    monkeypatch.setenv("HF_ENDPOINT", f"https://me:{quote(canaries['endpoint'], safe='')}@127.0.0.1:9")
    monkeypatch.setenv("PIP_INDEX_URL", f"https://me:{quote(canaries['index'], safe='')}@127.0.0.1:9/simple")
    for flags in ((), ("--json",)):
        assert say("fetch", *flags, "--project", project.root).code == 7
    assert say("run", "--json", "--project", project.root).code == 7
    url = f"https://me:{quote(canaries['data url'], safe='')}@host.example/rows.jsonl?sig={quote(canaries['sas'], safe='')}"
    edit_config(project, lambda c: c["data_configs"][0]["load_dataset_config"].update(data_files=url))
    edit_config(project, lambda c: c["input_model"].update(token=canaries["config"], api_key=canaries["config"]))
    for command in ("validate", "status", "run", "data check"):
        target = [project.config] if command == "validate" else ["--project", project.root]
        assert say(*command.split(), *target).code != 0
        say(*command.split(), *target, "--json")


@pytest.mark.usefixtures("home")
def test_a_traceback_shows_no_secret(
    canaries: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://me:{quote(canaries['endpoint'], safe='')}@127.0.0.1:9?sig={quote(canaries['sas'], safe='')}"
    monkeypatch.setattr("sys.argv", ["phi-scaffold", "models", "--debug", f"{url}&a=\x1b[2J"])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr().err.encode()
    assert ended.value.code == 1
    assert b"Traceback" in printed
    assert b"\x1b" not in printed
    for name in ("endpoint", "sas"):
        assert not [form for form in forms(canaries[name]) if form in printed]


@pytest.mark.slow
def test_no_secret_is_in_a_complete_run_or_a_server(
    search: tuple[ProjectFolder, Say], canaries: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, say = search
    assert say("run", "--project", project.root).code == 0
    assert say("evaluate", "--json", "--project", project.root).code == 0
    assert say("runs", "reproduce", "latest", "--project", project.root).code == 0
    key = canaries["PHI_SCAFFOLD_API_KEY"]
    server = started(project, tmp_path / "server.log", "--model", "onnx", PHI_SCAFFOLD_API_KEY=key)
    try:
        body = {"model": server.models[0], "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
        answers = [
            httpx.post(
                f"{server.url}/chat/completions", json=body, headers={"Authorization": f"Bearer {given}"}, timeout=60
            )
            for given in (key, "wrong", canaries["HF_TOKEN"])
        ]
        assert [answer.status_code for answer in answers] == [200, 401, 401]
        os.kill(server.worker(), signal.SIGKILL)
        server.until(lambda: server.get("/health").status_code == 200)
        seen = "".join(answer.text for answer in answers) + server.get("/metrics").text
        assert not [form for canary in canaries.values() for form in forms(canary) if form in seen.encode()]
    finally:
        ended(server)
    shutil.rmtree(project.gen_model / "onnx")
    monkeypatch.setenv("PHI_SCAFFOLD_HANDED_OVER", "1")
    assert say("generate", "--prompt", "a", "--model", "onnx", "--project", project.root).code != 0
