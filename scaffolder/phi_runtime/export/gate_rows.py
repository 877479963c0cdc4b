"""The rows of the gate, and which of their tokens are decisions.

A token is a decision where training leaves it open: after the same beginning, the training answers continue in more ways than
one, or otherwise. Of `surprise`, one of four labels, the first token is a decision; the rest of the word and the end token follow
from it, and a trained model is certain of them whatever rounding did to the decision. Of free text, almost each token is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from phi_runtime.data.dataset import Dataset
    from phi_runtime.data.store import Store
    from phi_runtime.models.reference import ModelRef

ROW_TOKENS = 256  # of a long row; more rows are more informative than longer ones
_ROWS = 200  # at most, as many as `evaluate` measures
_TRAINING_ROWS = 20_000  # whose answers are known

Answer = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A row that two models read.

    Attributes:
        ids: Its tokens, T.
        positions: (P,) positions of the tokens whose predictions are compared.
        decisions: (P,) True for decisions.
    """

    ids: list[int]
    positions: list[int]
    decisions: list[bool]

    @property
    def predicting(self) -> list[int]:
        """The indices of the logits that predict the tokens at `positions`."""
        return [position - 1 for position in self.positions]


def full_row(ids: list[int]) -> Row:
    """Return a row that is compared at each token but the first."""
    return Row(ids, list(range(1, len(ids))), [True] * (len(ids) - 1))


def sample_rows(source: ModelRef) -> list[Row]:
    """Return the sample text as rows of `source`'s tokens, compared from the second token on."""
    from phi_runtime.export.gate_text import TEXT
    from phi_runtime.models.load import load_tokenizer

    ids: list[int] = load_tokenizer(source)(TEXT).input_ids
    return [full_row(ids[i : i + ROW_TOKENS]) for i in range(0, len(ids), ROW_TOKENS)]


def validation_rows(dataset: Dataset) -> list[Row]:
    """Return validation rows, compared at the tokens that training would learn."""
    import numpy as np

    known: list[Answer] = []
    for index in dataset.training.first(_TRAINING_ROWS).chosen:
        ids, trained = _tokens(dataset.training.store, int(index))
        known += [tuple(ids[start:stop]) for start, stop in _runs(trained)]
    validation = dataset.validation.sample(_ROWS)
    found: dict[Answer, list[bool]] = {}
    rows = []
    for index in validation.chosen:
        ids, trained = _tokens(validation.store, int(index))
        open_at: np.ndarray = np.zeros(len(ids), dtype=bool)
        for start, stop in _runs(trained):
            answer = tuple(ids[start:stop])
            if answer not in found:
                found[answer] = decisions(answer, known)
            open_at[start:stop] = found[answer]
        first = max(0, len(ids) - ROW_TOKENS)  # the end of a long row has the answer
        positions = [position for position in range(first + 1, len(ids)) if trained[position]]
        rows.append(Row(ids[first:], [p - first for p in positions], open_at[positions].tolist()))
    rows = [row for row in rows if row.positions]
    if any(any(row.decisions) for row in rows):
        return rows
    return [replace(row, decisions=[True] * len(row.positions)) for row in rows]  # all answers are the same


def decisions(answer: Answer, known: Sequence[Answer]) -> list[bool]:
    """Return True for each token of `answer` that does not follow from the tokens before it.

    Args:
        answer: Tokens of an answer.
        known: The answers of the training rows.
    """
    alike, found = known, []
    for depth, token in enumerate(answer):
        alike = [other for other in alike if len(other) > depth]
        found.append({other[depth] for other in alike} != {token})
        alike = [other for other in alike if other[depth] == token]
    return found


def first_rows(rows: Sequence[Row], limit: int) -> list[Row]:
    """Return the first rows with up to `limit` decisions together; the last row is cut."""
    import numpy as np

    first: list[Row] = []
    for row in rows:
        if limit < 1:
            break
        ends = np.flatnonzero(np.cumsum(row.decisions) > limit)
        stop = int(ends[0]) if len(ends) else len(row.positions)
        positions = row.positions[:stop]
        first.append(Row(row.ids[: positions[-1] + 1], positions, row.decisions[:stop]))
        limit -= sum(row.decisions[:stop])
    return first


def _tokens(store: Store, index: int) -> tuple[list[int], np.ndarray]:
    ids, trained = store.row(index)
    return ids.tolist(), trained.astype(bool)


def _runs(trained: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of trained tokens."""
    import numpy as np

    borders = np.flatnonzero(np.diff(np.concatenate([[0], trained.astype(np.int8), [0]])))
    return zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True)
