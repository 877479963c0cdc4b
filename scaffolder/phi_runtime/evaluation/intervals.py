"""Confidence intervals and tests for metrics of one model, and for differences between two models on the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 0.95
POWER = 0.8
DRAWS = 2000
_ROWS_OF_SIGN_TEST = 6  # equal signs that are significant: 2 * 0.5 ** 6 < 0.05
_NORMAL = NormalDist()
Z = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2)
"""Half the width of an interval in standard errors."""
_DRAWN_NUMBERS = 1_000_000  # that a part of the samples of a bootstrap has: 8 MB

Outcome = Literal["better", "worse", "no difference seen"]


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A model compared with another on the same rows.

    Attributes:
        value: Mean of the second minus mean of the first.
        interval: Of `value`; None where the rows cannot give one.
        lost, gained: Rows that only the first, and only the second, has right; of a mean, rows with a lower and a higher score.
        p: Two-sided p-value of the exact McNemar test, of grouped rows over the groups; None for a mean.
        rows_needed: Rows that would show a difference of 2 points with a power of 80 %, at this share of differing rows.
    """

    value: float
    interval: Interval | None
    lost: int
    gained: int
    p: float | None = None
    rows_needed: int | None = None

    @property
    def outcome(self) -> Outcome:
        """A difference is seen where the interval does not contain 0, and the exact test (if any) agrees."""
        if self.interval is None or (self.p is not None and self.p >= 1 - CONFIDENCE):
            return "no difference seen"
        return "better" if self.interval.low > 0 else "worse" if self.interval.high < 0 else "no difference seen"


def wilson(right: float, rows: float) -> Interval:
    """Return the score interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    share, scale = right / rows, 1 + Z * Z / rows
    center = (share + Z * Z / (2 * rows)) / scale
    half = Z * math.sqrt(share * (1 - share) / rows + Z * Z / (4 * rows * rows)) / scale
    return Interval(max(0.0, center - half) if right else 0.0, min(1.0, center + half) if right < rows else 1.0)


def wilson_of_groups(values: Sequence[float], groups: Sequence[int]) -> Interval | None:
    """Return Wilson's interval of a share of grouped rows, for the number of independent rows that vary as much.

    Source: Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", Survey Methodology 24. Where no row differs, each group counts as one row.

    Returns:
        The interval; None with fewer than two groups.
    """
    import numpy as np

    right = np.asarray(values, dtype=np.float64)
    rows, share = len(right), float(right.mean())
    deviations = _group_sums(right - share, groups)
    count = len(deviations)
    if count < 2:
        return None
    variance = count / (count - 1) * float((deviations**2).sum()) / rows**2
    if not 0 < share < 1:
        return wilson(share * count, count)
    independent = share * (1 - share) / variance if variance else rows
    independent *= (Z / _student(count - 1)) ** 2
    independent = min(independent, rows)
    return wilson(share * independent, independent)


def _group_sums(values: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Return the sums of (N,) values over the rows of each of G groups, (G,)."""
    import numpy as np

    _, which = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(which, weights=values)


def _student(degrees: int) -> float:
    """Return the quantile of Student's t of the confidence level: exact for 1 and 2 degrees of freedom, else within 0.2 %.

    Source: Abramowitz and Stegun 26.7.5.
    """
    if degrees == 1:
        return math.tan(math.pi * CONFIDENCE / 2)
    if degrees == 2:
        return CONFIDENCE * math.sqrt(2 / (1 - CONFIDENCE**2))
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160,
    )
    return Z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided p-value of the exact McNemar test (binomial over the rows in which two models differ)."""
    differing = lost + gained
    tail = sum(math.comb(differing, k) for k in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail / 2**differing)


def compare_shares(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Compare which rows two models have right."""
    pairs = list(zip(first, second, strict=True))
    return compare_counts(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))


def compare_counts(both: int, lost: int, gained: int, neither: int) -> Difference:
    """Compare the shares of rows that two models have right, with the paired interval of Newcombe 1998 (method 10).

    Source: doi:10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C

    Args:
        both: Rows that both models have right.
        lost: Rows that only the first has right.
        gained: Rows that only the second has right.
        neither: Rows that neither has right.
    """
    rows = both + lost + gained + neither
    a, b = (both + gained) / rows, (both + lost) / rows  # of the second, of the first
    one, other = wilson(both + gained, rows), wilson(both + lost, rows)
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    product = both * neither - lost * gained
    corrected = max(product - rows / 2, 0) if product > 0 else product
    phi = corrected / math.sqrt(margins) if margins else 0.0
    below = _combined(a - one.low, other.high - b, phi)
    above = _combined(one.high - a, b - other.low, phi)
    interval = Interval(a - b - below, a - b + above)
    return Difference(a - b, interval, lost, gained, mcnemar(lost, gained), rows_to_show(0.02, (lost + gained) / rows))


def _combined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def rows_to_show(difference: float, differing: float) -> int:
    """Return the rows that a McNemar test needs to see `difference` (Connor 1987, doi:10.2307/2531961).

    Args:
        difference: Difference of the two shares.
        differing: Expected share of rows that only one of the models has right; at least `difference`.
    """
    differing = max(differing, difference)
    root = Z * math.sqrt(differing) + _NORMAL.inv_cdf(POWER) * math.sqrt(differing - difference**2)
    return math.ceil((root / difference) ** 2)


