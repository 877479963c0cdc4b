"""Rows of a store that repeat a question: with the same answer (duplicates), or with another one (contradictions)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phi_runtime.data.groups import are_first


@dataclass(frozen=True)
class Repeats:
    """Repeated questions.

    Attributes:
        questions: Number of distinct questions.
        duplicates: Rows that repeat question and answer of an earlier one.
        contradictory: Questions that have several answers.
        examples: Indices of two rows of such a question with different answers.
    """

    questions: int
    duplicates: int
    contradictory: int
    examples: tuple[tuple[int, int], ...] = ()


def find_repeats(rows: np.ndarray, shown: int = 20) -> Repeats:
    """Compare the questions and answers of rows, (N,) of `store.ROW`."""
    if not len(rows):
        return Repeats(0, 0, 0)
    question, answer = rows["question"], rows["answer"]
    order = np.lexsort((np.arange(len(rows)), answer, question[:, 1], question[:, 0]))
    new_question = are_first(question[order])
    new_answer = new_question | are_first(answer[order])
    starts = np.flatnonzero(new_question)
    # The first row of each answer after the first one of its question.
    others = np.flatnonzero(new_answer & ~new_question)
    group = np.cumsum(new_question)[others] - 1
    contradictory, first_other = np.unique(group, return_index=True)
    pairs = np.sort(np.stack([order[starts[contradictory]], order[others[first_other]]], axis=1), axis=1)  # (C, 2)
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")][:shown]
    duplicates = len(rows) - int(new_answer.sum())
    return Repeats(len(starts), duplicates, len(contradictory), tuple((int(a), int(b)) for a, b in pairs))
