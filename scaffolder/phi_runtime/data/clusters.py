"""Find the rows of a store that must be on one side of every split, since each gives away the answers of the others."""

from __future__ import annotations

import numpy as np

from phi_runtime.data.groups import are_first
from phi_runtime.data.near import NONE, are_near, common_pairs, sketch
from phi_runtime.data.store import TRAINED, Clusters, Store

_LARGEST, _LARGEST_SHARE = 20, 0.05  # rows of a cluster; the share counts in large data sets


def find_clusters(store: Store) -> Clusters:
    """Find the clusters of `store`.

    Rows belong together if they have the same question, if a question of one conversation is a question of another, if their
    questions have the same words, or almost the same tokens, or if rows between them do. A cluster of more than `_LARGEST` rows,
    and more than `_LARGEST_SHARE` of all, would distort the split: conversations are divided by their next question, and near
    duplicates are not joined.
    """
    if not len(store):
        return Clusters(np.zeros(0, dtype=np.uint64))
    question = store.rows["question"]
    order = np.lexsort((np.arange(len(store)), question[:, 1], question[:, 0]))
    first = are_first(question[order])
    leaders = order[first]  # (G,) by content: one row of each question
    limit = min(max(_LARGEST, int(_LARGEST_SHARE * len(leaders))), -(-len(leaders) // 2))
    clusters, common = _families(store, leaders, limit)
    crowded: np.ndarray = np.zeros(len(leaders), dtype=bool)
    for join in (_same_words, _similar):
        joined = join(store, leaders, clusters)
        large = np.bincount(joined)[joined] > limit
        clusters, crowded = np.where(large, clusters, joined), crowded | large
    names = question[leaders, 0][clusters]
    names[np.isin(clusters, clusters[common == _WHOLE])] = TRAINED
    of_rows: np.ndarray = np.empty(len(store), dtype=np.uint64)
    of_rows[order] = names[np.cumsum(first) - 1]
    return Clusters(of_rows, int((common != 0).sum()), int(crowded.sum()))


_PART, _WHOLE = 1, 2
"""A common opening is the beginning of a conversation, or all of it."""


def _families(store: Store, leaders: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Group conversations by their first question, and those of a group larger than `limit` by their next one.

    Returns:
        The family of each leader, (G,), as the index of its first member; and 0, `_PART` or `_WHOLE`, (G,).
    """
    families = np.arange(len(leaders))
    common: np.ndarray = np.zeros(len(leaders), dtype=np.int8)
    counts = store.rows["turns"][leaders]
    if not counts.any():
        return families, common
    starts = store.turn_starts[leaders]
    active, depth = families.copy(), 0
    while len(active):
        key = store.rows["question"][leaders[active], 0].copy()
        earlier = counts[active] > depth
        key[earlier] = store.turns[starts[active][earlier] + depth]
        _, first, which, sizes = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        families[active] = active[first[which]]
        active, earlier = active[sizes[which] > limit], earlier[sizes[which] > limit]
        families[active[~earlier]] = active[~earlier]
        common[active] = np.where(earlier, _PART, _WHOLE)
        active, depth = active[earlier], depth + 1
    return families, common


def _same_words(store: Store, leaders: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Join clusters (G,) whose questions differ in case and punctuation only."""
    _, first, which = np.unique(store.rows["words"][leaders], return_index=True, return_inverse=True)
    return _joined(clusters, np.arange(len(leaders)), first[which])


def _similar(store: Store, leaders: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Join clusters (G,) whose questions have almost the same tokens."""
    common = common_pairs(store, leaders)
    sketches = sketch(store, leaders, common)
    apart: np.ndarray = np.zeros(0, dtype=np.int64)  # pairs that are known to differ
    for band in sketches.bands.T:
        order = np.argsort(band, kind="stable")
        begins = are_first(band[order])
        firsts = order[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
        previous = np.where(begins, order, np.roll(order, 1))
        for others in (firsts, previous):  # not all pairs, whose number is the square
            candidates = (clusters[order] != clusters[others]) & (band[order] != NONE)
            one, other = order[candidates], others[candidates]
            candidates = sketches.may_be_near(one, sketches, other)
            one, other = one[candidates], other[candidates]
            pairs = one * len(leaders) + other
            untried = ~np.isin(pairs, apart)
            one, other, pairs = one[untried], other[untried], pairs[untried]
            near = are_near(store, leaders[one], store, leaders[other], common)
            apart = np.concatenate([apart, pairs[~near]])
            clusters = _joined(clusters, one[near], other[near])
    return clusters


def _joined(clusters: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Join the clusters of `one[k]` and `other[k]` for all k; a cluster is the index of its first member."""
    clusters = clusters.copy()
    while True:
        a, b = clusters[one], clusters[other]
        apart = a != b
        if not apart.any():
            return clusters
        np.minimum.at(clusters, np.maximum(a, b)[apart], np.minimum(a, b)[apart])
        while (clusters[clusters] != clusters).any():
            clusters = clusters[clusters]
