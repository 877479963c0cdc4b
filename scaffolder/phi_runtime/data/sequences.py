"""Tokenised rows into the sequences that are trained, by Olive's strategies: places in the store, which copy nothing.

What is drawn and where it is cut is as in Olive 0.13.0 (olive/data/component/text_generation.py), but for its traps: the short
end of joined rows is kept, and so is a last block that is exactly full; a draw that finds nothing long enough is given up in
both -random strategies; and where nothing would be left to train on, that is said instead of training on nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from phi_runtime.config.schema import PreProcess
from phi_runtime.core.errors import DataError
from phi_runtime.data.store import Store

IGNORED = -100
_IN_MEMORY_TOKENS = 16_000_000  # of joined rows; more go to the disk

Example = dict[str, np.ndarray]
"""`input_ids` and `labels`, (T,) int64 each; a label is the token where it is trained and -100 elsewhere. `index`, (), is its place
among the sequences."""


@dataclass(frozen=True)
class Sequences:
    """The sequences, and what became of the `rows`: `too_long` were left out, `cut` were cut off or apart, `endless` have no token
    of their own at their end that says so. `remarks` tell the user what was left out or cut.

    `spans` (S, 3) says of each sequence where it starts and stops in `tokens` and `trained`, and how many of its first tokens
    are context that is not trained.
    """

    tokens: np.ndarray
    trained: np.ndarray
    spans: np.ndarray
    rows: int
    too_long: int = 0
    cut: int = 0
    endless: int = 0
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> Example:
        start, stop, context = self.spans[index]
        ids: np.ndarray = self.tokens[start:stop].astype(np.int64)
        learned = self.trained[start:stop].copy()
        learned[:context] = False
        return {"input_ids": ids, "labels": np.where(learned, ids, IGNORED), "index": np.asarray(index)}

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, (S,)."""
        lengths: np.ndarray = self.spans[:, 1] - self.spans[:, 0]
        return lengths

    @property
    def token_count(self) -> int:
        return int(self.lengths.sum())

    @property
    def trained_count(self) -> int:
        """Tokens that the model learns to say. The first of a sequence is none: nothing comes before it."""
        return int(_learned(self.trained, self.spans).sum())


def make(
    store: Store,
    chosen: np.ndarray,
    settings: PreProcess,
    *,
    joiner: Sequence[int] = (),
    completion_only: bool = False,
    data_seed: int = 0,
    scratch: Path | None = None,
) -> Sequences:
    """The sequences that `settings` make of the `chosen` rows of `store` (their places, in the order in which they come).

    `joiner` are the tokens of `settings.joiner`; they are trained where whole rows are. `data_seed` serves where random_seed is
    null. Sequences in which nothing is trained are left out. Long joins are written into the folder `scratch`, if there is one.
    Raises DataError, with the counts, when no sequence is left.
    """
    if not len(chosen):
        return Sequences(store.tokens, store.trained, np.empty((0, 3), np.int64), 0)
    rng = Random(data_seed if settings.random_seed is None else settings.random_seed)
    if "join" in settings.strategy:
        made = _joined(store, chosen, settings, list(joiner), not completion_only, rng, scratch)
    else:
        made = _line_by_line(store, chosen, settings, completion_only, rng)
    if not len(made):
        raise DataError(
            f"none of the sequences that {len(chosen)} rows make holds a token to train on", fix="give longer rows"
        )
    return made


# -- line by line -----------------------------------------------------------------------------------------------------------


def over_long(settings: PreProcess, completion_only: bool) -> str:
    """What is done with a row of too many tokens: a completion without its end teaches to go on for ever; a text that is cut is
    still text."""
    return settings.over_long or ("drop" if completion_only else "truncate")


def _line_by_line(
    store: Store, chosen: np.ndarray, settings: PreProcess, completion_only: bool, rng: Random
) -> Sequences:
    limit, policy = settings.max_seq_len, over_long(settings, completion_only)
    sizes = store.rows["tokens"][chosen].astype(np.int64)
    fits = sizes <= limit if policy == "drop" else np.ones(len(chosen), dtype=bool)
    if not fits.any():
        raise DataError(
            f"every row is longer than max_seq_len = {limit} tokens (the shortest has {sizes.min()})",
            fix="raise pre_process_data_config.max_seq_len, or set over_long to truncate or split",
        )
    fitting = np.flatnonzero(fits)
    least = limit if settings.drop_short_sequences else 0
    usable = fitting[sizes[fitting] >= least]
    if not len(usable):
        raise DataError(
            f"drop_short_sequences leaves none of {len(chosen)} rows: the longest has {sizes[fitting].max()} of "
            f"max_seq_len = {limit} tokens",
            fix="lower max_seq_len, or set drop_short_sequences to false",
        )
    remarks = []
    if settings.strategy == "line-by-line-random":
        drawn = _draws(settings, rng, len(fitting), lambda i: bool(sizes[fitting[i]] >= least))
        picked = fitting[drawn]
        remarks += _given_up(settings, len(picked), f"no row of {limit} tokens")
    else:
        picked = usable[: settings.max_samples]
        if short := len(fitting) - len(usable):
            remarks.append(f"{short} of {len(chosen)} rows have fewer than {limit} tokens and are left out")
    too_long = len(chosen) - len(fitting)
    cut = int((sizes[picked] > limit).sum())
    starts = store.starts[chosen[picked]]
    spans = np.stack([starts, starts + np.minimum(sizes[picked], limit), np.zeros_like(starts)], axis=1)
    if policy == "split" and cut:
        spans = _split(starts, sizes[picked], limit)
    if too_long:
        remarks.append(f"{too_long} of {len(chosen)} rows have more than {limit} tokens and are left out")
    if cut:
        done = f"split into {len(spans) - len(picked) + cut} sequences" if policy == "split" else "cut off there"
        remarks.append(f"{cut} of {len(picked)} rows have more than {limit} tokens and are {done}")
    spans, untrained = _trained(store.trained, spans)
    spans = spans[: settings.max_samples]  # rows that are split make more
    endless = int(store.rows["endless"][chosen].sum())
    return Sequences(store.tokens, store.trained, spans, len(chosen), too_long, cut, endless, (*remarks, *untrained))


