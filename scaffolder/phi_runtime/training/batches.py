"""Batches: rows of similar length share one, padded to its longest row or packed several to a line.

Both layouts give the same loss, since packed rows do not attend to one another. They differ in how much is computed
for padding. Shapes: see the legend in phi_runtime; here B counts rows, and L the lines of a packed batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from phi_runtime.data.sequences import IGNORED, Example
from phi_runtime.training.module_state import are_equal, evaluation_mode, probe_rows

_SAMPLED_BATCHES = 200  # batches from which the layout is chosen
_WORTH_PACKING = 0.97  # of the cost of padding: packing must be cheaper than this, as it has a mask to build


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Shuffled sampler whose batches hold rows of similar length, in another order each epoch.

    The shuffled rows are cut into megabatches of 8 batches; each is sorted by length and cut into batches, which are then
    shuffled. The order depends on `seed` and the epoch alone.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a batch.
        seed: Seed of the order.
    """

    MEGABATCH = 8  # batches

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        megabatch = self.MEGABATCH * self.batch_size
        batches: list[list[int]] = []
        for start in range(0, len(order), megabatch):
            by_length = sorted(order[start : start + megabatch], key=lambda i: self.lengths[i])
            batches += [by_length[i : i + self.batch_size] for i in range(0, len(by_length), self.batch_size)]
        # The short batch comes last: anywhere else it would shift the borders of all batches after it.
        short = [batches.pop(i) for i in reversed(range(len(batches))) if len(batches[i]) < self.batch_size]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]
        for batch in short:
            yield from batch


@dataclass(frozen=True)
class Layout:
    """Arrangement of the rows of a batch.

    Attributes:
        line_capacity: Capacity of a packed line, in lengths of the longest row; 0: one row to a line, padded.
        padding_share: Share of the computed tokens that are padding, 0 to 1.
        other_padding_share: The same share for the layout that was not chosen.
    """

    line_capacity: int = 0
    padding_share: float = 0.0
    other_padding_share: float = 0.0

    @property
    def packed(self) -> bool:
        return self.line_capacity > 0

    def __str__(self) -> str:
        layout = "packed" if self.packed else "padded to the longest row of their batch"
        return f"rows are {layout}: {100 * self.padding_share:.0f} % of the computed tokens are padding"

    def collate(self, examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
        """Build a batch of (B, T) or packed (L, T) tensors; `index` (B,) names the rows."""
        batch = pack_batch(examples, pad_id, self.line_capacity) if self.packed else pad_batch(examples, pad_id)
        return batch | {"index": torch.tensor([int(example["index"]) for example in examples])}  # (B,)


def choose_layout(
    lengths: np.ndarray, batch_size: int, seed: int, hidden_size: int, packing: bool | None = None
) -> Layout:
    """Return the layout that costs least.

    A token costs 24·H² multiplications in the matrices of a layer, and 4·H·T in its attention over a line of T tokens, masked
    or not (Kaplan et al. 2020, table 1): longer lines have less padding and more attention.

    Args:
        lengths: (rows,), tokens of each row.
        batch_size: Rows of a batch.
        seed: Seed of the order of rows.
        hidden_size: H of the model.
        packing: True or False: the best layout that packs, or pads.
    """
    batches = [lengths[rows] for rows in first_batches(lengths, batch_size, seed, _SAMPLED_BATCHES)]  # (B,) each
    row_tokens = sum(int(batch.sum()) for batch in batches)
    # (cost, computed tokens) by capacity of a line; 0 is padding
    costs = {0: _cost([(len(batch), int(batch.max())) for batch in batches], hidden_size)}
    for capacity in (1, 2, 4, batch_size):
        costs[capacity] = _cost([_first_fit(batch, capacity)[1] for batch in batches], hidden_size)
    best_packed = min((capacity for capacity in costs if capacity), key=lambda capacity: costs[capacity][0])
    pack = costs[best_packed][0] < _WORTH_PACKING * costs[0][0] if packing is None else packing
    chosen, other = (best_packed, 0) if pack else (0, best_packed)
    return Layout(chosen, 1 - row_tokens / costs[chosen][1], 1 - row_tokens / costs[other][1])


def first_batches(lengths: np.ndarray, batch_size: int, seed: int, count: int) -> list[list[int]]:
    """Return the rows of the first `count` batches of a training on rows of these `lengths` (rows,)."""
    order = list(LengthGroupedSampler(lengths.tolist(), batch_size, seed))[: count * batch_size]
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _cost(shapes: Sequence[tuple[int, int]], hidden_size: int) -> tuple[float, int]:
    """Return the cost of batches of the `shapes` (lines, T), in multiples of 24·H², and their tokens."""
    tokens = sum(lines * length for lines, length in shapes)
    return sum(lines * length * (1 + length / (6 * hidden_size)) for lines, length in shapes), tokens


def _first_fit(lengths: np.ndarray, capacity: int) -> tuple[list[list[int]], tuple[int, int]]:
    """Assign rows to lines, the longest row first, each to the first line with space (Johnson 1973).

    Returns the indices of the rows in each line, and the shape (L, T) of the batch.
    """
    capacity_tokens = capacity * int(lengths.max())
    lines: list[list[int]] = []
    free_tokens: list[int] = []
    for i in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[i])
        line = next((k for k, free in enumerate(free_tokens) if free >= length), len(free_tokens))
        if line == len(free_tokens):
            lines.append([])
            free_tokens.append(capacity_tokens)
        lines[line].append(i)
        free_tokens[line] -= length
    return lines, (len(lines), capacity_tokens - min(free_tokens))


