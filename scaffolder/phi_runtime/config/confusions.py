"""Keys of `cost` in evaluation.json: an expected label and the one that is answered instead."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from phi_runtime.core.suggestions import nearest

ARROWS = ("→", "->")
MEAN_COST = "mean_cost"
_SHOWN_LABELS = 10


class Confusion(NamedTuple):
    """An answer that is another label than the expected one."""

    expected: str
    predicted: str


def parse_confusion(key: str) -> Confusion | None:
    """Return the labels of `expected→predicted` or `expected->predicted`; None if the key has another form."""
    for arrow in ARROWS:
        expected, found, predicted = (part.strip() for part in key.partition(arrow))
        if found:
            return Confusion(expected, predicted) if expected and predicted else None
    return None


class UnknownLabel(NamedTuple):
    """A key of `cost` with a label that no row has, and the key that is probably meant."""

    key: str
    message: str
    suggestion: str


def unknown_labels(keys: Iterable[str], labels: Collection[str]) -> Iterator[UnknownLabel]:
    """Yield each key that names a label other than `labels`."""
    known = sorted(labels)
    shown = ", ".join(known[:_SHOWN_LABELS]) + (", …" if len(known) > _SHOWN_LABELS else "")
    for key in keys:
        confusion = parse_confusion(key)
        label = next((each for each in confusion or () if each not in labels), None)
        if confusion and label is not None:
            arrow = next(arrow for arrow in ARROWS if arrow in key)
            near = nearest(label, [name for name in known if name not in confusion])
            suggestion = arrow.join(near if each == label else each for each in confusion) if near else ""
            yield UnknownLabel(key, f"no row has the label `{label}` (labels: {shown})", suggestion)
