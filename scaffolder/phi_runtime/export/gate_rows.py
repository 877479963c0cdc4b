"""The rows of the gate, and which of their tokens are decisions.

A token is a decision where training leaves it open: after the same beginning, the training answers continue in more ways than
one, or otherwise. Of `surprise`, one of four labels, the first token is a decision; the rest of the word and the end token follow
from it, and a trained model is certain of them whatever rounding did to the decision. Of free text, almost each token is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phi_runtime.data.tokenize import Encoder, Run
from phi_runtime.models.load import load_tokenizer

if TYPE_CHECKING:
    import numpy as np

    from phi_runtime.data.dataset import Dataset, DataSplit
    from phi_runtime.models.reference import ModelRef

ROW_TOKENS = 256  # of a long row; more rows are more informative than longer ones
_ROWS = 200  # at most, as many as `evaluate` measures
_TRAINING_ROWS = 20_000  # whose answers are known

Answer = tuple[int, ...]


@dataclass(frozen=True)
class GateRow:
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


def full_row(ids: list[int]) -> GateRow:
    """Return a row that is compared at each token but the first."""
    return GateRow(ids, list(range(1, len(ids))), [True] * (len(ids) - 1))


def sample_rows(source: ModelRef) -> list[GateRow]:
    """Return the sample text as rows of `source`'s tokens, compared from the second token on."""
    from phi_runtime.export.gate_text import TEXT

    ids: list[int] = load_tokenizer(source)(TEXT).input_ids
    return [full_row(ids[i : i + ROW_TOKENS]) for i in range(0, len(ids), ROW_TOKENS)]


def validation_rows(dataset: Dataset, source: ModelRef) -> list[GateRow]:
    """Return validation rows as tokens of `source`, compared at the answers; at each token if there are no prompts."""
    known: list[Answer] = []
    for ids, runs in _encoded(dataset.training.first(_TRAINING_ROWS), source):
        known += [tuple(ids[start:stop]) for start, stop in runs]
    found: dict[Answer, list[bool]] = {}
    rows = []
    for ids, runs in _encoded(dataset.validation.sample(_ROWS), source):
        first = max(0, len(ids) - ROW_TOKENS)  # the end of a long row has the answer
        compared: dict[int, bool] = {}
        for start, stop in runs:
            answer = tuple(ids[start:stop])
            if answer not in found:
                found[answer] = decisions(answer, known)
            compared |= zip(range(start - first, stop - first), found[answer], strict=True)
        compared = {position: is_open for position, is_open in compared.items() if position > 0}
        rows.append(GateRow(ids[first:], list(compared), list(compared.values())))
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


def first_rows(rows: Sequence[GateRow], limit: int) -> list[GateRow]:
    """Return the first rows with up to `limit` decisions together; the last row is cut."""
    import numpy as np

    first: list[GateRow] = []
    for row in rows:
        if limit < 1:
            break
        ends = np.flatnonzero(np.cumsum(row.decisions) > limit)
        stop = int(ends[0]) if len(ends) else len(row.positions)
        positions = row.positions[:stop]
        first.append(GateRow(row.ids[: positions[-1] + 1], positions, row.decisions[:stop]))
        limit -= sum(row.decisions[:stop])
    return first


def _encoded(split: DataSplit, source: ModelRef) -> Iterator[tuple[list[int], list[Run]]]:
    """Yield the tokens of each row and its answers, even if prompts are trained too."""
    template = split.template
    if split.completion_only or not template.has_prompt:
        for index in split.chosen:
            ids, trained = split.store.row(int(index))
            yield ids.tolist(), _runs(trained)
        return
    encoder = Encoder.of(load_tokenizer(source), split.settings, template)
    pieces = [template.row(row, completion_only=True).pieces for row in split.values()]
    for row in encoder.encode(pieces):
        yield row.ids, row.runs


def _runs(trained: np.ndarray) -> list[Run]:
    """Return start and end of each run of trained tokens."""
    import numpy as np

    borders = np.flatnonzero(np.diff(np.concatenate([[0], trained.astype(np.int8), [0]])))
    return list(zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True))
