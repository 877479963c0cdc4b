"""Draws a run while it goes on, on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from phi_runtime.core.events import Emit, Event, silent
from phi_runtime.training.diagnosis.run import rate_text
from phi_scaffold.show.terminal import console, duration, size

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID


@contextmanager
def display(*, as_json: bool, quiet: bool) -> Iterator[Emit]:
    """A listener for the runtime's events that suits who is looking: JSON lines, silence, a live bar or plain lines.

    What libraries print meanwhile goes to stderr: stdout is for JSON lines, and for the results that come afterwards.
    """
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        if as_json:
            yield lambda event: print(json.dumps(event.as_dict()), file=out, flush=True)
        elif quiet:
            yield lambda event: _warn(event) if event.event == "warning" else silent(event)
        elif sys.stderr.isatty():
            with _live() as emit:
                yield emit
        else:
            yield _PlainLines()


@contextmanager
def display_search(*, quiet: bool, live: Callable[[], AbstractContextManager[Emit]], plain: Emit) -> Iterator[Emit]:
    """The same for a search, whose results come at its end: `live` on a terminal, `plain` elsewhere, warnings alone if `quiet`."""
    with redirect_stdout(sys.stderr):
        if quiet:
            yield warn
        elif sys.stderr.isatty():
            with live() as emit:
                yield emit
        else:
            yield plain


def warn(event: Event) -> None:
    """Prints a warning, and passes over all else."""
    if event.event == "warning":
        print(f"warning: {event.data['message']}", file=sys.stderr)


# -- in words ---------------------------------------------------------------------------------------------------------------


def _warn(event: Event) -> None:
    print(f"warning: {_warning(event)}", file=sys.stderr)


def _warning(event: Event) -> str:
    return f"{event.stage}: {event.data['message']}" if event.stage else str(event.data["message"])


def figures(data: dict[str, Any]) -> list[str]:
    """What a progress event measured, each in words, the most wanted first."""
    known: dict[str, Any] = {name: value for name, value in data.items() if value is not None}
    said = []
    if "loss" in known:
        said.append(f"loss {known['loss']:.3f}")
    if "validation_loss" in known:
        said.append(f"validation loss {known['validation_loss']:.3f}")
    if "learning_rate" in known:
        said.append(f"learning rate {rate_text(known['learning_rate'])}")
    if "tokens_per_s" in known:
        said.append(f"{known['tokens_per_s']:,.0f} tokens/s")
    if memory := known.get("gpu_memory_bytes") or known.get("rss_bytes"):
        said.append(f"memory {size(memory)}")
    if "gpu_share" in known:
        said.append(f"GPU {100 * known['gpu_share']:.0f} %")
    elif "cpu_share" in known:
        said.append(f"cores {100 * known['cpu_share']:.0f} %")
    if skipped := known.get("skipped_steps"):
        said.append(f"{skipped:.0f} step{'s' if skipped > 1 else ''} skipped")
    if known.get("remaining_s"):
        said.append(f"{duration(known['remaining_s'])} left")
    return said


def _done_of(data: dict[str, Any]) -> str:
    done, total, unit = data.get("done"), data.get("total"), data.get("unit", "")
    if done is None:
        return ""
    if unit == "bytes":
        return f"{size(done)}" + (f" of {size(total)}" if total else "")
    return f"{done}" + (f"/{total}" if total else "") + f" {unit}"


def _learns_from(data: dict[str, Any]) -> str:
    last = f"; the last has {data['last_sequence_tokens']:,}" if "last_sequence_tokens" in data else ""
    tokens = f"{data['tokens']:,} tokens, {data['trained_tokens']:,} of them trained"
    return f"{data['rows']:,} rows in {data['sequences']:,} sequences of {tokens}{last}"


def _finished(data: dict[str, Any]) -> str:
    return (
        f"cached ({data['output']})"
        if data["state"] == "cached"
        else f"done in {duration(data['wall_s'])} → {data['output']}"
    )


def _found(data: dict[str, Any]) -> list[str]:
    """The problems that a stage's metric event names."""
    return [f"{entry['problem']}: {entry['evidence']}" for entry in data.get("diagnosis", ())]


# -- plain lines --------------------------------------------------------------------------------------------------------------


