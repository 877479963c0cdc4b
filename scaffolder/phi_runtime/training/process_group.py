"""Communication between the processes of one training run; in a run of one process, every function is a no-op.

Messages go over gloo, whatever backend carries the gradients: it needs no synchronized GPUs, and may wait for days.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")


def join_group(*, cpu: bool) -> None:
    """Join the processes of this run, as accelerate's launcher set them up in the environment, and select this rank's GPU."""
    from accelerate import PartialState

    PartialState(cpu=cpu)
    if world_size() > 1:
        _control_group()  # all ranks must create it at the same point


def leave_group() -> None:
    """Leave the process group, if this process is in one."""
    if distributed.is_initialized():
        _control_group.cache_clear()
        distributed.destroy_process_group()


@cache
def _control_group() -> Any:
    return distributed.new_group(backend="gloo", timeout=timedelta(days=7))


def world_size() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process; 0 without a group."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main_process() -> bool:
    """Return True in the process that writes files and reports progress."""
    return rank() == 0


def barrier() -> None:
    """Wait until all processes have called this."""
    if world_size() > 1:
        distributed.barrier(_control_group())


def any_process(flag: bool) -> bool:
    """Return True in all processes if `flag` is set in any."""
    return bool(all_reduce_sum(torch.tensor(int(flag)))) if world_size() > 1 else flag


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of `tensor` over all processes, on the device of `tensor`."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().cpu().clone()
    distributed.all_reduce(total, group=_control_group())
    return total.to(tensor.device)


def broadcast_from_main(value: T) -> T:
    """Return the main process's `value` in all processes, so that decisions based on it agree."""
    if world_size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0, group=_control_group())
    return values[0]


def shard_on_cpu(trainer: Any) -> None:
    """Let FSDP shard the model of `trainer` on CPUs; torch can over gloo, but accelerate 1.15 wants GPUs (state.py:981)."""
    from accelerate import DistributedType, PartialState
    from accelerate.utils import FullyShardedDataParallelPlugin

    state, plugin_args = trainer.accelerator.state, trainer.args.fsdp_plugin_args
    if plugin_args is None or state.distributed_type is not DistributedType.MULTI_CPU:
        return
    plugin = FullyShardedDataParallelPlugin(**plugin_args)
    state.fsdp_plugin, state.distributed_type = plugin, DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    trainer.is_fsdp_enabled = True
