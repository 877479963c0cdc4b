"""Groups of adjacent items in an array."""

from __future__ import annotations

import numpy as np


def places_in(counts: np.ndarray) -> np.ndarray:
    """Return the place of each item in its group, counted from 0, (N,), from the number of items of each group, (G,)."""
    places: np.ndarray = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return places


def are_first(keys: np.ndarray) -> np.ndarray:
    """Return a mask (N,) of the first item of each run of equal `keys`, (N,) or (N, K); N is at least 1."""
    changes = keys[1:] != keys[:-1]
    return np.concatenate([[True], changes if keys.ndim == 1 else changes.any(axis=1)])
