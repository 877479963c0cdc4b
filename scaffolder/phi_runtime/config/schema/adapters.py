"""The stages that train an adapter: few weights beside a base that stays as it is. Options and defaults are Olive's, where it has
them."""

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from phi_runtime.config.schema.common import Count, Dtype, Fraction, Kind, Whole
from phi_runtime.config.schema.finetune_pass import FinetunePass

Names = Annotated[list[str], Field(min_length=1)]


def _names_shape(value: object) -> str:
    if value is None:
        return "nullable"
    return "a list" if isinstance(value, list | tuple) else "constrained-str"


NamesOrPattern = Annotated[
    Annotated[str, Tag("constrained-str"), Field(min_length=1)]
    | Annotated[Names, Tag("a list")]
    | Annotated[None, Tag("nullable")],
    Discriminator(_names_shape),
]


class AdapterPass(FinetunePass):
    """What all kinds of adapters share. `merges`: whether the adapter can be added into the weights of its base."""

    produces: ClassVar[Kind] = "adapter"
    merges: ClassVar[bool] = True


class LinearAdapter(AdapterPass):
    """An adapter that sits on linear modules of the model."""

    target_modules: Names | None = Field(
        None,
        description="Linear modules that get an adapter, by the end of their name; null: those of the attention.",
    )
    modules_to_save: Names | None = Field(
        None,
        description="Modules that are trained whole and saved with the adapter, by the end of their name. An embedding and an output "
        "head that are one stay so.",
    )

    def all_linear(self, model_type: str) -> bool:
        """Whether all linear modules of an architecture get an adapter where target_modules is null; else those of the attention."""
        return False


class LoRA(LinearAdapter):
    """Low-rank adaptation: https://arxiv.org/abs/2106.09685."""

    type: Literal["LoRA"] = Field(description="Low-rank adaptation.")
    r: Count = Field(64, description="Rank of the adapter.")
    alpha: float = Field(16, gt=0, description="Scale of the adapter: its output is multiplied by alpha / r.")
    lora_dropout: Fraction = Field(0.05, description="Dropout on the adapter's input.")
    use_rslora: bool = Field(
        False,
        description="Multiply by alpha / √r instead, which keeps high ranks learning: https://arxiv.org/abs/2312.03732. Olive "
        "ignores this key.",
    )
    int4_aware: bool = Field(
        False,
        description="Every other step sees the base rounded to 4 bits, as an export with the builder's own rounding and "
        "mixed_layers:int8 leaves it, so that the adapter fits both. Takes the memory of one more copy of the base. Olive ignores "
        "this key.",
    )
    ephemeral_gpu_offload: bool = Field(False, description="Olive only: for DoRA.")


class DoRA(LoRA):
    """LoRA that learns direction and length of the weights apart: https://arxiv.org/abs/2402.09353."""

    type: Literal["DoRA"] = Field(description="Weight-decomposed low-rank adaptation.")  # type: ignore[assignment]
    ephemeral_gpu_offload: bool = Field(
        False, description="CUDA: measure the weights of modules that lie in the host's memory on the GPU."
    )


class QLoRA(LoRA):
    """LoRA over a base in 4 bits: https://arxiv.org/abs/2305.14314. Merging goes back to the full-precision base."""

    type: Literal["QLoRA"] = Field(description="Low-rank adaptation over a 4-bit base.")  # type: ignore[assignment]
    target_modules: Names | None = Field(
        None, description="Linear modules that get an adapter, by the end of their name; null: all of them."
    )
    quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit number format of the base.")
    double_quant: bool = Field(
        False, description="Quantise the quantisation constants as well: 0.4 bits less per weight."
    )
    compute_dtype: Dtype | None = Field(None, description="Type of the matrix products; null: torch_dtype.")
    save_quant_config: bool = Field(True, description="Olive only: here the adapter also fits the full-precision base.")

    def all_linear(self, model_type: str) -> bool:
        return True


