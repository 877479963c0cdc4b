"""Sampling of the next token."""

from __future__ import annotations

import numpy as np
import pytest

from phi_runtime.inference.generator import SamplingParams
from phi_runtime.inference.sampler import Sampler, log_softmax

LOGITS = np.log(np.array([0.4, 0.3, 0.2, 0.1], dtype=np.float32))


def shares(sampling: SamplingParams, logits: np.ndarray = LOGITS, draws: int = 4000) -> np.ndarray:
    sampler = Sampler(sampling)
    return np.bincount([sampler.sample(logits) for _ in range(draws)], minlength=len(logits)) / draws


def test_tokens_are_sampled_with_the_models_probabilities() -> None:
    assert shares(SamplingParams(temperature=1, seed=1)) == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.03)


def test_temperature_sharpens_and_zero_is_greedy() -> None:
    squared = np.array([0.16, 0.09, 0.04, 0.01]) / 0.3
    assert shares(SamplingParams(temperature=0.5, seed=1)) == pytest.approx(squared, abs=0.03)
    assert Sampler(SamplingParams(temperature=0)).sample(LOGITS) == 0


def test_top_k_and_top_p_exclude_the_rest() -> None:
    assert shares(SamplingParams(temperature=1, top_k=2, seed=1)) == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.03)
    # The token that reaches the share is in: 0.4 + 0.3 ≥ 0.5.
    assert shares(SamplingParams(temperature=1, top_p=0.5, seed=1)) == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.03)
    # top_p is a share of what top_k leaves: 0.4 of 0.9 is 0.44, so 0.5 needs two.
    both = shares(SamplingParams(temperature=1, top_k=3, top_p=0.5, seed=1))
    assert both == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.03)


def test_top_p_of_a_large_vocabulary_is_that_of_the_whole_list() -> None:
    logits = np.random.default_rng(0).normal(size=50_000).astype(np.float32)  # flat: top_p takes in thousands
    chances = np.exp(logits.astype(np.float64))
    order = np.argsort(-chances)
    kept = int((chances[order].cumsum() < 0.9 * chances.sum()).sum()) + 1
    tokens, _ = Sampler(SamplingParams(temperature=1, top_p=0.9))._candidates(logits)
    assert kept > 512
    assert set(tokens) == set(order[:kept])


def test_a_seed_repeats_the_draws_and_another_does_not() -> None:
    def drawn(seed: int) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1, seed=seed))
        return [sampler.sample(LOGITS) for _ in range(40)]

    assert drawn(3) == drawn(3) != drawn(4)


def test_penalties_are_those_of_openai() -> None:
    sampler = Sampler(SamplingParams(presence_penalty=0.5, frequency_penalty=0.25))
    sampler.counts.update([1, 1, 2])
    assert sampler.apply_penalties(LOGITS) - LOGITS == pytest.approx([0, -1.0, -0.75, 0], abs=1e-6)
    assert not sampler.is_greedy


def test_log_probabilities_sum_to_one() -> None:
    assert np.exp(log_softmax(LOGITS * 3 + 1000)).sum() == pytest.approx(1)
