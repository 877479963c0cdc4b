"""Prompt tuning: learned tokens before every prompt (https://arxiv.org/abs/2104.08691)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Count
from phi_runtime.config.schema.registry import register
from phi_runtime.models.memory import TrainingJob
from phi_runtime.models.shape import Shape
from phi_runtime.training.pass_bases import USE_UNMERGED, AdapterPass

if TYPE_CHECKING:
    from peft import PeftConfig


@register
class PromptTuning(AdapterPass):
    """Learned tokens before every prompt. They cannot be merged. Olive has no such pass."""

    merges: ClassVar[bool] = False
    peft_type: ClassVar[str] = "PROMPT_TUNING"

    type: Literal["PromptTuning"] = Field(
        description="Learned tokens before every prompt: a few thousand weights; cannot be merged or exported."
    )
    packing: Literal[False] = Field(
        False, description="Always false: learned tokens come before a line, which must hold a single row."
    )
    num_virtual_tokens: Count = Field(
        20, description="Number of learned tokens, in addition to max_seq_len. Default 20; 8 to 100 is usual."
    )
    prompt_tuning_init: Literal["random", "text"] = Field(
        "random", description="Initial value of the tokens: random (default), or the tokens of prompt_tuning_init_text."
    )
    prompt_tuning_init_text: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Text that the tokens start from, repeated or cut to their number. Default null: none.",
        examples=["Name the tone of the phrase."],
    )

    @property
    def virtual_tokens(self) -> int:
        return self.num_virtual_tokens

    def conflicts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.prompt_tuning_init == "text" and self.prompt_tuning_init_text is None:
            yield ("prompt_tuning_init",), "`prompt_tuning_init: text` needs prompt_tuning_init_text"
        if self.prompt_tuning_init == "random" and self.prompt_tuning_init_text is not None:
            yield ("prompt_tuning_init_text",), "`prompt_tuning_init_text` needs `prompt_tuning_init: text`"

    def peft_config(self, base: Any) -> PeftConfig:
        import peft

        text = self.prompt_tuning_init == "text"
        return peft.PromptTuningConfig(
            num_virtual_tokens=self.num_virtual_tokens,
            prompt_tuning_init="TEXT" if text else "RANDOM",
            prompt_tuning_init_text=self.prompt_tuning_init_text,
            tokenizer_name_or_path=base.name_or_path if text else None,
            task_type="CAUSAL_LM",
        )

    def memory_job(self, job: TrainingJob, shape: Shape) -> TrainingJob:
        tokens = job.tokens + self.num_virtual_tokens
        return replace(job, tokens=tokens, adapter=self.num_virtual_tokens * shape.hidden)

    def why_not_merged(self) -> str:
        return f"learned tokens cannot be merged into the weights: {USE_UNMERGED}"

    def why_not_graph_input(self) -> str:
        return f"learned tokens are not an input of the graph: {USE_UNMERGED}"
