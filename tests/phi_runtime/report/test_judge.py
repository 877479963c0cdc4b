"""A language model as judge: both orders, and no evidence without people who agree with it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phi_runtime.core.errors import Conflict, NetworkError, PhiError, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.report.judge import KEY, connect, is_on_this_machine, judge_sheet, local_judge
from phi_runtime.report.rating import evaluate_ratings
from phi_runtime.report.rating_files import judged_path, write_judged
from phi_runtime.report.rating_sheet import Judgment, Rating, Sheet, SheetRow, as_csv, judge_of, read_judgments
from tests.judge_server import judge_server


def sheet_of(rows: int, same: int = 0) -> Sheet:
    """A sheet in which the second model is right, but for `same` rows with equal answers."""
    answers = [("bad", "good")] * (rows - same) + [("good", "good")] * same
    drawn = (SheetRow(f"d:{i}", "?", "good", pair, "AB"[i % 2], 1.0) for i, pair in enumerate(answers))  # type: ignore[arg-type]
    return Sheet(("merged", "onnx-int4"), tuple(drawn), rows - same, rows)


def fair(question: str) -> str:
    return '{"better": "A"}' if "<answer_A>\ngood" in question else '{"better": "B"}'


@pytest.mark.parametrize(
    ("judge", "judgment", "preference"),
    [
        (fair, Judgment("B", "A"), 1),
        (lambda _: '{"better": "A"}', Judgment("A", "A"), 0),  # the position decides: a tie
        (lambda _: '{"better":"tie"}', Judgment("tie", "tie"), 0),
        (lambda _: 'Sure! {"better": "B"} since …', Judgment("B", "B"), 0),
        (lambda _: "A", Judgment("A", "A"), 0),
        (lambda _: "I like Apples", Judgment(None, None), None),
    ],
)
def test_a_preference_holds_in_both_orders(judge: Callable[[str], str], judgment: Judgment, preference: int) -> None:
    assert dict(judge_sheet(sheet_of(1), judge)) == {0: judgment}
    assert judgment.preference == preference


def test_equal_answers_are_a_tie_without_a_question() -> None:
    questions: list[str] = []
    judgments = dict(judge_sheet(sheet_of(5, same=3), lambda question: questions.append(question) or fair(question)))  # type: ignore[func-returns-value]
    assert [judgment.preference for judgment in judgments.values()] == [1, 1, 0, 0, 0]
    assert len(questions) == 4


def test_a_judged_sheet_holds_what_was_said_in_each_order(tmp_path: Path) -> None:
    sheet = sheet_of(3)
    judgments = dict(enumerate([Judgment("B", "A"), Judgment("A", "A"), Judgment(None, "B")]))
    path = tmp_path / "rate.judge.csv"
    path.write_text(as_csv(sheet, "=judge", judgments), encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    assert [row["better"] for row in rows] == ["B", "tie", ""]  # the second model's answer is B in row 1
    assert [(row["as shown"], row["swapped"]) for row in rows] == [("B", "A"), ("A", "A"), ("no answer", "B")]
    assert judge_of(path) == "'=judge"
    assert read_judgments(path, sheet) == judgments


def test_replies_before_a_failure_are_kept_and_the_rows_after_it_are_judged_next(tmp_path: Path) -> None:
    sheet, out = sheet_of(4, same=1), tmp_path / "rate.judge.csv"
    questions: list[str] = []

    def ask(question: str) -> str:
        questions.append(question)
        if len(questions) == 4:
            raise NetworkError("no", fix="")
        return fair(question)

    with pytest.raises(NetworkError):
        write_judged(sheet, out, "=judge", ask)
    assert read_judgments(out, sheet) == {0: Judgment("B", "A")}
    assert judged_path(tmp_path / "rate.csv", sheet) == out
    with pytest.raises(Conflict, match="another model"):
        write_judged(sheet, out, "other", ask)
    write_judged(sheet, out, "=judge", ask)
    assert len(questions) == 4 + 2 * 2
    assert [judgment.preference for judgment in read_judgments(out, sheet).values()] == [1, 1, 1, 0]
    with pytest.raises(Conflict, match="may be filled in"):
        judged_path(tmp_path / "rate.csv", sheet)
    out.write_text(as_csv(sheet), encoding="utf-8")  # of a person, who rates it
    with pytest.raises(Conflict, match="may be filled in"):
        judged_path(tmp_path / "rate.csv", sheet)


@pytest.mark.parametrize(
    ("human_rows", "agreeing", "is_evidence"),
    [(30, 30, True), (29, 29, False), (30, 22, False), (40, 36, True)],
)
def test_a_judge_is_evidence_with_thirty_rows_of_people_who_agree(
    human_rows: int, agreeing: int, is_evidence: bool
) -> None:
    sheet = sheet_of(60)
    said = [1 if i % 2 else -1 for i in range(60)]
    judgments = {i: Judgment("B", "A") if vote > 0 else Judgment("A", "B") for i, vote in enumerate(said)}
    people = {i: Rating(preference=said[i] if i < agreeing else -said[i]) for i in range(human_rows)}
    (judge,) = evaluate_ratings(sheet, [people], [("judge", judgments)])["judges"]
    assert (judge["rows"], judge["human_rows"], judge["is_evidence"]) == (60, human_rows, is_evidence)
    assert judge["kappa"] == pytest.approx(2 * agreeing / human_rows - 1, abs=0.01)  # half of each: 0.5 is by chance
    assert (judge["preference"] is not None) == is_evidence
    assert judge["self_agreement"]["share"] == 1
    assert judge["position_a"] == {"of": 120, "share": 0.5, "interval": judge["position_a"]["interval"]}


def test_a_judge_that_prefers_a_position_does_not_agree_with_itself() -> None:
    judgments = dict.fromkeys(range(10), Judgment("A", "A"))
    (judge,) = evaluate_ratings(sheet_of(10), [{0: Rating(preference=1)}], [("judge", judgments)])["judges"]
    assert (judge["self_agreement"]["share"], judge["position_a"]["share"]) == (0, 1)
    assert (judge["is_evidence"], judge["kappa"], judge["human_rows"]) == (False, 0, 1)


def test_rows_go_to_the_named_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    with judge_server(fair) as (url, requests):
        name, ask = connect(f"{url}/", None)
        assert name == "tiny-judge"
        assert dict(judge_sheet(sheet_of(1), ask)) == {0: Judgment("B", "A")}
        assert {(r["authorization"], r["model"], r["temperature"]) for r in requests} == {
            ("Bearer secret", "tiny-judge", 0)
        }
        assert requests[0]["response_format"]["json_schema"]["schema"]["properties"]["better"]["enum"] == [
            "A",
            "B",
            "tie",
        ]
        _, redirected = connect(url.removesuffix("/v1") + "/moved", "x")
        with pytest.raises(NetworkError, match="replies 307"):
            redirected("?")
    with pytest.raises(NetworkError, match="cannot be reached"):
        connect(url, None)


def test_a_reply_without_end_is_not_read_to_its_end() -> None:
    with judge_server(lambda _: "A" * 2_000_000) as (url, _), pytest.raises(NetworkError):
        connect(url, "x")[1]("?")


@pytest.mark.parametrize("url", ["http://judge.example/v1", "file:///etc/passwd", "judge", "ftp://x/v1"])
def test_a_key_is_sent_encrypted_and_to_a_server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(KEY, "secret")
    with pytest.raises(UsageError) as error:
        connect(url, "x")
    assert isinstance(error.value, PhiError)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://127.0.0.1.example.org/v1", False),
        ("https://localhost@example.org/v1", False),
        ("http://10.0.0.7/v1", False),
    ],
)
def test_rows_leave_this_machine_unless_the_address_is_its_own(url: str, here: bool) -> None:
    assert is_on_this_machine(url) is here


def test_a_local_model_is_guided_to_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samplings: list[Any] = []

    def answer(question: str, sampling: Any) -> list[Any]:
        samplings.append(sampling)
        return [SimpleNamespace(text="A" if "<answer_A>\ngood" in question else "B")]

    session = SimpleNamespace(generator=SimpleNamespace(guides=True), answer=answer)
    monkeypatch.setattr("phi_runtime.pipeline.session.open_session", lambda *_: session)
    project = ProjectFolder(tmp_path, tmp_path / "olive-config.json")
    assert dict(judge_sheet(sheet_of(1), local_judge(project, "onnx"))) == {0: Judgment("B", "A")}
    assert {(sampling.guide.kind, sampling.guide.text, sampling.temperature) for sampling in samplings} == {
        ("regex", "A|B|tie", 0.0)
    }
    session.generator.guides = False
    with pytest.raises(UsageError, match="cannot be guided"):
        local_judge(project, "merged")
