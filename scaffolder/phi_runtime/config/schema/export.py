"""Settings of an ONNX export: Olive's keys, further options of the model builder, and the gate."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Kind, Names, NoSwitch, Strict, Whole, no_effect
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
    """Options of the model builder of onnxruntime-genai 0.18 without a key in Olive; null leaves the choice to the builder."""

    matmul_mixed_precision: str | None = Field(
        None,
        pattern=rf"^{_WHERE}(,{_WHERE})*$",
        description="Bits of groups of weights that differ from `precision`, comma-separated: last_matmul:int8 for "
        "the output head, mixed_layers:int8 for the layers where rounding costs the most, linear_attn:int8 for the "
        "linear attention of hybrid models. Default null: none. Use 8 bits where an int4 model fails its gate; the file grows.",
    )
    prune_lm_head: bool | None = Field(
        None,
        description="Compute the logits of a prompt's last token only. Default null: false. Prompts are read faster, "
        "but perplexity must be measured token by token.",
    )
    shared_embeddings: bool | None = Field(
        None,
        description="Store one matrix for embedding and output head. Default null: if the model ties the two. false "
        "makes a larger file.",
    )
    fuse_qkv: bool | None = Field(
        None, description="Compute query, key and value in one product. Default null: where possible."
    )
    fuse_qk_norm_gqa: bool | None = Field(
        None,
        description="CUDA and WebGPU: compute the norms of query and key inside the attention kernel. Default null: where possible.",
    )
    fuse_mlp_gate_up: bool | None = Field(
        None, description="Compute the gate and up projections in one product. Default null: false."
    )
    windowed_kv_cache: bool | None = Field(
        None,
        description="Keep only the attention window in the key-value cache of layers with sliding-window attention. "
        "Default null: where possible.",
    )
    kv_cache_quant_scheme: KvScheme | None = Field(
        None,
        description="Number type and scales of the key-value cache. Default null: none, the cache keeps its precision. "
        "int8_per_channel takes a quarter of the float32 memory, for long conversations, and reads long prompts two to four times "
        "slower on a CPU; the scales are measured on the training rows, which takes a second build. CPU and CUDA; fp8 only on CUDA.",
    )
    moe_quant_type: Literal["int2", "int4", "int8", "mxfp4", "nvfp4"] | None = Field(
        None,
        description="Number type of the experts in a mixture of experts; int2, mxfp4 and nvfp4 need CUDA. Default null: `precision`.",
    )
    qmoe_block_size: Annotated[Literal[0, 16, 32, 64, 128, 256], NoSwitch] | None = Field(
        None, description="Weights of an expert that share one scale; 0: a channel. Default null: 32."
    )
    qmoe_weights_prepacked: Annotated[Literal[-1, 0, 1], NoSwitch] | None = Field(
        None,
        description="CUDA: arrange experts for the kernel during export (1) or when the model is loaded (0). Default null: the "
        "builder chooses.",
    )
    matmulnbits_weights_prepacked: Annotated[Literal[0, 1, 2], NoSwitch] | None = Field(
        None,
        description="CUDA: arrange 4- and 8-bit weights during export for Ampere (1) or Hopper (2). Default null: 0, not "
        "arranged.",
    )
    enable_cuda_fpa_intb_gemm: bool | None = Field(
        None,
        description="CUDA: use kernels that multiply 4- and 8-bit weights without dequantizing them first. Default null: false.",
    )
    use_device_allocator_for_initializers: bool | None = Field(
        None, description="Free the memory of weights once they are arranged for their kernels. Default null: false."
    )
    enable_dml_graph: bool | None = Field(
        None, description="DirectML: record the graph once and replay it. Default null: true."
    )
    enable_webgpu_graph: bool | None = Field(
        None, description="WebGPU: record the graph once and replay it. Default null: false."
    )


HEAD_NODE = "/lm_head/MatMul"
"""Node of the output head in the builder's graphs."""

GATE_MAX_KL = {"fp32": 0.02, "fp16": 0.05, "bf16": 0.05, "int8": 0.05, "int4": 0.7}
GATE_MAX_PERPLEXITY_INCREASE = {"fp32": 0.05, "fp16": 0.05, "bf16": 0.05, "int8": 0.08, "int4": 0.7}
GATE_MAX_LOST_ANSWERS = {"fp32": 0.02, "fp16": 0.03, "bf16": 0.03, "int8": 0.03, "int4": 0.05}
"""Default limits of the gate, by precision, over the decisions of a row. `bench/gate.py` measures what they let through: models of
135 million weights, which rounding hurts more than larger ones."""


def _by_precision(limits: dict[str, float]) -> str:
    return ", ".join(f"{limit:g} for {precision}" for precision, limit in limits.items())


