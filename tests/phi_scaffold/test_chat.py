"""The commands `chat` and `generate` with a model that echoes: input, commands, a full context, and Ctrl-C on a terminal."""

from __future__ import annotations

import io
import json
import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import UsageError
from phi_runtime.data.template import PromptTemplate
from phi_scaffold.chat.commands import COMMANDS
from phi_scaffold.chat.reader import Entry, Reader
from phi_scaffold.cli.options import Flags
from phi_scaffold.show.terminal import SafeText
from tests.conftest import Cli, MakeProject, Result
from tests.phi_scaffold.echo_model import CHAT, session
from tests.terminal import Terminal, needs_terminal, terminal

Talk = Callable[..., Result]


@pytest.fixture
def root(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project, which is the current one."""
    root = make_project("my project").root
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def talk(root: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Talk:
    """Runs `chat` or another command with the echo model and the input `said`."""

    def run(said: str, *flags: str, template: Any = CHAT, command: str = "chat", **generator: Any) -> Result:
        monkeypatch.setattr(Flags, "open_session", lambda *_: session(template, **generator))
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(said.encode(errors="surrogateescape")), "utf-8"))
        return cli(command, "--project", root, *flags)

    return run


def test_each_line_of_a_pipe_is_a_message_and_its_answer_a_line(talk: Talk) -> None:
    result = talk("a\n\n  b c  \n")
    assert (result.code, result.out) == (0, "read 3: a\nread 10: b c\n")
    assert talk("a", "--quiet") == Result(0, "read 3: a\n", "")


def test_dropped_turns_are_reported_once_and_the_chat_continues(talk: Talk) -> None:
    result = talk("a\nb\nc\nd\n", "--max-new-tokens", "8", "--quiet", context_length=24)
    assert result.out.splitlines() == ["read 3: a", "read 9: b", "read 15: c", "read 9: d"]
    assert result.err == "dropped the oldest 2 turns: the context of 24 tokens is full\n"
    answers = talk("a\nb\nc\nd\n", "--max-new-tokens", "8", "--json", context_length=24).events
    assert [(answer["answer"], answer["dropped_turns"]) for answer in answers][2:] == [
        ("read 15: c", 0),
        ("read 9: d", 2),
    ]


def test_an_error_of_one_message_stops_no_other_and_is_the_exit_code(talk: Talk) -> None:
    said = "a\n" + "x " * 50 + "\n/hlep\n\udcff\nb\n"
    result = talk(said, "--quiet")
    assert (result.code, result.out) == (4, "read 3: a\nread 9: b\n")
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert ["too long" in lines[0], "`/hlep`; did you mean `/help`?" in lines[1], "UTF-8" in lines[2]] == [True] * 3
    events = talk(said, "--json").events
    assert [event.get("event", "answer") for event in events] == ["answer", "error", "error", "error", "answer"]


def test_a_message_without_an_answer_is_not_kept(talk: Talk) -> None:
    result = talk("empty\na\n")
    assert (result.out, result.err.count("the answer is empty")) == ("\nread 3: a\n", 1)


def test_what_begins_with_a_slash_reaches_no_model(talk: Talk) -> None:
    for said in ("/unknown\n", " /help me\n", "/etc/passwd is a file\n", "/\n", "/help\n", "/clear\n", "/Exit now\n"):
        assert talk(said).out == "", said
    assert talk("//etc is a folder\n").out == "read 6: /etc is a folder\n"
    assert talk('"""/etc\nis"""\n').out == "read 4: /etc\nis\n"


def test_commands_and_their_aliases(talk: Talk) -> None:
    assert talk("a\n/clear\nb\n/exit\nc\n").out == "read 3: a\nread 3: b\n"
    assert [talk(f"{name}\na\n").out for name in ("/quit", "/bye")] == ["", ""]
    listed = talk("/help\n", "--quiet").err
    assert set(re.findall(r"^/(\w+)", listed, re.MULTILINE)) == set(COMMANDS)
    assert talk("/clear all\n").code == 2


def test_the_system_message_is_shown_set_and_removed(talk: Talk) -> None:
    result = talk('/system be  brief\na\n/system\n/system ""\n/clear\na\n/system """one\ntwo"""\nb\n', "--quiet")
    assert result.out == "read 6: a\nread 3: a\nread 12: b\n"
    assert result.err.splitlines()[:3] == [f"system message: {text}" for text in ("be  brief", "be  brief", "none")]
    text = PromptTemplate.from_text("{text} {label}")
    assert talk("/system be brief\na\n", template=text).code == 2


def test_the_temperature_is_shown_and_set_within_its_range(talk: Talk) -> None:
    result = talk("/temperature\n/temperature 0.7\n/temperature\n/temperature hot\n/temperature 9\n", "--quiet")
    notes = [line for line in result.err.splitlines() if line.startswith("temperature: ")]
    assert (result.code, notes) == (2, ["temperature: 0", "temperature: 0.7", "temperature: 0.7"])


def test_a_conversation_is_saved_as_a_row_to_train_on(talk: Talk, root: Path) -> None:
    assert talk("/save\n").code == 2  # nothing to save
    result = talk(
        'a\n/save\n/save "datasets/my chat.jsonl"\nlong\n/save datasets/my chat.jsonl\n', "--max-new-tokens", "3"
    )
    assert result.code == 0, result.err
    first = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "read 3: a"}]}
    cut = [{"role": "user", "content": "long"}, {"role": "assistant", "content": "read 9: long", "weight": 0}]

    def saved(path: str) -> list[Any]:
        return [json.loads(line) for line in (root / path).read_text(encoding="utf-8").splitlines()]

    assert saved("chat.jsonl") == [first]
    assert saved("datasets/my chat.jsonl") == [first, {"messages": first["messages"] + cut}]


def test_saving_changes_no_other_file(talk: Talk, root: Path) -> None:
    files = (root / "fine-tuning" / "olive-config.json", root / "datasets" / "train.jsonl")
    before = [file.read_bytes() for file in files]
    for target, code in (
        ("fine-tuning/olive-config.json", 2),
        ("datasets/train.jsonl", 6),
        ("no/chat.jsonl", 2),
        (".", 2),
    ):
        assert talk(f"a\n/save {target}\n").code == code, target
    assert [file.read_bytes() for file in files] == before
    # After a blank line, and without an end of the line.
    (root / "chat.jsonl").write_text('\n{"messages": []}', encoding="utf-8")
    assert talk("a\n/save\n").code == 0
    assert len((root / "chat.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_the_memory_of_a_model_is_free_before_the_next_one_is_loaded(
    root: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Flags, weakref.ref[Any]]] = []

    def open_session(flags: Flags, _: Any) -> Any:
        assert not [generator for _, generator in opened if generator()]
        if flags.model == "broken":
            raise UsageError("it cannot be loaded")
        new = session(name=flags.model or "echo")
        opened.append((flags, weakref.ref(new.generator)))
        return new

    monkeypatch.setattr(Flags, "open_session", open_session)
    (root / "broken").mkdir()
    (root / "broken" / "config.json").touch()
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n/model base\n/adapter fine-tuning\n/model broken\nb\n"))
    result = cli("chat", "--project", root, "--quiet")
    assert (result.code, result.out) == (2, "read 3: a\nread 9: b\n")  # the conversation continues
    expected = [(None, None), ("base", "none"), ("base", "fine-tuning"), ("base", "fine-tuning")]
    assert [(flags.model, flags.adapter) for flags, _ in opened] == expected


# -- generate ---------------------------------------------------------------------------------------------------------


def test_each_line_of_a_pipe_is_a_prompt_without_a_conversation(talk: Talk) -> None:
    result = talk("a\n\n/b c\n" + "x " * 50 + "\n\udcff\na\n", "--quiet", "--max-new-tokens", "8", command="generate")
    assert (result.code, result.out) == (4, "read 3: a\nread 4: /b c\nread 3: a\n")
    assert [line[:7] for line in result.err.splitlines() if not line.startswith(" ")] == ["error: "] * 2
    events = talk("a\nb\n", "--json", "--max-new-tokens", "8", command="generate").events
    assert [(event["prompt"], event["answer"]) for event in events] == [
        ("<user> a <assistant>", "read 3: a"),
        ("<user> b <assistant>", "read 3: b"),
    ]


def test_a_prompt_of_the_command_line_is_read_without_stdin(talk: Talk) -> None:
    assert talk("b\n", "--prompt", "a", "--max-new-tokens", "8", command="generate").out == "read 3: a\n"
    cut = talk("", "--prompt", "long", "--max-new-tokens", "2", command="generate")
    assert (cut.out, "cut at 2 tokens" in cut.err) == ("read 3:\n", True)
    assert talk("", "--prompt", "\udcff", command="generate").code == 2


# -- input ------------------------------------------------------------------------------------------------------------


def entries(said: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entry]:
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    reader = Reader()
    while True:
        try:
            yield reader.read("you: ")
        except EOFError:
            return


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('"""\n  one\n\ntwo \n"""\nthree\n', [Entry("  one\n\ntwo "), Entry("three")]),
        ('"""one"""\n', [Entry("one")]),
        ('"""one\ntwo"""\n', [Entry("one\ntwo")]),
        ('say """\n', [Entry('say """')]),
        ("one\\\n  two\\\n", [Entry("one\n  two")]),
        ("one\r\ntwo", [Entry("one"), Entry("two")]),
        ("/model  merged \n", [Entry("merged", "model")]),
        ('/system """one\n\ntwo"""\n', [Entry("one\n\ntwo", "system")]),
        ("///\n", [Entry("//")]),
    ],
)
def test_several_lines_are_one_entry(said: str, expected: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(entries(said, monkeypatch)) == expected


def test_quotation_marks_that_are_not_closed_are_an_error(talk: Talk) -> None:
    assert (talk('"""one\ntwo\n').code, talk('"""one"""two\n').code) == (2, 2)


# -- output -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[2J\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07after", "]0;titleafter"),
        ("bell\x07 back\x08\rspace\x00", "bell backspace"),
        ("end\x1b[", "end["),
        ("é 日本 🙂\u200d", "é 日本 🙂\u200d"),
    ],
)
def test_an_answer_sends_no_control_characters_however_it_is_split(text: str, expected: str) -> None:
    for size in (1, 2, len(text)):
        safe = SafeText()
        pieces = [safe.push(text[i : i + size]) for i in range(0, len(text), size)]
        assert "".join(pieces) + safe.flush() == expected


