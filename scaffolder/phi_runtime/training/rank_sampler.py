"""Sampling for several processes: every rank gets the same number of batches, and no row is used twice.

accelerate hands batches to the ranks in turn. To fill the last turn it would repeat the first rows, which would
then be trained, and evaluated, twice; blank rows that train nothing take their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from phi_runtime.data.sequences import IGNORED, Example

BLANK = -1  # index of the blank row


class RankSampler(torch.utils.data.Sampler[int]):
    """Sampler that appends blank rows to `order` until it divides into full batches for all ranks.

    Args:
        order: Sampler over the rows of all ranks.
        batch_size: Rows of a batch of one rank.
        ranks: Number of processes.
    """

    def __init__(self, order: Any, batch_size: int, ranks: int) -> None:
        self.order, self.rows_per_turn = order, batch_size * ranks

    @property
    def blanks(self) -> int:
        return -len(self.order) % self.rows_per_turn

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.order, "set_epoch"):
            self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order) + self.blanks

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        for _ in range(self.blanks):
            yield BLANK


class BlankPaddedDataset(torch.utils.data.Dataset[Example]):
    """`rows`, and at index BLANK a row of one token that trains nothing."""

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
            example: Example = self.rows[index]
            return example
        row = self.rows[0]
        return {**row, "input_ids": row["input_ids"][:1], "labels": np.array([IGNORED]), "index": np.asarray(BLANK)}


class SetSamplerEpoch(TrainerCallback):
    """Passes the epoch to the sampler.

    accelerate 1.15 (data_loader.py:626) does not reach the sampler behind its batch shards when a run resumes in
    the middle of an epoch.
    """

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        train_dataloader.set_epoch(int(state.epoch or 0))
