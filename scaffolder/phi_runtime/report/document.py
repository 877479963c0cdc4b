"""The report as one HTML file: no network, no script, and nothing in the data that acts instead of showing."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from phi_runtime.core import units
from phi_runtime.core.units import duration, percent, percents, size
from phi_runtime.evaluation.metrics import headline, main_result
from phi_runtime.report.charts import (
    NARROW,
    WIDE,
    PointEstimate,
    bar_chart,
    both_widths,
    data_table,
    dot_chart,
    heat_map,
)
from phi_runtime.report.loss_chart import loss_chart
from phi_runtime.report.project_facts import ProjectFacts
from phi_runtime.report.rating_text import conclusions, judge_lines, rated_rows
from phi_runtime.report.row_views import TrainingView, slice_models
from phi_runtime.report.scale import short
from phi_runtime.report.text import escaped, inert
from phi_runtime.report.verdict import SHOWN
from phi_runtime.training.diagnosis.run import rate_text

MAX_BYTES = 2_000_000
_FOLDER = Path(__file__).parent
_CODE = re.compile(r"`([^`]+)`")
_MATRIX = 280  # pixels
_TABLE_POINTS = 60  # of a curve, in the table behind its chart


class Limits(NamedTuple):
    """Limits of what may be large in the data."""

    rows: int  # of a list
    characters: int  # of a text


_LIMITS = (Limits(20, 1200), Limits(10, 600), Limits(5, 300), Limits(2, 120))  # the first whose page is small enough


def document(facts: ProjectFacts, trainings: Sequence[TrainingView]) -> str:
    """Return the report as HTML of at most 2 MB; longer lists and texts are cut, with their count."""
    return render("report.html.jinja", facts=facts, trainings=trainings)


def render(page: str, **values: Any) -> str:
    """Return a page with the first of `_LIMITS` that keeps it within 2 MB."""
    template = _environment().get_template(page)
    for limits in _LIMITS:
        html = template.render(limits=limits, **values)
        if len(html.encode()) <= MAX_BYTES:
            break
    return html


@cache
def _environment() -> Environment:
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "pages"),
        autoescape=True,
        finalize=_shown,
        undefined=ChainableUndefined,  # keys that an older version did not write
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "style": Markup(style),
        "policy": _policy(style),
        "lights": {"ready": "good", "check": "warn", "not ready": "bad"},
        "most_findings": SHOWN,
        "scores_chart": scores_chart,
        "curves_chart": curves_chart,
        "confusion_charts": confusion_charts,
        "label_chart": label_chart,
        "length_chart": length_chart,
        "result": result,
        "likelihood": likelihood,
        "metric_names": metric_names,
        "headline": headline,
        "slice_models": slice_models,
        "rated_rows": rated_rows,
        "conclusions": conclusions,
        "judge_lines": judge_lines,
    }
    environment.filters |= {
        "percent": percent,
        "fraction": fraction,
        "short": short,
        "size": size,
        "duration": duration,
        "day": _day,
        "interval": interval,
        "number_interval": units.interval,
        "points": points,
        "rate": rate_text,
        "cut": _cut,
        "prose": _prose,
        "count": _count,
        "digest": lambda value: value[:16],
    }
    return environment


def _policy(style: str) -> str:
    """Return the content security policy of a page: nothing is loaded or run, and only `style` is a style sheet."""
    digest = b64encode(sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _shown(value: Any) -> Any:
    """Return text of the data without characters that act; what is HTML already is unchanged."""
    return inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _cut(text: str, limit: int) -> Markup:
    """Return text of a row as HTML of at most `limit` characters, isolated from the direction of other text."""
    rest = len(text) - limit
    more = f' <span class="muted">… {rest:,} more characters</span>' if rest > 0 else ""
    return Markup(f'<bdi class="row-text">{escaped(text[:limit])}</bdi>{more}')


def _prose(message: str) -> Markup:
    """Return a message as HTML, with what is in backticks as code."""
    return Markup("<bdi>" + _CODE.sub(r"<code>\1</code>", escaped(message)) + "</bdi>")


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _day(time: datetime | None) -> str:
    return f"{time.day} {time:%B %Y, %H:%M}" if time else ""


def interval(bounds: Sequence[float] | None, *, as_percent: bool = True) -> str:
    """Format an interval: 95.4–99.9."""
    if not bounds:
        return ""
    return percents(bounds) if as_percent else f"{short(bounds[0])}–{short(bounds[1])}"


def points(bounds: Sequence[float], *, share: bool) -> str:
    """Format the interval of a difference: -3.1 to +2.0 points; of free text, in nats per token."""
    low, high = (f"{100 * end:+.1f}" if share else f"{end:+.3f}" for end in bounds)
    return f"{low} to {high} {'points' if share else 'nats per token'}"


def result(model: Mapping[str, Any], task: str) -> tuple[str, str]:
    """Return the main metric of a model and its interval as text; of free text, the perplexity."""
    metric, value, ends = main_result(task, model)
    if value is None:
        return "", ""
    is_share = metric != "perplexity"
    return percent(value) if is_share else short(value), interval(ends, as_percent=is_share)


def likelihood(training: TrainingView) -> tuple[str, str]:
    """Return the title and the key of the likelihood next to the main metric: of the label, of a byte, or of a reference."""
    keys = {"label_loss": "loss of the label", "bits_per_byte": "bits per byte"}
    return next(
        ((title, key) for key, title in keys.items() if any(model.get(key) is not None for model in training.models)),
        ("loss", "loss"),
    )


def metric_names(training: TrainingView) -> list[str]:
    """Return the names of all metrics of the models."""
    return list(dict.fromkeys(name for model in training.models for name in model["metrics"]))


def fraction(value: float) -> str:
    """Format a metric: as percent if it is a fraction, else as a number, such as a cost."""
    return percent(value) if 0 <= value <= 1 else short(value)


# -- charts -------------------------------------------------------------------------------------------------------------------


def scores_chart(training: TrainingView) -> Markup:
    """Return the chart of the models with their intervals, and the table behind it."""
    evaluation, best = training.facts.evaluation, training.baseline
    assert evaluation is not None
    free = training.is_free_text
    metric = "perplexity" if free else headline(evaluation["task"]).replace("_", " ")
    models = [*evaluation["models"]] if free else training.models
    estimates = [_estimate(model, evaluation["task"], is_baseline=model in evaluation["baselines"]) for model in models]
    title = f"{metric.capitalize()} of each model"
    dashed = _estimate(best, evaluation["task"], is_baseline=True) if best else None
    shown = both_widths(
        lambda width: dot_chart(
            estimates,
            title,
            baseline=dashed,
            number=short if free else percent,
            limits=None if free else (0.0, 1.0),
            width=width,
        )
    )
    rows = [
        (e.label, *(None if v is None else short(v) if free else percent(v) for v in (e.value, e.low, e.high)))
        for e in estimates
    ]
    return _figure(shown, title, ("model", metric, "95 % from", "to"), rows)


def _estimate(model: Mapping[str, Any], task: str, *, is_baseline: bool) -> PointEstimate:
    _, value, ends = main_result(task, model)
    low, high = ends or (None, None)
    return PointEstimate(model["name"], value, low, high, is_baseline)


def curves_chart(training: TrainingView) -> Markup:
    """Return the chart of the losses, and the table behind it."""
    curves, title = training.facts.curves, f"Loss of {training.facts.name}"
    shown = both_widths(
        lambda width: loss_chart(
            curves.loss,
            title,
            validation=curves.validation,
            learning_rate=curves.learning_rate,
            best_step=curves.best_step,
            width=width,
        )
    )
    columns = [dict(points) for points in (curves.loss, curves.validation, curves.learning_rate)]
    steps = sorted(set().union(*columns))
    every = -(-len(steps) // _TABLE_POINTS) or 1
    rows = [(step, *(column.get(step) for column in columns)) for step in steps[::every]]
    caption = title if every == 1 else f"{title}: {len(rows)} of {len(steps):,} steps"
    return _figure(shown, caption, ("step", "training loss", "validation loss", "learning rate"), rows)


def confusion_charts(training: TrainingView) -> list[tuple[str, Markup]]:
    """Return the confusion matrix of each model that is no baseline, by its name; none if the task has no labels."""
    charts = []
    for name, matrix in training.confusions.items():
        title, width = f"Confusion matrix of {name}", WIDE if training.has_many_labels else _MATRIX
        image = Markup(heat_map(matrix.counts, matrix.expected, matrix.answers, title, width=width))
        rows = [(label, *row) for label, row in zip(matrix.expected, matrix.counts, strict=True)]
        charts.append((name, _figure(image, title, ("expected", *matrix.answers), rows)))
    return charts


def label_chart(data: Mapping[str, Any]) -> Markup:
    """Return the chart of the rows of each label in a data report."""
    return _bars(
        [(label, float(rows)) for label, rows in data["labels"].items()], f"Rows of each label, {data['name']}"
    )


def length_chart(data: Mapping[str, Any]) -> Markup:
    """Return the chart of the rows by length in a data report."""
    parts = data["tokens"]["histogram"]
    return _bars(
        [(f"up to {part['up_to']:,}", float(part["rows"])) for part in parts], f"Rows by tokens, {data['name']}"
    )


def _bars(bars: Sequence[tuple[str, float]], title: str) -> Markup:
    return Markup(bar_chart(bars, title, number=_count, width=NARROW))


def _figure(shown: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """Return a chart, which is HTML already, with the table of its numbers."""
    name = f'Numbers<span class="visually-hidden"> of {escaped(title)}</span>'
    table = f'<div class="scroll">{data_table(title, columns, rows)}</div>'
    return Markup(f"<figure>{shown}<details><summary>{name}</summary>{table}</details></figure>")
