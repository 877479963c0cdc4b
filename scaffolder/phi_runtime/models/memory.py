"""Estimate the memory that training and inference take, and the size of models, before anything is loaded.

Size and memory mean the same in estimates and in measurements:

- size: all files of a model's folder, so weights and tokenizer; an adapter needs its base in addition
- memory: peak of the resident set of a process that only runs this model, with a context of so many tokens; GPU memory on a GPU

In training, with P parameters, h hidden and i intermediate size, L layers, B rows of T tokens and e bytes for a number
(2 in bfloat16 and float16, 4 in float32), the parts of a `MemoryEstimate` are:

- weights: eP under an adapter; 4P in full fine-tuning, and 2P for the 16-bit copies that autocast makes; in 4 bits half a
  byte a weight and a scale for every 64 (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), or a byte and a scale for every
  32 where QLoRA is int4-aware; the embeddings in e
- adapter: 4 bytes a weight, always float32
- gradients and optimizer: 4 bytes for each trained weight, and 8 for AdamW's two moments (16P in all: Rajbhandari et al.
  2020, https://arxiv.org/abs/1910.02054, §3.1). With one batch a step, gradients grow as activations shrink: the larger counts
- activations: eBT(7h + 2i) a layer, from the first adapted one on: states, attention, gate and up (training/recomputation.py), and
  2eBT for each input of an adapter with dropout; with gradient checkpointing eBTh, and all of the layer that is recomputed,
  eBT(8h + 3i) and more; in addition the layer that is computed (Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198, for
  Phi-3's layers and fused attention)
- logits: two chunks of training/loss.py, never BTV
- fixed: the imported libraries, and on a GPU the CUDA context

The constants were measured on a CPU in float32, where the C library keeps much of the freed activations: half as much
again, or as much again with checkpointing. T is the longest row; most steps take less.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any, Literal

from phi_runtime.models.builder_source import gets_8_bits
from phi_runtime.models.modules import layer_of
from phi_runtime.models.shape import Linear, Shape

Method = Literal["lora", "qlora", "full"]

FIXED_CPU_BYTES = 550_000_000
"""Resident after importing torch 2.13, transformers 5.23, peft 0.21 and accelerate."""
FIXED_GPU_BYTES = 1_000_000_000
FIXED_ONNX_BYTES = 160_000_000
"""Resident after importing onnxruntime-genai 0.18, with its thread pool and the session of a small model."""
CONTEXT_TOKENS = 2048
"""The context of memory figures, unless another is stated."""
NEW_PROJECT_IN_8_BITS = ("last_matmul", "mixed_layers")  # of the int4 export in template/fine-tuning/olive-config.json
_BLOCK = 32  # weights that share a scale, unless the export says otherwise
_TOKEN_BYTES = 75  # of tokenizer.json, per token of the vocabulary
_LAYER_BYTES = 7_000  # of model.onnx, the graph without its weights
_HELD_CPU, _HELD_CPU_RECOMPUTING, _HELD_GPU = 1.5, 2.0, 1.1  # held by glibc's heaps and torch's cache, per byte in use
_LOGIT_CHUNK_BYTES = 64_000_000  # training/loss.py
_SHORTEST_TOKENS = 128
SUGGESTED_RANK = 16
_ROUNDED_ROWS, _COPIES_OF_PART = 8192, 20  # export/calibrated.py, export/gptq.py
_CORE_FLOPS, _SCALE_SEARCH_S = 120e9, 2.5e-7  # of a core; seconds a weight


@dataclass(frozen=True)
class TrainingJob:
    """One training job, as far as its memory depends on it.

    Attributes:
        method: The way the base is held and trained.
        batch: Rows of a training batch.
        tokens: Tokens of the longest row.
        evaluation_batch: Rows of a validation batch; 0 without validation.
        accumulation: Batches of a step.
        checkpointing: Recompute activations in the backward pass.
        every: Checkpointing recomputes one of this many layers.
        number_bytes: Size of a number in matrix products.
        device: cpu or gpu.
        optimizer: Name in `training_args.optim`.
        adapter: Trained weights of the adapter.
        adapter_inputs: Sum of the input sizes of its modules.
        adapter_outputs: Sum of the sizes of what it keeps in addition, after its modules.
        frozen_layers: Layers below the first adapted one, which keep nothing for the backward pass.
        rebuilt: Weights that the adapter expands to full matrices in every step.
        saved: Weights of modules that are trained fully, in addition to the adapter.
        dropout: The adapter keeps its inputs before and after dropout.
        double_quant: The quantization constants are quantized too.
        int4_aware: The base is held as an int4 export rounds it: in QLoRA in 8 bits, else as a copy.
        eager: Attention materializes its scores.
    """

    method: Method
    batch: int
    tokens: int
    evaluation_batch: int = 0
    accumulation: int = 1
    checkpointing: bool = True
    every: int = 1
    number_bytes: int = 2
    device: str = "cpu"
    optimizer: str = "adamw_torch_fused"
    adapter: int = 0
    adapter_inputs: int = 0
    adapter_outputs: int = 0
    frozen_layers: int = 0
    rebuilt: int = 0
    saved: int = 0
    dropout: bool = True
    double_quant: bool = False
    int4_aware: bool = False
    eager: bool = False


@dataclass(frozen=True)
class MemoryEstimate:
    """Parts of the peak memory of a training step, in bytes."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    fixed: int

    @property
    def total_bytes(self) -> int:
        return sum(asdict(self).values())

    def as_dict(self) -> dict[str, int]:
        return {**{f"{part}_bytes": size for part, size in asdict(self).items()}, "total_bytes": self.total_bytes}


