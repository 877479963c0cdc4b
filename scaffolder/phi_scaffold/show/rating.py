"""Output of `report --sheet` and `report --ratings`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.core.units import interval
from phi_runtime.report.rating import LEAST_ALPHA, LEAST_HUMAN_ROWS, LEAST_KAPPA
from phi_scaffold.show.terminal import console, table

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
    print(f"{path}: {len(sheet.rows):,} of {sheet.total:,} rows, to compare {first} and {second} without their names.")
    print(f"Their answers differ in {sheet.differing:,} rows; {differing:,} of these are in the sheet.")
    print("Give a copy to each rater. Afterwards: phi-scaffold report --ratings FILE FILE …")


def judged(path: Path, model: str, sheet: Sheet, *, as_json: bool) -> None:
    """Print where the sheet is that a judge has filled in."""
    if as_json:
        print(json.dumps({"path": str(path), "sheet": sheet.id, "judge": model, "rows": len(sheet.rows)}))
        return
    print(f"{path}: {len(sheet.rows):,} rows, judged by {model}.")
    print(f"With sheets of people: phi-scaffold report --ratings FILE {path.name}")


def ratings(result: dict[str, Any], *, as_json: bool) -> None:
    """Print means, preferences and the agreement of the raters, with their rows and intervals."""
    if as_json:
        print(json.dumps(result))
        return
    raters = len(result["rated_rows"])
    print(f"{result['rows']} of {result['sheet_rows']} rows rated by {raters} {'person' if raters == 1 else 'people'}")
    first, second = result["models"]
    if means := result["ratings"]:
        lines = table("model", ">mean rating", ">95 %", title=f"Ratings from 1 to 5, {means['rows']} rows")
        for model in means["means"]:
            lines.add_row(model["model"], f"{model['mean']:.2f}", interval(model["interval"]))
        console().print(lines)
        difference = means["difference"]
        ends = f", {interval(difference['interval'])}" if difference["interval"] else ""
        print(f"{second}, compared with {first}: {difference['outcome']} ({difference['value']:+.2f}{ends})")
    if preference := result["preference"]:
        print(_preferred(preference, second, first))
    if agreement := result["agreement"]:
        print("\n".join(_agreement(agreement)))
    elif raters == 1:
        print("Agreement is not measured: one person rated. A second person can rate a copy of the sheet.")
    for judge in result["judges"]:
        print("\n".join(_judge(judge, second, first)))


def _preferred(preference: dict[str, Any], second: str, first: str) -> str:
    wins, losses, ties = (preference[name] for name in ("wins", "losses", "ties"))
    decided = f"{wins} of {wins + losses} rows without a tie" + (f" ({ties} ties)" if ties else "")
    if preference["win_rate"] is None:
        return f"{second} is preferred to {first} in {decided}"
    low, high = (100 * end for end in preference["interval"])
    rate = f"{100 * preference['win_rate']:.1f} %, {low:.1f}–{high:.1f}"
    test = f"sign test p = {preference['p']:.2g}"
    return f"{second} is preferred to {first} in {decided}: {rate}; {test}: {preference['outcome']}"


def _judge(judge: dict[str, Any], second: str, first: str) -> list[str]:
    """Return the lines on a judge: its agreement with people and with itself, and its preference if it is evidence."""
    kappa = "not measured" if judge["kappa"] is None else f"{judge['kappa']:.2f}"
    ends = f" ({interval(judge['kappa_interval'])})" if judge["kappa_interval"] else ""
    lines = [f"Judge {judge['model']}: kappa {kappa}{ends} with people in {judge['human_rows']} rows"]
    for key, text in (("self_agreement", "the same answer in both orders"), ("position_a", "the answer shown first")):
        if share := judge[key]:
            low, high = (100 * end for end in share["interval"])
            lines.append(f"  prefers {text}: {100 * share['share']:.1f} % of {share['of']} ({low:.1f}–{high:.1f})")
    if judge["unanswered_rows"]:
        lines.append(f"  {judge['unanswered_rows']} rows have a reply without a choice")
    if judge["is_evidence"]:
        lines.append(f"  {_preferred(judge['preference'], second, first)}")
    else:
        needed = f"{LEAST_HUMAN_ROWS} rows rated by people and a kappa of {LEAST_KAPPA}"
        lines.append(f"  no evidence: it needs {needed}")
    return lines


def _agreement(agreement: dict[str, Any]) -> list[str]:
    if agreement["alpha"] is None:
        return [f"Agreement cannot be measured: all {agreement['of']} are the same."]
    texts = [
        f"{name} {agreement[key]:.2f} ({interval(agreement[f'{key}_interval']) or 'no interval'})"
        for key, name in (("alpha", "Krippendorff's alpha"), ("kappa", "Cohen's weighted kappa"))
        if agreement.get(key) is not None
    ]
    lines = [f"Agreement of {agreement['of']} in {agreement['rows']} rows: {', '.join(texts)}"]
    if not agreement["agree"]:
        lines.append(f"The ratings do not agree (alpha below {LEAST_ALPHA:.2f}): they support no conclusion.")
    return lines
