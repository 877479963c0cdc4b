"""IA3: a learned factor for each output of a module (https://arxiv.org/abs/2205.05638)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Names
from phi_runtime.config.schema.registry import register
from phi_runtime.models.memory import TrainingJob
from phi_runtime.models.shape import Linear
from phi_runtime.training.pass_bases import LinearAdapter

if TYPE_CHECKING:
    from peft import PeftConfig


@register
class IA3(LinearAdapter):
    """Learned factors on activations. Olive has no such pass."""

    peft_type: ClassVar[str] = "IA3"

    type: Literal["IA3"] = Field(description="Learned factors on activations: the fewest weights of all methods.")
    target_modules: Names | None = Field(
        None, description="Linear modules that get factors, by the end of their name. Default null: all of them."
    )
    feedforward_modules: Names | None = Field(
        None,
        description='Modules of target_modules whose inputs get the factors instead of their outputs, usually ["down_proj"]. '
        "Default null: none.",
    )

    def all_linear(self, model_type: str) -> bool:
        return True

    def conflicts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        targets = self.target_modules
        for i, name in enumerate(self.feedforward_modules or ()):
            if targets is not None and targets != ["all-linear"] and name not in targets:
                yield ("feedforward_modules", i), f"`{name}` is in feedforward_modules but not in target_modules"

    def peft_config(self, base: Any) -> PeftConfig:
        import peft

        return peft.IA3Config(feedforward_modules=self.feedforward_modules or [], **self.module_settings(base))

    def module_settings(self, base: Any) -> dict[str, Any]:
        from phi_runtime.models.describe import refuse_unknown

        if self.feedforward_modules:
            refuse_unknown("feedforward_modules", base, self.feedforward_modules)
        return super().module_settings(base)

    def adapter_memory(self, job: TrainingJob, targets: Sequence[Linear]) -> TrainingJob:
        outputs = sum(m.outputs for m in targets)
        return replace(job, adapter=outputs, adapter_outputs=outputs)
