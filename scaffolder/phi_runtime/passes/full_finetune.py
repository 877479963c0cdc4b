"""Full fine-tuning: every weight is trained, in float32 with autocast where the device has a shorter number type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Kind
from phi_runtime.config.schema.registry import register
from phi_runtime.models.memory import Method, tokenizer_bytes
from phi_runtime.models.shape import Shape
from phi_runtime.training.pass_bases import TrainingPass, attention_kernel

if TYPE_CHECKING:
    import torch

    from phi_runtime.context import PassContext


@register
class FullFinetune(TrainingPass):
    """Train all weights. Olive has no such pass."""

    produces: ClassVar[Kind] = "hf"
    memory_method: ClassVar[Method] = "full"

    type: Literal["FullFinetune"] = Field(
        description="Train every weight: the most capacity and about 16 bytes of memory per weight."
    )

    def load_trainable(self, context: PassContext[Any]) -> tuple[Any, torch.dtype]:
        """Return the model in float32, and the number type to compute in."""
        import torch

        from phi_runtime.hardware.device import compute_dtype, pick_device
        from phi_runtime.models.load import load_model
        from phi_runtime.training.placement import placement

        device = pick_device(context.workflow.host_device)
        where = placement(self, context.source, torch.float32, device)
        model = load_model(context.source, torch.float32, **where, **attention_kernel(context))
        return model, compute_dtype(self.torch_dtype, device)

    def output_bytes(self, shape: Shape, source_bytes: int) -> int:
        return 4 * shape.parameters + tokenizer_bytes(shape)  # float32