class Gate(Strict):
    """Limits for the difference between the ONNX model and its source, measured on rows that were not trained on."""

    tokens: Annotated[int, Field(ge=16, le=4096)] = Field(
        384,
        description="Number of decisions to compare, at most: tokens that the training answers leave open, such as the first of a "
        "label; in at most 200 rows, and fewer for very large vocabularies. Default 384; more take longer and measure more exactly.",
    )
    max_kl: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Largest mean Kullback-Leibler divergence from the source model's distributions over decisions, in nats. "
        "Default null: "
        f"{_by_precision(GATE_MAX_KL)}.",
    )
    min_top1: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Smallest share of decisions whose likeliest token is the same in both models. Default null: not checked; "
        "models with flat distributions change their first choice at the slightest rounding.",
    )
    max_perplexity_increase: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Largest increase of the perplexity over decisions, as a share of the source model's. Default null: "
        f"{_by_precision(GATE_MAX_PERPLEXITY_INCREASE)}.",
    )
    max_lost_answers: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Largest share of the source model's right answers that the ONNX model loses, less those it gains. A larger "
        "loss fails if the paired 95 % interval excludes that none is lost (5 of 100 rows, 4 of 12), else it is a warning. An "
        "answer is right if each of its tokens is the most likely one. Default null: "
        f"{_by_precision(GATE_MAX_LOST_ANSWERS)}.",
    )


class Calibration(Strict):
    """Calibration of 4-bit weights."""

    tokens: Annotated[int, Field(ge=64, le=1_000_000)] = Field(
        8192,
        description="Number of tokens to calibrate on, at most, from training rows evenly over labels, of each the last 512. Default "
        "8192; 4096 to 65536 is usual. More take longer and fit other texts better.",
    )
    damp_percent: Annotated[float, Field(gt=0, lt=10)] = Field(
        0.1,
        description="Damping of the Hessians, as a share of the mean of their diagonals, by Olive's name. Default 0.1; 0.01 fits the "
        "rows of the calibration more closely, and other texts less.",
    )


@dataclass(frozen=True)
class Int4Rounding:
    """Rounding of the linear weights of an int4 model, for the export and for a training that is aware of it.

    The defaults are those of the export in a new project.

    Attributes:
        block_size: Weights of a row that share one scale.
        symmetric: Blocks have no zero points.
        algorithm: default, rtn or k_quant.
        sensitive_in_8_bits: The modules of `builder_source.gets_8_bits` have 8 bits.
        excluded: Nodes of the graph that keep their precision.
        packs_qkv: Query, key and value are one node, which matters to `sensitive_in_8_bits`.
    """

    block_size: int = 32
    symmetric: bool = True
    algorithm: str = "default"
    sensitive_in_8_bits: bool = True
    excluded: tuple[str, ...] = ()
    packs_qkv: bool = True


INT4_OPTIONS = ("use_qdq", "int4_calibration")
"""Keys of an ExportPass that are for weights of 4 bits only."""

ROUNDING_OPTIONS = (
    *INT4_OPTIONS,
    "int4_block_size",
    "int4_accuracy_level",
    "int4_is_symmetric",
    "int4_op_types_to_quantize",
    "int4_nodes_to_exclude",
    "int4_algo_config",
    "use_cuda_bf16",
    "extra_options.matmul_mixed_precision",
    "extra_options.matmulnbits_weights_prepacked",
    "extra_options.enable_cuda_fpa_intb_gemm",
)
"""Dotted keys of an ExportPass that are for weights of 4 or 8 bits only."""


