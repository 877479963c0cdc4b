"""Which rows share a batch, and how they lie in it: each in a line of its own, padded, or several in one line, packed.

Both give the same loss: packed rows do not see one another. What differs is how much is computed for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from phi_runtime.data.sequences import IGNORED, Example

_LOOKED_AT = 200  # batches by which the layout is chosen
_WORTH = 0.97  # of the cost of padding, below which packing is taken: it has a mask to build
_LEAK = 0.1  # of the spread of the logits: far above rounding in bfloat16, far below what another row's tokens change


class LengthSampler(torch.utils.data.Sampler[int]):
    """Shuffles rows so that those of one batch are of like length: little padding, and still another order in every epoch.

    Runs of 8 batches of shuffled rows are sorted by length and cut into batches, whose order is shuffled. The order depends on
    seed and epoch alone.
    """

    RUN = 8

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        run = self.RUN * self.batch_size
        batches: list[list[int]] = []
        for start in range(0, len(order), run):
            by_length = sorted(order[start : start + run], key=lambda i: self.lengths[i])
            batches += [by_length[i : i + self.batch_size] for i in range(0, len(by_length), self.batch_size)]
        # The one short batch comes last: in the middle it would shift the borders of all that follow.
        short = [batches.pop(i) for i in reversed(range(len(batches))) if len(batches[i]) < self.batch_size]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]
        for batch in short:
            yield from batch


@dataclass(frozen=True)
class Layout:
    """How rows lie in a batch. `lines` 0: padded; else packed into lines that hold as much as `lines` of the longest row.

    `filler` is the share of the tokens of a batch that are padding, `instead` that of the other way.
    """

    lines: int = 0
    filler: float = 0.0
    instead: float = 0.0

    @property
    def packed(self) -> bool:
        return self.lines > 0

    def __str__(self) -> str:
        way = "packed" if self.packed else "padded to the longest of their batch"
        return f"rows are {way}: {100 * self.filler:.0f} % of what is computed is filler"

    def collate(self, examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
        batch = pack_batch(examples, pad_id, self.lines) if self.packed else pad_batch(examples, pad_id)
        return batch | {"index": torch.tensor([int(example["index"]) for example in examples])}


def choose_layout(lengths: np.ndarray, batch_size: int, seed: int, hidden: int, wanted: bool | None = None) -> Layout:
    """The layout that costs least for rows of these `lengths` (N,), or the best of the kind that is `wanted`.

    A token costs 24·h² multiplications in the matrices of a layer of `hidden` size h and 4·h·T in its attention over a line of T
    tokens, masked or not (Kaplan et al. 2020, table 1): longer lines hold less filler and cost more attention.
    """
    order = list(LengthSampler(lengths.tolist(), batch_size, seed))[: _LOOKED_AT * batch_size]
    batches = [lengths[order[i : i + batch_size]] for i in range(0, len(order), batch_size)]
    real = sum(int(batch.sum()) for batch in batches)
    # (cost, tokens with filler) by lines; 0 is padding
    found = {0: _cost([(len(batch), int(batch.max())) for batch in batches], hidden)}
    for lines in (1, 2, 4, batch_size):
        found[lines] = _cost([_packed(batch, lines)[1] for batch in batches], hidden)
    packed = min((lines for lines in found if lines), key=lambda lines: found[lines][0])
    pack = found[packed][0] < _WORTH * found[0][0] if wanted is None else wanted
    chosen, other = (packed, 0) if pack else (0, packed)
    return Layout(chosen, 1 - real / found[chosen][1], 1 - real / found[other][1])


def _cost(shapes: Sequence[tuple[int, int]], hidden: int) -> tuple[float, int]:
    tokens = sum(rows * longest for rows, longest in shapes)
    return sum(rows * longest * (1 + longest / (6 * hidden)) for rows, longest in shapes), tokens


def _packed(lengths: np.ndarray, lines: int) -> tuple[list[list[int]], tuple[int, int]]:
    """Rows, by place, in lines of at most `lines` times the longest: first fit, the longest first (Johnson 1973); and the shape
    (L, T) that they take."""
    capacity = lines * int(lengths.max())
    packed: list[list[int]] = []
    room: list[int] = []
    for i in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[i])
        at = next((k for k, free in enumerate(room) if free >= length), len(room))
        if at == len(room):
            packed.append([])
            room.append(capacity)
        packed[at].append(i)
        room[at] -= length
    return packed, (len(packed), capacity - min(room))


def pad_batch(examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch of (B, T) tensors, T being its longest row. Padding is masked by position, never by token id."""
    longest = max(len(e["input_ids"]) for e in examples)
    batch = {
        "input_ids": torch.full((len(examples), longest), pad_id),
        "attention_mask": torch.zeros((len(examples), longest), dtype=torch.long),
        "labels": torch.full((len(examples), longest), IGNORED),
    }
    for i, example in enumerate(examples):
        length = len(example["input_ids"])
        batch["input_ids"][i, :length] = torch.as_tensor(example["input_ids"])
        batch["attention_mask"][i, :length] = 1
        batch["labels"][i, :length] = torch.as_tensor(example["labels"])
    return batch


