"""LoRA: low-rank adaptation (https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Count, Fraction, no_effect
from phi_runtime.config.schema.registry import register
from phi_runtime.models.memory import TrainingJob, with_lora
from phi_runtime.models.shape import Linear, Shape
from phi_runtime.training.pass_bases import MERGE_INSTEAD, LayeredAdapter

if TYPE_CHECKING:
    from peft import PeftConfig

    from phi_runtime.models.reference import ModelRef


class LowRankAdapter(LayeredAdapter):
    """Settings of LoRA that QLoRA and DoRA have too."""

    ties_embeddings: ClassVar[bool] = True
    adds_low_rank: ClassVar[bool] = True
    multi_adapter: ClassVar[bool] = True
    peft_type: ClassVar[str] = "LORA"
    peft_names: ClassVar[Mapping[str, str]] = {"alpha": "lora_alpha"}

    r: Count = Field(
        64,
        description="Rank of the update matrices. Default 64; 8 to 64 is usual. A higher rank fits more and costs memory and "
        "file size in proportion.",
    )
    alpha: float = Field(
        16,
        gt=0,
        description="Scale of the adapter: its output is multiplied by alpha / r. Default 16; r to 2·r is usual. Doubling it "
        "has about the effect of a doubled learning_rate.",
    )
    lora_dropout: Fraction = Field(
        0.05,
        description="Dropout on the adapter's input, as a share. Default 0.05; 0 to 0.1 is usual. Raise it when the "
        "validation loss rises while the training loss falls; 0 trains a little faster.",
    )
    use_rslora: bool = Field(
        False,
        description="Multiply by alpha / √r instead, which keeps ranks above about 64 learning: "
        "https://arxiv.org/abs/2312.03732. Default false. Olive ignores this key.",
    )
    int4_aware: bool = Field(
        False,
        description="In every other step, compute with the base rounded to 4 bits as the int4 export of this "
        "config leaves it (block size, zero points, layers in 8 bits), so that the adapter fits both. Default false. Without such "
        "an export: blocks of 32 and mixed_layers:int8. Costs the memory of one more copy of the base. Olive ignores this key.",
    )
    init_lora_weights: bool | Literal["gaussian", "pissa", "pissa_niter_16", "olora", "loftq"] = Field(
        True,
        description=(
            "First weights of the adapter. Default true: the output of the base model. pissa and olora start with the main "
            "directions of each weight (pissa_niter_16 computes them faster); QLoRA's loftq makes up for the rounding of "
            "the base. The adapter is saved as a plain LoRA of twice the rank. Olive ignores this key."
        ),
    )
    ephemeral_gpu_offload: bool = no_effect(
        False, "No effect here: Olive accepts it for LoRA too, but only DoRA uses it."
    )

    @property
    def rounds_base(self) -> bool:
        return self.int4_aware

    @property
    def changes_base(self) -> bool:
        """True if training starts from a changed base, so that the saved adapter must make up for the change."""
        return isinstance(self.init_lora_weights, str) and self.init_lora_weights != "gaussian"

    def conflicts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        yield from super().conflicts()
        start = self.init_lora_weights
        if self.changes_base and (start == "loftq") != self.quantized_base:
            other = "the type QLoRA" if start == "loftq" else "`loftq`, or the type LoRA"
            base = "4 bits" if start == "loftq" else "full precision"
            yield ("init_lora_weights",), f"`{start}` needs a base in {base}: use {other}"
        elif self.changes_base and (self.int4_aware or self.uses_dora):
            key = "int4_aware" if self.int4_aware else "DoRA"
            yield ("init_lora_weights",), f"`{start}` changes the base, from whose weights `{key}` computes: remove it"

    def with_adapter(self, base: Any, source: ModelRef | None = None) -> Any:
        from phi_runtime.training.starting_weights import keep_start, start_from_rounding

        model = super().with_adapter(base, source)
        is_new = source is None or source.kind != "adapter"
        if is_new and self.init_lora_weights == "loftq" and source is not None:
            start_from_rounding(model, source.full.path)
        if is_new and self.changes_base:
            keep_start(model)
        return model

    def peft_config(self, base: Any) -> PeftConfig:
        import peft

        from phi_runtime.models.describe import embeddings_among, ties_embeddings

        tie = ties_embeddings(base) and bool(embeddings_among(base, self.modules_to_save))
        return peft.LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.lora_dropout,
            use_rslora=self.use_rslora,
            ensure_weight_tying=tie,
            init_lora_weights=True if self.init_lora_weights == "loftq" else self.init_lora_weights,
            **self.variant_settings(),
            **self.module_settings(base),
        )

    def variant_settings(self) -> dict[str, Any]:
        """Return the arguments of `peft.LoraConfig` that make it another variant of LoRA."""
        return {}

    def memory_job(self, job: TrainingJob, shape: Shape) -> TrainingJob:
        return replace(super().memory_job(job, shape), dropout=self.lora_dropout > 0, int4_aware=self.int4_aware)

    def adapter_memory(self, job: TrainingJob, targets: Sequence[Linear]) -> TrainingJob:
        return with_lora(job, targets, self.r)

    def why_not_graph_input(self) -> str:
        from phi_runtime.models.modules import is_embedding

        if not self.adds_low_rank:
            return super().why_not_graph_input()
        if self.modules_to_save:
            return f"it trains {', '.join(self.modules_to_save)} fully; {MERGE_INSTEAD}"
        names = self.target_modules if isinstance(self.target_modules, list) else []
        if embeddings := [name for name in names if is_embedding(name)]:
            return f"it changes {embeddings[0]}, for which the graph has no adapter input; {MERGE_INSTEAD}"
        return ""

    def why_not_combined(self) -> str:
        if not self.adds_low_rank:
            return super().why_not_combined()
        if self.modules_to_save:
            return f"it trains {', '.join(self.modules_to_save)} fully, and two versions of one module do not add up; merge it alone"
        return ""


@register
class LoRA(LowRankAdapter):
    """Low-rank adaptation: a product of two small matrices is added to each adapted weight."""

    type: Literal["LoRA"] = Field(
        description="Low-rank adaptation: train two small matrices next to each adapted weight. The usual choice."
    )
