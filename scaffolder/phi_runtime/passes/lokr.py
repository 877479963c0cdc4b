"""LoKr: low-rank Kronecker products (https://arxiv.org/abs/2309.14859)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Whole
from phi_runtime.config.schema.registry import register
from phi_runtime.models.memory import TrainingJob, lokr_weights
from phi_runtime.models.shape import Linear
from phi_runtime.passes.loha import ProductAdapter

if TYPE_CHECKING:
    from peft import PeftConfig


@register
class LoKr(ProductAdapter):
    """Low-rank Kronecker product: the Kronecker product of two small matrices is added to each adapted weight."""

    peft_type: ClassVar[str] = "LOKR"

    type: Literal["LoKr"] = Field(description="Low-rank Kronecker product: a high rank from very few weights.")
    decompose_both: bool = Field(
        False, description="Factor the left matrix of the Kronecker product too. Default false; true saves weights."
    )
    decompose_factor: Annotated[Whole, Field(ge=-1)] = Field(
        -1,
        description="Size of the left matrix, which must divide that of the weight. Default -1: near its square root. A larger value "
        "leaves fewer weights.",
    )
    rank_dropout_scale: bool = Field(
        False, description="Scale the ranks that rank_dropout keeps, so that their sum stays the same. Default false."
    )

    def peft_config(self, base: Any) -> PeftConfig:
        import peft

        return peft.LoKrConfig(
            decompose_both=self.decompose_both,
            decompose_factor=self.decompose_factor,
            rank_dropout_scale=self.rank_dropout_scale,
            **self.product_settings(base),
        )

    def weights(self, job: TrainingJob, targets: Sequence[Linear]) -> int:
        return sum(lokr_weights(module, self.r) for module in targets)
