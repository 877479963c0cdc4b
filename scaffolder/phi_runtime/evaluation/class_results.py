"""Precision, recall and F1 by class: by label of a classification, with its confusion matrix, or by field of an extraction."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from phi_runtime.evaluation.intervals import wilson
from phi_runtime.evaluation.metrics import field_values, first_object, labels_of

Texts = Sequence[str]

_INDEX = re.compile(r"\.\d+(?=\.|$)")


def label_results(answers: Texts, references: Texts) -> dict[str, Any]:
    """Return the results of each label, and the confusion matrix, as scikit-learn defines them.

    Returns:
        `labels`: by label, as documented in docs/json.md. `confusion`: (L, L + 1) counts by expected label (row) and answer
        (column); the last column counts answers that are no label.
    """
    labels = labels_of(references)
    pairs, written, expected = Counter(zip(references, answers, strict=True)), Counter(answers), Counter(references)
    confusion = []
    for label in labels:
        counts = [pairs[label, answer] for answer in labels]
        confusion.append([*counts, expected[label] - sum(counts)])
    results = {label: _result(pairs[label, label], written[label], expected[label]) for label in labels}
    return {"labels": results, "confusion": confusion}


def field_results(answers: Texts, references: Texts) -> dict[str, Any]:
    """Return the results of each field of the references, the most frequent first.

    The elements of a list are one field (`lines[].price`), which has no intervals: those of one row are not independent.

    Returns:
        `fields`: by name, as documented in docs/json.md.
    """
    expected: Counter[str] = Counter()
    written: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for answer, reference in zip(answers, references, strict=True):
        values, true_values = (field_values(first_object(text) or {}).items() for text in (answer, reference))
        expected.update(_names(true_values))
        written.update(_names(values))
        right.update(_names(values & true_values))
    return {
        "fields": {
            name: _result(right[name], written[name], support, has_intervals="[]" not in name)
            for name, support in sorted(expected.items(), key=lambda item: (-item[1], item[0]))
        }
    }


def _result(right: int, written: int, support: int, *, has_intervals: bool = True) -> dict[str, Any]:
    return {
        "precision": right / written if written else 0.0,
        "precision_interval": wilson(right, written) if has_intervals and written else None,
        "recall": right / support,
        "recall_interval": wilson(right, support) if has_intervals else None,
        "f1": 2 * right / (written + support),
        "support": support,
        "answers": written,
    }


def _names(fields: Iterable[tuple[str, object]]) -> list[str]:
    return [_INDEX.sub("[]", key) for key, _ in fields]