def estimate(shape: Shape, job: TrainingJob) -> MemoryEstimate:
    """Estimate the peak memory of `job` on a model of this `shape`."""
    trained = shape.parameters if job.method == "full" else job.adapter + job.saved
    activations, logits = _activations(shape, job), _logits(shape, job)
    gradients = 4 * trained
    if job.accumulation == 1:
        gradients = max(0, gradients - activations - logits)
    return MemoryEstimate(
        weights=_weights(shape, job),
        adapter=4 * (job.adapter + job.saved),
        gradients=gradients,
        optimizer=round(_moment_bytes(job) * trained),
        activations=activations,
        logits=logits,
        fixed=FIXED_GPU_BYTES if job.device == "gpu" else FIXED_CPU_BYTES,
    )


def _weights(shape: Shape, job: TrainingJob) -> int:
    if job.method == "full":
        return (4 if job.number_bytes == 4 else 6) * shape.parameters
    linear = min(shape.linear_parameters, shape.parameters)
    if job.method == "lora":
        return job.number_bytes * (shape.parameters + (linear if job.int4_aware else 0))
    others = job.number_bytes * (shape.parameters - linear)
    if job.int4_aware:
        return round((1 + job.number_bytes / _BLOCK) * linear) + others
    constant = 1 / 64 + 4 / (64 * 256) if job.double_quant else 4 / 64
    return round((0.5 + constant) * linear) + others


def _moment_bytes(job: TrainingJob) -> float:
    """Return the optimizer state per trained weight, in bytes. On a CPU, AdamW replaces the optimizers of bitsandbytes."""
    name = job.optimizer
    if name in ("sgd", "adafactor", "galore_adafactor"):
        return 0
    if job.device == "gpu" and "8bit" in name:
        return 1 if name.endswith("lion_8bit") or name == "rmsprop_bnb_8bit" else 2
    if job.device == "gpu" and "4bit" in name:
        return 1
    if "lion" in name or name.startswith(("rmsprop", "adagrad")):
        return 4
    return 12 if "ademamix" in name else 8


def _activations(shape: Shape, job: TrainingJob) -> int:
    h, i, e = shape.hidden, shape.intermediate, job.number_bytes
    layers = max(1, shape.layers - job.frozen_layers)  # that the backward pass goes through
    positions = job.batch * job.tokens  # B·T
    dropped = 2 * job.adapter_inputs if job.dropout else 0
    if not job.checkpointing:
        kept = 7 * h + 2 * i + (job.adapter_outputs + dropped) / layers
    else:
        adapter = job.adapter_outputs + (dropped or job.adapter_inputs)
        norms = 2 * h if e == 2 else 0  # norms compute in float32
        kept = norms + (12 * h + 4 * i if job.method == "full" else 8 * h + 3 * i + adapter / layers)
    layer = e * positions * kept + 4 * job.rebuilt / layers
    if job.eager:
        layer += (2 * e + 4) * job.batch * shape.heads * job.tokens**2
    current = e * positions * (4 * h + 4 * i)  # the layer that is computed
    if job.method == "qlora":  # its weights, dequantized
        current += e * shape.linear_parameters // shape.layers
    recomputed = layers / job.every if job.checkpointing else 0
    saved = e * positions * h * recomputed + layer * (layers - recomputed + bool(recomputed))
    evaluation = e * job.evaluation_batch * job.tokens * (8 * h + 4 * i)
    mask = e * job.batch * job.tokens**2
    return round(_overhead(job) * (max(saved + current, evaluation) + mask))


def _overhead(job: TrainingJob) -> float:
    """Return the memory that the allocator holds per byte of activations: it keeps freed blocks, not all of which fit again."""
    if job.device == "gpu":
        return _HELD_GPU
    return _HELD_CPU_RECOMPUTING if job.checkpointing else _HELD_CPU


