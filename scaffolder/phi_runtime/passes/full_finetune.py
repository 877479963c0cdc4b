"""Full fine-tuning: every weight is trained, in float32 with autocast where the device has a shorter number type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Kind
from phi_runtime.config.schema.registry import register
from phi_runtime.models.memory import Method, tokenizer_bytes
from phi_runtime.models.shape import Shape
from phi_runtime.training.pass_bases import TrainingPass

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

        return self.load_base(context, torch.float32)

    def output_bytes(self, shape: Shape, source_bytes: int) -> int:
        return 4 * shape.parameters + tokenizer_bytes(shape)  # float32
