"""The candidates: options of the ModelBuilder pass, with estimates of size and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phi_runtime.config.schema.export import INT4_OPTIONS, ROUNDING_OPTIONS
from phi_runtime.models.memory import inference_bytes, onnx_bytes
from phi_runtime.models.shape import Shape
from phi_runtime.search.optimize.targets import Target

_BLOCK, _MIXED, _ALGORITHM = "int4_block_size", "extra_options.matmul_mixed_precision", "int4_algo_config"
_DML = "DmlExecutionProvider"  # its latest release, 0.14.1, has no matmul_mixed_precision


@dataclass(frozen=True)
class Candidate:
    """One model to try. Options that are None are left to the builder."""

    name: str
    precision: str
    block_size: int | None = None
    mixed: str | None = None
    algorithm: str | None = None

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the ModelBuilder pass to change, by dotted key; None removes an option."""
        removed = ["int4_is_symmetric"]  # and what is valid for the precision of the config only
        if self.algorithm:
            removed.append("int4_calibration")
        if self.precision != "int4":
            removed += INT4_OPTIONS if self.precision == "int8" else ROUNDING_OPTIONS
        own = {"precision": self.precision, _BLOCK: self.block_size, _MIXED: self.mixed, _ALGORITHM: self.algorithm}
        return dict.fromkeys(removed) | own

    @property
    def written(self) -> dict[str, Any]:
        """The options with a value."""
        return {key: value for key, value in self.options.items() if value is not None}

    def values(self, pass_name: str) -> dict[str, Any]:
        """Return the options by dotted path from the top of the config."""
        return {f"passes.{pass_name}.{key}": value for key, value in self.options.items()}


_LAST, _LAYERS = "last_matmul:int8", "mixed_layers:int8"

# From the least to the most accurate, as measured: bench/README.md, "Candidates of optimize".
ALL = (
    Candidate("int4-block-128", "int4", 128),
    Candidate("int4-block-64", "int4", 64),
    Candidate("int4-block-32", "int4", 32),
    Candidate("int4-last-int8", "int4", 32, _LAST),
    Candidate("int4-layers-int8", "int4", 32, _LAYERS),
    Candidate("int4-mixed-int8", "int4", 32, f"{_LAST},{_LAYERS}"),
    Candidate("int4-k-quant-mixed", "int4", 32, algorithm="k_quant_mixed"),
    Candidate("int8", "int8"),
    Candidate("fp16", "fp16"),
    Candidate("bf16", "bf16"),
    Candidate("fp32", "fp32"),
)


def candidates_for(target: Target, shape: Shape | None = None) -> tuple[Candidate, ...]:
    """Return the candidates that run on `target`, from the least accurate to the most accurate.

    With a `shape`, these are from the smallest to the largest: a candidate is skipped if a more accurate one is smaller, such as
    blocks of 64 where the rows of weights are no multiple of 128.
    """
    candidates = [candidate for candidate in ALL if _runs_on(candidate, target)]
    if shape is None:
        return tuple(candidates)
    sizes = [expected_bytes(shape, candidate, target) for candidate in candidates]
    return tuple(candidate for i, candidate in enumerate(candidates) if sizes[i] <= min(sizes[i:]))


def _runs_on(candidate: Candidate, target: Target) -> bool:
    if candidate.algorithm:  # elsewhere larger than int4-mixed-int8 and no more accurate
        return target.provider == _DML
    return candidate.precision in target.precisions and not (candidate.mixed and target.provider == _DML)


def expected_bytes(shape: Shape, candidate: Candidate, target: Target) -> int:
    """Estimate the size of the model's folder, in bytes; see `memory.onnx_bytes`."""
    block_size = candidate.block_size or 32
    groups = f"{_LAST},{_LAYERS}" if candidate.algorithm else candidate.mixed or ""
    in_8_bits = [pair.partition(":")[0] for pair in groups.split(",")]
    size = onnx_bytes(shape, candidate.precision, block_size, in_8_bits=in_8_bits, gpu=target.on_gpu)
    return size + (shape.parameters // (2 * block_size) if candidate.algorithm else 0)  # zero points of 4 bits


def expected_memory_bytes(
    shape: Shape, candidate: Candidate, target: Target, tokens: int, *, all_logits: bool = True
) -> int | None:
    """Estimate the peak memory of reading a prompt of `tokens` on a CPU, in bytes; see `memory.inference_bytes`.

    A graph outputs logits for every token (`all_logits`) unless its head is pruned. None on a GPU, for which there is no
    measurement.
    """
    if target.on_gpu:
        return None
    return inference_bytes(shape, expected_bytes(shape, candidate, target), tokens, all_logits=all_logits)