def pack_batch(examples: Sequence[Example], pad_id: int, lines: int) -> dict[str, torch.Tensor]:
    """The same rows in (L, T) tensors, several in a line. Positions that begin anew keep them apart: transformers masks the
    attention by them where there is no attention_mask. What fills up a line is a row of its own, and is not trained."""
    packed, shape = _packed(np.array([len(e["input_ids"]) for e in examples]), lines)
    ids, labels = torch.full(shape, pad_id), torch.full(shape, IGNORED)
    positions = torch.empty(shape, dtype=torch.long)
    for i, line in enumerate(packed):
        at = 0
        for example in (examples[k] for k in line):
            end = at + len(example["input_ids"])
            ids[i, at:end] = torch.as_tensor(example["input_ids"])
            labels[i, at + 1 : end] = torch.as_tensor(example["labels"][1:])  # nothing comes before the first
            positions[i, at:end] = torch.arange(end - at)
            at = end
        positions[i, at:] = torch.arange(shape[1] - at)
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


def split_batch(batch: dict[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    """`batch` in as many pieces, or in one for each of its rows where these are fewer. All rows are padded then, the longest first:
    whoever has too little memory learns it from the first piece."""
    if parts == 1:
        return [batch]
    rows = sorted(_rows_of(batch), key=lambda row: -len(row["input_ids"]))
    size = -(-len(rows) // parts)
    return [pad_batch(rows[i : i + size], 0) for i in range(0, len(rows), size)]


def _rows_of(batch: dict[str, torch.Tensor]) -> Iterator[Example]:
    """The rows that lie in a batch."""
    for i, ids in enumerate(batch["input_ids"]):
        if "attention_mask" in batch:
            borders = [0, int(batch["attention_mask"][i].sum())]
        else:
            borders = [*(batch["position_ids"][i] == 0).nonzero().flatten().tolist(), len(ids)]
        for start, end in pairwise(borders):
            labels = batch["labels"][i, start:end].cpu().numpy()
            if (labels != IGNORED).any():  # else it fills up a line
                yield {"input_ids": ids[start:end].cpu().numpy(), "labels": labels}


def keeps_apart(model: Any, pad_id: int) -> bool:
    """Whether `model` gives a row the logits that it has alone when others are packed with it."""
    generator = torch.Generator().manual_seed(0)
    most = min(model.config.get_text_config().vocab_size, 30_000)
    rows = [torch.randint(most, (length,), generator=generator).numpy() for length in (9, 7, 6)]  # as they will lie
    packed = pack_batch([{"input_ids": row, "labels": row} for row in rows], pad_id, len(rows))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        ids, positions = (packed[name].to(model.device) for name in ("input_ids", "position_ids"))
        together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float()  # (T, V)
        alone = [
            model(input_ids=torch.as_tensor(row)[None].to(model.device), use_cache=False).logits[0].float()
            for row in rows
        ]
    model.train(was_training)
    expected = torch.cat(alone)
    return bool((together[: len(expected)] - expected).abs().max() <= _LEAK * expected.std())
