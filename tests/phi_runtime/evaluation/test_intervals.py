"""Intervals and tests against published values, plain loops and simulated data."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from phi_runtime.evaluation.intervals import (
    Difference,
    Interval,
    Scores,
    compare,
    compare_shares,
    interval_of,
    mcnemar,
    rows_to_show,
    wilson,
)


def paired(both: int, lost: int, gained: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * (both + lost) + [False] * (gained + neither)
    second = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return first, second


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [(0, 120, 0.0, 0.0310), (119, 120, 0.9543, 0.9985), (118, 120, 0.9413, 0.9954), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_gives_the_published_intervals(right: int, rows: int, low: float, high: float) -> None:
    assert wilson(right, rows) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_no_and_of_all_rows_ends_at_zero_and_one() -> None:
    assert wilson(0, 7).low == 0
    assert wilson(7, 7).high == 1


@pytest.mark.parametrize(
    ("lost", "gained", "p"), [(0, 0, 1.0), (2, 1, 1.0), (10, 1, 0.01171875), (10, 2, 0.03857421875), (6, 0, 0.03125)]
)
def test_mcnemar_sums_the_binomial_tails(lost: int, gained: int, p: float) -> None:
    assert mcnemar(lost, gained) == p
    assert mcnemar(gained, lost) == p


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ((36, 12, 2, 0), -0.3404, -0.0569),  # Newcombe 1998, table III, method 10, with the sign of second minus first
        ((53, 1, 0, 0), None, None),
        ((0, 29, 0, 25), None, None),
        ((30, 0, 0, 24), None, None),
    ],
)
def test_newcombe_gives_the_published_interval(cells: tuple[int, ...], low: float | None, high: float | None) -> None:
    difference = compare_shares(*paired(*cells))
    assert difference.interval is not None
    if low is not None:
        assert difference.interval == pytest.approx((low, high), abs=5e-5)
    assert -1 <= difference.interval.low <= difference.value <= difference.interval.high <= 1


def test_few_lost_rows_are_no_difference_and_many_are() -> None:
    few, many = compare_shares(*paired(116, 2, 1, 1)), compare_shares(*paired(90, 20, 2, 8))
    assert (few.lost, few.gained, few.outcome) == (2, 1, "no difference seen")
    assert (many.lost, many.gained, many.outcome) == (20, 2, "worse")
    assert compare_shares(*paired(90, 2, 20, 8)).outcome == "better"


def test_rows_needed_follow_the_share_of_differing_rows() -> None:
    assert rows_to_show(0.02, 0.02) == 391  # by hand: ((1.95996 * 0.141421 + 0.841621 * 0.14) / 0.02) ** 2 = 390.08
    assert rows_to_show(0.02, 0.10) == 1960


def test_bootstrap_repeats_with_its_seed_and_contains_the_mean() -> None:
    values = np.random.default_rng(1).beta(8, 2, 60)
    interval = interval_of(Scores(values))
    assert interval is not None
    assert interval == interval_of(Scores(values))
    assert interval.low < values.mean() < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 60**0.5, rel=0.15)


def test_rows_of_one_group_are_drawn_together() -> None:
    values = np.repeat(np.random.default_rng(2).normal(size=20), 10)
    grouped, alone = interval_of(Scores(values), np.repeat(np.arange(20), 10).tolist()), interval_of(Scores(values))
    assert grouped is not None
    assert alone is not None
    assert grouped.high - grouped.low > 2.5 * (alone.high - alone.low)


def test_a_bootstrap_without_variation_is_refused_and_shares_are_wilsons() -> None:
    assert interval_of(Scores([0.5] * 30)) is None
    assert interval_of(Scores([0.0] * 120)) == wilson(0, 120)
    assert compare(Scores([0.5] * 30), Scores([0.5] * 30)) == Difference(0.0, None, 0, 0)
    assert compare(Scores([0.5] * 30), Scores([0.5] * 30)).outcome == "no difference seen"


def test_paired_means_see_a_small_difference_that_is_in_every_row() -> None:
    noise = np.random.default_rng(3)
    first = noise.uniform(0.2, 0.8, 80)
    second = first + noise.normal(0.03, 0.02, 80)
    assert compare(Scores(first.tolist()), Scores(second.tolist())).outcome == "better"
    assert compare(Scores(second.tolist()), Scores(first.tolist())).outcome == "worse"


def test_weights_make_the_mean_one_of_fields_or_tokens() -> None:
    noise = np.random.default_rng(6)
    fields = noise.integers(1, 20, 50)
    right = noise.binomial(fields, 0.7)
    interval = interval_of(Scores((right / fields).tolist(), fields.tolist()))
    assert interval is not None
    assert interval.low < right.sum() / fields.sum() < interval.high
    better = compare(Scores((right / fields).tolist(), fields.tolist()), Scores([1.0] * 50, fields.tolist()))
    assert better.value == pytest.approx(1 - right.sum() / fields.sum())
    assert better.outcome == "better"


def test_grouped_shares_are_not_independent_rows() -> None:
    right = [1.0] * 50 + [0.0] * 50
    groups = [i // 10 for i in range(100)]
    assert interval_of(Scores(right)) == wilson(50, 100)
    grouped = interval_of(Scores(right), groups)
    assert grouped is not None
    assert grouped.high - grouped.low > 2 * (wilson(50, 100).high - wilson(50, 100).low)


def test_no_and_all_rows_of_groups_have_an_interval_of_the_groups() -> None:
    groups = [i // 4 for i in range(120)]
    assert interval_of(Scores([0.0] * 120), groups) == wilson(0, 30)
    assert interval_of(Scores([1.0] * 120), groups) == wilson(30, 30)
    assert interval_of(Scores([1.0] * 4), [0] * 4) is None


def test_groups_of_one_row_are_almost_wilsons() -> None:
    right = [1.0] * 90 + [0.0] * 30
    found = interval_of(Scores(right), list(range(120)))
    assert found == pytest.approx(wilson(90, 120), abs=0.005)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 30])
def test_the_interval_of_few_groups_has_the_quantile_of_student(count: int) -> None:
    from scipy.stats import t  # type: ignore[import-untyped]

    right = [9 - 3 * (number % 2) for number in range(count)]  # of the 10 rows of each group
    share = sum(right) / (10 * count)
    variance = count / (count - 1) * sum((n - 10 * share) ** 2 for n in right) / (10 * count) ** 2
    independent = min(share * (1 - share) / variance * (1.959964 / t.ppf(0.975, count - 1)) ** 2, 10 * count)
    scores = [float(row < n) for n in right for row in range(10)]
    found = interval_of(Scores(scores), [i // 10 for i in range(10 * count)])
    assert found == pytest.approx(wilson(share * independent, independent), abs=1e-3)


def test_a_few_lost_groups_are_no_difference() -> None:
    right = [1.0] * 40
    four = compare(Scores(right), Scores([0.0] * 4 + [1.0] * 36), [i // 2 for i in range(40)])
    assert (four.lost, four.p, four.outcome) == (4, 0.5, "no difference seen")
    many = compare(Scores(right), Scores([0.0] * 14 + [1.0] * 26), [i // 2 for i in range(40)])
    assert (many.p, many.outcome) == (2 / 2**7, "worse")


def test_intervals_of_grouped_shares_cover_the_truth() -> None:
    noise = np.random.default_rng(7)
    groups, found = np.repeat(np.arange(40), 5).tolist(), []
    for _ in range(1500):
        shares = np.repeat(noise.beta(18, 2, 40), 5)  # mean 0.9, correlated within a group
        found.append(interval_of(Scores((noise.uniform(size=200) < shares).astype(float).tolist()), groups))
    assert 0.93 <= _covered(found, 0.9) <= 0.97


def _covered(intervals: list[Interval | None], truth: float) -> float:
    return sum(i is not None and i.low <= truth <= i.high for i in intervals) / len(intervals)


def test_intervals_cover_the_truth_in_simulations() -> None:
    noise = np.random.default_rng(4)
    shares = [wilson(int(noise.binomial(120, 0.9)), 120) for _ in range(3000)]
    assert 0.93 <= _covered(shares, 0.9) <= 0.97
    differences = []
    for _ in range(1500):
        cells = noise.multinomial(150, (0.8, 0.08, 0.05, 0.07))
        differences.append(compare_shares(*paired(*cells.tolist())).interval)
    assert 0.93 <= _covered(differences, -0.03) <= 0.97


def test_the_memory_of_a_bootstrap_does_not_grow_with_its_rows() -> None:
    scores = Scores(np.random.default_rng(8).normal(size=20_000))
    tracemalloc.start()
    try:
        interval_of(scores)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 60e6  # all samples at once: 320 MB


@pytest.mark.slow
def test_bootstrap_covers_the_truth_in_simulations() -> None:
    noise = np.random.default_rng(5)
    means = [interval_of(Scores(noise.beta(6, 2, 80)), seed=i) for i in range(400)]
    assert 0.92 <= _covered(means, 0.75) <= 0.98
