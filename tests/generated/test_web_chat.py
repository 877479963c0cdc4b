"""The web chat of a project: a question is typed, the answer streams in, model and adapter are switched. Keeps a screenshot."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from phi_runtime.core.project import ProjectFolder
from phi_scaffold.new import generate
from phi_scaffold.new.answers import TASKS
from phi_scaffold.new.derive import SAMPLES
from tests.generated.conftest import answer, ended, start
from tests.web_chat import WebChat, chromium, violations

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


TYPED = "<b>bold</b> **md** _x_ &lt; <script>alert(1)</script>  `a`"


@pytest.mark.slow
def test_two_models_answer_in_a_browser_which_shows_what_was_typed(
    made: ProjectFolder, served: subprocess.Popen[str], port: int, sample: Sample, tmp_path: Path
) -> None:
    chat_onnx = sample("chat_onnx")
    settings = chat_onnx.Sampling(json.loads((made.config.parent / "evaluation.json").read_text())["max_new_tokens"])
    first = chat_onnx.OnnxChat(made.gen_model / "onnx")
    several = chat_onnx.OnnxChat(made.gen_model / "onnx-several")

    def expect(*questions: tuple[object, str, str | None]) -> None:
        expected = [answer(chat, text, settings, adapter=adapter) for chat, text, adapter in questions]
        page.wait(lambda: page.answers() == expected)

    with chromium(tmp_path / "profile") as browser:
        page = WebChat(browser, f"http://127.0.0.1:{port}")
        assert not page.one("#send").is_enabled()
        page.type("we won the game")
        page.send()
        expect((first, "we won the game", None))
        assert len(page.lengths()) > 3  # it came piece by piece
        page.wait(lambda: re.fullmatch(rf"onnx: {settings.max_new_tokens} tokens, \d+ tokens/s", page.notes()[0]))

        page.click("#clear")
        page.wait(lambda: not page.answers())
        page.choose("#second", "onnx-several:finetune")
        page.type(TYPED + "\n")  # Enter sends, too
        expect((first, TYPED, None), (several, TYPED, "finetune"))
        assert page.texts("[data-testid=user]") == [TYPED, TYPED]
        assert [note.partition(": ")[0] for note in page.notes()] == ["onnx", "onnx-several:finetune"]
        page.keep("web-chat-tiny")
        assert violations(browser) == []

        address = f"http://127.0.0.1:{port}"
        assert httpx.get(address, headers={"Host": f"localhost:{port}"}).status_code == 200
        assert httpx.get(address, headers={"Host": f"evil.example:{port}"}).status_code == 403
        assert httpx.post(f"{address}/gradio_api/upload", files={"files": b"x"}).status_code == 403
        assert page.asked_for() == {"127.0.0.1"}  # no font, script or counter of somebody else

        for width, scheme, is_open in ((390, "dark", False), (700, "light", False), (1200, "dark", True)):
            page.resize(width, 800, scheme)
            page.wait(lambda is_open=is_open: page.sidebar_is_open() is is_open)
            page.keep(f"web-chat-{width}")
            assert page.overflow() == 0
            assert violations(browser) == []
    code, _, err = ended(start(made.root / "inferences" / "app.py", "--port", str(port), cwd=tmp_path))
    assert (code, f"port {port} is in use" in err) == (1, True)
    served.send_signal(signal.SIGINT)
    assert ended(served)[0] == 0


@pytest.mark.slow
def test_stop_ends_an_answer_and_the_next_one_is_complete(
    made: ProjectFolder, port: int, sample: Sample, tmp_path: Path
) -> None:
    app = sample("app")
    stopped = threading.Event()

    class Paused(app.Models):  # type: ignore[name-defined,misc]
        def ask(self, *arguments: Any) -> Iterator[Any]:
            for number, piece in enumerate(super().ask(*arguments)):
                yield piece
                if number == 3:
                    assert stopped.wait(60)

    blocks = app.page(Paused(made.gen_model))
    blocks.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    try:
        with chromium(tmp_path / "profile") as browser:
            page = WebChat(browser, f"http://127.0.0.1:{port}")
            page.type("we won the game")
            page.send()
            page.wait(lambda: page.notes() and page.notes()[0].startswith("onnx: 3 tokens"))
            page.click("#stop")
            stopped.set()
            page.type("we won the game")
            page.send()
            page.wait(lambda: len(page.notes()) == 2 and len(page.answers()[1]) > len(page.answers()[0]))
            first, second = page.answers()
            assert second.startswith(first)
            assert page.notes()[0].split()[1] in ("3", "4")  # the one that was under way
    finally:
        blocks.close()


def ask(models: Any, name: str, *rest: Any) -> str:
    return "".join(piece for piece, *_ in models.ask(name, *rest))


def test_an_answer_that_is_stopped_leaves_the_model_to_the_next(made: ProjectFolder, sample: Sample) -> None:
    models, sampling = sample("app").Models(made.gen_model), sample("chat_onnx").Sampling(12)
    question = models.template.question("we won the game")
    whole = ask(models, "onnx", question, sampling, [])
    for stopped in ("onnx", "merged"):
        pieces = models.ask(stopped, question, sampling, [], ("onnx",))
        next(pieces)
        del pieces  # as the page does
        assert ask(models, "onnx", question, sampling, []) == whole
        assert list(models.loaded) == ["onnx"]  # alone, as it is not compared
    with pytest.raises(ValueError, match="it has finetune"):
        next(models.ask("onnx-several:nobody", question, sampling, []))


def test_tokens_are_counted_in_each_kind_of_model(made: ProjectFolder, sample: Sample) -> None:
    models, sampling = sample("app").Models(made.gen_model), sample("chat_onnx").Sampling(5)
    question = models.template.question("we won the game")
    assert {list(models.ask(name, question, sampling, []))[-1][1] for name in models.folders} == {5}


def test_a_model_has_its_size_and_quality_in_the_list(made: ProjectFolder, sample: Sample) -> None:
    models = sample("app").Models(made.gen_model)
    assert models.names == ["onnx", "onnx-several", "onnx-several:finetune", "merged", "adapter"]
    assert re.fullmatch(r"merged · \d+ MB", models.label("merged"))
    evaluated = [
        {"name": "merged", "metrics": {"accuracy": 0.9917, "macro_f1": 0.5}, "labels": {"a_b": {}, "<i>": {}, "c": {}}},
        {"name": "adapter", "metrics": {}, "perplexity": 3.14159},
        {"name": "onnx-int4", "metrics": {"accuracy": 0.9}},
    ]
    models.evaluation = {"models": evaluated}
    assert models.label("merged").endswith(" MB · accuracy 99.2 %")
    assert models.label("adapter").endswith(" MB · perplexity 3.14")
    assert models.label("onnx").endswith(" MB")  # two ONNX models, and one evaluation
    greeting = sample("app").greeting(models.template, models.evaluation)
    columns = "The model reads **phrase**, and answers with **tone**"
    assert greeting == f"{columns}: a&#95;b&#44; &#60;i&#62; or c."
    assert sample("app").greeting(models.template, {}) == f"{columns}."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**bold** <b>x</b>", "**bold** &#60;b>x&#60;/b>"),
        ("`<b>` and\n```html\n<script>\n```\n<i>", "`<b>` and\n```html\n<script>\n```\n&#60;i>"),
        ("```\n<unfinished", "```\n<unfinished"),
    ],
)
def test_the_markdown_of_a_model_has_no_html(sample: Sample, text: str, shown: str) -> None:
    assert sample("app").markdown(text) == shown


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
    longer = tmp_path / "longer.jsonl"
    longer.write_text("".join([app.DATA.read_text(encoding="utf-8").splitlines(keepends=True)[0] * 40, "{\n"]))
    monkeypatch.setattr(app, "DATA", longer)
    assert app.examples(template) == rows[:1] * 5  # the last row, which is not valid, is not read
    monkeypatch.setattr(app, "DATA", tmp_path / "gone.jsonl")
    assert app.examples(template) == []