class ProductAdapter(LinearAdapter):
    """What LoHa and LoKr share: the change of a weight is a product of small matrices, of a higher rank than LoRA's."""

    target_modules: Names | None = Field(
        None,
        description="Linear modules that get an adapter, by the end of their name; null: as in Olive those of the attention in the "
        "architecture of Phi-3, and all in others.",
    )
    r: Count = Field(64, description="Rank of each of the small matrices.")
    alpha: float = Field(16, gt=0, description="Scale of the adapter: its output is multiplied by alpha / r.")
    rank_dropout: Fraction = Field(0.0, description="Share of the ranks that a training step leaves out.")
    module_dropout: Fraction = Field(0.0, description="Share of the modules whose adapter a training step leaves out.")
    use_effective_conv2d: bool = Field(
        True, description="Olive only: for convolutions, which language models have not."
    )
    init_weights: bool = Field(True, description="Start as the base model is; false: at random, to try things out.")
    exclude_modules: NamesOrPattern = Field(
        None, description="Modules that get no adapter: a list of ends of names, or a regular expression of whole ones."
    )
    layers_to_transform: Annotated[list[Annotated[Whole, Field(ge=0)]], Field(min_length=1)] | None = Field(
        None, description="Numbers of the layers that get adapters, from 0; null: all."
    )
    layers_pattern: Names | None = Field(
        None, description="What the list of layers is called in the model, for layers_to_transform; null: as is usual."
    )
    rank_pattern: dict[str, Count] = Field(
        default_factory=dict, description="Other ranks than r, by the end of a module's name or a regular expression."
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Other scales than alpha, by the end of a module's name or a regular expression.",
    )

    def all_linear(self, model_type: str) -> bool:
        return model_type != "phi3"  # Olive 0.13.0 has a table of its own, with this one entry, that goes before


class LoHa(ProductAdapter):
    """Low-rank Hadamard products: https://arxiv.org/abs/2108.06098."""

    type: Literal["LoHa"] = Field(description="Low-rank Hadamard product.")


class LoKr(ProductAdapter):
    """Low-rank Kronecker products: https://arxiv.org/abs/2309.14859."""

    type: Literal["LoKr"] = Field(description="Low-rank Kronecker product.")
    decompose_both: bool = Field(False, description="Cut the left matrix of the Kronecker product into two as well.")
    decompose_factor: Annotated[Whole, Field(ge=-1)] = Field(
        -1, description="Size of the left matrix, which divides that of the weight; -1: near its square root."
    )
    rank_dropout_scale: bool = Field(False, description="Make up for rank_dropout by scaling the ranks that stay.")


class IA3(LinearAdapter):
    """A learned factor for each output of a module: https://arxiv.org/abs/2205.05638. Ours: Olive has no such pass."""

    type: Literal["IA3"] = Field(description="Learned factors on activations: the fewest weights of all.")
    target_modules: Names | None = Field(
        None, description="Linear modules that get factors, by the end of their name; null: all of them."
    )
    feedforward_modules: Names | None = Field(
        None, description="Those of target_modules whose inputs get the factors instead of their outputs; null: none."
    )

    def all_linear(self, model_type: str) -> bool:
        return True


class PEANuT(LinearAdapter):
    """A bottleneck with a non-linearity in it, fed by the weight, so that it can be merged: https://arxiv.org/abs/2410.01870. Ours:
    Olive has no such pass."""

    type: Literal["PEANuT"] = Field(description="A non-linear bottleneck adapter.")
    r: Count = Field(32, description="Width of the bottleneck.")
    depth: Annotated[Whole, Field(ge=0)] = Field(
        0, description="Further layers in the bottleneck, on either side of its middle."
    )
    act_fn: Literal["relu", "gelu", "silu", "tanh", "sigmoid"] = Field("relu", description="The non-linearity.")
    scaling: float = Field(1.0, gt=0, description="Scale of the adapter's output.")


class PromptTuning(AdapterPass):
    """Learned tokens before every prompt: https://arxiv.org/abs/2104.08691. They stay an adapter. Ours: Olive has no such pass."""

    merges: ClassVar[bool] = False

    type: Literal["PromptTuning"] = Field(description="Learned tokens before every prompt; cannot be merged.")
    packing: Literal[False] = Field(
        False, description="Rows are padded: learned tokens stand before a line, which must be a single row."
    )
    num_virtual_tokens: Count = Field(20, description="How many tokens are learned; they come on top of max_seq_len.")
    prompt_tuning_init: Literal["random", "text"] = Field(
        "random", description="What the tokens start as: at random, or as those of prompt_tuning_init_text."
    )
    prompt_tuning_init_text: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Text that the tokens start as, repeated or cut to their number.",
        examples=["Name the tone of the phrase."],
    )
