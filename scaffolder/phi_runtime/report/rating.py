"""Evaluation of ratings by people: means, which model is preferred, and agreement of the raters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from phi_runtime.evaluation.intervals import Scores, bootstrap, compare, interval_of, mcnemar, wilson
from phi_runtime.report.rating_sheet import SCALE, Judgment, Rating, Sheet
from phi_runtime.report.rating_text import LEAST_ALPHA, LEAST_HUMAN_ROWS, LEAST_KAPPA

Ratings = Mapping[int, Rating]
"""Ratings of one person, by the index of the row."""


def evaluate_ratings(
    sheet: Sheet, raters: Sequence[Ratings], judges: Sequence[tuple[str, Mapping[int, Judgment]]] = ()
) -> dict[str, Any]:
    """Return what people say of the two models of a sheet, with intervals, and how a judge compares with them.

    Means weigh each row by the rows of the comparison that it represents, since rows whose answers differ are drawn first.

    Args:
        raters: Ratings of each person.
        judges: Names and judgments of language models.
    """
    rated = sorted(set().union(*raters))
    return {
        "sheet": sheet.id,
        "models": list(sheet.models),
        "rows": len(rated),
        "sheet_rows": len(sheet.rows),
        "differing_rows": sheet.differing,
        "total_rows": sheet.total,
        "rated_rows": [len(rater) for rater in raters],
        "ratings": _means(sheet, raters, rated),
        "preference": _preference(raters, rated),
        "agreement": _agreement(raters, rated),
        "judges": [_judge(name, sheet, judgments, raters) for name, judgments in judges],
    }


def _means(sheet: Sheet, raters: Sequence[Ratings], rated: Sequence[int]) -> dict[str, Any] | None:
    """Return the mean rating of each model, over rows of which both answers are rated, and the difference."""
    pairs, weights = [], []
    for row in rated:
        both = [r for rater in raters if (r := rater.get(row)) and r.first is not None and r.second is not None]
        if both:
            pairs.append([sum(r.first or 0 for r in both) / len(both), sum(r.second or 0 for r in both) / len(both)])
            weights.append(sheet.rows[row].weight)
    if not pairs:
        return None
    first, second = (Scores(values, weights) for values in zip(*pairs, strict=True))
    difference = compare(first, second)
    return {
        "rows": len(pairs),
        "means": [
            {"model": model, "mean": scores.mean, "interval": interval_of(scores)}
            for model, scores in zip(sheet.models, (first, second), strict=True)
        ],
        "difference": {"value": difference.value, "interval": difference.interval, "outcome": difference.outcome},
    }


def _preference(raters: Sequence[Ratings], rated: Sequence[int]) -> dict[str, Any] | None:
    """Return in how many rows most raters prefer the second model, and the sign test over the rows that are no ties."""
    votes = list(_votes(raters, rated).values())
    if not votes:
        return None
    return _sign_test(votes)


def _votes(raters: Sequence[Ratings], rated: Sequence[int]) -> dict[int, int]:
    """Return the sum of the preferences for each row that has any."""
    return {
        row: sum(preferences)
        for row in rated
        if (preferences := [r.preference for rater in raters if (r := rater.get(row)) and r.preference is not None])
    }


def _sign_test(votes: Sequence[int]) -> dict[str, Any]:
    wins, losses = sum(vote > 0 for vote in votes), sum(vote < 0 for vote in votes)
    decided = wins + losses
    p = mcnemar(losses, wins)
    return {
        "rows": len(votes),
        "wins": wins,
        "losses": losses,
        "ties": len(votes) - decided,
        "win_rate": wins / decided if decided else None,
        "interval": wilson(wins, decided) if decided else None,
        "p": p,
        "outcome": "no difference seen" if p >= 0.05 else "better" if wins > losses else "worse",
    }


def _judge(name: str, sheet: Sheet, judgments: Mapping[int, Judgment], raters: Sequence[Ratings]) -> dict[str, Any]:
    """Return how a judge agrees with people and with itself; what it prefers only if it agrees with enough people."""
    judged = {row: j.preference for row, j in judgments.items() if j.preference is not None}
    differing = [j for row, j in judgments.items() if row in judged and len(set(sheet.rows[row].answers)) == 2]
    positions = [p for j in differing for p in (j.first_as_a, j.first_as_b) if p != "tie"]
    votes = _votes(raters, sorted(set().union(*raters) & set(judged)))
    units = [((vote > 0) - (vote < 0) + 1, judged[row] + 1) for row, vote in votes.items()]
    kappa, interval = _with_interval(_pairs(units, 3), weighted_kappa, list(votes)) if units else (None, None)
    is_evidence = len(votes) >= LEAST_HUMAN_ROWS and kappa is not None and kappa >= LEAST_KAPPA
    return {
        "model": name,
        "rows": len(judged),
        "unanswered_rows": len(judgments) - len(judged),
        "human_rows": len(votes),
        "kappa": kappa,
        "kappa_interval": interval,
        "is_evidence": is_evidence,
        "self_agreement": _share([j.is_consistent for j in differing]),
        "position_a": _share([position == "A" for position in positions]),
        "preference": _sign_test(list(judged.values())) if is_evidence else None,
    }


def _share(values: Sequence[bool]) -> dict[str, Any] | None:
    if not values:
        return None
    return {"of": len(values), "share": sum(values) / len(values), "interval": wilson(sum(values), len(values))}


# -- agreement ----------------------------------------------------------------------------------------------------------------


def _agreement(raters: Sequence[Ratings], rated: Sequence[int]) -> dict[str, Any] | None:
    """Return the agreement of two or more raters on what most of the rows have: ratings, else preferences."""
    if len(raters) < 2:
        return None
    for kind, units, groups, categories in (
        ("ratings", *_rating_units(raters, rated), len(SCALE)),
        ("preferences", *_preference_units(raters, rated), 3),
    ):
        shared = [i for i, unit in enumerate(units) if sum(value is not None for value in unit) > 1]
        if not shared:
            continue
        units, groups = [units[i] for i in shared], [groups[i] for i in shared]
        alpha, alpha_interval = _with_interval(_coincidences(units, categories), ordinal_alpha, groups)
        result = {"of": kind, "rows": len(set(groups)), "alpha": alpha, "alpha_interval": alpha_interval}
        if len(raters) == 2:
            kappa, kappa_interval = _with_interval(_pairs(units, categories), weighted_kappa, groups)
            result |= {"kappa": kappa, "kappa_interval": kappa_interval}
        return result | {"agree": alpha is not None and alpha >= LEAST_ALPHA}
    return None


Unit = Sequence[int | None]
"""Categories, from 0, that each rater has chosen for one thing; None: not rated."""


def _rating_units(raters: Sequence[Ratings], rated: Sequence[int]) -> tuple[list[Unit], list[int]]:
    """Return the units, one for each answer, and the row of each."""
    units: list[Unit] = []
    for row in rated:
        found = [rater.get(row, Rating()) for rater in raters]
        units += [[_category(r.first) for r in found], [_category(r.second) for r in found]]
    return units, [row for row in rated for _ in range(2)]


def _category(rating: int | None) -> int | None:
    return None if rating is None else rating - SCALE[0]


def _preference_units(raters: Sequence[Ratings], rated: Sequence[int]) -> tuple[list[Unit], list[int]]:
    """Return the units, one for each row, and the row of each."""
    found = [[rater.get(row, Rating()).preference for rater in raters] for row in rated]
    return [[None if value is None else value + 1 for value in unit] for unit in found], list(rated)


def _with_interval(
    columns: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], groups: Sequence[int]
) -> tuple[float | None, tuple[float, float] | None]:
    """Return a statistic of sums and its interval; None where all have chosen the same category throughout."""
    value = float(statistic(columns.sum(axis=0)))
    if not np.isfinite(value):
        return None, None

    def or_one(sums: np.ndarray) -> np.ndarray:
        values = statistic(sums)
        return np.where(np.isfinite(values), values, 1.0)  # a sample in which all are the same has no disagreement

    return value, bootstrap(columns, or_one, groups)


def _coincidences(units: Sequence[Unit], categories: int) -> np.ndarray:
    """Return (U, K * K) the pairs of categories in each unit, each divided by its raters less one."""
    columns = np.zeros((len(units), categories, categories))
    for unit, table in zip(units, columns, strict=True):
        values = [value for value in unit if value is not None]
        for i, one in enumerate(values):
            for j, other in enumerate(values):
                if i != j:
                    table[one, other] += 1 / (len(values) - 1)
    return columns.reshape(len(units), -1)


def ordinal_alpha(coincidences: np.ndarray) -> np.ndarray:
    """Return Krippendorff's alpha with the ordinal metric (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability).

    Args:
        coincidences: (…, K * K) sums over units.

    Returns:
        (…) values; NaN where there is one category only.
    """
    size = round(coincidences.shape[-1] ** 0.5)
    tables = coincidences.reshape(*coincidences.shape[:-1], size, size)
    counts = tables.sum(axis=-1)  # (…, K) ratings of each category
    ranks = counts.cumsum(axis=-1) - counts / 2
    distances = (
        ranks[..., :, None] - ranks[..., None, :]
    ) ** 2  # ratings from the middle of one category to that of another
    observed = (tables * distances).sum(axis=(-2, -1))
    expected = (counts[..., :, None] * counts[..., None, :] * distances).sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - (counts.sum(axis=-1) - 1) * observed / expected


def _pairs(units: Sequence[Unit], categories: int) -> np.ndarray:
    """Return (U, K * K) one at the categories of the first and of the second rater."""
    columns = np.zeros((len(units), categories, categories))
    for (one, other), table in zip(units, columns, strict=True):
        table[one, other] = 1
    return columns.reshape(len(units), -1)


def weighted_kappa(pairs: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa with quadratic weights (Cohen 1968, doi:10.1037/h0026256).

    Args:
        pairs: (…, K * K) number of units by the category of the first and of the second rater.

    Returns:
        (…) values; NaN where both raters have chosen one category only.
    """
    size = round(pairs.shape[-1] ** 0.5)
    tables = pairs.reshape(*pairs.shape[:-1], size, size)
    first, second = tables.sum(axis=-1), tables.sum(axis=-2)
    weights = (np.arange(size)[:, None] - np.arange(size)) ** 2
    observed = (tables * weights).sum(axis=(-2, -1)) * tables.sum(axis=(-2, -1))
    expected = (first[..., :, None] * second[..., None, :] * weights).sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - observed / expected