# -- a terminal -------------------------------------------------------------------------------------------------------


def chat_of(root: Path, **environment: str) -> AbstractContextManager[Terminal]:
    return terminal("-m", "tests.phi_scaffold.echo_model", "--project", root, **environment)


@needs_terminal
def test_ctrl_c_stops_an_answer_and_ends_the_chat_when_it_follows_itself(root: Path) -> None:
    with chat_of(root) as chat:
        chat.until("you: ")
        chat.type("slow\n")
        chat.until("slowread")
        chat.interrupt()
        assert "stopped" in chat.until("tokens\x1b[0m")
        chat.until("you: ")
        chat.type("b\n")
        chat.until("b\r\n")  # the echo
        read = re.search(r"read (\d+): b", chat.until(": b"))
        assert read
        assert int(read[1]) > 3  # what was written stays in the conversation
        chat.until("you: ")
        chat.type("half a line")
        chat.until("half a line")
        time.sleep(0.4)  # a signal between the prompt and the read would wait for input
        chat.interrupt()
        chat.until("/exit")
        chat.until("you: ")
        chat.type("/exit\n")
        assert chat.end() == 0
    with chat_of(root) as chat:
        for _ in range(2):
            chat.until("you: ")
            time.sleep(0.4)
            chat.interrupt()
        assert chat.end() == 130


