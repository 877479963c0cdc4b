"""Device placement of the model that a pass trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phi_runtime.config.schema import FinetunePass
from phi_runtime.models.reference import ModelRef
from phi_runtime.models.shape import shape_of
from phi_runtime.training.process_group import world_size

if TYPE_CHECKING:
    import torch


def placement(step: FinetunePass, source: ModelRef, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Where the model that `step` trains is loaded to, as keywords of `load_model`.

    That is `device`, with two exceptions: the host's memory where FSDP will take the model apart; and all GPUs, layer after layer,
    where one process trains and the model exceeds the card, unless `device_map` is null or "current_device".
    """
    if world_size() > 1:
        return {"device": "cpu" if step.training_args.fsdp else device}
    if step.device_map == "auto" and device == "cuda":
        import torch

        cards = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        if exceeds_one(cards, trained_bytes(step, source, dtype.itemsize)):
            return {"device": device, "device_map": "auto"}
    return {"device": device}


def exceeds_one(cards: Sequence[int], needed_bytes: float) -> bool:
    """Whether `needed_bytes` are too many for the first of several cards (memory in bytes), a fifth being left for activations."""
    return len(cards) > 1 and needed_bytes > 0.8 * cards[0]


def trained_bytes(step: FinetunePass, source: ModelRef, itemsize: int) -> float:
    """What the weights of `source` take while `step` trains: with gradients and Adam's two moments in float32 where all of them are
    trained, half a byte and the scales each where they are kept in 4 bits, `itemsize` bytes each else. 0 where it is not known."""
    shape = shape_of(source.path)
    each = 0.6 if step.quantized_base else 16.0 if step.produces == "hf" else float(itemsize)
    return shape.parameters * each if shape else 0.0
