"""QLoRA: LoRA over a base in 4 bits (https://arxiv.org/abs/2305.14314), or in 8 that hold those of the int4 export."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.pass_graph import trained_rounding
from phi_runtime.config.schema.common import Dtype, NamesOrPattern, no_effect
from phi_runtime.config.schema.registry import register
from phi_runtime.core.errors import MissingDependency
from phi_runtime.core.project import setup_command
from phi_runtime.models.memory import Method, TrainingJob
from phi_runtime.models.shape import Shape
from phi_runtime.passes.lora import LowRankAdapter

if TYPE_CHECKING:
    import torch

    from phi_runtime.context import PassContext


@register
class QLoRA(LowRankAdapter):
    """LoRA over a 4-bit base. Merging adds the adapter to the full-precision base."""

    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "tokenizers", "bitsandbytes")
    memory_method: ClassVar[Method] = "qlora"
    quantized_base: ClassVar[bool] = True

    type: Literal["QLoRA"] = Field(
        description="LoRA over a base in 4 bits: a quarter of the memory for weights, slower steps. Needs bitsandbytes, except with "
        "int4_aware."
    )
    target_modules: NamesOrPattern = Field(
        None,
        description="Linear modules that get an adapter, by the end of their name. Default null: all of them, which makes up for the "
        "4-bit base.",
    )
    quant_type: Literal["nf4", "fp4"] = Field(
        "nf4",
        description="4-bit number format of the base. Default nf4, which fits normally distributed weights better than fp4.",
    )
    double_quant: bool = Field(
        False,
        description="Quantize the quantization constants too: 0.4 bits less per weight, slightly slower. Default false.",
    )
    compute_dtype: Dtype | None = Field(
        None, description="Number type of the matrix products. Default null: torch_dtype."
    )
    save_quant_config: bool = no_effect(True, "No effect here: the adapter also fits the full-precision base.")

    int4_aware: bool = Field(
        False,
        description="Hold the base in 8 bits instead of quant_type, and compute in every other step with four of them alone: the "
        "codes of the int4 export of this config (block size, zero points, layers in 8 bits), so that the adapter fits both. "
        "Default false. Without such an export: blocks of 32 and mixed_layers:int8. A byte a weight, twice the memory of "
        "quant_type. Does not need bitsandbytes. Olive ignores this key.",
    )

    @property
    def compute_type(self) -> Dtype:
        return self.compute_dtype or self.torch_dtype

    def all_linear(self, model_type: str) -> bool:
        return True

    def memory_job(self, job: TrainingJob, shape: Shape) -> TrainingJob:
        return replace(super().memory_job(job, shape), double_quant=self.double_quant)

    def load_trainable(self, context: PassContext[Any]) -> tuple[Any, torch.dtype]:
        """Return the 4-bit base with its adapter on it, and the number type to compute in.

        Raises:
            MissingDependency: bitsandbytes is not installed.
        """
        base, dtype = self.load_base(context)
        if not self.int4_aware:
            _keep_gradients(base)
        return self.with_adapter(base, context.source), dtype

    def quantization(self, context: PassContext[Any], dtype: torch.dtype) -> dict[str, Any]:
        """Return the quantization config for `from_pretrained`: of bitsandbytes, or with the rounding of the int4 export."""
        if self.int4_aware:
            from phi_runtime.training.rounded_base import RoundedBaseConfig

            rounding = trained_rounding(context.workflow.passes, context.name)
            skipped = tuple(self.modules_to_save or ())
            return {"quantization_config": RoundedBaseConfig(rounding=rounding, skipped=skipped)}
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as e:
            raise MissingDependency(
                "QLoRA needs bitsandbytes", fix=f"run `{setup_command('qlora')}` in the project"
            ) from e
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )
        return {"quantization_config": config}


def _keep_gradients(base: Any) -> None:
    """Keep bitsandbytes from repacking weights in an evaluation.

    On CPUs with AVX512-BF16 the first evaluation repacks the weight for inference, and every later training step silently loses
    gradient (seen in 0.50.2, nn/modules.py).
    """
    from bitsandbytes.nn import Linear4bit

    for module in base.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
