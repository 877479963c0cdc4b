"""Output of `report --sheet` and `report --ratings`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.core.units import interval
from phi_runtime.report.rating_text import conclusions, judge_lines, rated_rows
from phi_scaffold.show.terminal import console, prose, table

if TYPE_CHECKING:
    from phi_runtime.report.rating_sheet import Sheet


def sheet(sheet: Sheet, path: Path, *, as_json: bool) -> None:
    """Print which rows a new sheet has."""
    differing = sheet.differing_in_sheet
    if as_json:
        facts = {"path": str(path), "sheet": sheet.id, "models": list(sheet.models), "rows": len(sheet.rows)}
        counts = {"differing_rows": sheet.differing, "sheet_differing_rows": differing, "total_rows": sheet.total}
        print(json.dumps(facts | counts))
        return
    first, second = sheet.models
    prose(f"{path}: {len(sheet.rows):,} of {sheet.total:,} rows, to compare {first} and {second} without their names.")
    prose(f"Their answers differ in {sheet.differing:,} rows; {differing:,} of these are in the sheet.")
    prose("Give a copy to each rater. Afterwards: phi-scaffold report --ratings FILE FILE …")


def judged(path: Path, model: str, sheet: Sheet, *, as_json: bool) -> None:
    """Print where the sheet is that a judge has filled in."""
    if as_json:
        print(json.dumps({"path": str(path), "sheet": sheet.id, "judge": model, "rows": len(sheet.rows)}))
        return
    prose(f"{path}: {len(sheet.rows):,} rows, judged by {model}.")
    prose(f"With sheets of people: phi-scaffold report --ratings FILE {path.name}")


def ratings(result: dict[str, Any], *, as_json: bool) -> None:
    """Print means, preferences and the agreement of the raters, with their rows and intervals."""
    if as_json:
        print(json.dumps(result))
        return
    print(rated_rows(result))
    if means := result["ratings"]:
        lines = table("model", ">mean rating", ">95 %", title=f"Ratings from 1 to 5, {means['rows']} rows")
        for model in means["means"]:
            lines.add_row(model["model"], f"{model['mean']:.2f}", interval(model["interval"]))
        console().print(lines)
    for line in conclusions(result):
        prose(line)
    for judge in result["judges"]:
        prose("\n  ".join(judge_lines(judge, result)))
    print("On the page: phi-scaffold report --open")
