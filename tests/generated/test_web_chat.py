"""The web chat of a project: a question is typed, the answer streams in, model and adapter are switched. Keeps a screenshot."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from phi_runtime.core.project import ProjectFolder
from phi_scaffold.new import generate
from phi_scaffold.new.answers import TASKS
from phi_scaffold.new.derive import SAMPLES
from tests.generated.conftest import answer, ended, start
from tests.web_chat import WebChat, chromium

Sample = Callable[[str], ModuleType]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def served(made: ProjectFolder, port: int, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The process of the web chat over all models of the made project, once it takes questions."""
    process = start(made.root / "inferences" / "app.py", "--port", str(port), cwd=tmp_path)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith(f"http://127.0.0.1:{port} ")
        yield process
    finally:
        process.kill()
        process.communicate()


def letters(text: str) -> str:
    """What of a text a browser shows as it is."""
    return re.sub(r"[^a-zA-Z0-9]", "", text)


@pytest.mark.slow
def test_the_web_chat_answers_in_a_browser_and_changes_its_model(
    made: ProjectFolder, served: subprocess.Popen[str], port: int, sample: Sample, tmp_path: Path
) -> None:
    chat_onnx = sample("chat_onnx")
    whole = chat_onnx.Sampling()
    first = chat_onnx.OnnxChat(made.gen_model / "onnx")
    several = chat_onnx.OnnxChat(made.gen_model / "onnx-several")
    with chromium(tmp_path / "profile") as browser:
        page = WebChat(browser, f"http://127.0.0.1:{port}")
        page.type("we won the game")
        page.click("#send")
        expected = [letters(answer(first, "we won the game", whole))]
        page.wait(lambda: [letters(a) for a in page.answers()] == expected)
        assert len(page.lengths()) > 3  # it came piece by piece

        page.choose("#model", "onnx-several")
        page.choose("#adapter", "finetune")
        page.type("dark cold noise\n")  # Enter sends, too
        expected.append(letters(answer(several, "dark cold noise", whole, adapter="finetune")))
        page.wait(lambda: [letters(a) for a in page.answers()] == expected)
        page.keep("web-chat-tiny")

        address = f"http://127.0.0.1:{port}"
        assert httpx.get(address, headers={"Host": f"localhost:{port}"}).status_code == 200
        assert httpx.get(address, headers={"Host": f"evil.example:{port}"}).status_code == 403
        assert httpx.post(f"{address}/gradio_api/upload", files={"files": b"x"}).status_code == 403

        page.click("#clear")
        page.wait(lambda: not page.answers())
        assert page.asked_for() == {"127.0.0.1"}  # no font, script or counter of somebody else
    code, _, err = ended(start(made.root / "inferences" / "app.py", "--port", str(port), cwd=tmp_path))
    assert (code, f"port {port} is in use" in err) == (1, True)
    served.send_signal(signal.SIGINT)
    assert ended(served)[0] == 0


def test_an_answer_that_is_stopped_leaves_the_model_to_the_next(made: ProjectFolder, sample: Sample) -> None:
    models, sampling = sample("app").Models(made.gen_model), sample("chat_onnx").Sampling(12)
    question = models.template.question("we won the game")
    whole = "".join(models.ask("onnx", question, sampling, None, []))
    for stopped in ("onnx", "merged"):
        pieces = models.ask(stopped, question, sampling, None, [])
        next(pieces)
        del pieces  # as the page does
        assert "".join(models.ask("onnx", question, sampling, None, [])) == whole
    with pytest.raises(ValueError, match="it has finetune"):
        next(models.ask("onnx-several", question, sampling, "nobody", []))


@pytest.mark.parametrize("task", TASKS)
def test_the_examples_are_what_the_first_rows_ask(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: Sample
) -> None:
    folder = generate.new(tmp_path / "p", generate.Answers("smollm2-135m", task=task)).folder
    stored = {"kind": "text", "inputs": list(SAMPLES[task].inputs), "prompt": "", "stop": ""}
    chat = {"kind": "chat", "column": "messages", "chat_template": ""}
    (tmp_path / "prompt_template.json").write_text(json.dumps(chat if task == "chat" else stored))
    app = sample("app")
    monkeypatch.setattr(app, "DATA", folder / "datasets" / "train.jsonl")
    template = sample("chat_onnx").Template(tmp_path)
    rows = app.examples(template)
    assert len(rows) == 5
    assert all(len(row) == len(template.columns) and all(text.strip() for text in row) for row in rows)
    monkeypatch.setattr(app, "DATA", tmp_path / "gone.jsonl")
    assert app.examples(template) == []
