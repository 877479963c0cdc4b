"""The one place that draws: results to stdout, progress and warnings to stderr, plain lines where there is no terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.evaluation.metrics import headline
from phi_runtime.events import Emit, Event, silent

if TYPE_CHECKING:
    from rich.console import Console

    from phi_runtime.engine import Outcome
    from phi_runtime.plan import Stage
    from phi_runtime.project import Project
    from phi_scaffold.catalog import Model
    from phi_scaffold.doctor import Finding
    from phi_scaffold.generate import Emitted

_STATE_STYLES = {"cached": "green", "stale": "yellow", "failed": "red", "running": "cyan", "missing": "dim"}

_PIPED_WIDTH = 240  # a table takes what it needs of it; a file or a pipe has no edge to wrap at


def console(stderr: bool = False) -> Console:
    """Where results, or with `stderr` progress and warnings, are drawn."""
    from rich.console import Console

    if (sys.stderr if stderr else sys.stdout).isatty():
        return Console(stderr=stderr, highlight=False)
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=_PIPED_WIDTH)


def size(count: float) -> str:
    """Bytes in the unit that fits: 86.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 1 min 20 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


# -- progress -------------------------------------------------------------------------------------------------------------


@contextmanager
def display(*, as_json: bool, quiet: bool) -> Iterator[Emit]:
    """A listener for the runtime's events that suits who is looking: JSON lines, silence, a live bar or plain lines."""
    if as_json:
        yield lambda event: print(json.dumps(event.as_dict()), flush=True)
    elif quiet:
        yield lambda event: _warn(event) if event.event == "warning" else silent(event)
    elif sys.stderr.isatty():
        with _live() as emit:
            yield emit
    else:
        yield _PlainLines()


def _warn(event: Event) -> None:
    print(f"warning: {_warning(event)}", file=sys.stderr)


def _warning(event: Event) -> str:
    return f"{event.stage}: {event.data['message']}" if event.stage else str(event.data["message"])


def _figures(data: dict[str, Any]) -> str:
    parts = []
    if data.get("message"):
        parts.append(str(data["message"]))
    for key, label, digits in (("loss", "loss", 3), ("held_out_loss", "held-out loss", 3), ("tokens_per_s", "", 0)):
        if key in data:
            parts.append(f"{label} {data[key]:.{digits}f}".strip() + (" tokens/s" if key == "tokens_per_s" else ""))
    return ", ".join(parts)


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


class _PlainLines:
    """For logs and pipes: a line when a stage starts and ends, and at most one in five seconds between."""

    EVERY_S = 5.0

    def __init__(self) -> None:
        self.last = 0.0
        self.place = ""

    def __call__(self, event: Event) -> None:
        data = event.data
        if event.event == "stage-started":
            self.place, self.last = f"[{data['index']}/{data['count']}] {event.stage}", 0.0
        elif event.event == "progress":
            now = time.monotonic()
            if data.get("message") or now - self.last >= self.EVERY_S:
                self.last = now
                self.line(", ".join(p for p in (_done_of(data), _figures(data)) if p))
        elif event.event == "metric" and "sequences" in data:
            self.line(_learns_from(data))
        elif event.event == "stage-finished":
            self.line(_finished(data))
        elif event.event == "warning":
            _warn(event)

    def line(self, text: str) -> None:
        print(f"{self.place}: {text}", file=sys.stderr, flush=True)


def _finished(data: dict[str, Any]) -> str:
    return (
        f"cached ({data['output']})"
        if data["state"] == "cached"
        else f"done in {duration(data['wall_s'])} → {data['output']}"
    )


