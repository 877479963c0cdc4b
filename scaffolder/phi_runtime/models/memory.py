"""How much memory work with a model takes, told before anything is loaded.

With P parameters, h hidden and i intermediate size, L layers, B rows of T tokens and e bytes for a number (2 in bfloat16 and
float16, 4 in float32), the parts of an Estimate are:

- weights: eP under an adapter; 4P in full fine-tuning, and 2P more for the short copies that autocast makes; in 4 bits
  0.5 bytes a weight and a constant for every 64 (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), the embeddings in e
- adapter: 4 bytes for each of its weights, which are float32 always
- gradients and optimizer: 4 bytes for each trained weight, and 8 for AdamW's two moments (16P in all: Rajbhandari et al. 2020,
  https://arxiv.org/abs/1910.02054, §3.1). Where a step is one batch, gradients come as activations go: the larger counts
- activations: eBT(8h + 3i) a layer and 2eBT for each input of an adapter, or e·BTh with gradient checkpointing; the layer that
  is at work on top (as Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198, for Phi-3's layers and fused attention)
- logits: training/loss.py holds two chunks of them at a time, never BTV
- fixed: the imported libraries, and on a GPU the CUDA context

The constants were measured on a CPU in float32, where the C library keeps much of what activations leave free: half as much again,
or as much where activations are recomputed. T is the longest row's, so that most steps take less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any, Literal

from phi_runtime.models.shape import Linear, Shape

Method = Literal["lora", "qlora", "full"]

FIXED_CPU_BYTES = (
    550_000_000  # resident after the import of torch, transformers, peft and accelerate (2.13, 5.23, 0.21)
)
FIXED_GPU_BYTES = 1_000_000_000
_HELD_CPU, _HELD_CPU_RECOMPUTING, _HELD_GPU = 1.5, 2.0, 1.1  # by glibc's heaps and torch's cache, for each byte in use
_LOGIT_CHUNK_BYTES = 64_000_000  # training/loss.py
_SHORTEST_TOKENS = 128
SUGGESTED_RANK = 16


@dataclass(frozen=True)
class Job:
    """A training. `number_bytes` is the size of a number that is computed with; `adapter` the trained weights beside those of the
    model (all of which are trained by the method full), `adapter_inputs` the inputs of its modules, `rebuilt` the weights that
    it makes anew as whole matrices in every step, `saved` those of modules that are trained whole. Of `every` so many layers,
    checkpointing recomputes one."""

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
    rebuilt: int = 0
    saved: int = 0
    dropout: bool = True
    double_quant: bool = False
    int4_aware: bool = False
    eager: bool = False


@dataclass(frozen=True)
class Estimate:
    """The parts of the peak of a training step, in bytes."""

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


def estimate(shape: Shape, job: Job) -> Estimate:
    """The memory that `job` takes at its peak on a model of this `shape`."""
    trained = shape.parameters if job.method == "full" else job.adapter + job.saved
    activations, logits = _activations(shape, job), _logits(shape, job)
    gradients = 4 * trained
    if job.accumulation == 1:
        gradients = max(0, gradients - activations - logits)
    return Estimate(
        weights=_weights(shape, job),
        adapter=4 * (job.adapter + job.saved),
        gradients=gradients,
        optimizer=round(_moment_bytes(job) * trained),
        activations=activations,
        logits=logits,
        fixed=FIXED_GPU_BYTES if job.device == "gpu" else FIXED_CPU_BYTES,
    )


def _weights(shape: Shape, job: Job) -> int:
    if job.method == "full":
        return (4 if job.number_bytes == 4 else 6) * shape.parameters
    linear = min(shape.linear_parameters, shape.parameters)
    copy = job.number_bytes * linear if job.int4_aware else 0
    if job.method == "lora":
        return job.number_bytes * shape.parameters + copy
    constant = 1 / 64 + 4 / (64 * 256) if job.double_quant else 4 / 64
    return round((0.5 + constant) * linear) + job.number_bytes * (shape.parameters - linear) + copy


def _moment_bytes(job: Job) -> float:
    """Bytes that the optimizer keeps for each trained weight. On a CPU, AdamW takes the place of those of bitsandbytes."""
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


def _activations(shape: Shape, job: Job) -> int:
    h, i, layers, e = shape.hidden, shape.intermediate, shape.layers, job.number_bytes
    places = job.batch * job.tokens
    norms = 2 * h if e == 2 else 0  # which compute in float32
    kept = (
        12 * h + 4 * i
        if job.method == "full"
        else 8 * h + 3 * i + (2 if job.dropout else 1) * job.adapter_inputs / layers
    )
    layer = e * places * (kept + norms) + 4 * job.rebuilt / layers
    if job.eager:
        layer += (2 * e + 4) * job.batch * shape.heads * job.tokens**2
    at_work = e * places * (4 * h + 4 * i)
    if job.method == "qlora":  # the layer's weights, unpacked
        at_work += e * shape.linear_parameters // layers
    recomputed = layers / job.every if job.checkpointing else 0
    saved = e * places * h * recomputed + layer * (layers - recomputed + bool(recomputed))
    evaluation = e * job.evaluation_batch * job.tokens * (8 * h + 4 * i)
    mask = e * job.batch * job.tokens**2
    return round(_held(job) * (max(saved + at_work, evaluation) + mask))


def _held(job: Job) -> float:
    """What the allocator holds for each byte of activations: it keeps what is free again, in pieces that do not always fit."""
    if job.device == "gpu":
        return _HELD_GPU
    return _HELD_CPU_RECOMPUTING if job.checkpointing else _HELD_CPU


def _logits(shape: Shape, job: Job) -> int:
    e = job.number_bytes
    places = max(job.batch, job.evaluation_batch) * job.tokens
    held = 2 * min(_LOGIT_CHUNK_BYTES, 4 * places * shape.vocabulary) + 2 * e * places * shape.hidden
    if job.method == "full":  # the gradient of the head, and its part from one chunk
        held += 8 * shape.vocabulary * shape.hidden
    return round(_held(job) * held)


# -- what would fit --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """A job that fits, and what it takes; `changes` are those of its fields that differ from the job that did not."""

    job: Job
    estimate: Estimate
    changes: dict[str, Any]


def what_fits(shape: Shape, job: Job, available_bytes: int) -> Fit | None:
    """The job nearest to `job` that fits; None when nothing does.

    What changes the result least is tried first: smaller batches with more accumulation, gradient checkpointing, shorter rows, the
    rounded copy of the weights, and at last another method.
    """
    for found in _nearest_first(shape, job):
        needed = estimate(shape, found)
        if needed.total_bytes <= available_bytes:
            before, now = asdict(job), asdict(found)
            return Fit(found, needed, {name: now[name] for name in now if now[name] != before[name]})
    return None


def _nearest_first(shape: Shape, job: Job) -> Iterator[Job]:
    for kind in _kinds(shape, job):
        for tokens in _shorter(job.tokens):
            for checkpointing in dict.fromkeys((job.checkpointing, True)):
                for batch, evaluation_batch in _batches(job):
                    accumulation = job.accumulation * job.batch // batch
                    yield replace(
                        kind,
                        tokens=tokens,
                        checkpointing=checkpointing,
                        batch=batch,
                        evaluation_batch=evaluation_batch,
                        accumulation=accumulation,
                    )


def _kinds(shape: Shape, job: Job) -> Iterator[Job]:
    yield job
    if job.int4_aware:
        yield replace(job, int4_aware=False)
    if job.method == "full":
        yield with_lora(replace(job, method="lora"), shape.targets(None, all_linear=False), SUGGESTED_RANK)
    if job.method != "qlora":
        small = replace(job, method="qlora", int4_aware=False, double_quant=True, rebuilt=0)
        if job.method == "full" or job.rebuilt:
            small = with_lora(small, shape.targets(None, all_linear=True), SUGGESTED_RANK)
        yield small


def _shorter(tokens: int) -> Iterator[int]:
    yield tokens
    size = _SHORTEST_TOKENS
    while size * 2 < tokens:
        size *= 2
    while size >= _SHORTEST_TOKENS and size < tokens:
        yield size
        size //= 2


def _batches(job: Job) -> Iterator[tuple[int, int]]:
    """(rows of a training batch, rows of an evaluation batch); steps stay of the same size."""
    yield job.batch, job.evaluation_batch
    for batch in range(job.batch, 0, -1):
        if job.batch % batch == 0:
            yield batch, min(batch, job.evaluation_batch)


def longest_that_fits(shape: Shape, job: Job, available_bytes: int, limit: int) -> int:
    """The longest rows, in tokens and up to `limit`, with which `job` fits; 0 when the shortest do not."""
    sizes = sorted({limit, *range(_SHORTEST_TOKENS, limit, _SHORTEST_TOKENS)})
    fits = [size for size in sizes if estimate(shape, replace(job, tokens=size)).total_bytes <= available_bytes]
    return max(fits, default=0)


# -- adapters --------------------------------------------------------------------------------------------------------------------


def with_lora(job: Job, targets: Sequence[Linear], rank: int) -> Job:
    """`job` with a LoRA of this rank on `targets` (Hu et al. 2021, https://arxiv.org/abs/2106.09685: r · (in + out) for each)."""
    return replace(
        job,
        adapter=sum(rank * (m.inputs + m.outputs) for m in targets),
        adapter_inputs=sum(m.inputs for m in targets),
    )


def lokr_weights(module: Linear, rank: int) -> int:
    """Weights of a LoKr whose left matrix is near the square root of the whole."""
    inputs, outputs = sqrt(module.inputs), sqrt(module.outputs)
    return round(inputs * outputs + rank * (inputs + outputs))


# -- inference -------------------------------------------------------------------------------------------------------------------


def onnx_bytes(
    shape: Shape, precision: str = "int4", block_size: int = 32, *, in_8_bits: int = 0, gpu: bool = False
) -> int:
    """Size on disk of the ONNX model: 4 or 8 bits and a scale for every block of weights, which has 4 bytes for a CPU and 2 for a
    GPU, as has a number of an embedding of its own. One that is tied shares the quantised head, though not that of an int8 model
    (seen in onnxruntime-genai 0.18). Of an int4 model, `in_8_bits` weights have 8."""
    number = 2 if precision != "fp32" and (gpu or precision in ("fp16", "bf16")) else 4
    scale = (2 if gpu else 4) / block_size
    weight = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1 + scale, "int4": 0.5 + scale}[precision]
    embedding = shape.vocabulary * shape.hidden
    weights = shape.parameters - (0 if shape.tied else embedding)
    if precision in ("int4", "int8"):  # the last block of each row is filled up
        weights += -shape.hidden % block_size * shape.vocabulary
        weights += sum(-module.inputs % block_size * module.outputs for module in shape.linear)
    apart = 0 if shape.tied and precision != "int8" else embedding
    return round(weights * weight + in_8_bits * 0.5 + apart * number)


def inference_bytes(shape: Shape, tokens: int = 4096) -> int:
    """Memory to answer with the int4 model on a CPU: 1.25 times its file, and the float32 key-value cache of `tokens`."""
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * 4
    return round(150e6 + 1.25 * onnx_bytes(shape) + tokens * cache)
