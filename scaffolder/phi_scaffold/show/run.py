"""Output of `run`, `evaluate` and `status`, on stdout. Progress meanwhile is in show/progress.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from phi_runtime.core.project import tasks
from phi_runtime.core.units import duration, energy, interval, percent, percents, size
from phi_runtime.evaluation.metrics import headline
from phi_runtime.pipeline.run_record import last_figures
from phi_runtime.training.diagnosis.curve_statistics import curve
from phi_runtime.training.diagnosis.run import read_loss_log, short
from phi_scaffold.show import verdict as show_verdict
from phi_scaffold.show.sparkline import sparkline
from phi_scaffold.show.terminal import STATE_STYLES, console, prose, table

if TYPE_CHECKING:
    from phi_runtime.core.project import ProjectFolder
    from phi_runtime.pipeline.engine import Outcome
    from phi_runtime.pipeline.launch_commands import LaunchCommand
    from phi_runtime.pipeline.stage import Stage
    from phi_runtime.report.verdict import Verdict

_CURVE_WIDTH = 24
_LIKELIHOODS = ("label_loss", "bits_per_byte", "perplexity")  # the first that was measured is shown


def outcome(result: Outcome, project: ProjectFolder, judged: Mapping[str, Verdict], flags: str = "") -> None:
    """Print the evaluation of a run, the folder of its record, and the verdict on each training; `flags` as in `verdicts`."""
    if result.evaluation:
        comparisons(result.evaluation)
    if not result.done:
        print("Nothing to do: everything is up to date.")
    elif result.run_folder:
        prose(f"Done: {', '.join(result.done)}. The record of the run is in {project.shown(result.run_folder)}")
    show_verdict.verdicts(judged, flags)


def comparisons(evaluation: dict[str, Any]) -> None:
    """Print the model comparison of each pass that trains."""
    measured = [training for training in evaluation["trainings"] if training["models"]]
    for training in measured:
        _comparison(training, f" of `{training['name']}`" if len(measured) > 1 else "")


def _comparison(evaluation: dict[str, Any], suffix: str) -> None:
    """Print one model per line, and how each compares with another. Models of free text have a perplexity alone."""
    models, metric = evaluation["models"], headline(evaluation["task"])
    metrics = [metric] if all(model["metrics"] for model in models) else []
    own = evaluation.get("own_metrics", [])  # records of older versions have none
    shown = [column for name in (*metrics, *own) for column in (name, "95 %")]
    likelihood = next(key for key in _LIKELIHOODS if models[0].get(key) is not None)
    names = (*shown, f"{likelihood} (95 %)", "answer tok/s", "size", "memory")
    rows, total = evaluation["rows"], evaluation["total_rows"]
    seeds, chosen = evaluation.get("seeds", ()), ", ".join(evaluation.get("chosen_on", ()))
    title = f"{rows:,} of {total:,} {evaluation['rows_of']} rows{suffix}"
    title += f"; {'one seed' if len(seeds) == 1 else f'{len(seeds)} seeds'}" if seeds else ""
    title += f"; chosen on these rows: {chosen}" if chosen else ""
    lines = table("model", *(f">{name.replace('_', ' ')}" for name in names), title=title)
    for model in (*evaluation["baselines"], *models):
        quality = [cell for name in metrics for cell in (percent(model["metrics"][name]), percents(model["interval"]))]
        quality += [cell for name in own for cell in _number(model, name)]
        quality.append(_likelihood(model, likelihood))
        lines.add_row(model["name"], *quality, *(_performance(model) if model in models else ()))
    console().print(lines)
    for model in models:
        if model["versus"]:
            prose(f"{model['name']}, compared with {_versus(model['versus'], rows)}{_own(model['versus'])}")
    for model in models:
        if model.get("seeds"):
            prose(
                f"{model['name']}, with seeds {', '.join(map(str, seeds))}: {_spread(model['seeds'], is_share=bool(metrics))}"
            )


def _performance(model: dict[str, Any]) -> tuple[str, ...]:
    return (
        _with_range(model["decode_tokens_per_s"], *model["decode_tokens_per_s_range"]),
        size(model["size_bytes"]) + (" + base" if model["base_bytes"] else ""),
        size(model["gpu_memory_bytes"] or model["peak_rss_bytes"]),
    )


def _with_range(median: float, low: float, high: float) -> str:
    return f"{median:.0f} ({low:.0f}–{high:.0f})"


def _spread(spread: dict[str, Any], *, is_share: bool) -> str:
    """Return mean, range and standard deviation of the main metric, or of the perplexity, over seeds."""
    scale, digits, unit = (100, 1, " %") if is_share else (1, 2, "")
    mean, low, high, deviation = (
        f"{scale * spread[key]:.{digits}f}" for key in ("mean", "min", "max", "standard_deviation")
    )
    return f"{'mean' if is_share else 'mean perplexity'} {mean}{unit}, {low}–{high}, standard deviation {deviation}"


def _likelihood(model: dict[str, Any], key: str) -> str:
    """Return a figure of the likelihood of the references with its interval; nothing for a baseline."""
    if model.get(key) is None:
        return ""
    bounds = model[f"{key}_interval"]
    return f"{model[key]:.2f}" + (f" ({interval(bounds)})" if bounds else "")


def _number(model: dict[str, Any], name: str) -> tuple[str, str]:
    """Return a metric of the project, which may be of any size, and its interval."""
    return f"{model['metrics'][name]:.3f}", interval(model["intervals"][name], 3)


def _own(versus: dict[str, Any]) -> str:
    """Return the differences in the metrics of the project."""
    texts = []
    for name, difference in versus.get("metrics", {}).items():
        bounds = difference["interval"]
        ends = f" ({bounds[0]:+.3f} to {bounds[1]:+.3f})" if bounds else ""
        texts.append(f"; {name.replace('_', ' ')} {difference['difference']:+.3f}{ends}")
    return "".join(texts)


def _versus(versus: dict[str, Any], rows: int) -> str:
    """Return the comparison with another model: in words, by rows, and the rows that would show a small difference."""
    lost = versus["lost"]
    changes = f"{lost} {'row' if lost == 1 else 'rows'} lost, {versus['gained']} gained"
    if versus["outcome"] != "no difference seen":
        return f"{versus['model']}: {versus['outcome']} ({changes})"
    needed = versus["rows_needed"]
    more = f"; about {needed:,} rows would show 2 points" if needed and needed > rows else ""
    return f"{versus['model']}: no difference seen in {rows:,} rows ({changes}{more})"


def benchmarks(results: Sequence[dict[str, Any]]) -> None:
    """Print one line per model and metric of each benchmark, with its interval and rows."""
    if not results:
        return
    lines = table("benchmark", "model", "metric", ">value", ">95 %", ">rows", title="lm-evaluation-harness")
    for entry in results:
        rows = f"{entry['rows']:,} of {entry['total_rows']:,}"
        value, ends = f"{entry['value']:.3f}", interval(entry["interval"], 3)
        lines.add_row(escape(entry["task"]), entry["model"], entry["metric"], value, ends, rows)
    console().print(lines)


def status(stages: Sequence[Stage], project: ProjectFolder, *, as_json: bool, quiet: bool) -> None:
    """Print the state of each stage; unless `quiet`, also the other tasks of the project."""
    figures = last_figures(project)
    others = tasks(project)
    if as_json:
        rows = [
            {
                "name": s.name,
                "state": s.state,
                "why": s.why,
                "output": project.shown(s.target),
                **{key: figures.get(s.name, {}).get(key) for key in ("wall_s", "cpu_energy_j", "gpu_energy_j")},
            }
            for s in stages
        ]
        print(json.dumps({"stages": rows, "tasks": others}))
        return
    shown = {s.name: figures[s.name] for s in stages if s.name in figures and (s.manifest or s.name == "fetch")}
    used = {name: energy(entry) for name, entry in shown.items()}
    energy_column = ("energy",) if any(used.values()) else ()
    states = table("!stage", "!state", "!output", "!took", *energy_column, "why")
    for s in stages:
        took = duration(shown[s.name]["wall_s"]) if "wall_s" in shown.get(s.name, {}) else ""
        state = f"[{STATE_STYLES[s.state]}]{s.state}[/]"
        cells = [used.get(s.name, "")] if energy_column else []
        states.add_row(s.name, state, project.shown(s.target), took, *cells, escape(s.why))
    console().print(states)
    if sys.stdout.isatty() and not quiet:
        _loss_curves(stages)
    if others and not quiet:
        prose(f"\nOther tasks, shown with --task-name: {', '.join(others)}")


def _loss_curves(stages: Sequence[Stage]) -> None:
    """Print the losses of each stage that has trained, as a curve and in numbers."""
    for stage in stages:
        log = read_loss_log(stage.target)
        losses, validation = curve(log, "loss"), curve(log, "eval_loss")
        if losses:
            line = sparkline([point.value for point in losses], _CURVE_WIDTH)
            text = f"{stage.name}: loss {short(losses[0].value)} → {short(losses[-1].value)} {line}"
            if validation:
                last = validation[-1]
                text += f", validation loss {short(last.value)} (step {last.step:,})"
            console().print(f"\n{text}", markup=False)


def launch_command(launch: LaunchCommand, *, as_json: bool) -> None:
    """Print the `accelerate launch` command as plain text, to be copied."""
    if as_json:
        print(json.dumps({"config": str(launch.config), "stage": launch.stage, "command": launch.command}))
        return
    print(f"Wrote {launch.config}. Train `{launch.stage}` with:\n\n  {launch.command}\n")
    print("It prints its progress as JSON lines on stdout. Afterwards, `phi-scaffold run` uses the trained adapter.")
