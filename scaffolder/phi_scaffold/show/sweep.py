"""Output of `sweep`: the trials while they run, and their results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from phi_runtime.core.events import Emit, Event
from phi_runtime.core.units import duration, size
from phi_runtime.search.sweep import metric as metrics
from phi_scaffold.show.progress import display_search, figures, warn, warn_above
from phi_scaffold.show.terminal import STATE_STYLES, console, prose, table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from phi_runtime.core.project import ProjectFolder
    from phi_runtime.search.sweep.outcome import SweepResult, Trial

_BAR_WIDTH = 30  # characters for 100 %


def display(*, quiet: bool) -> AbstractContextManager[Emit]:
    """Return a listener for the events of a search: live bars, a line per trial, or only warnings if `quiet`."""
    return display_search(quiet=quiet, live=_live, plain=_line)


def _line(event: Event) -> None:
    warn(event)
    if event.event == "stage-started" and "values" in event.data:
        print(f"{_name(event.stage)}: {values_text(event.data['values'])}", file=sys.stderr, flush=True)
    elif event.event == "stage-finished" and "finished" in event.data:
        print(f"[{event.data['finished']}/{event.data['count']}] {_finished(event)}", file=sys.stderr, flush=True)


@contextmanager
def _live() -> Iterator[Emit]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[done]}"),
        TextColumn("[dim]{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        yield _Bars(progress)


class _Bars:
    """A bar for all trials, and one for each running trial."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.all_trials: TaskID | None = None
        self.running: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        data, print_ = event.data, self.progress.console.print
        if event.event == "stage-started":
            self._begin(event)
        elif event.event == "progress" and data.get("done") is not None and event.stage in self.running:
            self.progress.update(
                self.running[event.stage],
                total=data.get("total"),
                completed=data["done"],
                done=_done(data),
                figures=", ".join(figures(data)),
            )
        elif event.event == "stage-finished" and event.stage in self.running:
            self.progress.remove_task(self.running.pop(event.stage))
            if "finished" in data:
                print_(f"[{STATE_STYLES[data['state']]}]{escape(_finished(event))}[/]")
            if "finished" in data and self.all_trials is not None:
                finished = f"{data['finished']}/{data['count']}"
                self.progress.update(
                    self.all_trials, completed=data["finished"], done=finished, figures=escape(_best(data))
                )
        elif event.event == "warning":
            warn_above(self.progress, event)

    def _begin(self, event: Event) -> None:
        data, text = event.data, event.stage
        if "values" in data:
            if self.all_trials is None:
                self.all_trials = self.progress.add_task("trials", total=data["count"], done="", figures="")
            text = f"  {_name(event.stage)}: {values_text(data['values'])}"
        self.running[event.stage] = self.progress.add_task(escape(text), total=None, done="", figures="")


def _done(data: dict[str, Any]) -> str:
    done, total = (size(n) if data.get("unit") == "bytes" and n else n for n in (data["done"], data.get("total")))
    return f"{done}/{total}" if total else f"{done}"


def _name(stage: str) -> str:
    return f"trial {int(stage.rpartition('-')[2])}"


def _finished(event: Event) -> str:
    data = event.data
    result = data["state"] if data["score"] is None else f"{metrics.label(data['metric'])} {data['score']:.4f}"
    why = f" ({data['why']})" if data["why"] else ""
    took = f" in {duration(data['wall_s'])}" if data["wall_s"] else ""
    return f"{_name(event.stage)}: {result}{why}{took}{'; ' + _best(data) if data['best'] else ''}"


def _best(data: dict[str, Any]) -> str:
    best = data["best"]
    return f"best {best['score']:.4f} (trial {best['number']})" if best else ""


def values_text(values: dict[str, Any]) -> str:
    """Format the values of a trial on one line: learning_rate=0.0003 r=8."""
    return " ".join(
        f"{name}={value_text(v)}" for name, v in zip(short_names(list(values)), values.values(), strict=True)
    )


