"""Ratings by people: blinded sheets, and figures that are computed by hand or published."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from phi_runtime.core.errors import Conflict, DataError, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.evaluation.row_results import Measured, RowResult
from phi_runtime.report.rating import _coincidences, _pairs, evaluate_ratings, ordinal_alpha, weighted_kappa
from phi_runtime.report.rating_files import evaluate_files, write_sheet
from phi_runtime.report.rating_sheet import Rating, Sheet, SheetRow, as_csv, draw_sheet, read_ratings, sheet_id
from phi_runtime.report.stored_ratings import stored_ratings
from tests.phi_runtime.report.cases import project_of, rows_of, training_of

MODELS = ("merged", "onnx-int4")


def results(answers: Sequence[tuple[str | None, str | None]], prompt: str = "?") -> list[RowResult]:
    return [
        RowResult("data.jsonl", i + 1, prompt, "yes", {name: Measured(a) for name, a in zip(MODELS, pair, strict=True)})
        for i, pair in enumerate(answers)
    ]


def cells(sheet: Sheet) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(sheet), newline="")))


# -- the sheet ----------------------------------------------------------------------------------------------------------------


def test_rows_that_differ_come_first_and_the_others_are_drawn_with_their_weight() -> None:
    rows = results([("yes", "no")] * 4 + [("yes", "yes ")] * 30)
    sheet = draw_sheet(rows, MODELS, count=10)
    kinds = Counter((row.answers[0] == row.answers[1], row.weight) for row in sheet.rows)
    assert kinds == {(False, 1.0): 4, (True, 5.0): 6}  # 30 rows are represented by 6
    assert (sheet.differing, sheet.total) == (4, 34)
    assert len({row.place for row in sheet.rows}) == 10
    crowded = draw_sheet(rows, MODELS, count=3)
    assert Counter((row.answers[0] == row.answers[1], row.weight) for row in crowded.rows) == {(False, 4 / 3): 3}
    assert len(draw_sheet(rows, MODELS, count=99).rows) == 34


def test_the_raters_do_not_see_whose_answer_is_whose() -> None:
    sheet = draw_sheet(results([(f"one {i}", f"two {i}") for i in range(40)]), MODELS)
    assert not any(model in as_csv(sheet) for model in MODELS)
    firsts = Counter(row["answer A"].split()[0] for row in cells(sheet))
    assert set(firsts) == {"one", "two"}
    assert min(firsts.values()) >= 10
    for row, cell in zip(sheet.rows, cells(sheet), strict=True):
        assert cell[f"answer {row.first}"] == row.answers[0]
    assert Sheet.from_dict(json.loads(json.dumps(sheet.as_dict()))) == sheet
    assert draw_sheet(results([("a", "b")] * 20), MODELS, seed=1) != draw_sheet(results([("a", "b")] * 20), MODELS)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\n=cmd|' /C calc'!A0", "＝1"])
def test_no_cell_is_a_formula(text: str) -> None:
    sheet = draw_sheet(results([(text, "b")], prompt=text), MODELS)
    (row,) = cells(sheet)
    assert row["prompt"].startswith("'")
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@", "＝")) for cell in row.values())


def test_a_model_without_answers_is_refused() -> None:
    for rows in (results([(None, "a")]), [RowResult("a", 1, "?", "a", {"merged": Measured("a")})], []):
        with pytest.raises(DataError, match="no answers of `merged` and `onnx-int4`"):
            draw_sheet(rows, MODELS)


# -- filled in ----------------------------------------------------------------------------------------------------------------

SHEET = Sheet(
    MODELS,
    (
        SheetRow("d:1", "?", "yes", ("yes", "no"), "A", 1.0),
        SheetRow("d:2", "?", "yes", ("yes", "no"), "B", 1.0),
        SheetRow("d:3", "?", "yes", ("yes", "yes"), "A", 3.0),
    ),
    2,
    5,
)


def filled(path: Path, *rows: str, encoding: str = "utf-8", separator: str = ",") -> Path:
    """A sheet with these cells: number, ratings A and B, better."""
    lines = ["sheet,number,rating A,rating B,better", *(f"sheet {SHEET.id},{row}" for row in rows)]
    path.write_bytes("\r\n".join(lines).replace(",", separator).encode(encoding))
    return path


@pytest.mark.parametrize(("encoding", "separator"), [("utf-8-sig", ","), ("utf-16", "\t"), ("cp1252", ";")])
def test_ratings_are_of_the_model_whose_answer_it_was(tmp_path: Path, encoding: str, separator: str) -> None:
    path = filled(tmp_path / "a.csv", "1,5,2,A", "2,5,2,", "3,,,Tie", encoding=encoding, separator=separator)
    assert sheet_id(path) == SHEET.id
    assert read_ratings(path, SHEET) == {0: Rating(5, 2, -1), 1: Rating(2, 5, 1), 2: Rating(None, None, 0)}


def test_rows_without_a_rating_are_skipped(tmp_path: Path) -> None:
    assert read_ratings(filled(tmp_path / "a.csv", "1,,,", "2,3,,", ",,,"), SHEET) == {1: Rating(None, 3, None)}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1,6,2,"], "`rating A` of row 1 is `6`"),
        (["2,1,x,"], "`rating B` of row 2 is `x`"),
        (["1,1,2,C"], "`better` of row 1 is `c`"),
        (["9,1,2,"], "`number` of row 9 is `9`"),
        (["1,1,2,", "1,2,2,"], "row 1 is there twice"),
    ],
)
def test_a_cell_that_is_no_rating_is_named(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError) as error:
        read_ratings(filled(tmp_path / "a.csv", *rows), SHEET)
    assert error.value.what == message


def test_another_table_is_not_a_sheet(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,value\nx,1\n", encoding="utf-8")
    with pytest.raises(DataError, match="not one sheet"):
        sheet_id(tmp_path / "a.csv")


# -- files --------------------------------------------------------------------------------------------------------------------


def test_a_sheet_is_evaluated_with_the_key_that_stayed_in_the_project(tmp_path: Path) -> None:
    project = ProjectFolder(tmp_path, tmp_path / "fine-tuning" / "olive-config.json")
    answers = {"base": ["no"] * 4, "merged": ["no", "yes", "yes", "yes"], "onnx-int4": ["yes"] * 4}
    rows = rows_of("classification", answers, ["yes"] * 4)
    facts = project_of(training_of("classification", rows))
    sheet = write_sheet(project, facts, tmp_path / "rate.csv", None, 60)
    assert (sheet.models, sheet.differing, sheet.total) == (MODELS, 1, 4)
    with pytest.raises(Conflict):
        write_sheet(project, facts, tmp_path / "rate.csv", None, 60)
    with (tmp_path / "rate.csv").open(encoding="utf-8-sig", newline="") as file:
        filled_in = [
            {**row, "better": "A" if row["answer B"] == "no" else "B" if row["answer A"] == "no" else "tie"}
            for row in csv.DictReader(file)
        ]
    for name in ("a", "b"):
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, filled_in[0])
            writer.writeheader()
            writer.writerows(filled_in)
    result = evaluate_files(project, [tmp_path / "a.csv", tmp_path / "b.csv"])
    assert stored_ratings(project, rows) == [json.loads(json.dumps(result))]
    assert stored_ratings(project, rows_of("classification", {**answers, "onnx-int4": ["?"] * 4}, ["yes"] * 4)) == []
    assert stored_ratings(project, rows[1:]) == []
    preference = result["preference"]
    assert (preference["wins"], preference["losses"], preference["ties"]) == (1, 0, 3)
    assert (result["agreement"]["alpha"], result["agreement"]["kappa"]) == (1, 1)
    with pytest.raises(DataError, match="no row is rated"):
        evaluate_files(project, [tmp_path / "rate.csv"])
    (project.gen_model / "ratings" / f"{sheet.id}.json").unlink()
    with pytest.raises(DataError, match="the key of the sheet is missing"):
        evaluate_files(project, [tmp_path / "a.csv"])


def test_models_that_are_not_compared_are_refused(tmp_path: Path) -> None:
    project = ProjectFolder(tmp_path, tmp_path / "fine-tuning" / "olive-config.json")
    rows = rows_of("classification", {"base": ["no"], "merged": ["yes"]}, ["yes"])
    facts = project_of(training_of("classification", rows))
    for models in (("base", "onnx"), ("base", "base")):
        with pytest.raises(UsageError):
            write_sheet(project, facts, tmp_path / "rate.csv", models, 60)
    with pytest.raises(DataError, match="no comparison"):
        write_sheet(project, project_of(), tmp_path / "rate.csv", None, 60)


# -- figures ------------------------------------------------------------------------------------------------------------------


def test_means_weigh_rows_by_what_they_represent() -> None:
    result = evaluate_ratings(SHEET, [{0: Rating(5, 1, -1), 1: Rating(3, 5, 1), 2: Rating(4, 4, 0)}])
    means = [model["mean"] for model in result["ratings"]["means"]]
    assert means == pytest.approx([(5 + 3 + 3 * 4) / 5, (1 + 5 + 3 * 4) / 5])  # 4 and 3.6
    assert result["ratings"]["difference"]["value"] == pytest.approx(-0.4)
    assert result["ratings"]["difference"]["outcome"] == "no difference seen"
    assert (result["rows"], result["sheet_rows"], result["total_rows"]) == (3, 3, 5)
    assert result["agreement"] is None


def many(preferences: Sequence[int]) -> tuple[Sheet, dict[int, Rating]]:
    rows = tuple(SheetRow(f"d:{i}", "?", "", ("a", "b"), "A", 1.0) for i in range(len(preferences)))
    return Sheet(MODELS, rows, len(rows), len(rows)), {i: Rating(None, None, p) for i, p in enumerate(preferences)}


@pytest.mark.parametrize(
    ("wins", "losses", "p", "outcome"),
    [
        (8, 1, 2 * (1 + 9) / 2**9, "better"),  # 0.039
        (1, 8, 2 * (1 + 9) / 2**9, "worse"),
        (7, 2, 2 * (1 + 9 + 36) / 2**9, "no difference seen"),  # 0.18
        (0, 0, 1.0, "no difference seen"),
    ],
)
def test_the_preferred_model_is_that_of_the_sign_test_without_ties(
    wins: int, losses: int, p: float, outcome: str
) -> None:
    sheet, ratings = many([1] * wins + [-1] * losses + [0] * 4)
    preference = evaluate_ratings(sheet, [ratings])["preference"]
    assert (preference["wins"], preference["losses"], preference["ties"]) == (wins, losses, 4)
    assert (preference["p"], preference["outcome"]) == (pytest.approx(p), outcome)
    assert preference["win_rate"] == (pytest.approx(wins / (wins + losses)) if wins + losses else None)


def test_the_row_is_that_of_most_raters() -> None:
    sheet, first = many([1, 1, -1])
    second, third = {0: Rating(preference=1), 1: Rating(preference=-1)}, {0: Rating(preference=-1)}
    preference = evaluate_ratings(sheet, [first, second, third])["preference"]
    assert (preference["wins"], preference["losses"], preference["ties"]) == (1, 1, 1)


# Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section D: four observers, twelve units, 0.815.
PUBLISHED = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)


def test_alpha_is_the_published_one() -> None:
    units = [[None if v is None else v - 1 for v in unit] for unit in zip(*PUBLISHED, strict=True)]
    assert float(ordinal_alpha(_coincidences(units, 5).sum(axis=0))) == pytest.approx(0.815, abs=5e-4)


def test_kappa_is_one_less_the_observed_by_the_expected_distances() -> None:
    # Two categories: 20 and 15 times the same, 5 and 10 times another. Observed 15 of 50, expected (25 * 20 + 25 * 30) / 50.
    pairs = [[0, 0]] * 20 + [[0, 1]] * 5 + [[1, 0]] * 10 + [[1, 1]] * 15
    assert float(weighted_kappa(_pairs(pairs, 2).sum(axis=0))) == pytest.approx(0.4)
    from sklearn.metrics import cohen_kappa_score

    generator = np.random.default_rng(0)
    first = generator.integers(0, 5, 80)
    second = np.clip(first + generator.integers(-2, 3, 80), 0, 4)
    ours = float(weighted_kappa(_pairs(list(zip(first, second, strict=True)), 5).sum(axis=0)))
    assert ours == pytest.approx(cohen_kappa_score(first, second, weights="quadratic"), abs=1e-12)


def test_raters_who_do_not_agree_are_said_to() -> None:
    generator = np.random.default_rng(1)
    sheet, _ = many([0] * 60)
    quality = generator.integers(1, 6, (60, 2))

    def rater(noise: int) -> dict[int, Rating]:
        rated = np.clip(quality + generator.integers(-noise, noise + 1, (60, 2)), 1, 5).tolist()
        return {i: Rating(one, other) for i, (one, other) in enumerate(rated)}

    alike = evaluate_ratings(sheet, [rater(0), rater(1)])["agreement"]
    apart = evaluate_ratings(sheet, [rater(4), rater(4), rater(4)])["agreement"]
    assert (alike["of"], alike["rows"], alike["agree"], apart["agree"]) == ("ratings", 60, True, False)
    for name in ("alpha", "kappa"):
        low, high = alike[f"{name}_interval"]
        assert 0.667 < low < alike[name] < high < 1
    assert "kappa" not in apart  # of two raters only
    assert apart["alpha_interval"][1] < 0.667


def test_raters_who_all_say_the_same_have_no_measured_agreement() -> None:
    sheet, ratings = many([1] * 5)
    agreement = evaluate_ratings(sheet, [ratings, ratings])["agreement"]
    assert (agreement["of"], agreement["alpha"], agreement["kappa"], agreement["agree"]) == (
        "preferences",
        None,
        None,
        False,
    )
