"""LoHa: low-rank Hadamard products (https://arxiv.org/abs/2108.06098), and the settings that LoKr shares with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Count, Fraction, NamesOrPattern, no_effect
from phi_runtime.config.schema.registry import register
from phi_runtime.models.memory import TrainingJob, with_lora
from phi_runtime.models.shape import Linear
from phi_runtime.training.pass_bases import LayeredAdapter

if TYPE_CHECKING:
    from peft import PeftConfig


class ProductAdapter(LayeredAdapter):
    """The change of a weight is a product of small matrices, of a higher rank than LoRA's."""

    target_modules: NamesOrPattern = Field(
        None,
        description="Linear modules that get an adapter, by the end of their name. Default null, as in Olive: those of the "
        "attention in the Phi-3 architecture, all of them in others.",
    )
    r: Count = Field(64, description="Rank of each small matrix. Default 64; 4 to 64 is usual.")
    alpha: float = Field(
        16,
        gt=0,
        description="Scale of the adapter: its output is multiplied by alpha / r. Default 16; about r is usual.",
    )
    rank_dropout: Fraction = Field(
        0.0, description="Share of the ranks that a training step drops. Default 0; up to 0.1 against overfitting."
    )
    module_dropout: Fraction = Field(
        0.0,
        description="Share of the modules whose adapter a training step drops. Default 0; up to 0.1 against overfitting.",
    )
    use_effective_conv2d: bool = no_effect(
        True, "No effect here: it is for convolutions, which language models do not have."
    )
    init_weights: bool = Field(
        True,
        description="Start with the output of the base model. Default true; false starts at random, for experiments.",
    )
    exclude_modules: NamesOrPattern = Field(
        None,
        description="Modules that get no adapter: a list of ends of names, or a regular expression for full names. Default "
        "null: none.",
    )

    def all_linear(self, model_type: str) -> bool:
        return model_type != "phi3"  # Olive 0.13.0 has its own table, with this one entry, that takes precedence

    def product_settings(self, base: Any) -> dict[str, Any]:
        """Return the arguments that peft's configs of LoHa and LoKr share."""
        names = {"r", "alpha", "rank_dropout", "module_dropout", "init_weights", "exclude_modules"}
        return {**self.model_dump(include=names), **self.module_settings(base)}

    def module_settings(self, base: Any) -> dict[str, Any]:
        from phi_runtime.models.describe import refuse_unknown

        if isinstance(self.exclude_modules, list):
            refuse_unknown("exclude_modules", base, self.exclude_modules)
        return super().module_settings(base)

    def adapter_memory(self, job: TrainingJob, targets: Sequence[Linear]) -> TrainingJob:
        inputs, matrices = sum(m.inputs for m in targets), sum(m.inputs * m.outputs for m in targets)
        return replace(job, adapter=self.weights(job, targets), adapter_inputs=inputs, rebuilt=matrices)

    @abstractmethod
    def weights(self, job: TrainingJob, targets: Sequence[Linear]) -> int:
        """Return the number of weights of the adapter on `targets`."""


@register
class LoHa(ProductAdapter):
    """Low-rank Hadamard product: the elementwise product of two low-rank matrices is added to each adapted weight."""

    peft_type: ClassVar[str] = "LOHA"

    type: Literal["LoHa"] = Field(
        description="Low-rank Hadamard product: rank up to r² from about twice LoRA's weights."
    )

    def peft_config(self, base: Any) -> PeftConfig:
        import peft

        return peft.LoHaConfig(**self.product_settings(base))

    def weights(self, job: TrainingJob, targets: Sequence[Linear]) -> int:
        return 2 * with_lora(job, targets, self.r).adapter
