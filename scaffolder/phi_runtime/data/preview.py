"""Rows as the model sees them, in segments of prompt, completion and special tokens."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from phi_runtime.data.dataset import DataSplit


def preview(side: DataSplit, tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """Return the first `count` rows with their place, number of tokens, and `segments`.

    A segment has `text`, `kind` (prompt, completion or special) and `trained`. Rows longer than max_seq_len are not cut.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    rows = []
    for place, index in zip(side.first(count).places(), side.chosen[:count], strict=True):
        ids, trained = side.store.row(index)
        marked = [(int(i), bool(t), int(i) in special) for i, t in zip(ids, trained, strict=True)]
        segments = [
            {
                "text": tokenizer.decode([i for i, _, _ in group]),
                "kind": "special" if is_special else "completion" if learned else "prompt",
                "trained": learned,
            }
            for (learned, is_special), group in ((k, list(g)) for k, g in groupby(marked, key=lambda m: m[1:]))
        ]
        rows.append({"location": str(place), "tokens": len(ids), "trained": int(trained.sum()), "segments": segments})
    return rows
