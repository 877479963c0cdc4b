"""The samples of a project on a real model, in the environment that its setup made."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import clean_environment, sh
from tests.web_chat import WebChat, chromium

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the project is set up and run in it
FEAR = "I heard footsteps behind me in the empty car park and I could not stop shaking."
JOY = "We won the cup, and everyone is dancing!"


def python(project: Path) -> Path:
    return project / ".venv" / "bin" / "python"


@contextmanager
def running(*command: str | Path) -> Iterator[str]:
    """A command that goes on until it is ended; the first line that it writes."""
    process = subprocess.Popen(
        [str(c) for c in command], env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            pytest.fail(process.communicate()[1])
        yield line
    finally:
        process.terminate()
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.mark.parametrize("sample", ["chat_adapter.py", "chat_merged.py", "chat_onnx.py"])
def test_each_chat_answers_from_any_folder(project: Path, tmp_path: Path, sample: str) -> None:
    assert sh(python(project), project / "inferences" / sample, "--prompt", FEAR, cwd=tmp_path).strip() == "fear"


def test_a_file_of_questions_is_answered(project: Path, tmp_path: Path) -> None:
    rows = project / "datasets" / "train.jsonl"
    sh(python(project), project / "inferences" / "batch.py", rows, "answers.jsonl", "--limit", "40", cwd=tmp_path)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [a["row"] for a in answers] == list(range(40))
    assert sum(a["answer"] == a["input"]["tone"] for a in answers) >= 36


def test_the_folder_of_the_onnx_model_runs_elsewhere_with_its_two_packages(project: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(project / "gen-model" / "onnx", tmp_path / "another machine")
    requirements = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert [requirement.split("==")[0] for requirement in requirements] == ["onnxruntime-genai", "tokenizers"]
    venv.create(tmp_path / "venv", with_pip=True)
    alone = tmp_path / "venv" / "bin" / "python"
    sh(alone, "-m", "pip", "install", "--quiet", "-r", folder / "requirements.txt")
    sh(alone, "-c", "import importlib.util as u; assert not any(map(u.find_spec, ['torch', 'transformers', 'jinja2']))")
    prompt = "Nobody came to her funeral, and I still miss her."
    assert sh(alone, "chat_onnx.py", "--prompt", prompt, cwd=folder).strip() == "sadness"


def test_the_client_asks_the_server(project: Path, light: Path, tmp_path: Path) -> None:
    with running(light / "phi-scaffold", "serve", "--project", project, "--port", "0", "--json") as line:
        client = (python(project), project / "inferences" / "client.py", "--prompt", JOY)
        assert sh(*client, cwd=tmp_path, OPENAI_BASE_URL=json.loads(line)["url"]).strip() == "joy"


def test_the_web_chat_answers_with_one_model_and_then_with_another(project: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    web_chat = running(python(project), project / "inferences" / "app.py", "--port", str(port))
    with web_chat as line, chromium(tmp_path / "profile") as browser:
        page = WebChat(browser, line.split()[0])
        page.type(FEAR)
        page.click("#send")
        page.wait(lambda: page.answers() == ["fear"])
        page.choose("#model", "merged")
        page.type(f"{JOY}\n")
        page.wait(lambda: page.answers() == ["fear", "joy"])
        page.keep("web-chat")
        assert page.asked_for() == {"127.0.0.1"}
