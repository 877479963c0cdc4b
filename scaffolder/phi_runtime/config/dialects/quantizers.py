"""Translate passes that quantize weights, before or after a ModelBuilder, into options of that ModelBuilder.

The builder rounds weights itself: to the nearest value (`rtn`) or by search (`k_quant`, after llama.cpp), in 4 or 8 bits. GPTQ of a
trained model becomes `gptq` of the export, which calibrates on training rows. What else needs calibration data (AWQ) or a rotation
of the weights becomes the nearest of the two of the builder, and is recorded as a change of the result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from phi_runtime.config.dialects.draft import MISSING, Draft
from phi_runtime.config.dialects.keys import PASSES
from phi_runtime.config.dialects.pass_types import pass_kinds, training_passes
from phi_runtime.config.reading.source import KeyPath


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

_CALIBRATED = "gptq"
_LAST = "last_matmul:int8"
_SELECTIONS = {"k_quant_last": _LAST, "k_quant_mixed": f"{_LAST},mixed_layers:int8"}
"""Algorithms of SelectiveMixedPrecision that the builder has, as values of `matmul_mixed_precision`."""
_BLOCK_SIZES = (16, 32, 64, 128, 256)
_BLOCK_KEYS = ("block_size", "group_size", "q_group_size")
_SYMMETRIC_KEYS = ("is_symmetric", "sym")
_SINGLE_WEIGHTS = (
    "modules_to_not_convert",
    "dynamic",
    "quantized_modules",
    "nodes_to_include",
    "customized_weight_config",
)
"""Options that treat single weights differently."""
_DEFAULTS = {"int4_algo_config": "default", "int4_block_size": 32, "int4_is_symmetric": True}
"""What the builder does without these keys."""


def translate_quantizers(draft: Draft) -> None:
    """Replace all passes that quantize by options of the ModelBuilder.

    Without a ModelBuilder they remain: validation reports them, by the table of `olive_names`.
    """
    kinds = pass_kinds(draft)
    builder = next((name for name, kind in kinds.items() if kind == "ModelBuilder"), None)
    if builder is None:
        return
    order = list(kinds)
    last_training = max(map(order.index, training_passes(draft)), default=-1)
    options = _Options(draft, builder, is_trained=last_training >= 0)
    for name in [name for name, kind in kinds.items() if kind in QUANTIZER_PASSES]:
        at = (*PASSES, name)
        draft.unnest((*at, "config"))
        if order.index(name) < last_training:
            message = f"`{name}` ({kinds[name]}) quantizes a model that is trained afterwards"
            draft.refuse(at, message, fix="train with a pass of type QLoRA, which rounds its base model to 4 bits")
        elif kinds[name] in PREPARATIONS:
            reason = f"{PREPARATIONS[kinds[name]]} is not implemented; `{builder}` quantizes the unchanged weights"
            draft.drop(at, reason, changes_result=True)
        elif kinds[name] != SELECTION:
            options.quantize(at, QUANTIZERS[kinds[name]])
        elif QUANTIZERS.keys().isdisjoint(kinds.values()):
            draft.drop(at, "it selects weights for a pass that quantizes, and there is none")
        else:
            options.select(at)
    options.apply()


class _Options:
    """The options of a ModelBuilder that the passes around it amount to; each is recorded with the pass that it comes from."""

    def __init__(self, draft: Draft, builder: str, *, is_trained: bool) -> None:
        self.draft = draft
        self.is_trained = is_trained
        self.builder = builder
        self.at: KeyPath = (*PASSES, builder)
        self.bits = 0
        self.mixed = ""
        self.values: dict[str, tuple[Any, KeyPath]] = {}

    def select(self, at: KeyPath) -> None:
        """Read a SelectiveMixedPrecision pass."""
        algorithm = str(self._value(at, "algorithm") or "")
        same = self._value(at, "high_bits") in (None, 8) and algorithm in _SELECTIONS
        self.mixed = _SELECTIONS[algorithm] if same else _SELECTIONS["k_quant_mixed"]
        how = f"`{self.builder}` keeps weights in 8 bits by their position ({self.mixed})"
        reason = f"{how}, not by {algorithm}" if algorithm and not same else how
        self.draft.drop(at, reason, changes_result=not same)

    def quantize(self, at: KeyPath, quantizer: Quantizer) -> None:
        """Read a pass that rounds weights. The first one is for most weights, others for what it leaves: head and embedding."""
        if quantizer.on_graph and self.draft.get((*self.at, "precision")) in ("int4", "int8"):
            self.draft.drop(at, f"`{self.builder}` quantizes the weights already")
            return
        bits = {"4": 4, "8": 8}.get(str(self._value(at, "bits") or 4))
        if bits is None:
            message = f"{self._value(at, 'bits')} bits are not supported: the builder quantizes to 4 or 8"
            self.draft.refuse((*at, "bits"), message, fix="set `bits` to 4")
            self.draft.drop(at, "its `bits` are not supported")
            return
        method = str(self._value(at, "algorithm")).upper()  # of OnnxMatMul4Quantizer
        if method in ("HQQ", "GPTQ"):
            quantizer = quantizer._replace(method=method, algorithm="")
        if quantizer.method == "GPTQ" and self.is_trained and bits == 4:
            quantizer = quantizer._replace(algorithm=_CALIBRATED)
        first = not self.bits
        if first:
            self.bits = bits
            self._rounding(at, quantizer)
        self._head(at, quantizer, bits)
        self._single_weights(at)
        if quantizer.algorithm == _CALIBRATED and first:
            self._calibrated(at, quantizer)
        elif quantizer.algorithm or not first:
            self.draft.drop(at, f"`{self.builder}` (ModelBuilder) quantizes the weights as it did")
        else:
            algorithm = self.values["int4_algo_config"][0]
            reason = f"{quantizer.method} is not implemented; `{self.builder}` rounds with `{algorithm}`"
            self.draft.drop(at, reason, changes_result=True)

    def apply(self) -> None:
        """Set the options, where they differ from what the builder does without them."""
        if not self.bits:
            return
        cause = self.values["int4_algo_config"][1]
        if self.draft.get((*self.at, "precision")) == "bf16":
            self._set(("use_cuda_bf16",), True, cause)
        self._set(("precision",), f"int{self.bits}", cause)
        for key, (value, place) in self.values.items():
            if self.draft.has((*self.at, key)) or _DEFAULTS.get(key) != value:
                self._set((key,), value, place)
        if self.mixed and self.bits == 4:
            self._set(("extra_options", "matmul_mixed_precision"), self.mixed, cause)

    def _rounding(self, at: KeyPath, quantizer: Quantizer) -> None:
        symmetric_key, symmetric = self._symmetric_key(at), self._is_symmetric(at, quantizer)
        algorithm = quantizer.algorithm or ("rtn" if symmetric else "k_quant")
        if algorithm == "default" and not symmetric:
            algorithm = "rtn"  # the default algorithm cannot share an embedding that has zero points
        self.values["int4_algo_config"] = algorithm, at
        self.values["int4_block_size"] = self._block_size(at, quantizer), at
        if algorithm not in ("k_quant", _CALIBRATED):
            self.values["int4_is_symmetric"] = symmetric, at
        elif algorithm == "k_quant" and symmetric and symmetric_key:
            reason = "`k_quant` of the builder always has zero points"
            self.draft.drop((*at, symmetric_key), reason, changes_result=True)
        for key in ("accuracy_level", "nodes_to_exclude"):
            if value := self._value(at, key):
                self.values[f"int4_{key}"] = value, at

    def _calibrated(self, at: KeyPath, quantizer: Quantizer) -> None:
        """Drop a pass that becomes the calibration of the export."""
        differences = []
        if not self._is_symmetric(at, quantizer):
            differences.append("without zero points")
        if self._value(at, "data_config") is not None:
            differences.append("on the training rows instead of `data_config`")
        reason = f"`{self.builder}` calibrates the weights ({_CALIBRATED})"
        if damping := self._value(at, "damp_percent"):
            self.values["int4_calibration"] = {"damp_percent": damping}, at
        self.draft.drop(at, ", ".join([reason, *differences]), changes_result=bool(differences))

    def _is_symmetric(self, at: KeyPath, quantizer: Quantizer) -> bool:
        if isinstance(zero_point := self._value(at, "zero_point"), bool):
            return not zero_point
        key = self._symmetric_key(at)
        return bool(self._value(at, key)) if key else quantizer.symmetric

    def _symmetric_key(self, at: KeyPath) -> str | None:
        return next((key for key in _SYMMETRIC_KEYS if isinstance(self._value(at, key), bool)), None)

    def _head(self, at: KeyPath, quantizer: Quantizer, bits: int) -> None:
        overrides = self._value(at, "overrides")
        own = next((v for k, v in overrides.items() if "lm_head" in k), None) if isinstance(overrides, dict) else None
        bits_of_head = str(own.get("bits", bits)) if isinstance(own, dict) else str(bits)
        if self._value(at, "lm_head") is True and bits_of_head == "8" and self.bits == 4:
            self.mixed = self.mixed or _LAST
        if quantizer.embeddings or self._value(at, "embeds") is True:
            self.values["int4_op_types_to_quantize"] = ["MatMul", "Gather"], at

    def _single_weights(self, at: KeyPath) -> None:
        """Drop options for single weights, with a warning; the head and the embedding have options of the builder."""
        for key in _SINGLE_WEIGHTS:
            if self._value(at, key):
                reason = f"`{self.builder}` quantizes all weights alike; list nodes in `int4_nodes_to_exclude`"
                self.draft.drop((*at, key), reason, changes_result=True)
        others = [name for name in self.draft.keys((*at, "overrides")) if "head" not in name and "embed" not in name]
        if others:
            reason = f"`{self.builder}` has no bits for single modules such as `{others[0]}`"
            self.draft.drop((*at, "overrides"), reason, changes_result=True)

    def _block_size(self, at: KeyPath, quantizer: Quantizer) -> int:
        """Return the block size of the pass at `at`, or the nearest that the builder has, with a warning."""
        key = next((k for k in _BLOCK_KEYS if self.draft.has((*at, k))), None)
        size = self.draft.get((*at, key)) if key else quantizer.block_size
        if isinstance(size, int) and size in _BLOCK_SIZES:
            return size
        is_row = not isinstance(size, int) or size < 1  # one block for a row
        nearest = _BLOCK_SIZES[-1] if is_row else min(_BLOCK_SIZES, key=lambda known: abs(known - size))
        if key:
            reason = f"the builder has blocks of 16 to 256 weights; {nearest} is used instead of {size}"
            self.draft.drop((*at, key), reason, changes_result=True)
        return nearest

    def _value(self, at: KeyPath, key: str) -> Any:
        """Return the value of a key of the pass at `at`; None if it is missing."""
        value = self.draft.get((*at, key))
        return None if value is MISSING else value

    def _set(self, key: KeyPath, value: Any, cause: KeyPath) -> None:
        path, reason = (*self.at, *key), f"`{cause[-1]}` quantizes so"
        if not self.draft.has(path):
            self.draft.set_default(path, value, reason, cause=cause)
        elif self.draft.get(path) != value:
            self.draft.replace(path, value, f"`{path[-1]}` is now `{value}`: {reason}")