def _split(starts: np.ndarray, sizes: np.ndarray, limit: int) -> np.ndarray:
    """Each row in blocks of `limit` tokens, the last of which may be shorter."""
    counts: np.ndarray = -(-sizes // limit)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.repeat(starts, counts) + number * limit
    end = np.minimum(begin + limit, np.repeat(starts + sizes, counts))
    return np.stack([begin, end, np.zeros_like(begin)], axis=1)


# -- joined -------------------------------------------------------------------------------------------------------------------


def _joined(
    store: Store,
    chosen: np.ndarray,
    settings: PreProcess,
    joiner: list[int],
    joiner_trained: bool,
    rng: Random,
    scratch: Path | None,
) -> Sequences:
    limit = settings.max_seq_len
    tokens, trained, starts = _chain(store, chosen, joiner, joiner_trained, scratch)
    total, rows = len(tokens), len(chosen)
    remarks = []
    if settings.strategy == "join-random":
        if total < limit:
            raise DataError(
                f"join-random draws sequences of max_seq_len = {limit} tokens, and all {rows} rows together have {total}",
                fix="lower max_seq_len, or set strategy to join",
            )
        drawn = starts[_draws(settings, rng, rows, lambda i: bool(total - starts[i] >= limit))]
        spans = np.stack([drawn, drawn + limit, np.zeros_like(drawn)], axis=1)
        remarks += _given_up(settings, len(drawn), f"no place with {limit} tokens to come")
        spans, untrained = _trained(trained, spans)
    else:
        step = (settings.stride if settings.strategy == "join-sliding-window" else None) or limit
        if total <= limit - step:
            raise DataError(
                f"all {rows} rows together have {total} tokens, and the first max_seq_len - stride = {limit - step} of a "
                "sequence are context that is not trained",
                fix="lower max_seq_len, or raise stride",
            )
        spans, untrained = _trained(trained, np.array(list(_blocks(total, limit, step)), dtype=np.int64))
        spans = spans[: settings.max_samples]
    endless = int(store.rows["endless"][chosen].sum())
    return Sequences(tokens, trained, spans, rows, endless=endless, remarks=(*remarks, *untrained))


def _chain(
    store: Store, chosen: np.ndarray, joiner: list[int], joiner_trained: bool, scratch: Path | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows one after the other with the joiner after each, also the last; and where each row starts."""
    sizes = store.rows["tokens"][chosen].astype(np.int64) + len(joiner)
    starts = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    tokens, trained = (_array(name, dtype, total, scratch) for name, dtype in (("tokens", "<u4"), ("trained", "?")))
    for row, at, size in zip(chosen, starts, sizes, strict=True):
        ids, learned = store.row(row)
        end = at + len(ids)
        tokens[at:end], trained[at:end] = ids, learned
        tokens[end : at + size], trained[end : at + size] = joiner, joiner_trained
    return tokens, trained, starts


def _array(name: str, dtype: str, size: int, scratch: Path | None) -> np.ndarray:
    if scratch is None or size <= _IN_MEMORY_TOKENS:
        return np.empty(size, dtype=dtype)
    scratch.mkdir(parents=True, exist_ok=True)
    array: Any = open_memmap(scratch / f"joined-{name}.npy", mode="w+", dtype=np.dtype(dtype), shape=(size,))
    return array


def _blocks(total: int, limit: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Blocks of `limit` tokens, one every `step`; the last reaches the end and may be shorter.

    The first limit - step labels of each are masked: they are the end of the block before, or, in the first, context.
    """
    for begin in range(0, total, step):
        yield begin, min(begin + limit, total), max(limit - step, 0)
        if begin + limit >= total:
            return


# -- both ---------------------------------------------------------------------------------------------------------------------


def _draws(settings: PreProcess, rng: Random, count: int, good: Callable[[int], bool]) -> list[int]:
    """max_samples indices below `count`, with replacement; each is drawn again until it is `good`, random_retries times."""
    picked = []
    for _ in range(settings.max_samples or 0):
        for _ in range(settings.random_retries):
            index = rng.randint(0, count - 1)
            if good(index):
                picked.append(index)
                break
    if not picked:
        raise DataError(
            f"none of {settings.max_samples} draws, each tried {settings.random_retries} times, found "
            f"max_seq_len = {settings.max_seq_len} tokens",
            fix="lower max_seq_len, or raise random_retries",
        )
    return picked


def _given_up(settings: PreProcess, picked: int, found: str) -> list[str]:
    missed = (settings.max_samples or 0) - picked
    return [f"{missed} of {settings.max_samples} draws found {found} and are left out"] if missed else []


def _trained(trained: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The sequences that train something: one that does not would divide its loss by no token."""
    kept = spans[_learned(trained, spans) > 0]
    missing = len(spans) - len(kept)
    remark = f"{missing} of {len(spans)} sequences hold no token to train on and are left out"
    return kept, [remark] if missing else []


def _learned(trained: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Trained tokens of each sequence (S,), its first not counted."""
    counts: np.ndarray = np.empty(len(spans), dtype=np.int64)
    for i, (start, stop, context) in enumerate(spans.tolist()):
        counts[i] = np.count_nonzero(trained[start + max(context, 1) : stop])
    return counts
