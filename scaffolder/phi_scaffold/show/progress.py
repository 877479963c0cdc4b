"""Progress of a run or a search on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any

from phi_runtime.core.events import Emit, Event
from phi_runtime.core.units import count, duration, size
from phi_runtime.training.diagnosis.run import rate_text
from phi_scaffold.show.paths import with_short_paths
from phi_scaffold.show.sparkline import sparkline
from phi_scaffold.show.terminal import console

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID


Finished = Callable[[Event], tuple[str, str]]
"""Returns the text of the end of a stage, and its style: `green`, `dim` or `yellow`."""
_MARKS = {"green": "✓", "dim": "✓", "yellow": "!"}


def _finished(event: Event) -> tuple[str, str]:
    data = event.data
    if data["state"] == "cached":
        return f"cached ({data['output']})", "dim"
    if data["state"] == "deleted":
        return f"not needed ({data['output']} is deleted)", "dim"
    return f"done in {duration(data['wall_s'])} → {data['output']}", "green"


@contextmanager
def display(*, quiet: bool, as_json: bool = False, finished: Finished = _finished) -> Iterator[Emit]:
    """Yield a listener for the events of a run: JSON lines, only warnings if `quiet`, a live bar, or plain lines.

    Output that libraries print meanwhile goes to stderr: stdout is for JSON lines and for results.
    """
    if not as_json:
        live = partial(_live, finished)
        with display_search(quiet=quiet, live=live, plain=_PlainLines(finished)) as emit:
            yield emit
        return
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        yield lambda event: print(json.dumps(event.as_dict()), file=out, flush=True)


@contextmanager
def display_search(*, quiet: bool, live: Callable[[], AbstractContextManager[Emit]], plain: Emit) -> Iterator[Emit]:
    """Yield a listener: only warnings if `quiet`, `live` on a terminal, `plain` elsewhere."""
    with redirect_stdout(sys.stderr):
        if quiet:
            yield warn
        elif sys.stderr.isatty():
            with live() as emit:
                yield emit
        else:
            yield plain


def warn(event: Event) -> None:
    """Print the event if it is a warning."""
    if event.event == "warning":
        print(f"warning: {_warning(event)}", file=sys.stderr)


def warn_above(progress: Progress, event: Event) -> None:
    """Print a warning above a live bar."""
    from rich.markup import escape

    progress.console.print(f"[yellow]warning:[/] {escape(_warning(event))}")


# -- text of events ---------------------------------------------------------------------------------------------------------


def _warning(event: Event) -> str:
    message = with_short_paths(str(event.data["message"]))
    return f"{event.stage}: {message}" if event.stage else message


def _place(event: Event) -> str:
    data = event.data
    return f"[{data['index']}/{data['count']}] {event.stage}" if data["index"] else event.stage


def options_text(options: Mapping[str, Any]) -> str:
    """Format the options that a stage is tried with: precision=int4 int4_block_size=32."""
    return " ".join(f"{name.removeprefix('extra_options.')}={value}" for name, value in options.items())


def figures(data: dict[str, Any]) -> list[str]:
    """Format the measurements of a progress event, the most important first."""
    values: dict[str, Any] = {name: value for name, value in data.items() if value is not None}
    texts = []
    if "loss" in values:
        texts.append(f"loss {values['loss']:.3f}")
    if "validation_loss" in values:
        step = f" (step {values['validation_step']:,})" if "validation_step" in values else ""
        texts.append(f"validation loss {values['validation_loss']:.3f}{step}")
    if "learning_rate" in values:
        texts.append(f"learning rate {rate_text(values['learning_rate'])}")
    if "tokens_per_s" in values:
        texts.append(f"{values['tokens_per_s']:,.0f} tokens/s")
    if memory := values.get("gpu_memory_bytes") or values.get("rss_bytes"):
        texts.append(f"memory {size(memory)}")
    if "gpu_share" in values:
        texts.append(f"GPU {100 * values['gpu_share']:.0f} %")
    elif "cpu_share" in values:
        texts.append(f"cores {100 * values['cpu_share']:.0f} %")
    if skipped := values.get("skipped_steps"):
        texts.append(f"{count(round(skipped), 'step')} skipped")
    if values.get("remaining_s"):
        texts.append(f"{duration(values['remaining_s'])} left")
    return texts


def _done_of(data: dict[str, Any]) -> str:
    done, total, unit = data.get("done"), data.get("total"), data.get("unit", "")
    if done is None:
        return ""
    if unit == "bytes":
        return f"{size(done)}" + (f" of {size(total)}" if total else "")
    return f"{done}" + (f"/{total}" if total else "") + f" {unit}"


def _training_data(data: dict[str, Any]) -> str:
    last = f"; the last has {data['last_sequence_tokens']:,}" if "last_sequence_tokens" in data else ""
    tokens = f"{data['tokens']:,} tokens, {data['trained_tokens']:,} of them trained"
    return f"{data['rows']:,} rows in {data['sequences']:,} sequences of {tokens}{last}"


def _problems(data: dict[str, Any]) -> list[str]:
    """Format the problems in a metric event."""
    return [f"{entry['problem']}: {entry['evidence']}" for entry in data.get("diagnosis", ())]


# -- plain lines --------------------------------------------------------------------------------------------------------------


class _PlainLines:
    """Lines for logs and pipes: at the start and end of a stage, and at most every five seconds in between.

    The longer a stage takes, the fewer: a run over night prints hundreds of lines, not thousands.
    """

    EVERY_S = 5.0
    SHARE = 0.02  # least interval, as a share of the time that the stage has taken

    def __init__(self, finished: Finished) -> None:
        self.finished = finished
        self.started = self.last = 0.0
        self.place = ""

    def __call__(self, event: Event) -> None:
        data = event.data
        if event.event == "stage-started":
            self.place, self.last = _place(event), 0.0
            self.started = time.monotonic()
            if options := data.get("options"):
                self.line(options_text(options))
        elif event.event == "progress":
            now = time.monotonic()
            if data.get("message") or now - self.last >= max(self.EVERY_S, self.SHARE * (now - self.started)):
                self.last = now
                message = [str(data["message"])] if data.get("message") else []
                self.line(", ".join(p for p in (_done_of(data), *message, *figures(data)) if p))
        elif event.event == "metric":
            if "sequences" in data:
                self.line(_training_data(data))
            for problem in _problems(data):
                self.line(problem)
        elif event.event == "stage-finished":
            self.line(self.finished(event)[0])
        warn(event)

    def line(self, text: str) -> None:
        print(f"{self.place}: {text}", file=sys.stderr, flush=True)


# -- a live bar ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _live(finished: Finished) -> Iterator[Emit]:
    """Draw a bar for the running stage with its measurements below, and print a line above for each finished stage."""
    from rich.markup import escape
    from rich.text import Text

    terminal = console(stderr=True)
    progress, below = bar_with_figures(terminal)
    with progress:
        task: TaskID | None = None
        losses: list[float] = []

        def emit(event: Event) -> None:
            nonlocal task
            data = event.data
            if event.event == "stage-started":
                task = progress.add_task(escape(shortened(_place(event), terminal.width)), total=None, done="")
                below[:] = [options_text(options)] if (options := data.get("options")) else []
                losses.clear()
            elif event.event == "progress" and task is not None:
                message = str(data.get("message") or "")
                if message and data.get("done") is None:  # printed once, to be read afterwards
                    terminal.print(Text(f"  {event.stage}: {message}", "dim"))
                curve = [line] if (line := sparkline(losses, _CURVE_WIDTH)) else []
                below[:] = [*([message] if message else []), *curve, *figures(data)]
                progress.update(task, completed=data.get("done") or 0, total=data.get("total"), done=_done_of(data))
            elif event.event == "metric":
                if "loss" in data:
                    losses.append(data["loss"])
                if "sequences" in data:
                    terminal.print(Text(f"  {event.stage}: {_training_data(data)}", "dim"))
                for problem in _problems(data):
                    terminal.print(f"[yellow]![/] {event.stage}: {escape(problem)}")
            elif event.event == "stage-finished" and task is not None:
                progress.remove_task(task)
                task = None
                below.clear()
                text, style = finished(event)
                terminal.print(f"[{style}]{_MARKS[style]}[/] {event.stage}: {escape(text)}")
            elif event.event == "warning":
                warn_above(progress, event)

        yield emit


_CURVE_WIDTH = 16
_OTHER_COLUMNS = 34  # characters for all but name and bar: spinner, `12000/50000 steps`, time and gaps


def _bar_width(terminal_width: int) -> int:
    return 24 if terminal_width >= 100 else 12


def shortened(place: str, terminal_width: int) -> str:
    """Shorten the name of a stage so that the columns after it fit into the line."""
    room = max(terminal_width - _bar_width(terminal_width) - _OTHER_COLUMNS, 12)
    return place if len(place) <= room else f"{place[: room - 1]}…"


def bar_with_figures(terminal: Console) -> tuple[Progress, list[str]]:
    """Return rich's progress display, and the list of measurements that it draws below its bar."""
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


def in_lines(texts: Iterable[str], width: int) -> list[str]:
    """Join texts into indented lines of at most `width` characters, without breaking one."""
    lines: list[str] = []
    for text in texts:
        if lines and len(lines[-1]) + len(text) + 2 <= width:
            lines[-1] += f", {text}"
        else:
            lines.append(f"  {text}")
    return lines
