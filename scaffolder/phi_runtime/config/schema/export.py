"""Settings of an ONNX export: Olive's keys, further options of the model builder, and the gate."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Kind, NoSwitch, Strict, Whole, no_effect
from phi_runtime.config.schema.pass_base import Pass

_WHERE = "(?:last_matmul|mixed_layers|linear_attn):int[48]"

KvScheme = Literal[
    "none",
    "int8_per_tensor",
    "int8_per_channel",
    "int4_per_tensor",
    "int4_per_channel",
    "fp8_per_tensor",
    "fp8_per_channel",
]


class BuilderOptions(Strict):
    """Options of the builder of onnxruntime-genai 0.18 that have no key of their own in Olive; null leaves one to the builder."""

    matmul_mixed_precision: str | None = Field(
        None,
        pattern=rf"^{_WHERE}(,{_WHERE})*$",
        description="Weights that get other bits than the rest: last_matmul:int8 the output head, mixed_layers:int8 the layers where "
        "rounding hurts most, linear_attn:int8 the linear attention of hybrid models; several with commas between them.",
    )
    prune_lm_head: bool | None = Field(
        None,
        description="Compute the logits of a prompt's last token alone: prompts are read faster, and the perplexity of a text is "
        "measured token by token. null: false.",
    )
    shared_embeddings: bool | None = Field(
        None,
        description="One matrix for embedding and output head, where the model ties the two. null: where it does.",
    )
    fuse_qkv: bool | None = Field(None, description="One product for query, key and value. null: where it can be.")
    fuse_qk_norm_gqa: bool | None = Field(
        None, description="CUDA and WebGPU: the norms of query and key inside the attention. null: where it can be."
    )
    fuse_mlp_gate_up: bool | None = Field(None, description="One product for the gate and up projections. null: false.")
    windowed_kv_cache: bool | None = Field(
        None,
        description="Keep only the window of layers with sliding-window attention in the cache. null: where it can be.",
    )
    kv_cache_quant_scheme: KvScheme | None = Field(
        None,
        description="Bits of the key-value cache, for long conversations: int8_per_channel takes a quarter of the memory. The scales "
        "are measured on the training rows, which takes a second build. CPU and CUDA; fp8 CUDA alone. null: none.",
    )
    moe_quant_type: Literal["int2", "int4", "int8", "mxfp4", "nvfp4"] | None = Field(
        None,
        description="Weights of the experts in a mixture of experts; all but int4 and int8 are for CUDA. null: the precision.",
    )
    qmoe_block_size: Annotated[Literal[0, 16, 32, 64, 128, 256], NoSwitch] | None = Field(
        None, description="Weights of an expert that share one scale; 0: a whole channel. null: 32."
    )
    qmoe_weights_prepacked: Annotated[Literal[-1, 0, 1], NoSwitch] | None = Field(
        None,
        description="CUDA: 1 lays experts out for the kernel while exporting, 0 when the model is loaded. null: the builder chooses.",
    )
    matmulnbits_weights_prepacked: Annotated[Literal[0, 1, 2], NoSwitch] | None = Field(
        None,
        description="CUDA: 4- and 8-bit weights laid out for Ampere (1) or Hopper (2) while exporting. null: 0, they are not.",
    )
    enable_cuda_fpa_intb_gemm: bool | None = Field(
        None, description="CUDA: kernels that multiply 4- and 8-bit weights as they are. null: false."
    )
    use_device_allocator_for_initializers: bool | None = Field(
        None, description="Give memory back that weights took before they were laid out for their kernels. null: false."
    )
    enable_dml_graph: bool | None = Field(None, description="DirectML: record the graph once and play it. null: true.")
    enable_webgpu_graph: bool | None = Field(
        None, description="WebGPU: record the graph once and play it. null: false."
    )


class Gate(Strict):
    """What the ONNX model may differ from the model that it was made of, over the rows held out of the training."""

    tokens: Annotated[int, Field(ge=16, le=4096)] = Field(
        384, description="Tokens to compare on, at most; fewer where the vocabulary is very large."
    )
    max_kl: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Mean Kullback-Leibler divergence of the ONNX model's distributions from the source model's, in nats. null: 0.02 "
        "for fp32, 0.05 for fp16 and bf16, 0.1 for int8, 1.0 for int4.",
    )
    min_top1: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Share of the tokens whose likeliest successor must be the same in both. null: not asked; models that hesitate "
        "change their mind at the least rounding.",
    )
    max_perplexity_increase: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="By how much the perplexity may grow, as a share of the source model's. null: 0.05 for fp32, fp16 and bf16, 0.15 "
        "for int8, 1.0 for int4.",
    )


class ExportPass(Pass):
    """Settings of a pass that builds an ONNX model for ONNX Runtime GenAI."""

    accepts: ClassVar[Kind] = "hf"
    produces: ClassVar[Kind] = "onnx"
    depends_on_provider: ClassVar[bool] = True

    adapters: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Passes whose adapters stay beside the ONNX model of their base, as .onnx_adapter files; which of them answers "
        "is chosen at run time. Olive ignores this key.",
    )
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4"] = Field(
        description="Type of the weights in the ONNX model."
    )
    metadata_only: bool = no_effect(False, "Olive only: here the whole model is built.")
    search: dict[str, bool | Whole | float] | None = Field(
        None, description='Generation defaults written into genai_config.json, such as {"max_length": 2048}.'
    )
    int4_block_size: Annotated[Literal[16, 32, 64, 128, 256], NoSwitch] | None = Field(
        None, description="int4 and int8: weights that share one scale; null: 32."
    )
    int4_accuracy_level: Annotated[Literal[1, 2, 3, 4], NoSwitch] | None = Field(
        None,
        description="int4 and int8: type of the activations in products: 1 fp32, 2 fp16, 3 bf16, 4 int8; null: 4 on CPU, WebGPU.",
    )
    int4_is_symmetric: bool | None = Field(
        None,
        description="int4 and int8: symmetric quantisation, without zero points; null: true. k_quant always has them.",
    )
    int4_op_types_to_quantize: Annotated[list[Literal["MatMul", "Gather"]], Field(min_length=1)] | None = Field(
        None,
        description='int4 and int8: products and, with "Gather", the embedding. null: ["MatMul"], and the embedding where it is '
        "the output head as well.",
    )
    int4_nodes_to_exclude: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="int4 and int8: nodes of the graph that keep their precision.", examples=[["/lm_head/MatMul"]]
    )
    int4_algo_config: (
        Literal["default", "rtn", "rtn_last", "k_quant", "k_quant_last", "k_quant_mixed", "k_quant_linear"] | None
    ) = Field(
        None,
        description="int4 and int8: how weights are rounded; the names that end in _last, _mixed and _linear keep the head or more "
        "in 8 bits.",
    )
    use_qdq: bool | None = Field(
        None, description="int4: standard operators that dequantise, in place of 4-bit products. null: false."
    )
    use_8bits_moe: bool | None = Field(
        None, description="8 bits for the experts in a mixture of experts. null: the precision."
    )
    use_webgpu_fp32: bool | None = Field(
        None, description="WebGPU: activations in fp32, for cards without fp16. null: false."
    )
    use_cuda_bf16: bool | None = Field(
        None, description="CUDA, int4 and int8: activations in bf16 rather than fp16. null: false."
    )
    include_hidden_states: bool | None = Field(
        None, description="Give the last hidden states beside the logits. null: false."
    )
    enable_cuda_graph: bool | None = Field(None, description="CUDA: record the graph once and play it. null: false.")
    extra_options: BuilderOptions = Field(default_factory=BuilderOptions, description="Further options of the builder.")
    gate: Gate | None = Field(
        default_factory=Gate,
        description="How near its source the ONNX model must be, or the pass fails; null: it must only run. Olive ignores this key.",
    )

    @property
    def quantizes(self) -> bool:
        """Whether the weights are rounded to 4 or 8 bits."""
        return self.precision in ("int4", "int8")

    @property
    def base_algorithm(self) -> str:
        """How weights are rounded: default, rtn or k_quant."""
        name = self.int4_algo_config or "default"
        return next(base for base in ("default", "rtn", "k_quant") if name.startswith(base))

    @property
    def other_bits(self) -> dict[str, str]:
        """The groups of weights that get bits of their own, by name: last_matmul, mixed_layers, linear_attn."""
        ending = (self.int4_algo_config or "").removeprefix(self.base_algorithm)
        groups = {"_last": ["last_matmul"], "_mixed": ["last_matmul", "mixed_layers"],
                  "_linear": ["last_matmul", "linear_attn"]}.get(ending, [])  # fmt: skip
        given = (self.extra_options.matmul_mixed_precision or "").split(",")
        return dict.fromkeys(groups, "int8") | dict(pair.split(":") for pair in given if pair)
