"""The stages of a workflow, by Olive's names. Defaults are Olive's."""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from phi_runtime.workflow.schema.adapters import IA3, DoRA, LoHa, LoKr, LoRA, PEANuT, PromptTuning, QLoRA
from phi_runtime.workflow.schema.common import Kind, NoSwitch, Strict, Whole
from phi_runtime.workflow.schema.finetune_pass import FinetunePass, Pass


class FullFinetune(FinetunePass):
    """All weights are trained. Ours: Olive has no such pass."""

    produces: ClassVar[Kind] = "hf"

    type: Literal["FullFinetune"] = Field(description="Train every weight.")


class MergeAdapterWeights(Pass):
    """Adds the adapter into the full-precision base."""

    accepts: ClassVar[Kind] = "adapter"
    produces: ClassVar[Kind] = "hf"

    type: Literal["MergeAdapterWeights"] = Field(description="Merge the adapter into its base.")


class BuilderOptions(Strict):
    """Options of the builder that have no key of their own in Olive."""

    matmul_mixed_precision: str | None = Field(
        None,
        pattern=r"^(last_matmul|mixed_layers):int8(,(last_matmul|mixed_layers):int8)?$",
        description="Weights that get 8 bits in a 4-bit model: last_matmul:int8 the output head, mixed_layers:int8 the layers where "
        "rounding hurts most; both with a comma between them.",
    )


class ModelBuilder(Pass):
    """Builds a quantised ONNX model for ONNX Runtime GenAI."""

    accepts: ClassVar[Kind] = "hf"
    produces: ClassVar[Kind] = "onnx"

    type: Literal["ModelBuilder"] = Field(description="Export with the ONNX Runtime GenAI model builder.")
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4"] = Field(
        description="Type of the weights in the ONNX model."
    )
    metadata_only: bool = Field(False, description="The whole model is built.")
    search: dict[str, bool | Whole | float] | None = Field(
        None, description='Generation defaults written into genai_config.json, such as {"max_length": 2048}.'
    )
    int4_block_size: Annotated[Literal[16, 32, 64, 128, 256], NoSwitch] | None = Field(
        None, description="Weights that share one scale; null: 32."
    )
    int4_accuracy_level: Annotated[Literal[1, 2, 3, 4], NoSwitch] | None = Field(
        None, description="Type of the activations in 4-bit products: 1 fp32, 2 fp16, 3 bf16, 4 int8; null: 4 on a CPU."
    )
    int4_is_symmetric: bool | None = Field(None, description="Symmetric quantisation, without zero points; null: true.")
    int4_algo_config: Literal["default", "rtn", "rtn_last", "k_quant", "k_quant_last", "k_quant_mixed"] | None = Field(
        None,
        description="How weights are rounded; the names that end in _last and _mixed keep the head or more in 8 bits.",
    )
    extra_options: BuilderOptions = Field(default_factory=BuilderOptions, description="Further options of the builder.")


AnyPass = Annotated[
    LoRA | QLoRA | DoRA | LoHa | LoKr | IA3 | PEANuT | PromptTuning | FullFinetune | MergeAdapterWeights | ModelBuilder,
    Field(discriminator="type"),
]

_MEMBERS: tuple[type[Pass], ...] = get_args(get_args(AnyPass)[0])
PASS_TYPES: dict[str, type[Pass]] = {get_args(member.model_fields["type"].annotation)[0]: member for member in _MEMBERS}
"""Every pass by the name of its type."""
