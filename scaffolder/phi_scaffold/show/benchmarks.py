"""Output of `evaluate --benchmark`, on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phi_scaffold.show.terminal import console, table


def table_of(results: Sequence[dict[str, Any]]) -> None:
    """Print one line per model and metric of each benchmark, with its interval and rows."""
    if not results:
        return
    lines = table("benchmark", "model", "metric", ">value", ">95 %", ">rows", title="lm-evaluation-harness")
    for entry in results:
        bounds = entry["interval"]
        interval = f"{bounds[0]:.3f}–{bounds[1]:.3f}" if bounds else ""
        rows = f"{entry['rows']:,} of {entry['total_rows']:,}"
        lines.add_row(entry["task"], entry["model"], entry["metric"], f"{entry['value']:.3f}", interval, rows)
    console().print(lines)
