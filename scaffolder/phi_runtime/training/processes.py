"""What the processes of one training run tell each other. In a run of one process, all of it is nothing.

What is said here goes over gloo, whatever the gradients go over: it needs no GPU to be in step, and waits as long as it takes.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")


def join(*, cpu: bool) -> None:
    """Meets the other processes of this run, as the environment that accelerate's launcher made says; takes this one's GPU."""
    from accelerate import PartialState

    PartialState(cpu=cpu)
    if processes() > 1:
        _side_channel()  # made by all of them, at the same place


def leave() -> None:
    """Lets go of the others."""
    if distributed.is_initialized():
        _side_channel.cache_clear()
        distributed.destroy_process_group()


@cache
def _side_channel() -> Any:
    return distributed.new_group(backend="gloo", timeout=timedelta(days=7))


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The place of this process among them, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that writes and tells."""
    return rank() == 0


def wait_for_all() -> None:
    """Goes on when all processes have come here."""
    if processes() > 1:
        distributed.barrier(_side_channel())


def any_of(flag: bool) -> bool:
    """Whether `flag` is set in one of them."""
    return bool(summed(torch.tensor(int(flag)))) if processes() > 1 else flag


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of what each of them has."""
    if processes() == 1:
        return tensor
    total = tensor.detach().cpu().clone()
    distributed.all_reduce(total, group=_side_channel())
    return total.to(tensor.device)


def of_first(value: T) -> T:
    """What the first of them has, in all: for what must be the same lest they part ways."""
    if processes() == 1:
        return value
    told = [value]
    distributed.broadcast_object_list(told, src=0, group=_side_channel())
    return told[0]


def shard_on_cpu(trainer: Any) -> None:
    """Lets FSDP cut the model of `trainer` also on CPUs: torch can, over gloo, and accelerate asks for GPUs (1.15, state.py:981)."""
    from accelerate import DistributedType, PartialState
    from accelerate.utils import FullyShardedDataParallelPlugin

    state, given = trainer.accelerator.state, trainer.args.fsdp_plugin_args
    if given is None or state.distributed_type is not DistributedType.MULTI_CPU:
        return
    plugin = FullyShardedDataParallelPlugin(**given)
    state.fsdp_plugin, state.distributed_type = plugin, DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    trainer.is_fsdp_enabled = True
