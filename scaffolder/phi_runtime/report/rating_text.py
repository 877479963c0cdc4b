"""Sentences on ratings, for the terminal and the page, and the limits that they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phi_runtime.core.units import interval, percent, percents

LEAST_ALPHA = 0.667  # Krippendorff 2004, Content Analysis, p. 241: below it, no conclusion
LEAST_KAPPA = 0.6  # of a judge and people: "substantial" of Landis and Koch 1977, doi:10.2307/2529310
LEAST_HUMAN_ROWS = 30


def rated_rows(result: Mapping[str, Any]) -> str:
    """Return how many rows of a sheet are rated, and by how many people."""
    raters = len(result["rated_rows"])
    return f"{result['rows']} of {result['sheet_rows']} rows rated by {raters} {'person' if raters == 1 else 'people'}"


def conclusions(result: Mapping[str, Any]) -> list[str]:
    """Return sentences on the difference of the means, on what is preferred, and on the agreement of the raters."""
    first, second = result["models"]
    lines = []
    if means := result["ratings"]:
        difference = means["difference"]
        ends = f", {interval(difference['interval'])}" if difference["interval"] else ""
        lines.append(f"{second}, compared with {first}: {difference['outcome']} ({difference['value']:+.2f}{ends})")
    if preference := result["preference"]:
        lines.append(_preferred(preference, second, first))
    if agreement := result["agreement"]:
        lines += _agreement(agreement)
    elif len(result["rated_rows"]) == 1:
        lines.append("Agreement is not measured: one person rated. A second person can rate a copy of the sheet.")
    return lines


def judge_lines(judge: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Return sentences on a judge: its agreement with people, then with itself, and its preference if it is evidence."""
    first, second = result["models"]
    kappa = "not measured" if judge["kappa"] is None else f"{judge['kappa']:.2f}"
    ends = f" ({interval(judge['kappa_interval'])})" if judge["kappa_interval"] else ""
    lines = [f"Judge {judge['model']}: kappa {kappa}{ends} with people in {judge['human_rows']} rows"]
    for key, text in (("self_agreement", "the same answer in both orders"), ("position_a", "the answer shown first")):
        if share := judge[key]:
            ends = percents(share["interval"])
            lines.append(f"prefers {text}: {percent(share['share'])} of {share['of']} ({ends})")
    if judge["unanswered_rows"]:
        lines.append(f"{judge['unanswered_rows']} rows have a reply without a choice")
    if judge["is_evidence"]:
        lines.append(_preferred(judge["preference"], second, first))
    else:
        needed = f"{LEAST_HUMAN_ROWS} rows rated by people and a kappa of {LEAST_KAPPA}"
        lines.append(f"no evidence: it needs {needed}")
    return lines


def _preferred(preference: Mapping[str, Any], second: str, first: str) -> str:
    wins, losses, ties = (preference[name] for name in ("wins", "losses", "ties"))
    decided = f"{wins} of {wins + losses} rows without a tie" + (f" ({ties} ties)" if ties else "")
    if preference["win_rate"] is None:
        return f"{second} is preferred to {first} in {decided}"
    rate = f"{percent(preference['win_rate'])}, {percents(preference['interval'])}"
    test = f"sign test p = {preference['p']:.2g}"
    return f"{second} is preferred to {first} in {decided}: {rate}; {test}: {preference['outcome']}"


def _agreement(agreement: Mapping[str, Any]) -> list[str]:
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
