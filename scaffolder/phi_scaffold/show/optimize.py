"""Draws a search for the model that keeps to its constraints: the candidates while they are built and measured, and the table."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from phi_runtime.core.events import Emit, Event
from phi_scaffold.show.progress import display_search, warn
from phi_scaffold.show.terminal import console, duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_UNITS = {"max_size_mb": "MB", "max_accuracy_drop": "", "min_tokens_per_s": "tokens/s", "max_memory_mb": "MB"}
_NAMES = {
    "max_size_mb": "size",
    "max_accuracy_drop": "drop",
    "min_tokens_per_s": "answer speed",
    "max_memory_mb": "memory",
}


def display(*, quiet: bool) -> AbstractContextManager[Emit]:
    """A listener for the events of a search: a live line on a terminal, plain lines elsewhere, warnings alone if `quiet`."""
    return display_search(quiet=quiet, live=_live, plain=_Lines())


class _Lines:
    """A line when something starts, when it goes on to something else, and when it ends."""

    def __init__(self) -> None:
        self.doing = ""

    def __call__(self, event: Event) -> None:
        warn(event)
        if event.event == "stage-started":
            self.doing = ""
            print(_started(event), file=sys.stderr, flush=True)
        elif event.event == "progress" and event.data.get("message", self.doing) != self.doing:
            self.doing = str(event.data["message"])
            print(f"  {self.doing}", file=sys.stderr, flush=True)
        elif event.event == "stage-finished":
            print(f"  {_finished(event)}", file=sys.stderr, flush=True)


@contextmanager
def _live() -> Iterator[Emit]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("[dim]{task.fields[doing]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        yield _Bar(progress)


class _Bar:
    """A bar for what is at work, and a line for each candidate that is done."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: TaskID | None = None

    def __call__(self, event: Event) -> None:
        data, print_ = event.data, self.progress.console.print
        if event.event == "stage-started":
            self._end()
            self.task = self.progress.add_task(escape(_started(event)), total=None, doing="")
        elif event.event == "progress" and self.task is not None:
            doing = data.get("message") or f"{data.get('unit', '')}"
            self.progress.update(self.task, total=data.get("total"), completed=data.get("done") or 0, doing=doing)
        elif event.event == "stage-finished":
            self._end()
            style = "dim" if "meets_constraints" not in data else "green" if data["meets_constraints"] else "yellow"
            if data["state"] != "cached":
                print_(f"[{style}]{escape(f'{event.stage}: {_finished(event)}')}[/]")
        elif event.event == "warning":
            print_(f"[yellow]warning:[/] {escape(str(data['message']))}")

    def _end(self) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
            self.task = None


def _started(event: Event) -> str:
    data = event.data
    place = f"[{data['index']}/{data['count']}] " if data.get("index") else ""
    options = options_text(data.get("options") or {})
    return f"{place}{event.stage}" + (f": {options}" if options else "")


def _finished(event: Event) -> str:
    data, row = event.data, event.data.get("result")
    took = f" in {duration(data['wall_s'])}" if data.get("wall_s") else ""
    if row is None or "meets_constraints" not in data:
        return f"{data['state']}{took}"
    figures = {
        f"{row['size_mb'] or 0:.1f} MB": row["size_mb"],
        f"drop {row['accuracy_drop'] or 0:.4g}": row["accuracy_drop"],
        f"{row['decode_tokens_per_s'] or 0:.0f} tokens/s": row["decode_tokens_per_s"],
        f"{row['peak_memory_mb'] or 0:.0f} MB of memory": row["peak_memory_mb"],
    }
    said = ", ".join(text for text, value in figures.items() if value is not None)
    return f"{verdict(row | {'violations': data['violations']})}{f' ({said})' if said else ''}{took}"


def options_text(options: dict[str, Any]) -> str:
    """The options of a candidate on one line: precision=int4 int4_block_size=32."""
    return " ".join(f"{name.removeprefix('extra_options.')}={value}" for name, value in options.items())


def verdict(row: dict[str, Any]) -> str:
    """What came of a candidate, in words."""
    if row["state"] in ("failed", "skipped"):
        return f"{row['state']}: {row['why']}" if row["state"] == "failed" else str(row["why"])
    if row["violations"]:
        return "misses " + ", ".join(violation_text(violation) for violation in row["violations"])
    if row["state"] == "built":
        return f"fits, as far as can be told here; {row['why']}"
    if row.get("not_measured"):
        return f"not measured on this system: {', '.join(row['not_measured'])}"
    return "holds"


def violation_text(violation: dict[str, Any]) -> str:
    """A constraint that is not kept: size 114.3 MB > 100 MB (by 14.3)."""
    name = violation["constraint"]
    unit = f" {_UNITS[name]}" if _UNITS[name] else ""
    sign = "<" if name.startswith("min") else ">"
    return f"{_NAMES[name]} {violation['value']:g} {sign} {violation['limit']:g}{unit} (by {violation['excess']:g})"


