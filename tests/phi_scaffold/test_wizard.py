"""The questions of `new` on a terminal: a slip costs one question, and nothing is written before the user confirms."""

from __future__ import annotations

import builtins
import time
from pathlib import Path

import pytest

from phi_runtime.core.errors import UsageError
from phi_scaffold.cli.wizard import Wizard
from phi_scaffold.new.answers import Answers
from tests.terminal import needs_terminal, terminal


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moods.csv").write_text(
        "text,mood\n" + "".join(f"text {i},{'bad' if i % 2 else 'good'}\n" for i in range(40))
    )
    (tmp_path / "four.csv").write_text("a,b,c,d\n" + "".join(f"a{i},b{i},c{i},d{i}\n" for i in range(40)))
    return tmp_path


def answers(monkeypatch: pytest.MonkeyPatch, *typed: str, **flags: str) -> Answers:
    """Return the answers of a user who types these lines, all of which are read."""
    lines = list(typed)
    monkeypatch.setattr(builtins, "input", lambda *_: lines.pop(0))
    found = Wizard(flags, Path("mood")).answers()
    assert lines == []
    return found


def test_enter_takes_every_default(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers(monkeypatch, "", "", "", "", "", "", "")
    assert (found.model, found.task, found.method) == ("smollm2-135m", "classification", "lora")
    assert (found.target, found.precision, found.data) == ("cpu", "int4", None)


def test_each_slip_repeats_its_question(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = answers(
        monkeypatch,
        "missing.csv", "moods.csv",
        "9", "classifying", "1",
        "phi-3-mini", "phi-4-mini",
        "dora", "2",
        "gpu",
        "int3", "4",
        "perhaps", "y",
    )  # fmt: skip
    assert (found.data, found.task, found.model) == ("moods.csv", "classification", "microsoft/Phi-4-mini-instruct")
    assert (found.method, found.target, found.precision) == ("qlora", "cuda", "fp16")
    shown = capsys.readouterr().err
    for part in (
        "missing.csv",
        "there is no choice 9",
        "classifying",
        "2 model names",
        '"type": "DoRA"',
        "int3",
        "perhaps",
    ):
        assert part in shown


def test_the_data_proposes_the_task_and_shows_a_row_in_its_template(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answers(monkeypatch, "moods.csv", "", "", "", "", "", "")
    assert found.task == "classification"
    assert "    ### Text: text 0\n    ### Mood:\n    good\n" in capsys.readouterr().err


def test_columns_that_cannot_be_told_apart_become_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers(monkeypatch, "four.csv", "a,z", "b,a", "", "", "", "", "", "")
    assert found.columns == ("b", "a")
    assert found.task == "generation"


def test_back_returns_to_the_question_before_and_no_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers(
        monkeypatch,
        "moods.csv", "back", "",
        "chat", "", "back", "", "", "", "",
        "no",
        "", "5", "", "", "", "", "",
    )  # fmt: skip
    assert found.data is None
    assert found.task == "extraction"


def test_flags_are_not_questions_and_a_wrong_one_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers(monkeypatch, "", "", "", "", method="full", target="cpu", model="phi-2")
    assert (found.method, found.model) == ("full", "microsoft/phi-2")
    with pytest.raises(UsageError, match="none"):
        answers(monkeypatch, method="none-of-them")


@needs_terminal
def test_ctrl_c_on_a_terminal_leaves_nothing(inside: Path) -> None:
    before = sorted(inside.iterdir())
    with terminal(
        "-m", "phi_scaffold", "new", "p", "--no-git", "--model", "smollm2-135m", cwd=inside, TERM="dumb"
    ) as new:
        new.until("Data [sample data]: ")
        new.type("\n")
        new.until("Task [classification]: ")
        time.sleep(0.4)
        new.interrupt()
        new.until("stopped, nothing is written")
        assert new.end() == 130
    assert sorted(inside.iterdir()) == before


@needs_terminal
def test_a_confirmed_project_is_created(inside: Path) -> None:
    with terminal("-m", "phi_scaffold", "new", "p", "--no-git", "--data", "moods.csv", cwd=inside) as new:
        for question in ("Task", "Model", "Method", "Target", "Precision", "Create it?"):
            new.until(question)
            new.until("]: ")
            new.type("\n")
        new.until("Next steps")
        assert new.end() == 0
    assert (inside / "p" / "fine-tuning" / "olive-config.json").is_file()
