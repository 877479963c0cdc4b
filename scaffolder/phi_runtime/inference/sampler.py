"""Draws the next token from logits, with a random generator of its own: a seed gives the same answer whatever else is answered."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from phi_runtime.inference.generator import Sampling

if TYPE_CHECKING:
    import numpy as np

_LIKELIEST = 512  # as many are sorted at first: those that top_p leaves in are nearly always among them


class Sampler:
    """Chooses the tokens of one answer."""

    def __init__(self, sampling: Sampling) -> None:
        import numpy as np

        self.sampling = sampling
        self.random = np.random.default_rng(sampling.seed)
        self.said: Counter[int] = Counter()

    @property
    def penalises(self) -> bool:
        """Whether what was said changes what comes next."""
        return bool(self.sampling.presence_penalty or self.sampling.frequency_penalty)

    @property
    def takes_the_likeliest(self) -> bool:
        """Whether the model itself can choose: greedily, from logits as they are."""
        return self.sampling.temperature <= 0 and not self.penalises

    def penalised(self, logits: np.ndarray) -> np.ndarray:
        """The logits (V,) less the penalties for what was said; a copy where there are some."""
        if not self.penalises or not self.said:
            return logits
        logits = logits.copy()
        for token, count in self.said.items():
            logits[token] -= self.sampling.presence_penalty + count * self.sampling.frequency_penalty
        return logits

    def choose(self, logits: np.ndarray) -> int:
        """A token for the logits (V,): temperature first, then top_k, then top_p."""
        logits = self.penalised(logits)
        if self.sampling.temperature <= 0:
            return int(logits.argmax())
        tokens, chances = self._candidates(logits)
        place = chances.cumsum().searchsorted(self.random.random() * chances.sum(), side="right")
        return int(tokens[min(int(place), len(tokens) - 1)])

    def _candidates(self, logits: np.ndarray) -> tuple[Any, np.ndarray]:
        """The tokens that may be drawn, the likeliest first where some are left out, and their chances, not made to add up to 1."""
        import numpy as np

        scaled = logits.astype(np.float64) / self.sampling.temperature
        chances = np.exp(scaled - scaled.max())
        count, total = self.sampling.top_k or len(chances), chances.sum()
        if count >= len(chances) and self.sampling.top_p >= 1:
            return np.arange(len(chances)), chances
        few = min(len(chances), count if self.sampling.top_k else _LIKELIEST)
        tokens = _sorted(chances, few)
        if self.sampling.top_k:
            total = chances[tokens].sum()
        elif chances[tokens].sum() < self.sampling.top_p * total:
            tokens = _sorted(chances, len(chances))
        # The smallest set whose chances reach top_p: the token that reaches it is in.
        kept = int((chances[tokens].cumsum() < self.sampling.top_p * total).sum()) + 1
        tokens = tokens[:kept]
        return tokens, chances[tokens]


def _sorted(chances: np.ndarray, count: int) -> Any:
    """The `count` likeliest tokens, the likeliest first; of two that are alike the lower number."""
    import numpy as np

    among = np.argpartition(-chances, count - 1)[:count] if count < len(chances) else np.arange(len(chances))
    return among[np.lexsort((among, -chances[among]))]


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Of each token (V,), in nats."""
    import numpy as np

    logits = logits.astype(np.float64)
    top = logits.max()
    return logits - (top + np.log(np.exp(logits - top).sum()))