@contextmanager
def _live() -> Iterator[Emit]:
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    terminal = console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[done]}"),
        TextColumn("[dim]{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal, transient=True) as progress:
        task = None

        def emit(event: Event) -> None:
            nonlocal task
            data = event.data
            if event.event == "stage-started":
                task = progress.add_task(
                    f"[{data['index']}/{data['count']}] {event.stage}".replace("[", r"\[", 1),
                    total=None,
                    done="",
                    figures="",
                )
            elif event.event == "progress" and task is not None:
                left = f", {duration(data['remaining_s'])} left" if data.get("remaining_s") else ""
                progress.update(
                    task,
                    completed=data.get("done") or 0,
                    total=data.get("total"),
                    done=_done_of(data),
                    figures=_figures(data) + left,
                )
            elif event.event == "metric" and "sequences" in data:
                terminal.print(f"[dim]  {event.stage}: {_learns_from(data)}[/]")
            elif event.event == "stage-finished" and task is not None:
                progress.remove_task(task)
                style = "dim" if data["state"] == "cached" else "green"
                terminal.print(f"[{style}]✓[/] {event.stage}: {_finished(data)}")
            elif event.event == "warning":
                terminal.print(f"[yellow]warning:[/] {escape(_warning(event))}")

        yield emit


# -- results --------------------------------------------------------------------------------------------------------------


def created(folder: Path, emitted: Emitted, again: str, *, dry_run: bool) -> None:
    """What `new` made, and what to do next."""
    if dry_run:
        print(f"{folder}/ would hold {len(emitted.files)} files:")
        print(tree(emitted.files))
        return
    for note in emitted.notes:
        print(note)
    for name in emitted.backed_up:
        print(f"kept your {name} as {name}.bak")
    print(f"\nMade {folder} ({len(emitted.files)} files). Next:\n")
    windows = sys.platform == "win32"
    steps = [f'cd "{folder}"' if " " in str(folder) else f"cd {folder}"]
    steps += ["powershell -ExecutionPolicy Bypass -File setup\\setup.ps1" if windows else "bash setup/setup.sh"]
    steps += ["phi-scaffold run", "phi-scaffold chat"]
    print("\n".join(f"    {step}" for step in steps))
    print(f"\nThe same again, without questions:\n\n    {again}")


def tree(files: Sequence[str]) -> str:
    """The files as an indented tree."""
    lines: list[str] = []
    seen: set[str] = set()
    for name in sorted(files, key=lambda f: ("/" not in f, f)):
        *folders, last = name.split("/")
        for depth in range(len(folders)):
            path = "/".join(folders[: depth + 1])
            if path not in seen:
                seen.add(path)
                lines.append(f"{'  ' * (depth + 1)}{folders[depth]}/")
        lines.append(f"{'  ' * (len(folders) + 1)}{last}")
    return "\n".join(lines)


def outcome(result: Outcome, project: Project) -> None:
    """What a run came to."""
    if result.evaluation and result.evaluation["rungs"]:
        ladder(result.evaluation)
    if not result.done:
        print("Nothing to do: everything is up to date.")
    elif result.run_folder:
        print(f"Done: {', '.join(result.done)}. The run's record is in {project.shown(result.run_folder)}")


def ladder(evaluation: dict[str, Any]) -> None:
    """The quality ladder, one model a line. Models of free text were asked nothing: they have perplexity alone."""
    from rich.table import Table

    metric = headline(evaluation["task"])
    asked = [metric] if all(rung["metrics"] for rung in evaluation["rungs"]) else []
    table = Table(title=f"{evaluation['rows']} held-out rows", title_justify="left", box=None, pad_edge=False)
    table.add_column("model")
    for name in (*asked, "perplexity", "prompt tok/s", "answer tok/s", "size", "memory"):
        table.add_column(name.replace("_", " "), justify="right")
    for rung in evaluation["rungs"]:
        table.add_row(
            rung["name"],
            *(f"{100 * rung['metrics'][name]:.1f} %" for name in asked),
            f"{rung['perplexity']:.2f}",
            f"{rung['prefill_tokens_per_s']:.0f}",
            f"{rung['decode_tokens_per_s']:.0f}",
            size(rung["size_bytes"]),
            size(rung["peak_rss_bytes"]) if rung["peak_rss_bytes"] else "",
        )
    console().print(table)


def plan(stages: Sequence[Stage], project: Project, force: set[str], *, as_json: bool) -> None:
    """What a run would do."""
    rows = []
    runs = False
    for stage in stages:
        runs = runs or stage.state != "cached" or stage.name in force
        why = "forced" if stage.name in force else stage.why or {"missing": "never run"}.get(stage.state, "")
        if runs and stage.state == "cached" and stage.name not in force:
            why = "if its input changes"
        rows.append(
            {
                "name": stage.name,
                "type": stage.type,
                "would_run": runs,
                "why": why,
                "output": project.shown(stage.target),
            }
        )
    if as_json:
        print(json.dumps({"stages": rows}))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("stage", "type", "would", "why", "output"):
        table.add_column(name)
    for row in rows:
        table.add_row(
            str(row["name"]),
            str(row["type"]),
            "run" if row["would_run"] else "be kept",
            str(row["why"]),
            str(row["output"]),
        )
    console().print(table)


def status(stages: Sequence[Stage], project: Project, *, as_json: bool) -> None:
    """Where each stage stands."""
    walls = _last_walls(project)
    if as_json:
        rows = [
            {
                "name": s.name,
                "state": s.state,
                "why": s.why,
                "output": project.shown(s.target),
                "wall_s": walls.get(s.name),
            }
            for s in stages
        ]
        print(json.dumps({"stages": rows}))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("stage", "state", "output", "took"):
        table.add_column(name, no_wrap=True)
    table.add_column("why")
    for s in stages:
        took = duration(walls[s.name]) if s.name in walls and (s.manifest or s.name == "fetch") else ""
        table.add_row(
            s.name, f"[{_STATE_STYLES[s.state]}]{s.state}[/]", project.shown(s.target), took, s.why.replace("[", r"\[")
        )
    console().print(table)


def _last_walls(project: Project) -> dict[str, float]:
    """How long each stage took when it last ran, in seconds."""
    walls: dict[str, float] = {}
    for file in sorted(project.runs.glob("*/stages.json")):
        try:
            walls |= {entry["stage"]: entry["wall_s"] for entry in json.loads(file.read_text(encoding="utf-8"))}
        except (OSError, ValueError, KeyError):
            continue
    return walls


def models(known: Sequence[Model], memory_bytes: int, *, as_json: bool, single: bool) -> None:
    """The catalogue, with estimates for one row of 2048 tokens a step, and whether this machine's memory holds them."""
    rows = [_model_row(m, memory_bytes) for m in known]
    if as_json:
        print(json.dumps({"models": rows, "memory_bytes": memory_bytes}))
        return
    from rich.table import Table

    if single:
        for key, value in rows[0].items():
            print(f"{key.replace('_', ' '):28} {size(value) if key.endswith('_bytes') else value}")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True)
    for name in ("parameters", "context", "licence", "LoRA", "QLoRA", "full", "int4 answers"):
        table.add_column(name, justify="left" if name == "licence" else "right")
    for m, row in zip(known, rows, strict=True):
        cells = [
            f"[{'green' if row[key] <= memory_bytes else 'red'}]{size(row[key])}[/]"
            for key in ("lora_bytes", "qlora_bytes", "full_bytes", "int4_inference_bytes")
        ]
        licence = m.licence + (" (gated)" if m.gated else "") + (" ?" if "licence" in m.unverified else "")
        table.add_row(m.id, f"{m.parameters / 1e9:.2f} B", f"{m.context // 1024}k", licence, *cells)
    out = console()
    out.print(table)
    fits = "green fits into this machine's" if out.is_terminal else "this machine has"
    estimated = f"Memory is estimated, for one row of 2048 tokens a step; {fits} {size(memory_bytes)}."
    out.print(f"\n{estimated} A `?` marks what was not verified.")


