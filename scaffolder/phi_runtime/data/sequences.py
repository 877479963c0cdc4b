"""Turn tokenized rows into training sequences by Olive's strategies. Sequences are spans in the store; nothing is copied.

Sampling and cutting follow Olive 0.13.0 (olive/data/component/text_generation.py), except for its traps: the short end of
joined rows is kept, and so is a last block that is exactly full; a sample that finds nothing long enough is dropped in both
-random strategies; and if nothing would be left to train on, that is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from phi_runtime.config.schema import PreProcess
from phi_runtime.core.errors import DataError
from phi_runtime.data.groups import places_in
from phi_runtime.data.store import Store

IGNORED = -100
_IN_MEMORY_TOKENS = 16_000_000  # of joined rows; more are written to the disk

Example = dict[str, np.ndarray]
"""`input_ids` and `labels`, (T,) int64 each; a label is the token if it is trained, else -100. `index`, (), is the index of the
sequence."""


@dataclass(frozen=True)
class Sequences:
    """Training sequences.

    Attributes:
        tokens, trained: Token ids and training mask of all rows, (T,) each.
        spans: (S, 3): start and stop of each sequence in `tokens`, and the number of its first tokens that are context,
            which is not trained.
        rows: Number of rows that they come from.
        too_long: Rows that were dropped because they exceed the limit.
        cut: Rows that were truncated or split.
        endless: Rows without an end token.
        remarks: Warnings about dropped and cut rows.
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
        """Number of tokens of each sequence, (S,)."""
        lengths: np.ndarray = self.spans[:, 1] - self.spans[:, 0]
        return lengths

    @property
    def token_count(self) -> int:
        return int(self.lengths.sum())

    @cached_property
    def trained_count(self) -> int:
        """Number of trained tokens. The first of a sequence is not one, since nothing predicts it."""
        return int(_learned(self.trained, self.spans).sum())

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of rows, sequences and tokens."""
        return {
            "rows": self.rows,
            "sequences": len(self),
            "tokens": self.token_count,
            "trained_tokens": self.trained_count,
        }


def build_sequences(
    store: Store,
    chosen: np.ndarray,
    settings: PreProcess,
    *,
    joiner: Sequence[int] = (),
    completion_only: bool = False,
    data_seed: int = 0,
    scratch: Path | None = None,
) -> Sequences:
    """Build the sequences of the `chosen` rows of `store`. Sequences without a trained token are dropped.

    Args:
        store: The token store.
        chosen: Indices of rows, (N,), in their order.
        settings: Strategy and limits.
        joiner: Tokens of `settings.joiner`; they are trained if full rows are.
        completion_only: Rows train on their completion only.
        data_seed: Seed if random_seed is null.
        scratch: Folder for long joins; None keeps them in memory.

    Raises:
        DataError: no sequence is left; the message has the counts.
    """
    if not len(chosen):
        return Sequences(store.tokens, store.trained, np.empty((0, 3), np.int64), 0)
    rng = Random(data_seed if settings.random_seed is None else settings.random_seed)
    if "join" in settings.strategy:
        sequences = _joined(store, chosen, settings, list(joiner), not completion_only, rng, scratch)
    else:
        sequences = _line_by_line(store, chosen, settings, completion_only, rng)
    if not len(sequences):
        raise DataError(f"no sequence of {len(chosen)} rows has a token to train on", fix="use longer rows")
    return sequences


# -- line by line -----------------------------------------------------------------------------------------------------------


def over_long(settings: PreProcess, completion_only: bool) -> str:
    """Return the policy for a row of too many tokens.

    Default: drop it if only completions are trained, since a completion without its end teaches the model never to stop;
    else truncate it.
    """
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
        samples = _sample(settings, rng, len(fitting), lambda i: bool(sizes[fitting[i]] >= least))
        picked = fitting[samples]
        remarks += _dropped_samples(settings, len(picked), f"no row of {limit} tokens")
    else:
        picked = usable[: settings.max_samples]
        if short := len(fitting) - len(usable):
            remarks.append(f"{short} of {len(chosen)} rows have fewer than {limit} tokens and are dropped")
    too_long = len(chosen) - len(fitting)
    cut = int((sizes[picked] > limit).sum())
    starts = store.starts[chosen[picked]]
    spans = np.stack([starts, starts + np.minimum(sizes[picked], limit), np.zeros_like(starts)], axis=1)
    if policy == "split" and cut:
        spans = _split(starts, sizes[picked], limit)
    if too_long:
        remarks.append(f"{too_long} of {len(chosen)} rows have more than {limit} tokens and are dropped")
    if cut:
        done = f"split into {len(spans) - len(picked) + cut} sequences" if policy == "split" else "truncated"
        remarks.append(f"{cut} of {len(picked)} rows have more than {limit} tokens and are {done}")
    spans, untrained = _trained(store.trained, spans)
    spans = spans[: settings.max_samples]  # rows that are split make more
    endless = int(store.rows["endless"][chosen].sum())
    return Sequences(store.tokens, store.trained, spans, len(chosen), too_long, cut, endless, (*remarks, *untrained))


def _split(starts: np.ndarray, sizes: np.ndarray, limit: int) -> np.ndarray:
    """Return the spans of each row in blocks of `limit` tokens, the last of which may be shorter."""
    counts: np.ndarray = -(-sizes // limit)
    begin = np.repeat(starts, counts) + places_in(counts) * limit
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
                f"join-random samples sequences of max_seq_len = {limit} tokens, but all {rows} rows together have {total}",
                fix="lower max_seq_len, or set strategy to join",
            )
        samples = starts[_sample(settings, rng, rows, lambda i: bool(total - starts[i] >= limit))]
        spans = np.stack([samples, samples + limit, np.zeros_like(samples)], axis=1)
        remarks += _dropped_samples(settings, len(samples), f"no start with {limit} tokens after it")
        spans, untrained = _trained(trained, spans)
    else:
        step = (settings.stride if settings.strategy == "join-sliding-window" else None) or limit
        if total <= limit - step:
            raise DataError(
                f"all {rows} rows together have {total} tokens, but the first max_seq_len - stride = {limit - step} of a "
                "sequence are context, which is not trained",
                fix="lower max_seq_len, or raise stride",
            )
        spans, untrained = _trained(trained, np.array(list(_blocks(total, limit, step)), dtype=np.int64))
        spans = spans[: settings.max_samples]
    endless = int(store.rows["endless"][chosen].sum())
    return Sequences(tokens, trained, spans, rows, endless=endless, remarks=(*remarks, *untrained))


def _chain(
    store: Store, chosen: np.ndarray, joiner: list[int], joiner_trained: bool, scratch: Path | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concatenate all rows with the joiner after each; return tokens, training mask, and the start of each row."""
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
    """Yield blocks of `limit` tokens, one every `step`; the last reaches the end and may be shorter.

    The first limit - step labels of each are masked: they are the end of the previous block, or context in the first.
    """
    for begin in range(0, total, step):
        yield begin, min(begin + limit, total), max(limit - step, 0)
        if begin + limit >= total:
            return