@dataclass(frozen=True)
class Scores:
    """Scores of one model on N rows, whose weighted mean is its metric.

    Attributes:
        values: (N,) scores.
        weights: (N,) such as the number of fields or tokens of each row; None: 1 each.
    """

    values: Sequence[float]
    weights: Sequence[float] | None = None

    @property
    def columns(self) -> np.ndarray:
        """(N, 2) weighted scores and weights, whose sums have the mean as their ratio."""
        import numpy as np

        values = np.asarray(self.values, dtype=np.float64)
        weights = np.ones_like(values) if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        return np.stack([values * weights, weights], axis=1)

    @property
    def mean(self) -> float:
        return float(_mean(self.columns.sum(axis=0)))

    @property
    def is_share(self) -> bool:
        return self.weights is None and all(value in (0, 1) for value in self.values)


def interval_of(scores: Scores, groups: Sequence[int] | None = None, seed: int = 0) -> Interval | None:
    """Return the interval of a mean score: Wilson's if each score is 0 or 1, else that of the bootstrap.

    Args:
        scores: Of N rows.
        groups: (N,) the group of each row, drawn together; None: each row is a group of its own.
        seed: Seed of the draws.
    """
    if scores.is_share:
        rows = len(scores.values)
        return wilson(sum(scores.values), rows) if groups is None else wilson_of_groups(scores.values, groups)
    return bootstrap(scores.columns, _mean, groups, seed)


def compare(first: Scores, second: Scores, groups: Sequence[int] | None = None, seed: int = 0) -> Difference:
    """Compare two models on the same rows: as shares if each score is 0 or 1, else by a paired bootstrap of the means."""
    if first.is_share and second.is_share and groups is None:
        return compare_shares([value == 1 for value in first.values], [value == 1 for value in second.values])
    import numpy as np

    columns = np.concatenate([first.columns, second.columns], axis=1)
    pairs = np.stack([first.values, second.values])
    value = float(_mean_difference(columns.sum(axis=0)))
    interval = bootstrap(columns, _mean_difference, groups, seed)
    if interval is None and value and len(columns) >= _ROWS_OF_SIGN_TEST:
        interval = Interval(value, value)  # each row differs by the same
    return Difference(
        value,
        interval,
        int((pairs[1] < pairs[0]).sum()),
        int((pairs[1] > pairs[0]).sum()),
        _sign_test(pairs[1] - pairs[0], groups) if first.is_share and second.is_share and groups is not None else None,
    )


def _sign_test(differences: np.ndarray, groups: Sequence[int]) -> float:
    """Return the p-value of the exact test over the groups in which two models differ: McNemar's if each has one row."""
    of_groups = _group_sums(differences, groups)
    return mcnemar(int((of_groups < 0).sum()), int((of_groups > 0).sum()))


def _mean(sums: np.ndarray) -> np.ndarray:
    """Return the means of (…, 2) sums."""
    import numpy as np

    return sums[..., 0] / np.maximum(sums[..., 1], np.finfo(float).tiny)


def _mean_difference(sums: np.ndarray) -> np.ndarray:
    """Return the differences of means of (…, 4) sums."""
    return _mean(sums[..., 2:]) - _mean(sums[..., :2])


def bootstrap(
    columns: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    groups: Sequence[int] | None = None,
    seed: int = 0,
) -> Interval | None:
    """Return the BCa interval of a statistic of sums over rows (Efron 1987, doi:10.2307/2289144).

    Args:
        columns: (N, C) numbers of each row.
        statistic: Function from (…, C) sums over rows to (…) values.
        groups: (N,) the group of each row, drawn together; None: each row is a group of its own.
        seed: Seed of the draws.

    Returns:
        The interval; None with fewer than two groups or without variation, which no resampling can measure.
    """
    import numpy as np

    if groups is not None:
        columns = np.stack([_group_sums(column, groups) for column in columns.T], axis=1)
    count = len(columns)  # G groups
    if count < 2:
        return None
    total = columns.sum(axis=0)
    without = statistic(total - columns)  # (G,) jackknife
    deviation = without.mean() - without
    spread = float((deviation**2).sum())
    if spread < 1e-24:
        return None
    values = statistic(_sums_of_samples(columns, seed))
    observed = statistic(total)
    below = ((values < observed).sum() + (values == observed).sum() / 2) / DRAWS
    bias = _NORMAL.inv_cdf(min(max(float(below), 1 / DRAWS), 1 - 1 / DRAWS))
    acceleration = float((deviation**3).sum()) / (6 * spread**1.5)
    low, high = (_adjusted(share, bias, acceleration) for share in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(float(np.quantile(values, low)), float(np.quantile(values, high)))


def _sums_of_samples(columns: np.ndarray, seed: int) -> np.ndarray:
    """Return the sums of (G, C) columns over each sample with replacement, (DRAWS, C)."""
    import numpy as np

    count = len(columns)
    generator = np.random.default_rng(seed)
    sums = []
    size = min(max(_DRAWN_NUMBERS // count, 1), DRAWS)
    for start in range(0, DRAWS, size):
        samples = min(size, DRAWS - start)  # S
        drawn = generator.integers(0, count, (samples, count)) + count * np.arange(samples)[:, None]  # (S, G)
        times = np.bincount(drawn.ravel(), minlength=samples * count).reshape(samples, count)
        sums.append(times @ columns)
    return np.concatenate(sums)


def _adjusted(share: float, bias: float, acceleration: float) -> float:
    z = bias + _NORMAL.inv_cdf(share)
    return _NORMAL.cdf(bias + z / (1 - acceleration * z))
