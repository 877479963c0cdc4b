"""Rows of transformers' KV caches: select some, join those of several caches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any


def select_rows(cache: Any, rows: Sequence[int]) -> Any:
    """Return a copy of a KV cache with these rows of it."""
    import torch

    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    selected.batch_select_indices(torch.tensor(rows, device=cache.layers[0].keys.device))
    return selected


def cache_bytes(cache: Any) -> int:
    """Return the bytes of the keys and values."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if layer.get_seq_length())


def join_rows(caches: Sequence[Any]) -> Any:
    """Return a KV cache with the rows of `caches`, whose layers keep all tokens; shorter ones are padded on the left.

    The given ones are emptied layer by layer, so that no two copies of all rows are in memory.
    """
    import torch
    from torch.nn.functional import pad

    if len(caches) == 1:
        return caches[0]
    longest = max(caches, key=lambda cache: int(cache.get_seq_length()))
    tokens = longest.get_seq_length()
    joined = copy.copy(longest)
    joined.layers = [copy.copy(layer) for layer in longest.layers]
    for layer, parts in zip(joined.layers, zip(*(cache.layers for cache in caches), strict=True), strict=True):
        if layer.get_seq_length():
            for name in ("keys", "values"):  # (B, heads, K, head size)
                padded = [pad(values := getattr(part, name), (0, 0, tokens - values.shape[2], 0)) for part in parts]
                setattr(layer, name, torch.cat(padded))
                for part in parts:
                    setattr(part, name, None)
    return joined
