"""Scores of answers against references. All are fractions from 0 to 1."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence


def score(task: str, answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The metrics of `task`: accuracy and macro F1 for classification; exact match and token F1 for generation."""
    exact = sum(a == r for a, r in zip(answers, references, strict=True)) / len(references)
    if task == "classification":
        return {"accuracy": exact, "macro_f1": macro_f1(answers, references)}
    overlap = sum(token_f1(a, r) for a, r in zip(answers, references, strict=True)) / len(references)
    return {"exact_match": exact, "token_f1": overlap}


def headline(task: str) -> str:
    """The one metric that stands for a task."""
    return "accuracy" if task == "classification" else "token_f1"


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    """F1 of each label that occurs in `references`, averaged. An answer that is no label counts against its reference alone."""
    pairs = Counter(zip(answers, references, strict=True))
    given, wanted = Counter(answers), Counter(references)
    return sum(2 * pairs[label, label] / (given[label] + wanted[label]) for label in wanted) / len(wanted)


def token_f1(answer: str, reference: str) -> float:
    """Overlap of words, as SQuAD counts it (https://arxiv.org/abs/1606.05250): case and punctuation do not matter."""
    have, want = Counter(_words(answer)), Counter(_words(reference))
    common = (have & want).total()
    return 2 * common / (have.total() + want.total()) if common else float(have == want)


def _words(text: str) -> list[str]:
    return text.lower().translate(str.maketrans("", "", string.punctuation)).split()
