"""The comparison of an ONNX model with its source, from their predictions on the same tokens (teacher forcing).

Means are over decisions only (`gate_rows`): over all tokens, those that are certain would hide a loss. Measured are the mean
KL(source ‖ ONNX) in nats (Kullback and Leibler 1951), the share of equal most likely tokens, and both perplexities. Answers are
whole rows: one is right if each of its tokens is the most likely one, as greedy decoding would write it.

Shapes: P compared positions of a row, D of them decisions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from phi_runtime.evaluation.intervals import Difference, compare_counts

if TYPE_CHECKING:
    import numpy as np

    from phi_runtime.export.gate_rows import GateRow

Read = Literal["whole", "token by token"]


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model for a row.

    Attributes:
        tokens: (P,) most likely tokens.
        logprobs: (D, V) log-probabilities at the decisions.
    """

    tokens: np.ndarray
    logprobs: np.ndarray

    @classmethod
    def from_logits(cls, logits: np.ndarray, row: GateRow) -> Predictions:
        """Return the predictions of (P, V) logits at the positions of `row`."""
        return cls(logits.argmax(-1), _log_softmax(logits[row.decisions]))


@dataclass(frozen=True)
class GateComparison:
    """Distance of an ONNX model from its source model.

    Attributes:
        rows: "validation rows" or "sample text".
        read: How the ONNX model read the rows. With a pruned head it returns logits of the last token only, so each token
            is read separately, which rounds differently.
        positions: Compared tokens.
        decisions: Those of them that training leaves open, which the following means are over.
        kl: Mean KL(source ‖ ONNX), in nats.
        top1: Share of decisions with the same most likely token.
        perplexity: Of the ONNX model.
        source_perplexity: Of the source model.
        compared_rows: Number of rows.
        equal_answers: Rows that both models answer in the same way, up to where the source departs from the expected answer.
        answers: Rows that the source model answers as expected.
        lost: Those of them that the ONNX model does not.
        gained: Rows that only the ONNX model answers as expected.
        largest_difference: Largest difference of two log-probabilities of the same token.
        source_dtype: Type that the source model computed in.
    """

    rows: str
    read: Read
    positions: int
    decisions: int
    kl: float
    top1: float
    perplexity: float
    source_perplexity: float
    compared_rows: int = 0
    equal_answers: int = 0
    answers: int = 0
    lost: int = 0
    gained: int = 0
    largest_difference: float = 0.0
    source_dtype: str = "float32"

    @property
    def perplexity_increase(self) -> float:
        return self.perplexity / self.source_perplexity - 1

    @property
    def right_answers(self) -> Difference:
        """The difference of the shares of right answers, with its paired interval."""
        neither = self.compared_rows - self.answers - self.gained
        return compare_counts(self.answers - self.lost, self.lost, self.gained, neither)

    @property
    def figures(self) -> dict[str, Any]:
        """The figures for the manifest, rounded."""
        values = asdict(self)
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}

    @property
    def summary(self) -> str:
        """The figures in words."""
        kind = "token" if self.decisions == self.positions else "decision"
        text = (
            f"KL {self.kl:.3f} nats, same most likely token in {100 * self.top1:.0f} %, perplexity "
            f"{self.source_perplexity:.2f} → {self.perplexity:.2f}, over {self.decisions} {kind}s"
        )
        if not self.answers:
            return text
        low, high = (100 * bound for bound in self.right_answers.interval or (math.nan, math.nan))
        return (
            f"right answers {self.answers} → {self.answers - self.lost + self.gained} of {self.compared_rows} rows "
            f"({self.lost} lost, {self.gained} gained: {low:+.1f} to {high:+.1f} points), same answer in "
            f"{self.equal_answers}; {text}"
        )


def compare_predictions(
    rows: Sequence[GateRow],
    exact: Iterable[Predictions],
    others: Iterable[Predictions],
    kind: str,
    read: Read,
    source_dtype: str = "float32",
) -> GateComparison:
    """Compare predictions of the source model, `exact`, with those of the ONNX model, `others`, for each of `rows`.

    Args:
        kind: Origin of the rows: "validation rows" or "sample text".
    """
    import numpy as np

    divergence = loss = own_loss = largest = 0.0
    same = positions = decisions = equal = answers = lost = gained = 0
    for row, own, other in zip(rows, exact, others, strict=True):
        expected = np.asarray(row.ids)[row.positions]  # (P,)
        departures = np.flatnonzero(own.tokens != expected)
        end = int(departures[0]) + 1 if len(departures) else len(expected)
        equal += int((own.tokens[:end] == other.tokens[:end]).all())
        right, right_in_other = not len(departures), bool((other.tokens == expected).all())
        answers += right
        lost += right and not right_in_other
        gained += right_in_other and not right

        size = min(own.logprobs.shape[-1], other.logprobs.shape[-1])  # the vocabulary of either may be padded
        p, q = own.logprobs[:, :size], other.logprobs[:, :size]
        order, following = np.arange(len(p)), expected[row.decisions]
        if len(p):
            largest = max(largest, float(np.abs(p - q).max()))
        divergence += float((np.exp(p) * (p - q)).sum(dtype=np.float64))
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        loss -= float(q[order, following].sum(dtype=np.float64))
        own_loss -= float(p[order, following].sum(dtype=np.float64))
        positions, decisions = positions + len(expected), decisions + len(p)
    return GateComparison(
        rows=kind,
        read=read,
        positions=positions,
        decisions=decisions,
        kl=divergence / decisions,
        top1=same / decisions,
        perplexity=_perplexity(loss / decisions),
        source_perplexity=_perplexity(own_loss / decisions),
        compared_rows=len(rows),
        equal_answers=equal,
        answers=answers,
        lost=lost,
        gained=gained,
        largest_difference=largest,
        source_dtype=source_dtype,
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    if not len(logits):
        return logits
    logits = logits - logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 50)) if math.isfinite(loss) else math.inf
