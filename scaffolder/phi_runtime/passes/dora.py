"""DoRA: weight-decomposed low-rank adaptation (https://arxiv.org/abs/2402.09353)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.registry import register
from phi_runtime.models.memory import TrainingJob
from phi_runtime.models.shape import Linear
from phi_runtime.passes.lora import LowRankAdapter


@register
class DoRA(LowRankAdapter):
    """LoRA that learns direction and magnitude of each weight separately."""

    adds_low_rank: ClassVar[bool] = False
    uses_dora: ClassVar[bool] = True

    type: Literal["DoRA"] = Field(
        description="LoRA that learns direction and magnitude of each weight separately: often better at low ranks, slower steps."
    )
    ephemeral_gpu_offload: bool = Field(
        False, description="CUDA: compute weight norms of modules in host memory on the GPU. Default false."
    )

    def variant_settings(self) -> dict[str, Any]:
        import peft

        offload = peft.LoraRuntimeConfig(ephemeral_gpu_offload=self.ephemeral_gpu_offload)
        return {"use_dora": True, "runtime_config": offload}

    def adapter_memory(self, job: TrainingJob, targets: Sequence[Linear]) -> TrainingJob:
        outputs = sum(m.outputs for m in targets)  # the outputs of base and adapter are both kept, to scale their sum
        lora = super().adapter_memory(job, targets)
        return replace(lora, adapter=lora.adapter + outputs, adapter_outputs=outputs)
