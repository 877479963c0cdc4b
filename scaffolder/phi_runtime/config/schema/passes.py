"""The stages of a workflow, by Olive's names. Defaults are Olive's."""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from phi_runtime.config.schema.adapters import IA3, DoRA, LoHa, LoKr, LoRA, PEANuT, PromptTuning, QLoRA
from phi_runtime.config.schema.common import Kind
from phi_runtime.config.schema.export import ModelBuilder
from phi_runtime.config.schema.finetune_pass import FinetunePass, Pass


class FullFinetune(FinetunePass):
    """All weights are trained. Ours: Olive has no such pass."""

    produces: ClassVar[Kind] = "hf"

    type: Literal["FullFinetune"] = Field(description="Train every weight.")


class MergeAdapterWeights(Pass):
    """Adds the adapter into the full-precision base."""

    accepts: ClassVar[Kind] = "adapter"
    produces: ClassVar[Kind] = "hf"

    type: Literal["MergeAdapterWeights"] = Field(description="Merge the adapter into its base.")
    adapters: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Passes whose adapters are merged together, in place of the one that was made last. Olive ignores this key.",
    )


AnyPass = Annotated[
    LoRA | QLoRA | DoRA | LoHa | LoKr | IA3 | PEANuT | PromptTuning | FullFinetune | MergeAdapterWeights | ModelBuilder,
    Field(discriminator="type"),
]

_MEMBERS: tuple[type[Pass], ...] = get_args(get_args(AnyPass)[0])
PASS_TYPES: dict[str, type[Pass]] = {get_args(member.model_fields["type"].annotation)[0]: member for member in _MEMBERS}
"""Every pass by the name of its type."""