# -- both ---------------------------------------------------------------------------------------------------------------------


def _sample(settings: PreProcess, rng: Random, count: int, good: Callable[[int], bool]) -> list[int]:
    """Sample max_samples indices below `count` with replacement; each is retried up to random_retries times until `good`."""
    picked = []
    for _ in range(settings.max_samples or 0):
        for _ in range(settings.random_retries):
            index = rng.randint(0, count - 1)
            if good(index):
                picked.append(index)
                break
    if not picked:
        raise DataError(
            f"none of {settings.max_samples} samples, each tried {settings.random_retries} times, has "
            f"max_seq_len = {settings.max_seq_len} tokens",
            fix="lower max_seq_len, or raise random_retries",
        )
    return picked


def _dropped_samples(settings: PreProcess, picked: int, reason: str) -> list[str]:
    missed = (settings.max_samples or 0) - picked
    return [f"{missed} of {settings.max_samples} samples found {reason} and are dropped"] if missed else []


def _trained(trained: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Drop sequences without a trained token, whose loss would be divided by zero."""
    kept = spans[_learned(trained, spans) > 0]
    missing = len(spans) - len(kept)
    remark = f"{missing} of {len(spans)} sequences have no token to train on and are dropped"
    return kept, [remark] if missing else []


def _learned(trained: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Return the number of trained tokens of each sequence, (S,), not counting its first."""
    counts: np.ndarray = np.empty(len(spans), dtype=np.int64)
    for i, (start, stop, context) in enumerate(spans.tolist()):
        counts[i] = np.count_nonzero(trained[start + max(context, 1) : stop])
    return counts
