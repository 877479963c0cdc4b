"""Tokenised rows into the sequences that are trained, by Olive's strategies. Plain lists, no ML library.

What is drawn and where it is cut is as in Olive 0.13.0 (olive/data/component/text_generation.py), but for its traps: the short
end of joined rows is kept, and so is a last block that is exactly full; a draw that finds nothing long enough is given up in
both -random strategies; and where nothing would be left to train on, that is said instead of training on nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from phi_runtime.errors import DataError
from phi_runtime.workflow.schema import PreProcess

IGNORED = -100

Example = dict[str, list[int]]
"""`input_ids` and `labels`, of equal lengths; a label is the token where it is trained and -100 elsewhere."""


@dataclass(frozen=True)
class Sequences:
    """The sequences, and what became of the `rows`: `too_long` were left out, `cut` were cut off, `endless` have no token of
    their own at their end that says so. `remarks` tell the user what was left out or cut."""

    examples: list[Example]
    rows: int
    too_long: int = 0
    cut: int = 0
    endless: int = 0
    remarks: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(len(e["input_ids"]) for e in self.examples)

    @property
    def trained_tokens(self) -> int:
        """Tokens that the model learns to say. The first of a sequence is none: nothing comes before it."""
        return sum(label != IGNORED for e in self.examples for label in e["labels"][1:])


def make(
    rows: Sequence[Example], settings: PreProcess, *, joiner: Sequence[int], completion_only: bool, data_seed: int
) -> Sequences:
    """The sequences that `settings` make of `rows`, which come in the order of their file.

    `joiner` are the tokens of `settings.joiner`; they are trained where whole rows are. Rows of more than max_seq_len tokens
    are, line by line, left out with `completion_only` and else cut off. `data_seed` serves where random_seed is null. Sequences
    in which nothing is trained are left out. Raises DataError, with the counts, when no sequence is left.
    """
    if not rows:
        return Sequences([], 0)
    rng = Random(data_seed if settings.random_seed is None else settings.random_seed)
    if "join" in settings.strategy:
        made = _joined(rows, settings, list(joiner), IGNORED if completion_only else None, rng)
    else:
        made = _line_by_line(rows, settings, completion_only, rng)
    if not made.examples:
        raise DataError(
            f"none of the sequences that {len(rows)} rows make holds a token to train on", fix="give longer rows"
        )
    return made


def _line_by_line(rows: Sequence[Example], settings: PreProcess, completion_only: bool, rng: Random) -> Sequences:
    limit = settings.max_seq_len
    # A completion without its end teaches to go on for ever; a text that is cut is still text.
    fitting = [row for row in rows if not completion_only or _size(row) <= limit]
    if not fitting:
        raise DataError(
            f"every row is longer than max_seq_len = {limit} tokens (the shortest has {min(map(_size, rows))})",
            fix="raise pre_process_data_config.max_seq_len",
        )
    least = limit if settings.drop_short_sequences else 0
    usable = [row for row in fitting if _size(row) >= least]
    if not usable:
        raise DataError(
            f"drop_short_sequences leaves out all {len(fitting)} rows: the longest has {max(map(_size, fitting))} of "
            f"max_seq_len = {limit} tokens",
            fix="lower max_seq_len, or set drop_short_sequences to false",
        )
    remarks = []
    if settings.strategy == "line-by-line-random":
        picked = [fitting[i] for i in _draws(settings, rng, len(fitting), lambda i: _size(fitting[i]) >= least)]
        remarks += _given_up(settings, len(picked), f"no row of {limit} tokens")
    else:
        picked = usable[: settings.max_samples]
        if short := len(fitting) - len(usable):
            remarks.append(f"{short} of {len(rows)} rows have fewer than {limit} tokens and are left out")
    too_long, cut = len(rows) - len(fitting), sum(_size(row) > limit for row in picked)
    if too_long:
        remarks.append(f"{too_long} of {len(rows)} rows have more than {limit} tokens and are left out")
    if cut:
        remarks.append(f"{cut} of {len(picked)} rows have more than {limit} tokens and are cut off there")
    examples, untrained = _trained([{name: ids[:limit] for name, ids in row.items()} for row in picked])
    return Sequences(examples, len(rows), too_long, cut, remarks=(*remarks, *untrained))


def _joined(
    rows: Sequence[Example], settings: PreProcess, joiner: list[int], joiner_label: int | None, rng: Random
) -> Sequences:
    limit = settings.max_seq_len
    whole, starts = _chain(rows, joiner, joiner_label)
    total = _size(whole)
    remarks = []
    if settings.strategy == "join-random":
        if total < limit:
            raise DataError(
                f"join-random draws sequences of max_seq_len = {limit} tokens, and all {len(rows)} rows together have {total}",
                fix="lower max_seq_len, or set strategy to join",
            )
        drawn = _draws(settings, rng, len(rows), lambda i: total - starts[i] >= limit)
        examples, untrained = _trained([_block(whole, starts[i], limit) for i in drawn])
        remarks += _given_up(settings, len(drawn), f"no place with {limit} tokens to come")
    else:
        stride = settings.stride if settings.strategy == "join-sliding-window" else None
        context = limit - (stride or limit)
        if total <= context:
            raise DataError(
                f"all {len(rows)} rows together have {total} tokens, and the first max_seq_len - stride = {context} of a "
                "sequence are context that is not trained",
                fix="lower max_seq_len, or raise stride",
            )
        examples, untrained = _trained(list(_blocks(whole, limit, stride or limit)))
        examples = examples[: settings.max_samples]
    return Sequences(examples, len(rows), remarks=(*remarks, *untrained))


def _chain(rows: Sequence[Example], joiner: list[int], joiner_label: int | None) -> tuple[Example, list[int]]:
    """All rows one after the other with the joiner after each, also the last; and where each row starts."""
    labels = joiner if joiner_label is None else [joiner_label] * len(joiner)
    whole: Example = {"input_ids": [], "labels": []}
    starts = []
    for row in rows:
        starts.append(_size(whole))
        whole["input_ids"] += row["input_ids"] + joiner
        whole["labels"] += row["labels"] + labels
    return whole, starts


def _blocks(whole: Example, limit: int, step: int) -> Iterator[Example]:
    """Blocks of `limit` tokens, one every `step`; the last reaches the end and may be shorter.

    The first limit - step labels of each are masked: they are the end of the block before, or, in the first, context.
    """
    for begin in range(0, _size(whole), step):
        block = _block(whole, begin, limit)
        context = min(max(limit - step, 0), _size(block))
        yield {"input_ids": block["input_ids"], "labels": [IGNORED] * context + block["labels"][context:]}
        if begin + limit >= _size(whole):
            return


def _block(whole: Example, begin: int, limit: int) -> Example:
    return {name: ids[begin : begin + limit] for name, ids in whole.items()}


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


def _trained(made: list[Example]) -> tuple[list[Example], list[str]]:
    """The sequences that train something: one that does not would divide its loss by no token."""
    kept = [e for e in made if any(label != IGNORED for label in e["labels"][1:])]
    missing = len(made) - len(kept)
    remark = f"{missing} of {len(made)} sequences hold no token to train on and are left out"
    return kept, [remark] if missing else []


def _size(example: Example) -> int:
    return len(example["input_ids"])
