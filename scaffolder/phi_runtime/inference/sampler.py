"""Token sampling with a random generator for each answer, so that a seed gives the same answer whatever else is running."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from phi_runtime.inference.generator import SamplingParams

if TYPE_CHECKING:
    import numpy as np

_SORTED_FIRST = 512  # tokens: the top_p set is nearly always among them


class Sampler:
    """Samples the tokens of one answer.

    Attributes:
        counts: Occurrences of each token in the answer so far; the caller updates them.
    """

    def __init__(self, sampling: SamplingParams) -> None:
        import numpy as np

        self.sampling = sampling
        self.random = np.random.default_rng(sampling.seed)
        self.counts: Counter[int] = Counter()

    @property
    def has_penalties(self) -> bool:
        return bool(self.sampling.presence_penalty or self.sampling.frequency_penalty)

    @property
    def is_greedy(self) -> bool:
        """True if the model itself can choose the token: the most likely one, from unchanged logits."""
        return self.sampling.temperature <= 0 and not self.has_penalties

    def apply_penalties(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits (V,) less the penalties; a copy if they change."""
        if not self.has_penalties or not self.counts:
            return logits
        logits = logits.copy()
        for token, count in self.counts.items():
            logits[token] -= self.sampling.presence_penalty + count * self.sampling.frequency_penalty
        return logits

    def sample(self, logits: np.ndarray) -> int:
        """Sample a token from the logits (V,): penalties, temperature, top_k, then top_p."""
        logits = self.apply_penalties(logits)
        if self.sampling.temperature <= 0:
            return int(logits.argmax())
        tokens, weights = self._candidates(logits)
        index = weights.cumsum().searchsorted(self.random.random() * weights.sum(), side="right")
        return int(tokens[min(int(index), len(tokens) - 1)])

    def _candidates(self, logits: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return the candidate tokens and their unnormalized probabilities, (K,) each.

        They are in descending order of probability if top_k or top_p excludes some.
        """
        import numpy as np

        scaled = logits.astype(np.float64) / self.sampling.temperature  # (V,)
        weights = np.exp(scaled - scaled.max())  # (V,)
        top_k, total = self.sampling.top_k or len(weights), weights.sum()
        if top_k >= len(weights) and self.sampling.top_p >= 1:
            return np.arange(len(weights)), weights
        tokens = _most_likely(weights, min(len(weights), top_k if self.sampling.top_k else _SORTED_FIRST))
        if self.sampling.top_k:
            total = weights[tokens].sum()
        elif weights[tokens].sum() < self.sampling.top_p * total:
            tokens = _most_likely(weights, len(weights))
        # The smallest set whose probability reaches top_p, including the token that reaches it.
        kept = int((weights[tokens].cumsum() < self.sampling.top_p * total).sum()) + 1
        tokens = tokens[:kept]
        return tokens, weights[tokens]


def _most_likely(weights: np.ndarray, count: int) -> Any:
    """Return the `count` most likely tokens in descending order; of equals, the lower token comes first."""
    import numpy as np

    tokens = np.argpartition(-weights, count - 1)[:count] if count < len(weights) else np.arange(len(weights))
    return tokens[np.lexsort((tokens, -weights[tokens]))]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the log-probability of each token (V,), in nats."""
    import numpy as np

    logits = logits.astype(np.float64)
    max_logit = logits.max()
    return logits - (max_logit + np.log(np.exp(logits - max_logit).sum()))
