"""Which rows each of several processes trains on: batches are dealt out in turn, and the last turn is filled up with blank rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from phi_runtime.data.sequences import IGNORED, Example

BLANK = -1  # the index of the row that trains nothing


class Dealt(torch.utils.data.Sampler[int]):
    """`order`, filled up with blank rows until it makes whole batches of `size` rows for each of the `processes`.

    accelerate deals batches out in turn, and would begin again at the first rows to fill up the last turn: these would be trained,
    and measured, twice.
    """

    def __init__(self, order: Any, size: int, processes: int) -> None:
        self.order, self.turn = order, size * processes

    @property
    def blanks(self) -> int:
        return -len(self.order) % self.turn

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.order, "set_epoch"):
            self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order) + self.blanks

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        for _ in range(self.blanks):
            yield BLANK


class WithBlanks(torch.utils.data.Dataset[Example]):
    """`rows`, and at the place BLANK a row of one token that trains nothing."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        lengths: np.ndarray = self.rows.lengths
        return lengths

    def __getitem__(self, index: int) -> Example:
        if index != BLANK:
            found: Example = self.rows[index]
            return found
        row = self.rows[0]
        return {**row, "input_ids": row["input_ids"][:1], "labels": np.array([IGNORED]), "index": np.asarray(BLANK)}


class OrderOfEpoch(TrainerCallback):
    """Tells the order of rows which epoch it is. Of a run that goes on in the middle of one, accelerate does not reach the order
    behind the batches that it deals out (1.15, data_loader.py:626)."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        train_dataloader.set_epoch(int(state.epoch or 0))
