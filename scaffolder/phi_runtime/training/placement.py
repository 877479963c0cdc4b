"""Device placement of the model that a pass trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phi_runtime.config.schema import FinetunePass
from phi_runtime.models.reference import ModelRef
from phi_runtime.models.shape import Shape, shape_of

if TYPE_CHECKING:
    import torch


def placement(step: FinetunePass, source: ModelRef, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Return the device arguments of `load_model` for the model that `step` trains.

    That is `device`, except for the memory of the host where FSDP shards the model, and all GPUs, layer by layer, where
    one process trains and the model exceeds one card (unless `device_map` is null or "current_device").
    """
    from phi_runtime.training.process_group import world_size  # imports torch

    where = {"device": device, **({"device_map": {"": device}} if step.quantized_base else {})}
    if world_size() > 1:
        return where | ({"device": "cpu"} if step.training_args.fsdp else {})
    if step.device_map == "auto" and device == "cuda":
        import torch

        cards = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        if exceeds_one(cards, trained_bytes(step, shape_of(source.path), dtype.itemsize)):
            return where | {"device_map": "auto"}
    return where


def exceeds_one(cards: Sequence[int], needed_bytes: float) -> bool:
    """Return True if there are several cards and the first is too small, a fifth of it being left for activations."""
    return len(cards) > 1 and needed_bytes > 0.8 * cards[0]


def trained_bytes(step: FinetunePass, shape: Shape | None, itemsize: int) -> float:
    """Return the memory of the weights of a model of this `shape` while `step` trains; 0 if the shape is unknown.

    Per weight: 16 bytes with gradients and Adam's moments where all are trained, 0.6 in 4 bits, 1.1 in 8, `itemsize` otherwise.
    """
    weight_bytes = 16.0 if step.produces == "hf" else float(itemsize)
    if step.quantized_base:
        weight_bytes = 1.1 if step.rounds_base else 0.6
    return shape.parameters * weight_bytes if shape else 0.0