@needs_terminal
def test_each_column_of_a_prompt_is_read_on_a_terminal(root: Path) -> None:
    with chat_of(root, ECHO_TEMPLATE="{context} / {question} {answer}") as chat:
        chat.until("context: ")
        chat.type("one two\n")
        chat.until("question: ")
        chat.type("three\n")
        chat.until("read 4: one two / three")
        chat.until("context: ")
        chat.type('{"context": "four", "question": "five"}\n')
        chat.until("read 3: four / five")
        chat.until("context: ")
        chat.type("six\n")
        chat.until("question: ")
        chat.type("/exit\n")
        assert chat.end() == 0


@needs_terminal
def test_a_paste_of_several_lines_is_one_message(root: Path) -> None:
    with chat_of(root) as chat:
        chat.until("you: ")
        chat.type("\x1b[200~one\ntwo\n\nthree\n\x1b[201~")
        chat.type("\n")
        chat.until("read 5:")
        chat.until("you: ")
        chat.type("\x1b[A\x15b\n")  # the previous message comes back, and is erased
        chat.until("read")
        chat.until("you: ")
        chat.type("\x04")
        assert chat.end() == 0


@needs_terminal
@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_plain_terminal_shows_counts_and_errors_without_escape_sequences(
    root: Path, environment: dict[str, str]
) -> None:
    with chat_of(root, **environment) as chat:
        chat.until("you: ")
        chat.type("a\n")
        chat.until("3: a")
        shown = chat.until("tokens\r\n")
        assert re.search(r"3 tokens, [\d.]+ tokens/s; context: 6 of 40 tokens", shown)
        assert "\x1b" not in shown
        chat.until("you: ")
        chat.type("/tmeperature\n")
        assert "\x1b" not in chat.until("//").rpartition("error:")[2]
        assert ("\x1b" in chat.until("you: ")) == ("NO_COLOR" in environment)  # pastes are marked on a terminal
        chat.type("\x04")
        assert chat.end() == 0
