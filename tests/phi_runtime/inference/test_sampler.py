"""How the next token is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from phi_runtime.inference.generator import Sampling
from phi_runtime.inference.sampler import Sampler, log_probabilities

LOGITS = np.log(np.array([0.4, 0.3, 0.2, 0.1], dtype=np.float32))


def shares(sampling: Sampling, logits: np.ndarray = LOGITS, draws: int = 4000) -> np.ndarray:
    sampler = Sampler(sampling)
    return np.bincount([sampler.choose(logits) for _ in range(draws)], minlength=len(logits)) / draws


def test_tokens_come_as_often_as_the_model_says() -> None:
    assert shares(Sampling(temperature=1, seed=1)) == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.03)


def test_temperature_sharpens_and_zero_takes_the_likeliest() -> None:
    squared = np.array([0.16, 0.09, 0.04, 0.01]) / 0.3
    assert shares(Sampling(temperature=0.5, seed=1)) == pytest.approx(squared, abs=0.03)
    assert Sampler(Sampling(temperature=0)).choose(LOGITS) == 0


def test_top_k_and_top_p_leave_the_rest_out() -> None:
    assert shares(Sampling(temperature=1, top_k=2, seed=1)) == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.03)
    # The token that reaches the share is in: 0.4 + 0.3 ≥ 0.5.
    assert shares(Sampling(temperature=1, top_p=0.5, seed=1)) == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.03)
    # top_p is a share of what top_k leaves: 0.4 of 0.9 is 0.44, so 0.5 needs two.
    both = shares(Sampling(temperature=1, top_k=3, top_p=0.5, seed=1))
    assert both == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.03)


def test_top_p_of_a_large_vocabulary_is_that_of_the_whole_list() -> None:
    logits = np.random.default_rng(0).normal(size=50_000).astype(np.float32)  # flat: top_p takes in thousands
    chances = np.exp(logits.astype(np.float64))
    order = np.argsort(-chances)
    kept = int((chances[order].cumsum() < 0.9 * chances.sum()).sum()) + 1
    tokens, _ = Sampler(Sampling(temperature=1, top_p=0.9))._candidates(logits)
    assert kept > 512
    assert set(tokens) == set(order[:kept])


def test_a_seed_repeats_the_draws_and_another_does_not() -> None:
    def drawn(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1, seed=seed))
        return [sampler.choose(LOGITS) for _ in range(40)]

    assert drawn(3) == drawn(3) != drawn(4)


def test_penalties_are_those_of_openai() -> None:
    sampler = Sampler(Sampling(presence_penalty=0.5, frequency_penalty=0.25))
    sampler.said.update([1, 1, 2])
    assert sampler.penalised(LOGITS) - LOGITS == pytest.approx([0, -1.0, -0.75, 0], abs=1e-6)
    assert not sampler.takes_the_likeliest


def test_log_probabilities_sum_to_one() -> None:
    assert np.exp(log_probabilities(LOGITS * 3 + 1000)).sum() == pytest.approx(1)