def _model_row(m: Model, memory_bytes: int) -> dict[str, Any]:
    estimates = {
        f"{method}_bytes": m.training_bytes(method, 1, 2048, bytes_per_weight=2) for method in ("lora", "qlora", "full")
    }
    estimates["int4_inference_bytes"] = m.int4_inference_bytes()
    return {
        "id": m.id,
        "about": m.about,
        "parameters": m.parameters,
        "context_tokens": m.context,
        "licence": m.licence,
        "gated": m.gated,
        "architecture": m.architecture,
        "prompt_format": m.prompt_format,
        "target_modules": list(m.target_modules),
        **estimates,
        "int4_size_bytes": m.int4_bytes(),
        "fits": {k.removesuffix("_bytes"): v <= memory_bytes for k, v in estimates.items()},
        "unverified": list(m.unverified),
    }


def doctor(findings: Sequence[Finding], *, as_json: bool) -> None:
    """What `doctor` found, each fault with the line that mends it."""
    if as_json:
        print(json.dumps({"findings": [f.as_dict() for f in findings]}))
        return
    out = console()
    marks = {"good": "[green]✓[/]", "note": "[yellow]·[/]", "fault": "[red]✗[/]"}
    for f in findings:
        out.print(f"{marks[f.level]} {f.subject:12} {f.message}".replace("[/] ", "[/] ", 1))
        if f.fix:
            out.print(f"{'':15}{f.fix}", markup=False)
