"""PEANuT: a bottleneck with a non-linearity, fed by the weight (https://arxiv.org/abs/2410.01870)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Count, Whole
from phi_runtime.config.schema.registry import register
from phi_runtime.models.memory import TrainingJob
from phi_runtime.models.shape import Linear
from phi_runtime.training.pass_bases import LinearAdapter

if TYPE_CHECKING:
    from peft import PeftConfig


@register
class PEANuT(LinearAdapter):
    """A non-linear bottleneck over the weight itself, so that it can be merged. Olive has no such pass."""

    peft_type: ClassVar[str] = "PEANUT"

    type: Literal["PEANuT"] = Field(description="A non-linear bottleneck adapter that can still be merged.")
    r: Count = Field(32, description="Width of the bottleneck. Default 32; 8 to 64 is usual.")
    depth: Annotated[Whole, Field(ge=0)] = Field(
        0, description="Further layers in the bottleneck, on each side of its middle. Default 0; more fit more, slower."
    )
    act_fn: Literal["relu", "gelu", "silu", "tanh", "sigmoid"] = Field(
        "relu", description="Activation function of the bottleneck. Default relu."
    )
    scaling: float = Field(1.0, gt=0, description="Scale of the adapter's output. Default 1.")

    def peft_config(self, base: Any) -> PeftConfig:
        import peft

        settings = self.module_settings(base)
        return peft.PeanutConfig(r=self.r, depth=self.depth, act_fn=self.act_fn, scaling=self.scaling, **settings)

    def adapter_memory(self, job: TrainingJob, targets: Sequence[Linear]) -> TrainingJob:
        inputs, matrices = sum(m.inputs for m in targets), sum(m.inputs * m.outputs for m in targets)
        outputs = sum(m.outputs for m in targets)  # the bottleneck reads the weight by its outputs
        weights = 2 * self.r * outputs + 2 * self.depth * self.r**2 * len(targets)
        return replace(job, adapter=weights, adapter_inputs=inputs, rebuilt=matrices)
