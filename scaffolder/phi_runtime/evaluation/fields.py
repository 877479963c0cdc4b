"""Results of an extraction by field."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from phi_runtime.evaluation.intervals import wilson
from phi_runtime.evaluation.metrics import field_values, first_object

_INDEX = re.compile(r"\.\d+(?=\.|$)")


def field_results(answers: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Return precision, recall, F1 and support of each field of the references, the most frequent first.

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
    results = {}
    for name, support in sorted(expected.items(), key=lambda item: (-item[1], item[0])):
        has_intervals = "[]" not in name
        results[name] = {
            "precision": right[name] / written[name] if written[name] else 0.0,
            "precision_interval": wilson(right[name], written[name]) if has_intervals and written[name] else None,
            "recall": right[name] / support,
            "recall_interval": wilson(right[name], support) if has_intervals else None,
            "f1": 2 * right[name] / (written[name] + support),
            "support": support,
            "answers": written[name],
        }
    return {"fields": results}


def _names(fields: Iterable[tuple[str, object]]) -> list[str]:
    return [_INDEX.sub("[]", key) for key, _ in fields]
