"""Draws a search: its trials while they run, and what they came to."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from phi_runtime.core.events import Emit, Event
from phi_runtime.search.sweep import metric as metrics
from phi_scaffold.show.progress import display_search, figures, warn
from phi_scaffold.show.terminal import console, duration, size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from phi_runtime.core.project import Project
    from phi_runtime.search.sweep.outcome import SweepResult, Trial

_STYLES = {"complete": "green", "pruned": "yellow", "failed": "red", "running": "cyan"}
_BAR = 30  # characters of a share of 100 %


def display(*, quiet: bool) -> AbstractContextManager[Emit]:
    """A listener for the events of a search: live bars on a terminal, a line for each trial elsewhere, warnings alone if `quiet`."""
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
    """A bar for all trials, and one for each that runs."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.whole: TaskID | None = None
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
                print_(f"[{_STYLES[data['state']]}]{escape(_finished(event))}[/]")
            if "finished" in data and self.whole is not None:
                finished = f"{data['finished']}/{data['count']}"
                self.progress.update(self.whole, completed=data["finished"], done=finished, figures=escape(_best(data)))
        elif event.event == "warning":
            print_(f"[yellow]warning:[/] {escape(str(data['message']))}")

    def _begin(self, event: Event) -> None:
        data, text = event.data, event.stage
        if "values" in data:
            if self.whole is None:
                self.whole = self.progress.add_task("trials", total=data["count"], done="", figures="")
            text = f"  {_name(event.stage)}: {values_text(data['values'])}"
        self.running[event.stage] = self.progress.add_task(escape(text), total=None, done="", figures="")


def _done(data: dict[str, Any]) -> str:
    done, total = (size(n) if data.get("unit") == "bytes" and n else n for n in (data["done"], data.get("total")))
    return f"{done}/{total}" if total else f"{done}"


def _name(stage: str) -> str:
    return f"trial {int(stage.rpartition('-')[2])}"


def _finished(event: Event) -> str:
    data = event.data
    came_to = data["state"] if data["score"] is None else f"{metrics.label(data['metric'])} {data['score']:.4f}"
    why = f" ({data['why']})" if data["why"] else ""
    took = f" in {duration(data['wall_s'])}" if data["wall_s"] else ""
    return f"{_name(event.stage)}: {came_to}{why}{took}{'; ' + _best(data) if data['best'] else ''}"


def _best(data: dict[str, Any]) -> str:
    best = data["best"]
    return f"best {best['score']:.4f} (trial {best['number']})" if best else ""


def values_text(values: dict[str, Any]) -> str:
    """The values of a trial on one line: learning_rate=0.0003 r=8."""
    return " ".join(
        f"{name}={value_text(v)}" for name, v in zip(short_names(list(values)), values.values(), strict=True)
    )


def short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key where that tells them apart, else the whole key."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def value_text(value: Any) -> str:
    """A value as a person writes it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


# -- results --------------------------------------------------------------------------------------------------------------


def new_study(name: str, why: str) -> None:
    """Says that a search begins anew."""
    print(f"{name} begins, since trials of before cannot be compared with those of now: {why}", file=sys.stderr)


def plan(told: dict[str, Any]) -> None:
    """What a search would do."""
    new = f"new{': ' + told['why'] if told['why'] else ''}" if told["new"] else f"{told['trials_done']} trials are done"
    print(f"{told['study']} ({new}): {told['trials_to_run']} trials to run, by {told['sampler']}, for {told['metric']}")
    table = Table(box=None, pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("values")
    for key, values in told["search_space"].items():
        table.add_row(key, escape(_range(values)))
    console().print(table)


def _range(values: dict[str, Any]) -> str:
    if values["type"] == "choice":
        return ", ".join(map(value_text, values["values"]))
    step = f", step {values['step']}" if values.get("step", 1) != 1 else ""
    return f"{value_text(values['low'])} to {value_text(values['high'])}{' (log)' if values['log'] else ''}{step}"


def found(result: SweepResult, project: Project, task: str | None = None) -> None:
    """The trials, best first, what mattered, and how to go on."""
    out = console()
    keys = list(result.best.values)
    table = Table(box=None, pad_edge=False)
    table.add_column("trial", justify="right")
    for name in (*short_names(keys), metrics.label(result.metric)):
        table.add_column(name, justify="right")
    table.add_column("state")
    table.add_column("took", justify="right")
    table.add_column("")
    sign = 1 if metrics.is_minimized(result.metric) else -1

    def rank(trial: Trial) -> tuple[bool, float, int]:
        return trial.score is None, sign * (trial.score or 0), trial.number

    for trial in sorted(result.trials, key=rank):
        best = trial.number == result.best.number
        table.add_row(
            str(trial.number),
            *(escape(value_text(trial.values[key])) if key in trial.values else "" for key in keys),
            "" if trial.score is None else f"{trial.score:.4f}",
            f"[{_STYLES[trial.state]}]{trial.state}[/]",
            duration(trial.wall_s) if trial.wall_s else "",
            escape(trial.why or ("best" if best else "")),
            style="bold" if best else "",
        )
    out.print(table)
    if result.importances:
        _bars(result)
    shown = project.shown(result.config)
    if result.previous_config:
        print(f"{shown} had been edited: it is kept as {project.shown(result.previous_config)}")
    print(f"\nThe values of trial {result.best.number} are in {shown}. To train with them and go on to the end:")
    print(f"  phi-scaffold run --config {shown}{f' --task-name {task}' if task else ''}")


def _bars(result: SweepResult) -> None:
    width = max(map(len, result.importances))
    print(f"\nWhat mattered for {metrics.label(result.metric)}:")
    for key, share in result.importances.items():
        print(f"  {key:{width}}  {'█' * max(1, round(_BAR * share)):{_BAR}} {100 * share:3.0f} %")