def _logits(shape: Shape, job: TrainingJob) -> int:
    e = job.number_bytes
    positions = max(job.batch, job.evaluation_batch) * job.tokens
    held = 2 * min(_LOGIT_CHUNK_BYTES, 4 * positions * shape.vocabulary) + 2 * e * positions * shape.hidden
    if job.method == "full":  # the gradient of the head, and the contribution of one chunk
        held += 8 * shape.vocabulary * shape.hidden
    return round(_overhead(job) * held)


# -- jobs that fit -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """A job that fits into memory; `changes` holds the fields that differ from the job that does not."""

    job: TrainingJob
    estimate: MemoryEstimate
    changes: dict[str, Any]


def what_fits(shape: Shape, job: TrainingJob, available_bytes: int) -> Fit | None:
    """Return the job nearest to `job` that fits into `available_bytes`; None if none does.

    The changes with the least effect on the result are tried first: smaller batches with more accumulation, gradient
    checkpointing, shorter rows, no rounded copy of the weights, and at last another method.
    """
    for candidate in _nearest_first(shape, job):
        needed = estimate(shape, candidate)
        if needed.total_bytes <= available_bytes:
            requested, values = asdict(job), asdict(candidate)
            return Fit(candidate, needed, {name: values[name] for name in values if values[name] != requested[name]})
    return None


def _nearest_first(shape: Shape, job: TrainingJob) -> Iterator[TrainingJob]:
    for variant in _variants(shape, job):
        for tokens in _shorter(job.tokens):
            for checkpointing in dict.fromkeys((job.checkpointing, True)):
                for batch, evaluation_batch in _batches(job):
                    accumulation = job.accumulation * job.batch // batch
                    yield replace(
                        variant,
                        tokens=tokens,
                        checkpointing=checkpointing,
                        batch=batch,
                        evaluation_batch=evaluation_batch,
                        accumulation=accumulation,
                    )


def _variants(shape: Shape, job: TrainingJob) -> Iterator[TrainingJob]:
    yield job
    if job.int4_aware:
        yield replace(job, int4_aware=False)
    if job.method == "full":
        yield with_lora(
            replace(job, method="lora", frozen_layers=0), shape.targets(None, all_linear=False), SUGGESTED_RANK
        )
    if job.method != "qlora":
        small = replace(job, method="qlora", double_quant=not job.int4_aware, rebuilt=0)
        if job.method == "full" or job.rebuilt:
            small = with_lora(replace(small, frozen_layers=0), shape.targets(None, all_linear=True), SUGGESTED_RANK)
        yield small


def _shorter(tokens: int) -> Iterator[int]:
    """Yield `tokens`, and the powers of two below it."""
    yield tokens
    size = _SHORTEST_TOKENS
    while size * 2 < tokens:
        size *= 2
    while size >= _SHORTEST_TOKENS and size < tokens:
        yield size
        size //= 2


def _batches(job: TrainingJob) -> Iterator[tuple[int, int]]:
    """Yield training and validation batch sizes that keep the rows of a step."""
    yield job.batch, job.evaluation_batch
    for batch in range(job.batch, 0, -1):
        if job.batch % batch == 0:
            yield batch, min(batch, job.evaluation_batch)


def longest_that_fits(shape: Shape, job: TrainingJob, available_bytes: int, limit: int) -> int:
    """Return the longest rows with which `job` fits, in tokens and at most `limit`; 0 if none fit.

    The estimate never shrinks as rows grow, so that a binary search finds it.
    """
    sizes = sorted({limit, *range(_SHORTEST_TOKENS, limit, _SHORTEST_TOKENS)})
    fitting = bisect_right(
        sizes, available_bytes, key=lambda size: estimate(shape, replace(job, tokens=size)).total_bytes
    )
    return sizes[fitting - 1] if fitting else 0


# -- adapters ------------------------------------------------------------------------------------------------------------


def with_lora(job: TrainingJob, targets: Sequence[Linear], rank: int) -> TrainingJob:
    """Return `job` with a LoRA on `targets`: r · (in + out) weights each (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""
    return replace(
        job,
        adapter=sum(rank * (m.inputs + m.outputs) for m in targets),
        adapter_inputs=sum(m.inputs for m in targets),
    )


def lokr_weights(module: Linear, rank: int) -> int:
    """Return the weights of a LoKr whose left matrix has near the square root of the module's size."""
    inputs, outputs = sqrt(module.inputs), sqrt(module.outputs)
    return round(inputs * outputs + rank * (inputs + outputs))


# -- inference -----------------------------------------------------------------------------------------------------------