def pad_batch(examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad rows to the longest.

    Returns `input_ids`, `attention_mask` and `labels`, (B, T) each. Padding is masked by position, never by token id: a row
    may contain the padding token.
    """
    longest = max(len(e["input_ids"]) for e in examples)
    batch = {
        "input_ids": torch.full((len(examples), longest), pad_id),  # (B, T)
        "attention_mask": torch.zeros((len(examples), longest), dtype=torch.long),  # (B, T)
        "labels": torch.full((len(examples), longest), IGNORED),  # (B, T)
    }
    for i, example in enumerate(examples):
        length = len(example["input_ids"])
        batch["input_ids"][i, :length] = torch.as_tensor(example["input_ids"])
        batch["attention_mask"][i, :length] = 1
        batch["labels"][i, :length] = torch.as_tensor(example["labels"])
    return batch


def pack_batch(examples: Sequence[Example], pad_id: int, line_capacity: int) -> dict[str, torch.Tensor]:
    """Pack rows into lines.

    Returns `input_ids`, `labels` and `position_ids`, (L, T) each. Positions restart at 0 with each row; where there is no
    attention_mask, transformers derives the attention from them, so that rows do not see one another. The padding at the end
    of a line is a row of its own that is not trained.
    """
    lines, shape = _first_fit(np.array([len(e["input_ids"]) for e in examples]), line_capacity)
    ids, labels = torch.full(shape, pad_id), torch.full(shape, IGNORED)  # (L, T)
    positions = torch.empty(shape, dtype=torch.long)  # (L, T)
    for i, line in enumerate(lines):
        start = 0
        for example in (examples[k] for k in line):
            end = start + len(example["input_ids"])
            ids[i, start:end] = torch.as_tensor(example["input_ids"])
            labels[i, start + 1 : end] = torch.as_tensor(example["labels"][1:])  # nothing predicts the first token
            positions[i, start:end] = torch.arange(end - start)
            start = end
        positions[i, start:] = torch.arange(shape[1] - start)
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


def split_batch(batch: dict[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    """Split a batch into `parts` padded batches, or into one for each row if it has fewer.

    The longest rows come first, so that too little memory shows at the first part.
    """
    if parts == 1:
        return [batch]
    rows = sorted(_unpack_rows(batch), key=lambda row: -len(row["input_ids"]))
    size = -(-len(rows) // parts)
    return [pad_batch(rows[i : i + size], 0) for i in range(0, len(rows), size)]


def _unpack_rows(batch: dict[str, torch.Tensor]) -> Iterator[Example]:
    """Yield the rows of a padded or packed batch, without padding."""
    for i, start, end in row_borders(batch):
        labels = batch["labels"][i, start:end].cpu().numpy()
        if (labels != IGNORED).any():  # not the padding of a line
            yield {"input_ids": batch["input_ids"][i, start:end].cpu().numpy(), "labels": labels}


def row_borders(batch: dict[str, torch.Tensor]) -> Iterator[tuple[int, int, int]]:
    """Yield line, start and stop of each row of a padded or packed batch, and of the padding of packed lines."""
    for i, ids in enumerate(batch["input_ids"]):  # (T,)
        if "attention_mask" in batch:
            borders = [0, int(batch["attention_mask"][i].sum())]
        else:
            borders = [*(batch["position_ids"][i] == 0).nonzero().flatten().tolist(), len(ids)]
        for start, end in pairwise(borders):
            yield i, start, end


def isolates_packed_rows(model: Any, pad_id: int) -> bool:
    """Return True if `model` computes the same logits for a row whether it is packed with others or not."""
    rows = probe_rows(model, (9, 7, 6))  # longest first, so that the packed line keeps this order
    batch = pack_batch([{"input_ids": row, "labels": row} for row in rows], pad_id, len(rows))
    with evaluation_mode(model):
        ids, positions = (batch[name].to(model.device) for name in ("input_ids", "position_ids"))  # (1, T)
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float()  # (T, V)
        single = [model(input_ids=row[None].to(model.device), use_cache=False).logits[0].float() for row in rows]
    expected = torch.cat(single)  # (9 + 7 + 6, V)
    return are_equal(packed[: len(expected)], expected)