def short_names(keys: Sequence[str]) -> list[str]:
    """Shorten each dotted key to its last part, if that is unique."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def value_text(value: Any) -> str:
    """Format a value as in a config."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


# -- results --------------------------------------------------------------------------------------------------------------


def new_study(name: str, why: str) -> None:
    """Report that a new study starts."""
    prose(f"starting study {name}: earlier trials are not comparable ({why})", console(stderr=True))


def plan(facts: dict[str, Any]) -> None:
    """Print the plan of a search."""
    new = f"new{': ' + facts['why'] if facts['why'] else ''}" if facts["new"] else f"{facts['trials_done']} trials done"
    prose(
        f"{facts['study']} ({new}): {facts['trials_to_run']} trials to run, sampler {facts['sampler']}, metric {facts['metric']}"
    )
    space = table("!key", "values")
    for key, values in facts["search_space"].items():
        space.add_row(key, escape(_range(values)))
    console().print(space)


def _range(values: dict[str, Any]) -> str:
    if values["type"] == "choice":
        return ", ".join(map(value_text, values["values"]))
    step = f", step {values['step']}" if values.get("step", 1) != 1 else ""
    return f"{value_text(values['low'])} to {value_text(values['high'])}{' (log)' if values['log'] else ''}{step}"


def result(
    outcome: SweepResult, project: ProjectFolder, spread: tuple[list[float], str] | None, flags: str = ""
) -> None:
    """Print the trials, best first, how much chance does, the importance of each key, and the next command.

    Args:
        outcome: The result of the search.
        project: The project.
        spread: `seed_spread` of the project.
        flags: Flags that name the project and the best config.
    """
    out = console()
    keys = list(outcome.best.values)
    names = (*short_names(keys), metrics.label(outcome.metric))
    trials = table(">trial", *(f">{name}" for name in names), "state", ">took", "")
    sign = 1 if metrics.is_minimized(outcome.metric) else -1

    def rank(trial: Trial) -> tuple[bool, float, int]:
        return trial.score is None, sign * (trial.score or 0), trial.number

    for trial in sorted(outcome.trials, key=rank):
        best = trial.number == outcome.best.number
        trials.add_row(
            str(trial.number),
            *(escape(value_text(trial.values[key])) if key in trial.values else "" for key in keys),
            "" if trial.score is None else f"{trial.score:.4f}",
            f"[{STATE_STYLES[trial.state]}]{trial.state}[/]",
            duration(trial.wall_s) if trial.wall_s else "",
            escape(trial.why or ("best" if best else "")),
            style="bold" if best else "",
        )
    out.print(trials)
    print(_chance(metrics.label(outcome.metric), spread))
    if outcome.importances:
        _importances(outcome)
    shown = project.shown(outcome.config)
    if outcome.previous_config:
        prose(f"{shown} was edited; the edited file is kept as {project.shown(outcome.previous_config)}")
    prose(f"\nThe values of trial {outcome.best.number} are in {shown}. To run the whole workflow with them:")
    print(f"  phi-scaffold run {flags}")


def _chance(metric: str, spread: tuple[list[float], str] | None) -> str:
    """Return how far trainings with the same values differ."""
    if spread is None:
        return "Each trial has one seed: `phi-scaffold evaluate --seeds 3` shows how much of a difference is chance."
    values, side = spread
    ends = f"{min(values):.4f} to {max(values):.4f}"
    return f"{len(values)} seeds of the same values: {metric} {ends} ({side} rows). Smaller differences may be chance."


def _importances(outcome: SweepResult) -> None:
    width = max(map(len, outcome.importances))
    prose(f"\nImportance for {metrics.label(outcome.metric)}:")
    for key, share in outcome.importances.items():
        print(f"  {key:{width}}  {'█' * max(1, round(_BAR_WIDTH * share)):{_BAR_WIDTH}} {100 * share:3.0f} %")