def tokenizer_bytes(shape: Shape) -> int:
    """Return the size of the tokenizer's files, estimated by the vocabulary if it is unknown."""
    return shape.tokenizer_bytes or _TOKEN_BYTES * shape.vocabulary


def calibration_bytes(shape: Shape, tokens: int) -> int:
    """Estimate the peak memory of calibrating int4 weights on a CPU (export/calibrated.py).

    The model is in its stored type; a layer, the inputs of the next one, the Hessian of an input with its factors and the part of
    a weight that is rounded are in float32. A model of 135 million weights took 1.67 GB, and 1.8 GB are estimated.
    """
    head = Linear("lm_head", shape.hidden, shape.vocabulary)
    layer = shape.linear_parameters // max(1, shape.layers)
    widest = max((module.inputs for module in shape.linear), default=shape.hidden)
    part = max(min(_ROUNDED_ROWS, m.outputs) * m.inputs for m in (*shape.linear, head))
    working = 4 * (layer + tokens * shape.hidden + 4 * widest**2 + _COPIES_OF_PART * part)
    return FIXED_CPU_BYTES + shape.stored_bytes * shape.parameters + round(_HELD_CPU * working)


def calibration_s(shape: Shape, tokens: int, cores: int) -> float:
    """Estimate the seconds of calibrating int4 weights on `cores` CPU cores, within a factor of about two.

    Each token passes each linear weight nine times, with the Hessians; a weight (N, K) takes N·K² + 2·K³ products, and a search for
    its scales. The rates are of one AVX-512 core and a model of 135 million weights: 81 s of 3,080 tokens.
    """
    passes = 9 * tokens * shape.linear_parameters
    compensation = sum(m.inputs**2 * m.outputs + 2 * m.inputs**3 for m in shape.linear)
    return (2 * passes + compensation) / (_CORE_FLOPS * cores) + shape.parameters * _SCALE_SEARCH_S / cores


def onnx_bytes(
    shape: Shape,
    precision: str = "int4",
    block_size: int = 32,
    *,
    in_8_bits: Collection[str] = (),
    gpu: bool = False,
) -> int:
    """Estimate the size of an ONNX model with its tokenizer (layout of onnxruntime-genai 0.18).

    A tied embedding shares the quantized output head, except in int8 models; a separate one has 4 bytes a number for a
    CPU and 2 for a GPU, like the scale of a block.

    Args:
        shape: Shape of the model.
        precision: fp32, fp16, bf16, int8 or int4.
        block_size: Weights that share one scale.
        in_8_bits: Groups of weights of an int4 model that have 8 bits: last_matmul, mixed_layers.
        gpu: The model is for a GPU.
    """
    number = 2 if precision != "fp32" and (gpu or precision in ("fp16", "bf16")) else 4
    scale = (2 if gpu else 4) / block_size
    weight = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1 + scale, "int4": 0.5 + scale}[precision]
    embedding = shape.vocabulary * shape.hidden
    weights = shape.parameters - (0 if shape.tied else embedding)
    if precision in ("int4", "int8"):  # the last block of each row is padded
        weights += -shape.hidden % block_size * shape.vocabulary
        weights += sum(-module.inputs % block_size * module.outputs for module in shape.linear)
    separate = 0 if shape.tied and precision != "int8" else embedding
    wide = _weights_in_8_bits(shape, in_8_bits) if precision == "int4" else 0
    data = round(weights * weight + wide * 0.5 + separate * number)
    return data + _LAYER_BYTES * shape.layers + tokenizer_bytes(shape)


def _weights_in_8_bits(shape: Shape, groups: Collection[str]) -> int:
    """Count the weights of an int4 model that have 8 bits."""
    count = shape.vocabulary * shape.hidden if "last_matmul" in groups else 0
    if "mixed_layers" in groups:
        for module in shape.linear:
            layer = layer_of(module.name)
            if layer is not None and gets_8_bits(layer, shape.layers, module.name.rpartition(".")[2]):
                count += module.inputs * module.outputs
    return count


def inference_bytes(shape: Shape, file_bytes: int, tokens: int, *, all_logits: bool = False) -> int:
    """Estimate the memory of an ONNX model on a CPU that reads a prompt of `tokens`.

    These are 1.25 times its files, float32 keys and values, and the larger of what one layer computes, for which the runtime
    allocates twice as much, and the logits.

    Args:
        shape: Shape of the model.
        file_bytes: Size of the ONNX model.
        tokens: The context.
        all_logits: The graph outputs float32 logits for every token.
    """
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * 4
    layer = 2 * 4 * (4 * shape.hidden + 3 * shape.intermediate)
    logits = 4 * shape.vocabulary if all_logits else 0
    return round(FIXED_ONNX_BYTES + 1.25 * file_bytes + tokens * (cache + max(layer, logits)))
