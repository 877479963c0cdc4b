"""Projects for tests of the report, built from a few rows written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html.parser import HTMLParser
from typing import Any

from phi_runtime.evaluation.metrics import row_scores
from phi_runtime.evaluation.row_results import Measured, RowResult
from phi_runtime.evaluation.summary import summarize
from phi_runtime.report.document import document
from phi_runtime.report.project_facts import Curves, ProjectFacts, StageFacts, TrainingFacts
from phi_runtime.report.rating import evaluate_ratings
from phi_runtime.report.rating_sheet import Judgment, Rating, Sheet, SheetRow
from phi_runtime.report.row_views import TrainingView
from phi_runtime.report.verdict import Verdict

BASELINES = (
    "majority label",
    "TF-IDF + logistic regression",
    "nearest training row",
    "first sentence",
    "copy of the input",
)


def rows_of(
    task: str,
    answers: Mapping[str, Sequence[str]],
    references: Sequence[str],
    prompts: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
) -> list[RowResult]:
    """Return rows with the answers of each model; a wrong answer has a loss of 3 nats, a right one of 0.1."""
    rows = []
    for i, reference in enumerate(references):
        models = {}
        for name, given in answers.items():
            loss = None if name in BASELINES else 0.1 if given[i] == reference else 3.0
            models[name] = Measured(given[i], row_scores(task, given[i], reference), loss, 0 if loss is None else 2)
        place = files[i] if files else "datasets/train.jsonl"
        rows.append(RowResult(place, i + 1, prompts[i] if prompts else f"Text: number {i}", reference, models))
    return rows


def free_text(losses: Mapping[str, Sequence[float]], tokens: int = 10) -> list[RowResult]:
    count = len(next(iter(losses.values())))
    return [
        RowResult(
            "book.txt", i + 1, None, None, {name: Measured(loss=of[i], tokens=tokens) for name, of in losses.items()}
        )
        for i in range(count)
    ]


def evaluation_of(task: str, rows: Sequence[RowResult]) -> dict[str, Any]:
    speed = {
        "prefill_tokens_per_s": 500.0,
        "decode_tokens_per_s": 50.0,
        "size_bytes": 10_000_000,
        "peak_rss_bytes": None,
    }
    summaries = summarize(task, rows)
    return {
        "task": task,
        "rows": len(rows),
        "rows_of": "validation",
        "total_rows": 1402,
        "too_long": 0,
        "baselines": [summary for summary in summaries if summary["name"] in BASELINES],
        "models": [summary | speed for summary in summaries if summary["name"] not in BASELINES],
    }


def full_evaluation(task: str, rows: Sequence[RowResult]) -> dict[str, Any]:
    """Return an evaluation with all optional keys: own metrics, several seeds, medians of the speed."""
    content = evaluation_of(task, rows)
    for model in (*content["baselines"], *content["models"]):
        model["metrics"]["mean_cost"] = 2.5
        model["intervals"] = {name: [0.25, 0.75] for name in model["metrics"]} | {"mean_cost": [2.0, 3.0]}
    for model in content["models"]:
        model["seeds"] = {"values": [0.5, 0.75], "mean": 0.625, "min": 0.5, "max": 0.75, "standard_deviation": 0.18}
        model |= {"time_to_first_token_s": 0.25, "time_to_first_token_s_range": [0.2, 0.3], "load_s": 1.5}
        model |= {"prefill_tokens_per_s_range": [400.0, 600.0], "decode_tokens_per_s_range": [40.0, 60.0]}
    return content | {"seeds": [42, 43], "chosen_on": ["early stopping"], "own_metrics": ["mean_cost"], "too_long": 3}


def ratings_of(first: str = "merged", second: str = "onnx-int4", judge: str = "tiny-judge") -> dict[str, Any]:
    """Return what two people and a judge say of 40 rows: `second` is right in 10 more, and all agree."""
    rows = tuple(SheetRow(f"d:{i}", "?", "yes", ("yes" if i % 4 else "no", "yes"), "A", 1.0) for i in range(40))
    people = {i: Rating(4 if i % 4 else 1, 4, int(i % 4 == 0)) for i in range(40)}
    words = {i: Judgment(*("tie" if i % 4 else word for word in ("B", "A"))) for i in range(40)}
    return evaluate_ratings(Sheet((first, second), rows, 10, 40), [people, people], [(judge, words)])


def benchmarks_of(task: str = "arc_easy", models: Sequence[str] = ("base", "onnx-int4")) -> list[dict[str, Any]]:
    """Return an accuracy and a perplexity of each model on a benchmark."""
    counts = {"rows": 200, "total_rows": 2376, "stderr": None}
    accuracy = {"metric": "acc", "value": 0.4375, "interval": [0.375, 0.5], "higher_is_better": True}
    perplexity = {"metric": "word_perplexity", "value": 12.5, "interval": None, "higher_is_better": False}
    return [{"task": task, "model": m, **metric, **counts} for metric in (accuracy, perplexity) for m in models]


def training_of(task: str, rows: Sequence[RowResult], name: str = "finetune", **facts: Any) -> TrainingFacts:
    curves = Curves([(5, 2.0), (10, 1.0)], [(10, 1.2)], [(5, 1e-4), (10, 5e-5)])
    settings = {"type": "LoRA", "r": 8, "training_args": {"learning_rate": 2e-4, "seed": 42, "data_seed": None}}
    results = {"steps": 10, "rows": 40, "tokens": 900, "trained_tokens": 80}
    evaluation = evaluation_of(task, rows) if rows else None
    values = {"settings": settings, "results": results, "curves": curves, "evaluation": evaluation, "rows": list(rows)}
    values["verdict"] = Verdict("ready", "Ready to try: all right", "ready: no problem") if rows else None
    return TrainingFacts(name, **{**values, **facts})


def project_of(*trainings: TrainingFacts, **facts: Any) -> ProjectFacts:
    values: dict[str, Any] = {
        "project": "mood",
        "task_name": "",
        "base_model": "org/tiny",
        "run": "20261128-165639-569722",
        "time": datetime(2026, 11, 28, 16, 56),
        "stages": [StageFacts("finetune", "LoRA", "cached", output="gen-model/adapter", figures={"wall_s": 172.6})],
        "trainings": list(trainings),
        "environment": {"python": "3.11.7", "platform": "Linux", "cores": 2, "versions": {"torch": "2.13.0"}},
        "record": {},
    }
    return ProjectFacts(**{**values, **facts})


def page_of(*trainings: TrainingFacts, **facts: Any) -> Page:
    project = project_of(*trainings, **facts)
    return Page(document(project, [TrainingView(training) for training in project.trainings]))


class Page(HTMLParser):
    """An HTML page, read.

    Attributes:
        tags: Names of all elements.
        attributes: Names and values of all attributes.
        headings: Level and text.
        images: For each `svg`, the names of the elements in it.
        errors: Elements that do not nest.
    """

    _VOID = ("meta", "br")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html, self.text = html, ""
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.headings: list[tuple[int, str]] = []
        self.images: list[list[str]] = []
        self.errors: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.errors += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "svg":
            self.images.append([])
        elif "svg" in self._open:
            self.images[-1].append(tag)
        if self._level(tag):
            self.headings.append((self._level(tag), ""))
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.errors.append(tag)
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if any(self._level(tag) for tag in self._open):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)

    def handle_comment(self, data: str) -> None:
        self.errors.append(f"comment {data}")

    @staticmethod
    def _level(tag: str) -> int:
        return int(tag[1]) if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit() else 0
