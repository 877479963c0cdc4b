"""Translate passes that quantize weights, before or after a ModelBuilder, into options of that ModelBuilder.

The builder rounds weights itself: to the nearest value (`rtn`) or by search (`k_quant`, after llama.cpp), in 4 or 8 bits. What
needs calibration data (GPTQ, AWQ) or a rotation of the weights becomes the nearest of the two, and is recorded as a change of
the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from phi_runtime.config.dialects.draft import MISSING, Draft
from phi_runtime.config.dialects.keys import PASSES
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import FinetunePass
from phi_runtime.config.schema.registry import pass_types


class Quantizer(NamedTuple):
    """A pass of Olive that rounds weights without training them.

    Attributes:
        method: Its method, for messages.
        algorithm: The same algorithm of the builder; "" if the builder does not have it.
        block_size: Its default block size; -1 is one block per row.
        symmetric: Its default for symmetric quantization.
        on_graph: True if it quantizes the ONNX model that a builder made, False for the model before that.
        embeddings: True if it quantizes the input embedding too.
    """

    method: str
    algorithm: str = ""
    block_size: int = 128
    symmetric: bool = False
    on_graph: bool = False
    embeddings: bool = False


QUANTIZERS = {
    "Rtn": Quantizer("RTN", "rtn"),
    "KQuant": Quantizer("k-quant", "k_quant"),
    "Gptq": Quantizer("GPTQ"),
    "GptqQuantizer": Quantizer("GPTQ"),
    "GptqModel": Quantizer("GPTQ", block_size=-1, symmetric=True),
    "AutoAWQQuantizer": Quantizer("AWQ"),
    "OnnxKQuantQuantization": Quantizer("k-quant", "k_quant", block_size=32, on_graph=True),
    "OnnxBlockWiseRtnQuantization": Quantizer("RTN", "rtn", symmetric=True, on_graph=True, embeddings=True),
    "OnnxMatMul4Quantizer": Quantizer("RTN", "default", block_size=32, symmetric=True, on_graph=True),
    "OnnxHqqQuantization": Quantizer("HQQ", on_graph=True),
    "OnnxBnb4Quantization": Quantizer("NF4", block_size=64, on_graph=True),
}

PREPARATIONS = {
    "QuaRot": "rotating the weights",
    "SpinQuant": "rotating the weights",
    "AutoClip": "clipping the weights",
}
"""Passes that make weights easier to quantize, and what they do. Without them, the same weights are rounded."""

SELECTION = "SelectiveMixedPrecision"
"""The pass that selects the weights which keep more bits."""

QUANTIZER_PASSES = (*QUANTIZERS, *PREPARATIONS, SELECTION)

_EXACT_SELECTIONS = {"k_quant_last": "last_matmul:int8", "k_quant_mixed": "last_matmul:int8,mixed_layers:int8"}
_BLOCK_SIZES = (16, 32, 64, 128, 256)
_BLOCK_KEYS = ("block_size", "group_size", "q_group_size")
_SYMMETRIC_KEYS = ("is_symmetric", "sym")
_ONE_BY_ONE = ("modules_to_not_convert", "dynamic", "quantized_modules", "nodes_to_include", "customized_weight_config")
_DEFAULTS = {"int4_algo_config": "default", "int4_block_size": 32, "int4_is_symmetric": True}
"""What the builder does without these keys."""


@dataclass
class _Build:
    """The options of a ModelBuilder that its quantizers amount to, and the pass that each comes from."""

    bits: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    causes: dict[str, KeyPath] = field(default_factory=dict)
    mixed: str = ""

    def set(self, key: str, value: Any, cause: KeyPath) -> None:
        if key not in self.options:
            self.options[key], self.causes[key] = value, cause


def translate_quantizers(draft: Draft) -> None:
    """Replace all passes that quantize by options of the ModelBuilder."""
    kinds = {name: draft.get((*PASSES, name, "type")) for name in draft.keys(PASSES)}
    kinds = {name: kind for name, kind in kinds.items() if isinstance(kind, str)}
    names = [n for n, kind in kinds.items() if kind in QUANTIZER_PASSES]
    builder = next((n for n, kind in kinds.items() if kind == "ModelBuilder"), None)
    if not names:
        return
    order = list(kinds)
    last_training = max((order.index(n) for n, kind in kinds.items() if _trains(kind)), default=-1)
    if builder is None:
        return  # validation reports the passes, by the table of olive_names
    for name in names:
        draft.unnest((*PASSES, name, "config"))
        if order.index(name) < last_training:
            message = f"`{name}` ({kinds[name]}) quantizes a model that is trained afterwards"
            draft.refuse(
                (*PASSES, name), message, fix="train with a pass of type QLoRA, which rounds its base model to 4 bits"
            )
    names = [n for n in names if draft.has((*PASSES, n))]
    build = _Build()
    for name in names:
        _read(draft, name, kinds, builder, build)
    _apply(draft, builder, build)


def _read(draft: Draft, name: str, kinds: dict[str, Any], builder: str, build: _Build) -> None:
    """Add what the pass `name` does to `build`, and drop the pass."""
    at, kind = (*PASSES, name), kinds[name]
    if kind in PREPARATIONS:
        reason = f"{PREPARATIONS[kind]} is not implemented; `{builder}` quantizes the unchanged weights"
        draft.drop(at, reason, changes_result=True)
    elif kind == SELECTION:
        _select(draft, at, builder, build, quantizes=not QUANTIZERS.keys().isdisjoint(kinds.values()))
    elif QUANTIZERS[kind].on_graph and draft.get((*PASSES, builder, "precision")) in ("int4", "int8"):
        draft.drop(at, f"`{builder}` quantizes the weights already")
    else:
        method = str(draft.get((*at, "algorithm"))).upper()  # of OnnxMatMul4Quantizer
        quantizer = (
            QUANTIZERS[kind]._replace(method=method, algorithm="") if method in ("HQQ", "GPTQ") else QUANTIZERS[kind]
        )
        _quantize(draft, at, quantizer, builder, build)


def _select(draft: Draft, at: KeyPath, builder: str, build: _Build, *, quantizes: bool) -> None:
    if not quantizes:
        draft.drop(at, "it selects weights for a pass that quantizes, and none follows")
        return
    algorithm = draft.get((*at, "algorithm"))
    exact = _EXACT_SELECTIONS.get(str(algorithm)) if draft.get((*at, "high_bits")) in (MISSING, None, 8) else None
    build.mixed = exact or _EXACT_SELECTIONS["k_quant_mixed"]
    if exact:
        draft.drop(at, f"`{builder}` selects the same weights for 8 bits: {exact}")
    else:
        reason = f"`{builder}` selects weights for 8 bits by their position ({build.mixed}), not by {algorithm}"
        draft.drop(at, reason, changes_result=True)


def _quantize(draft: Draft, at: KeyPath, quantizer: Quantizer, builder: str, build: _Build) -> None:
    bits, overrides = _bits(draft, at), draft.get((*at, "overrides"))
    if bits is None:
        return
    overrides = overrides if isinstance(overrides, dict) else {}
    first = not build.bits
    if first:
        build.bits = bits
        symmetric = _value(draft, at, _SYMMETRIC_KEYS, quantizer.symmetric)
        if isinstance(zero_point := draft.get((*at, "zero_point")), bool):
            symmetric = not zero_point
        algorithm = quantizer.algorithm or ("rtn" if symmetric else "k_quant")
        algorithm = "rtn" if algorithm == "default" and not symmetric else algorithm
        build.set("int4_algo_config", algorithm, at)
        build.set("int4_block_size", _block_size(draft, at, quantizer), at)
        if algorithm != "k_quant":
            build.set("int4_is_symmetric", bool(symmetric), at)
        elif symmetric:
            draft.drop((*at, "sym"), "`k_quant` of the builder always has zero points", changes_result=True)
        for key in ("accuracy_level", "nodes_to_exclude"):
            if (value := draft.get((*at, key))) not in (MISSING, None, 0, []):
                build.set(f"int4_{key}", value, at)
    if draft.get((*at, "lm_head")) is True and _head_bits(overrides, bits) == 8 and build.bits == 4:
        build.mixed = build.mixed or "last_matmul:int8"
    if quantizer.embeddings or draft.get((*at, "embeds")) is True:
        build.set("int4_op_types_to_quantize", ["MatMul", "Gather"], at)
    if unused := [key for key in _ONE_BY_ONE if draft.get((*at, key)) not in (MISSING, None, [], {})]:
        draft.drop((*at, unused[0]), f"`{builder}` quantizes all products alike; list nodes in `int4_nodes_to_exclude`",
                   changes_result=True)  # fmt: skip
    if others := [key for key in overrides if "head" not in str(key) and "embed" not in str(key)]:
        draft.drop((*at, "overrides"), f"`{builder}` has no bits for single modules such as `{others[0]}`",
                   changes_result=True)  # fmt: skip
    if quantizer.algorithm or not first:
        draft.drop(at, f"`{builder}` (ModelBuilder) quantizes the weights as it did")
    else:
        reason = f"{quantizer.method} is not implemented; `{builder}` rounds with {build.options['int4_algo_config']}"
        draft.drop(at, reason, changes_result=True)


def _bits(draft: Draft, at: KeyPath) -> int | None:
    """Return the bits of the pass at `at`; None, and an error, if the builder does not have them."""
    value = draft.get((*at, "bits"))
    bits = 4 if value in (MISSING, None) else int(value) if str(value) in ("4", "8") else None
    if bits is None:
        draft.refuse(
            (*at, "bits"), f"{value} bits are not supported: the builder quantizes to 4 or 8", fix="set `bits` to 4"
        )
        draft.drop(at, "its `bits` are not supported")
    return bits


def _block_size(draft: Draft, at: KeyPath, quantizer: Quantizer) -> int:
    """Return the block size of the pass at `at`, or the nearest that the builder has, with a warning."""
    key = next((k for k in _BLOCK_KEYS if draft.has((*at, k))), None)
    size = draft.get((*at, key)) if key else quantizer.block_size
    if size in _BLOCK_SIZES:
        return int(size)
    nearest = 256 if size == -1 else min(_BLOCK_SIZES, key=lambda b: abs(b - size) if isinstance(size, int) else b)
    if key:
        reason = f"the builder has blocks of 16 to 256; {nearest} is used instead of {size}"
        draft.drop((*at, key), reason, changes_result=True)
    return nearest


def _head_bits(overrides: dict[str, Any], bits: int) -> int:
    head = next((value for key, value in overrides.items() if "lm_head" in str(key)), None)
    value = head.get("bits", bits) if isinstance(head, dict) else bits
    return 8 if str(value) == "8" else 4


def _value(draft: Draft, at: KeyPath, keys: tuple[str, ...], default: Any) -> Any:
    return next((draft.get((*at, key)) for key in keys if isinstance(draft.get((*at, key)), bool)), default)


def _apply(draft: Draft, builder: str, build: _Build) -> None:
    """Set the options of `build` on the ModelBuilder, where they differ from what it does without them."""
    at = (*PASSES, builder)
    if not build.bits:
        return
    cause = build.causes["int4_algo_config"]
    _set(draft, (*at, "precision"), f"int{build.bits}", cause)
    for key, value in build.options.items():
        if _DEFAULTS.get(key) != value:
            _set(draft, (*at, key), value, build.causes[key])
    if build.mixed and build.bits == 4:
        _set(draft, (*at, "extra_options", "matmul_mixed_precision"), build.mixed, cause)


def _set(draft: Draft, path: KeyPath, value: Any, cause: KeyPath) -> None:
    if draft.get(path) == value:
        return
    reason = f"`{cause[-1]}` quantizes so"
    if draft.has(path):
        draft.replace(path, value, f"`{path[-1]}` is now `{value}`: {reason}")
    else:
        draft.set_default(path, value, reason, cause=cause)


def _trains(kind: object) -> bool:
    return isinstance(kind, str) and kind in pass_types() and issubclass(pass_types()[kind], FinetunePass)