class _PlainLines:
    """For logs and pipes: a line when a stage starts and ends, and some between: at first one in five seconds, and ever fewer the
    longer the stage takes, so that a night leaves hundreds of lines and not thousands."""

    EVERY_S = 5.0
    SHARE = 0.02  # of the time that the stage has taken

    def __init__(self) -> None:
        self.started = self.last = 0.0
        self.place = ""

    def __call__(self, event: Event) -> None:
        data = event.data
        if event.event == "stage-started":
            self.place, self.last = f"[{data['index']}/{data['count']}] {event.stage}", 0.0
            self.started = time.monotonic()
        elif event.event == "progress":
            now = time.monotonic()
            if data.get("message") or now - self.last >= max(self.EVERY_S, self.SHARE * (now - self.started)):
                self.last = now
                message = [str(data["message"])] if data.get("message") else []
                self.line(", ".join(p for p in (_done_of(data), *message, *figures(data)) if p))
        elif event.event == "metric":
            if "sequences" in data:
                self.line(_learns_from(data))
            for problem in _found(data):
                self.line(problem)
        elif event.event == "stage-finished":
            self.line(_finished(data))
        elif event.event == "warning":
            _warn(event)

    def line(self, text: str) -> None:
        print(f"{self.place}: {text}", file=sys.stderr, flush=True)


# -- a live bar ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _live() -> Iterator[Emit]:
    """A bar for the stage at work, its figures below it, and above it a line for each that is done."""
    from rich.markup import escape
    from rich.text import Text

    terminal = console(stderr=True)
    progress, below = bar_with_figures(terminal)
    with progress:
        task: TaskID | None = None

        def emit(event: Event) -> None:
            nonlocal task
            data = event.data
            if event.event == "stage-started":
                place = f"[{data['index']}/{data['count']}] {event.stage}"
                task = progress.add_task(escape(in_room(place, terminal.width)), total=None, done="")
                below.clear()
            elif event.event == "progress" and task is not None:
                message = str(data.get("message") or "")
                if message and data.get("done") is None:  # said once, and to be read afterwards
                    terminal.print(Text(f"  {event.stage}: {message}", "dim"))
                below[:] = [*([message] if message else []), *figures(data)]
                progress.update(task, completed=data.get("done") or 0, total=data.get("total"), done=_done_of(data))
            elif event.event == "metric":
                if "sequences" in data:
                    terminal.print(Text(f"  {event.stage}: {_learns_from(data)}", "dim"))
                for problem in _found(data):
                    terminal.print(f"[yellow]![/] {event.stage}: {escape(problem)}")
            elif event.event == "stage-finished" and task is not None:
                progress.remove_task(task)
                task = None
                below.clear()
                style = "dim" if data["state"] == "cached" else "green"
                terminal.print(f"[{style}]✓[/] {event.stage}: {escape(_finished(data))}")
            elif event.event == "warning":
                terminal.print(f"[yellow]warning:[/] {escape(_warning(event))}")

        yield emit


_BESIDE = 34  # characters beside name and bar: spinner, `12000/50000 steps`, time and the gaps


def _bar_width(terminal_width: int) -> int:
    return 24 if terminal_width >= 100 else 12


def in_room(place: str, terminal_width: int) -> str:
    """The name of a stage, cut where it would push the figures beside its bar out of the line."""
    room = max(terminal_width - _bar_width(terminal_width) - _BESIDE, 12)
    return place if len(place) <= room else f"{place[: room - 1]}…"


def bar_with_figures(terminal: Console) -> tuple[Progress, list[str]]:
    """rich's progress, and the list of figures that it draws below its bar."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column
    from rich.text import Text

    below: list[str] = []

    class BarWithFigures(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            if below:
                yield Text("\n".join(in_lines(below, self.console.width - 2)), "dim", no_wrap=True, overflow="ellipsis")

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=_bar_width(terminal.width)),
        TextColumn("{task.fields[done]}", table_column=Column(no_wrap=True)),
        TimeElapsedColumn(),
    )
    return BarWithFigures(*columns, console=terminal, transient=True), below


def in_lines(said: Iterable[str], width: int) -> list[str]:
    """Figures in lines of at most `width`, indented, none of them cut in two."""
    lines: list[str] = []
    for one in said:
        if lines and len(lines[-1]) + len(one) + 2 <= width:
            lines[-1] += f", {one}"
        else:
            lines.append(f"  {one}")
    return lines
