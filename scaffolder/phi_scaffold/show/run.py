"""Draws results, on stdout. What is drawn while work goes on is in show_progress.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.core.project import tasks
from phi_runtime.evaluation.metrics import headline
from phi_scaffold.show import diagnosis as show_diagnosis
from phi_scaffold.show.terminal import console, duration, size

if TYPE_CHECKING:
    from phi_runtime.core.project import Project
    from phi_runtime.pipeline.engine import Outcome
    from phi_runtime.pipeline.stage import Stage
    from phi_scaffold.doctor import Finding
    from phi_scaffold.new.generate import Emitted

_STATE_STYLES = {"cached": "green", "stale": "yellow", "failed": "red", "running": "cyan", "missing": "dim"}


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
    if result.evaluation:
        comparisons(result.evaluation)
    if not result.done:
        print("Nothing to do: everything is up to date.")
    elif result.run_folder:
        print(f"Done: {', '.join(result.done)}. The run's record is in {project.shown(result.run_folder)}")
    if result.run_folder:
        show_diagnosis.of_trainings(result.run_folder)
    if result.evaluation:
        show_diagnosis.of_results(result.evaluation)


def comparisons(evaluation: dict[str, Any]) -> None:
    """Print the comparison of the models of each pass that trains."""
    measured = [result for result in evaluation["trainings"] if result["models"]]
    for result in measured:
        _comparison(result, f" of `{result['name']}`" if len(measured) > 1 else "")


def _comparison(evaluation: dict[str, Any], training: str) -> None:
    """Print one model per line; models of free text have a perplexity only."""
    from rich.table import Table

    metric = headline(evaluation["task"])
    metrics = [metric] if all(model["metrics"] for model in evaluation["models"]) else []
    table = Table(title=f"{evaluation['rows']} test rows{training}", title_justify="left", box=None, pad_edge=False)
    table.add_column("model")
    for name in (*metrics, "perplexity", "prompt tok/s", "answer tok/s", "size", "memory"):
        table.add_column(name.replace("_", " "), justify="right")
    for model in evaluation["models"]:
        table.add_row(
            model["name"],
            *(f"{100 * model['metrics'][name]:.1f} %" for name in metrics),
            f"{model['perplexity']:.2f}",
            f"{model['prefill_tokens_per_s']:.0f}",
            f"{model['decode_tokens_per_s']:.0f}",
            size(model["size_bytes"]),
            size(model["peak_rss_bytes"]) if model["peak_rss_bytes"] else "",
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
        print(json.dumps({"stages": rows, "tasks": tasks(project)}))
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
    if others := tasks(project):
        print(f"\nTasks of their own, with --task-name: {', '.join(others)}")


def _last_walls(project: Project) -> dict[str, float]:
    """How long each stage took when it last ran, in seconds."""
    walls: dict[str, float] = {}
    for file in sorted(project.runs.glob("*/stages.json")):
        try:
            walls |= {entry["stage"]: entry["wall_s"] for entry in json.loads(file.read_text(encoding="utf-8"))}
        except (OSError, ValueError, KeyError):
            continue
    return walls


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