# -- results ---------------------------------------------------------------------------------------------------------------


def cannot_run(target: str, unavailable: str) -> None:
    """Says that models are built and not tried."""
    print(
        f"models for {target} cannot run here ({unavailable}); they are built, and the first one that is small enough is "
        "chosen, without measuring accuracy, speed and memory",
        file=sys.stderr,
    )


def plan(told: dict[str, Any]) -> None:
    """What a search would do."""
    print(
        f"`{told['pass']}` for {told['target']}, from the {told['source']} model; {constraints_text(told['constraints'])}"
    )
    table = _table("candidate", "options", ">size", ">memory", "")
    for row in told["candidates"]:
        known = {True: "measured already: holds", False: "measured already"}.get(row["meets_constraints"], "")
        table.add_row(
            row["name"],
            escape(options_text(row["options"])),
            _number(row["expected_size_mb"], "about {:,.0f} MB"),
            _number(row["expected_memory_mb"], "about {:,.0f} MB"),
            escape(row["why"] or known),
        )
    console().print(table)
    if told["unavailable"]:
        cannot_run(told["target"], told["unavailable"])


def constraints_text(constraints: dict[str, Any]) -> str:
    """The constraints in force on one line."""
    said = [f"{name} {value:g}" for name, value in constraints.items() if value is not None]
    return f"constraints: {', '.join(said)}" if said else "no constraints"


def found(result: dict[str, Any], task: str | None = None) -> None:
    """The table, what was chosen or what was nearest, and how to go on."""
    metric = result["metric"] or ""
    asked = [metric.replace("_", " "), "drop"] if metric else []
    columns = ["candidate", ">size", *(f">{name}" for name in asked if name != "perplexity"), ">perplexity"]
    table = _table(*columns, ">prompt tok/s", ">answer tok/s", ">memory", "")
    if result["reference"]:
        reference = {"size_mb": None, "peak_memory_mb": None, "accuracy_drop": None, **result["reference"]}
        table.add_row(*_figures(result["source"], reference, asked), "full precision", style="dim")
    for row in result["candidates"]:
        chosen = row["name"] == result["chosen"]
        said = "chosen" if chosen and row["state"] == "measured" else verdict(row)
        style = "bold green" if chosen else "dim" if row["state"] == "skipped" else None
        table.add_row(*_figures(row["name"], row, asked), escape(said), style=style)
    console().print(table)
    tokens = result["context_tokens"]
    print(f"\n{constraints_text(result['constraints'])} (for {result['target']}; memory at {tokens} tokens)")
    if result["note"]:
        print(f"Mind: {result['note']}.")
    if result["chosen"]:
        _chosen(result, task)
    elif near := result["nearest"]:
        loosen = " ".join(
            f"--{name.replace('_', '-')} {value:g}" for name, value in near["relaxed_constraints"].items()
        )
        print(f"No candidate holds. The nearest is {near['candidate']}. To take it: phi-scaffold optimize {loosen}")
    else:
        print("No candidate holds, and none of them could be compared.")
    failed = [row for row in result["candidates"] if row["state"] == "failed"]
    if failed and not result["chosen"]:
        for fix in dict.fromkeys(row["fix"] for row in failed if row["fix"]):
            print(f"  {fix}")
    if failed:
        print("What failed is tried again with --force alone.")


def _chosen(result: dict[str, Any], task: str | None) -> None:
    if result["unavailable"]:
        print(f"{result['chosen']} is taken for its size alone: {result['unavailable']}.")
    if result["previous_config"]:
        print(f"{result['config']} had been edited: it is kept as {result['previous_config']}")
    if not result["applied"]:
        print(f"{result['chosen']} is chosen; its options are in {result['config']}. To put it into the project:")
        limits = [f"--{name.replace('_', '-')} {v:g}" for name, v in result["constraints"].items() if v is not None]
        flags = ["--for", result["target"], *limits, *(["--task-name", task] if task else [])]
        print(f"  phi-scaffold optimize {' '.join(flags)} --apply")
        return
    kept = f" (the config of before is {result['backup']})" if result["backup"] else ""
    print(f"{result['chosen']} is in {result['model']}, its options in the config{kept}.")


def _figures(name: str, row: dict[str, Any], asked: list[str]) -> list[str]:
    accuracy = [_number(row["accuracy_drop"], "{:.4g}")] if asked else []
    if len(asked) > 1 and asked[0] != "perplexity":
        accuracy = [_number(row["score"], "{:.4g}"), *accuracy]
    return [
        name,
        _number(row["size_mb"], "{:,.1f} MB"),
        *accuracy,
        _number(row["perplexity"], "{:.2f}"),
        _number(row["prefill_tokens_per_s"], "{:.0f}"),
        _number(row["decode_tokens_per_s"], "{:.0f}"),
        _number(row["peak_memory_mb"], "{:,.0f} MB"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _table(*columns: str) -> Table:
    """A table; a name that begins with > is of a column of numbers."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left")
    return table
