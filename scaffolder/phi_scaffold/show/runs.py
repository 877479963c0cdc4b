"""Output of `runs`, on stdout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.text import Text

from phi_runtime.core.units import duration, energy, interval, percent, percents, size
from phi_runtime.pipeline.run_record import FIGURES
from phi_runtime.report.differences import ValueChange, changes, chosen_config, flattened, inputs_of
from phi_runtime.report.history import MainScore, run_before
from phi_scaffold.show.terminal import STATE_STYLES, console, prose, table

if TYPE_CHECKING:
    from phi_runtime.report.differences import RunDifferences, ScoreChange
    from phi_runtime.report.history import RecordedRun
    from phi_runtime.report.reproduction import ReproducedOutput, Reproduction

_SHOWN_CHARACTERS = 60
_DIGEST = re.compile(r"\b[0-9a-f]{40,64}\b")
_DIGEST_CHARACTERS = 12


def as_dict(run: RecordedRun) -> dict[str, Any]:
    """Return the facts of a run for the list."""
    score = run.score
    return {
        "id": run.id,
        "started": run.started,
        "state": run.state,
        "stages": [stage["stage"] for stage in run.stages],
        "wall_s": run.wall_s,
        "model": run.model,
        "methods": [step["type"] for step in run.trainings.values()],
        "score": score.as_dict() if score else None,
        "folder": run.project.shown(run.folder),
    }


def listing(runs: Sequence[RecordedRun]) -> None:
    """Print a line per run."""
    if not runs:
        print("No runs yet. Start one with `phi-scaffold run`.")
        return
    lines = table("!run", "!started", "!state", "stages", "model", "method", "score", ">!took")
    for run in runs:
        state = f"[{STATE_STYLES[run.state]}]{run.state}[/]"
        stages = ", ".join(stage["stage"] for stage in run.stages)
        methods = ", ".join(step["type"] for step in run.trainings.values())
        score = score_text(run.score) if run.score else ""
        took = duration(run.wall_s) if run.stages else ""
        lines.add_row(run.id, _minute(run.started), state, escape(stages), escape(run.model), methods, score, took)
    console().print(lines)


def score_text(score: MainScore) -> str:
    """Format a score with its model: `onnx-int4: accuracy 98.3 % (94.1–99.5), 120 rows`."""
    return f"{escape(score.model)}: {score.metric.replace('_', ' ')} {value_text(score)}"


def value_text(score: MainScore) -> str:
    """Format a score with its interval and rows."""
    if score.metric == "perplexity":
        value, ends = f"{score.value:.2f}", interval(score.interval)
    else:
        value, ends = percent(score.value), percents(score.interval)
    total = f" of {score.total_rows:,}" if score.total_rows != score.rows else ""
    return f"{value}{f' ({ends})' if ends else ''}, {score.rows:,}{total} rows"


def details_as_dict(run: RecordedRun) -> dict[str, Any]:
    """Return all facts of a run."""
    before, figures = run_before(run), _figures(run)
    return {
        **as_dict(run),
        "failure": run.record.get("failure"),
        "request": run.record.get("request"),
        "overrides": run.record.get("overrides"),
        "settings": flattened(chosen_config(run)),
        "before": before.id if before else None,
        "changes": [asdict(change) for change in _changes_since(before, run)],
        "environment": run.environment,
        "inputs": inputs_of(run),
        "scores": [score.as_dict() for score in _scores(run)],
        "outputs": [
            {
                "stage": stage,
                "state": output["state"],
                "output": output["output"],
                "content": output["content"],
                "is_current": run.is_current(stage),
                **{key: figures.get(stage, {}).get(key) for key in FIGURES},
            }
            for stage, output in run.outputs.items()
        ],
    }


def details(run: RecordedRun) -> None:
    """Print all facts of a run."""
    out = console()
    out.print(f"[bold]run {run.id}[/]: [{STATE_STYLES[run.state]}]{run.state}[/], started {_minute(run.started)}")
    if failure := run.record.get("failure"):
        prose(f"  `{failure['stage']}`: {failure['message']}")
        if failure["fix"]:
            out.print(f"  help: {failure['fix']}", markup=False, soft_wrap=True)
    out.print(f"base model {run.model or 'unknown'}; record in {run.project.shown(run.folder)}", markup=False)
    _outputs(run)
    for score in _scores(run):
        prose(score_text(score), hanging=2)
    before = run_before(run)
    if before:
        _changes(f"settings that differ from run {before.id}", _changes_since(before, run))
    else:
        _values("settings other than the defaults", flattened(chosen_config(run)))
    _values("inputs", inputs_of(run))
    versions = run.environment.get("versions", {})
    machine = {key: value for key, value in run.environment.items() if key != "versions"}
    _values("environment", {**machine, **versions})


def _outputs(run: RecordedRun) -> None:
    figures = _figures(run)
    used = {stage: energy(entry) for stage, entry in figures.items()}
    energy_column = ("energy",) if any(used.values()) else ()
    lines = table("!stage", "!state", ">!took", ">memory", *energy_column, "!output", "still this one")
    for stage, output in run.outputs.items():
        current = {True: "yes", False: "no, replaced or deleted", None: "unknown"}[run.is_current(stage)]
        entry = figures.get(stage, {})
        took, peak = entry.get("wall_s"), entry.get("peak_rss_bytes")
        cells = ["" if took is None else duration(took), size(peak) if peak else ""]
        cells += [used.get(stage, "")] if energy_column else []
        lines.add_row(escape(stage), output["state"], *cells, escape(output["output"]), current)
    if run.outputs:
        console().print(lines)


def _figures(run: RecordedRun) -> dict[str, dict[str, Any]]:
    """Return time, memory and energy of each stage that the run finished."""
    return {stage["stage"]: stage for stage in run.stages}


def _changes_since(before: RecordedRun | None, run: RecordedRun) -> list[ValueChange]:
    return changes(flattened(before.config), flattened(run.config)) if before else []


def _scores(run: RecordedRun) -> list[MainScore]:
    return [score for evaluation in run.evaluations for score in evaluation.scores]


def differences(found: RunDifferences) -> None:
    """Print the differences of two runs."""
    console().print(f"[bold]{found.before.id} → {found.after.id}[/]")
    _changes("settings", found.settings)
    _changes("data and base model", found.data)
    _changes("environment", found.environment)
    _score_changes(found.scores)
    missing = [run.id for run in (found.before, found.after) if not run.evaluations]
    if missing:
        print(f"no scores are recorded of {' and '.join(missing)}")


def _score_changes(scores: Sequence[ScoreChange]) -> None:
    if not scores:
        return
    lines = table("model", "before", "after", "difference on the same rows")
    for change in scores:
        lines.add_row(escape(change.model), value_text(change.before), value_text(change.after), _paired(change))
    console().print(lines)


def _paired(change: ScoreChange) -> str:
    """Return the difference on the rows that both runs measured, in words first."""
    difference = change.difference
    if difference is None:
        return "no row was measured in both"
    is_free_text = change.after.metric == "perplexity"
    scale, digits, unit = (1, 3, "nats per token") if is_free_text else (100, 1, "points")
    interval = difference.interval
    ends = f" ({scale * interval.low:+.{digits}f} to {scale * interval.high:+.{digits}f})" if interval else ""
    rows = f"{difference.lost} lost, {difference.gained} gained of {change.shared_rows:,} rows"
    return f"{difference.outcome}: {scale * difference.value:+.{digits}f} {unit}{ends}, {rows}"


def _changes(title: str, found: Iterable[ValueChange]) -> None:
    lines = [f"  {change.key}: {_short(change.before)} → {_short(change.after)}" for change in found]
    _section(title, lines or ["  none"])


def _values(title: str, values: dict[str, Any]) -> None:
    _section(title, [f"  {key}: {_short(value)}" for key, value in values.items() if value is not None])


def _section(title: str, lines: Sequence[str]) -> None:
    out = console()
    out.print(f"[bold]{title}[/]")
    for line in lines:
        prose(line, hanging=2)


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _DIGEST.sub(lambda match: match[0][:_DIGEST_CHARACTERS], text.replace("\n", "\\n"))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def _minute(started: str) -> str:
    return started[:16].replace("T", " ")


def reproduction(plan: Reproduction) -> None:
    """Print the config files that reproduce a run, the command, and what differs from the run."""
    out, project = console(), plan.project
    for path in plan.files:
        prose(f"config: {project.shown(path)}", hanging=2)
    out.print(f"command: {plan.command}", markup=False, soft_wrap=True)
    for mismatch in plan.mismatches:
        effect = "changes the result" if mismatch.changes_result else "may change the last bits"
        line = f"{mismatch.subject}: {mismatch.recorded} in the run, now {mismatch.current} ({effect})"
        prose(Text.assemble(("differs:", "yellow"), f" {line}"), hanging=2)
        if mismatch.fix:
            out.print(f"  help: {mismatch.fix}", markup=False, soft_wrap=True)
    if not plan.mismatches:
        prose("data, functions, base model, versions and threads are those of the run")


def reproduced(plan: Reproduction, outputs: Sequence[ReproducedOutput]) -> None:
    """Print if the reproduction has the same bytes as the run."""
    for output in outputs:
        same = "the same bytes" if output.is_same else "other bytes"
        reproduced_content = (output.reproduced or "none")[:_DIGEST_CHARACTERS]
        prose(
            f"{output.stage}: {same} (content {output.recorded[:_DIGEST_CHARACTERS]} in the run, {reproduced_content} now)"
        )
    if not outputs:
        prose("The record has no digest of an adapter, so the bytes cannot be compared.")
    prose(f"Outputs are in {plan.project.shown(plan.project.gen_model)}/")


def reproduction_as_dict(plan: Reproduction, outputs: Sequence[ReproducedOutput]) -> dict[str, Any]:
    """Return the plan of a reproduction and, once it ran, its outputs."""
    return {
        "run": plan.run.id,
        "files": [plan.project.shown(path) for path in plan.files],
        "command": plan.command,
        "differences": [asdict(mismatch) for mismatch in plan.mismatches],
        "outputs": [{**asdict(output), "same": output.is_same} for output in outputs],
    }