class ExportPass(Pass):
    """Settings of a pass that builds an ONNX model for ONNX Runtime GenAI."""

    accepts: ClassVar[Kind] = "hf"
    produces: ClassVar[Kind] = "onnx"
    depends_on_provider: ClassVar[bool] = True

    adapters: Names | None = Field(
        None,
        description="Names of passes whose adapters are stored as .onnx_adapter files next to the ONNX model of their base, and "
        "selected at run time. Default null: export a merged model. Olive ignores this key.",
    )
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4"] = Field(
        description="Number type of the weights. int4 is the smallest and usually the fastest; fp16 and bf16 need a GPU.",
        examples=["int4"],
    )
    metadata_only: bool = no_effect(False, "No effect here: the complete model is built.")
    search: dict[str, bool | Whole | float] | None = Field(
        None,
        description='Generation defaults for genai_config.json, such as {"max_length": 2048}. Default null: those of the model.',
    )
    int4_block_size: Annotated[Literal[16, 32, 64, 128, 256], NoSwitch] | None = Field(
        None,
        description="int4 and int8: weights that share one scale. Default null: 32. Smaller blocks are more accurate "
        "and take more space.",
    )
    int4_accuracy_level: Annotated[Literal[1, 2, 3, 4], NoSwitch] | None = Field(
        None,
        description="int4 and int8: number type of the activations in products: 1 fp32, 2 fp16, 3 bf16, 4 int8. "
        "Default null: 4 on CPU and WebGPU. 4 is the fastest on CPUs; 1 is the most accurate.",
    )
    int4_is_symmetric: bool | None = Field(
        None,
        description="int4 and int8: symmetric quantization, without zero points. Default null: true; k_quant always has zero points.",
    )
    int4_op_types_to_quantize: Annotated[list[Literal["MatMul", "Gather"]], Field(min_length=1)] | None = Field(
        None,
        description='int4 and int8: operators to quantize; "Gather" is the embedding. Default null: ["MatMul"], '
        "and the embedding if it is also the output head.",
    )
    int4_nodes_to_exclude: Names | None = Field(
        None,
        description="int4 and int8: nodes of the graph that keep their precision. Default null: none.",
        examples=[[HEAD_NODE]],
    )
    int4_algo_config: (
        Literal["default", "rtn", "rtn_last", "k_quant", "k_quant_last", "k_quant_mixed", "k_quant_linear", "gptq"]
        | None
    ) = Field(
        None,
        description="int4 and int8: rounding algorithm. _last keeps the output head in 8 bits, _mixed also sensitive "
        "layers, _linear also linear attention. gptq calibrates the 4-bit weights on training rows before the builder rounds "
        "them as default does: the same size and speed, closer to the source model. Default null: default.",
    )
    int4_calibration: Calibration | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="int4: tokens to calibrate on, and damping. It chooses the algorithm gptq unless int4_algo_config is set. "
        "Default null: with gptq the defaults of both, else no calibration. Olive ignores this key.",
    )
    use_qdq: bool | None = Field(
        None,
        description="int4: use standard operators that dequantize, instead of 4-bit products, for runtimes without "
        "these. Default null: false.",
    )
    use_8bits_moe: bool | None = Field(
        None, description="8 bits for the experts in a mixture of experts. Default null: `precision`."
    )
    use_webgpu_fp32: bool | None = Field(
        None, description="WebGPU: activations in fp32, for GPUs without fp16. Default null: false."
    )
    use_cuda_bf16: bool | None = Field(
        None, description="CUDA, int4 and int8: activations in bf16 instead of fp16. Default null: false."
    )
    include_hidden_states: bool | None = Field(
        None, description="Output the last hidden states in addition to the logits. Default null: false."
    )
    enable_cuda_graph: bool | None = Field(
        None, description="CUDA: record the graph once and replay it. Default null: false. Excludes `adapters`."
    )
    extra_options: BuilderOptions = Field(
        default_factory=BuilderOptions, description="Further options of the model builder. Default {}."
    )
    gate: Gate | None = Field(
        default_factory=Gate,
        description="Limits for the difference between the ONNX model and its source; beyond them the pass fails. "
        "Default {}: limits by precision. null: the model must only run. Olive ignores this key.",
    )

    @property
    def quantizes(self) -> bool:
        """True if the weights are rounded to 4 or 8 bits."""
        return self.precision in ("int4", "int8")

    @property
    def int4_rounding(self) -> Int4Rounding:
        """Rounding of the linear weights, if `precision` is int4."""
        algorithm = "default" if self.is_calibrated else self.base_algorithm
        sensitive_in_8_bits = self.other_bits.get("mixed_layers") == "int8"
        return Int4Rounding(
            self.int4_block_size or 32,
            algorithm != "k_quant" and self.int4_is_symmetric is not False,
            algorithm,
            sensitive_in_8_bits,
            tuple(self.int4_nodes_to_exclude or ()),
            self.extra_options.fuse_qkv is not False or not sensitive_in_8_bits,
        )

    @property
    def is_calibrated(self) -> bool:
        """True if the 4-bit weights are calibrated on training rows."""
        return self.precision == "int4" and self.base_algorithm == "gptq"

    @property
    def calibration(self) -> Calibration:
        """Settings of the calibration, set or default."""
        return self.int4_calibration or Calibration()

    @property
    def rounds_head(self) -> bool:
        """True if the output head has 4 bits."""
        in_8_bits = self.other_bits.get("last_matmul") == "int8"
        return self.precision == "int4" and not in_8_bits and HEAD_NODE not in (self.int4_nodes_to_exclude or ())

    @property
    def key_not_trained_for(self) -> str:
        """Key of a rounding that `int4_rounding` cannot express; "" if there is none."""
        if self.base_algorithm not in ("default", "gptq"):
            return "int4_algo_config"
        if "MatMul" not in (self.int4_op_types_to_quantize or ["MatMul"]):
            return "int4_op_types_to_quantize"
        return "extra_options.matmul_mixed_precision" if "linear_attn" in self.other_bits else ""

    @property
    def base_algorithm(self) -> str:
        """Rounding algorithm without its suffix: default, rtn, k_quant or gptq."""
        calibrated = self.int4_calibration and self.precision == "int4"
        name = self.int4_algo_config or ("gptq" if calibrated else "default")
        return next(base for base in ("default", "rtn", "k_quant", "gptq") if name.startswith(base))

    @property
    def other_bits(self) -> dict[str, str]:
        """Number types of the groups of weights that differ from `precision`: last_matmul, mixed_layers, linear_attn."""
        suffix = (self.int4_algo_config or "").removeprefix(self.base_algorithm)
        groups = {"_last": ["last_matmul"], "_mixed": ["last_matmul", "mixed_layers"],
                  "_linear": ["last_matmul", "linear_attn"]}.get(suffix, [])  # fmt: skip
        pairs = (self.extra_options.matmul_mixed_precision or "").split(",")
        return dict.fromkeys(groups, "int8") | dict(pair.split(":") for pair in pairs if pair)
