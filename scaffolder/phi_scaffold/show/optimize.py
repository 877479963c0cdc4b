"""Output of `optimize`: the candidates while they are built and measured, and the table of results."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

from rich.markup import escape

from phi_runtime.core.events import Emit, Event
from phi_runtime.core.units import duration
from phi_scaffold.show import progress
from phi_scaffold.show.progress import options_text
from phi_scaffold.show.terminal import console, prose, table

_MEASURED = {
    "max_size_mb": ("size", "MB"),
    "min_tokens_per_s": ("answer speed", "tokens/s"),
    "max_memory_mb": ("memory", "MB"),
}


def display(*, quiet: bool) -> AbstractContextManager[Emit]:
    """Return a listener for the events of a search: a live bar, plain lines, or only warnings if `quiet`."""
    return progress.display(quiet=quiet, finished=_finished)


def _finished(event: Event) -> tuple[str, str]:
    data, row = event.data, event.data.get("result")
    took = f" in {duration(data['wall_s'])}" if data.get("wall_s") else ""
    if row is None or "meets_constraints" not in data:
        return f"{data['state']}{took}", "dim"
    figures = {
        f"{row['size_mb'] or 0:.1f} MB": row["size_mb"],
        f"drop {_drop(row)}": row["accuracy_drop"],
        f"{row['decode_tokens_per_s'] or 0:.0f} tokens/s": row["decode_tokens_per_s"],
        f"{row['peak_memory_mb'] or 0:.0f} MB of memory": row["peak_memory_mb"],
    }
    measured = ", ".join(text for text, value in figures.items() if value is not None)
    result = verdict(row | {"violations": data["violations"]})
    style = "green" if data["meets_constraints"] else "yellow"
    return f"{result}{f' ({measured})' if measured else ''}{took}", style


def verdict(row: dict[str, Any]) -> str:
    """Describe the result of a candidate."""
    if row["state"] in ("failed", "skipped"):
        return f"{row['state']}: {row['why']}" if row["state"] == "failed" else str(row["why"])
    if row["violations"]:
        return "misses " + ", ".join(violation_text(violation, row) for violation in row["violations"])
    if row["state"] == "built":
        return f"fits by size; {row['why']}"
    if row.get("not_measured"):
        return f"not measured on this system: {', '.join(row['not_measured'])}"
    return "meets the constraints"


def violation_text(violation: dict[str, Any], row: dict[str, Any]) -> str:
    """Describe a constraint that the model of `row` violates: size 114.3 MB > 100 MB (by 14.3)."""
    name = violation["constraint"]
    if name == "max_accuracy_drop":
        if violation["shown"]:
            return f"drop {_drop(row)} > {violation['limit']:g}"
        return f"drop {_drop(row)}: {row['rows']} rows do not show that it is below {violation['limit']:g}"
    measured, unit = _MEASURED[name]
    sign = "<" if name.startswith("min") else ">"
    return f"{measured} {violation['value']:g} {sign} {violation['limit']:g} {unit} (by {violation['excess']:g})"


# -- results ---------------------------------------------------------------------------------------------------------------


def cannot_run(target: str, why: str) -> None:
    """Report that models are built without being measured."""
    print(
        f"models for {target} cannot run here ({why}): the first that is small enough is chosen; accuracy, speed and memory "
        "are not measured",
        file=sys.stderr,
    )


def plan(facts: dict[str, Any]) -> None:
    """Print the plan of a search."""
    prose(
        f"`{facts['pass']}` for {facts['target']}, from the {facts['source']} model; {constraints_text(facts['constraints'])}"
    )
    candidates = table("candidate", "options", ">size", ">memory", "")
    for row in facts["candidates"]:
        known = {True: "measured: meets the constraints", False: "measured"}.get(row["meets_constraints"], "")
        candidates.add_row(
            row["name"],
            escape(options_text(row["options"])),
            _number(row["expected_size_mb"], "about {:,.0f} MB"),
            _number(row["expected_memory_mb"], "about {:,.0f} MB"),
            escape(row["why"] or known),
        )
    console().print(candidates)
    if facts["unavailable"]:
        cannot_run(facts["target"], facts["unavailable"])


def constraints_text(constraints: dict[str, Any]) -> str:
    """Format the active constraints on one line."""
    limits = [f"{name} {value:g}" for name, value in constraints.items() if value is not None]
    return f"constraints: {', '.join(limits)}" if limits else "no constraints"


def result(facts: dict[str, Any], flags: str = "") -> None:
    """Print the candidates, the chosen or the nearest one, and the next command."""
    metric = facts["metric"] or ""
    accuracy = [metric.replace("_", " "), "drop"] if metric else []
    columns = ["candidate", ">size", *(f">{name}" for name in accuracy if name != "perplexity"), ">perplexity"]
    rows = table(*columns, ">prompt tok/s", ">answer tok/s", ">memory", "")
    if facts["reference"]:
        reference = {"size_mb": None, "peak_memory_mb": None, "accuracy_drop": None, **facts["reference"]}
        rows.add_row(*_figures(facts["source"], reference, accuracy), "full precision", style="dim")
    for row in facts["candidates"]:
        chosen = row["name"] == facts["chosen"]
        comment = "chosen" if chosen and row["state"] == "measured" else verdict(row)
        style = "bold green" if chosen else "dim" if row["state"] == "skipped" else None
        rows.add_row(*_figures(row["name"], row, accuracy), escape(comment), style=style)
    console().print(rows)
    tokens = facts["context_tokens"]
    prose(f"\n{constraints_text(facts['constraints'])} (for {facts['target']}; memory at {tokens} tokens)")
    if facts["note"]:
        prose(f"Note: {facts['note']}.")
    if facts["chosen"]:
        _chosen(facts, flags)
    elif near := facts["nearest"]:
        loosen = " ".join([*_flags(near["relaxed_constraints"]), *filter(None, [flags])])
        prose(
            f"No candidate meets the constraints. The nearest is {near['candidate']}. To accept it: phi-scaffold optimize {loosen}"
        )
        if not all(violation["shown"] for violation in near["violations"]):
            prose("More validation rows narrow the interval of the drop, which decides.")
    else:
        prose("No candidate meets the constraints, and none could be compared.")
    failed = [row for row in facts["candidates"] if row["state"] == "failed"]
    if failed and not facts["chosen"]:
        for fix in dict.fromkeys(row["fix"] for row in failed if row["fix"]):
            print(f"  {fix}")
    if failed:
        prose("Failed candidates are tried again only with --force.")


def _flags(constraints: dict[str, float | None]) -> list[str]:
    return [f"--{name.replace('_', '-')} {value:g}" for name, value in constraints.items() if value is not None]


def _chosen(facts: dict[str, Any], flags: str) -> None:
    if facts["unavailable"]:
        prose(f"{facts['chosen']} is chosen only by its size: {facts['unavailable']}.")
    if smaller := _smaller(facts):
        accepted = facts["constraints"] | {"max_accuracy_drop": smaller["violations"][0]["value"]}
        prose(
            f"{smaller['name']} is smaller, but {smaller['rows']} rows do not show that its drop is small. To accept it:"
        )
        print(f"  phi-scaffold optimize {' '.join(_own_flags(facts, accepted, flags))}")
    if facts["previous_config"]:
        prose(f"{facts['config']} was edited; the edited file is kept as {facts['previous_config']}")
    if not facts["applied"]:
        prose(f"{facts['chosen']} is chosen; its options are in {facts['config']}. To install it in the project:")
        print(f"  phi-scaffold optimize {' '.join(_own_flags(facts, facts['constraints'], flags))} --apply")
    else:
        kept = f" (the previous config is {facts['backup']})" if facts["backup"] else ""
        prose(f"{facts['chosen']} is installed in {facts['model']}, its options in the config{kept}.")
    if training := facts["outdated_training"]:
        prose(
            f"`{training}` is int4-aware and trains for another rounding: with these options, the next run trains again."
        )


def _own_flags(facts: dict[str, Any], constraints: dict[str, float | None], flags: str) -> list[str]:
    return ["--for", facts["target"], *_flags(constraints), *filter(None, [flags])]


def _smaller(facts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the first candidate before the chosen one whose only fault is that too few rows were measured."""
    for row in facts["candidates"]:
        if row["name"] == facts["chosen"]:
            return None
        if [violation["shown"] for violation in row["violations"]] == [False]:
            return dict(row)
    return None


def _figures(name: str, row: dict[str, Any], columns: list[str]) -> list[str]:
    accuracy = [_drop(row)] if columns else []
    if len(columns) > 1 and columns[0] != "perplexity":
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


def _drop(row: dict[str, Any]) -> str:
    """Format the drop of accuracy with its interval: 0.0083 (-0.023 to 0.046)."""
    if row["accuracy_drop"] is None:
        return ""
    low, high = row["accuracy_drop_interval"]
    return f"{row['accuracy_drop']:.4g} ({low:.3g} to {high:.3g})"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
