"""Results of a classification by label, and its confusion matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from phi_runtime.evaluation.intervals import Interval, wilson
from phi_runtime.evaluation.metrics import labels_of

Texts = Sequence[str]


def label_results(answers: Texts, references: Texts) -> dict[str, Any]:
    """Return precision, recall, F1 and support of each label, and the confusion matrix, as scikit-learn defines them.

    Returns:
        `labels`: by label, as documented in docs/json.md. `confusion`: (L, L + 1) counts by expected label (row) and answer
        (column); the last column counts answers that are no label.
    """
    labels = labels_of(references)
    pairs, written = Counter(zip(references, answers, strict=True)), Counter(answers)
    results, confusion = {}, []
    for label in labels:
        counts = [pairs[label, answer] for answer in labels]
        support, right = references.count(label), pairs[label, label]
        confusion.append([*counts, support - sum(counts)])
        results[label] = {
            "precision": right / written[label] if written[label] else 0.0,
            "precision_interval": _share(right, written[label]),
            "recall": right / support,
            "recall_interval": _share(right, support),
            "f1": 2 * right / (written[label] + support),
            "support": support,
            "answers": written[label],
        }
    return {"labels": results, "confusion": confusion}


def _share(right: int, rows: int) -> Interval | None:
    return wilson(right, rows) if rows else None
