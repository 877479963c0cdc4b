"""Read a LoRA adapter of peft as plain matrices, with numpy only; refuse one that is more than low-rank matrices."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from phi_runtime.core.artifacts import read_json
from phi_runtime.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Keys of peft 0.21's LoraConfig that leave the adapter two matrices for each module, whatever their value.
_PLAIN = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "lora_dropout", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "init_lora_weights", "fan_in_fan_out", "megatron_core", "qalora_group_size",
    "ensure_weight_tying", "runtime_config", "eva_config", "lora_ga_config", "corda_config", "loftq_config",
}  # fmt: skip
# Initializations that also change the base, unless the adapter was converted when it was saved, which resets the key.
_CHANGES_BASE = ("pissa", "olora", "corda", "mica", "loftq", "lora_ga")
_WHAT = {
    "use_dora": "DoRA",
    "bias": "trained biases",
    "lora_bias": "trained biases",
    "modules_to_save": "fully trained modules",
}
CONVERT_START = "convert it to a plain LoRA with peft"
MERGE = "merge it into its base (MergeAdapterWeights) and export that"


@dataclass(frozen=True)
class LowRank:
    """The update of one module, x @ a @ b: `a` is (inputs, r), `b` (r, outputs) includes the scale; float32."""

    a: np.ndarray
    b: np.ndarray

    @property
    def rank(self) -> int:
        return int(self.a.shape[1])


@dataclass(frozen=True)
class Lora:
    """An adapter: its `modules` by full name in the base model, and the name of the base in its config ("" if none)."""

    folder: Path
    base_name: str
    modules: Mapping[str, LowRank]

    @property
    def ranks(self) -> list[int]:
        return sorted({module.rank for module in self.modules.values()})


def read_lora(folder: Path) -> Lora:
    """Read the adapter in a folder of peft.

    Raises:
        UsageError: there is none, a file is truncated, or it is more than two matrices for each module (DoRA, biases, fully
            trained modules, other methods).
    """
    config = read_config(folder)
    _refuse_others(folder, config)
    pairs: dict[str, dict[str, np.ndarray]] = {}
    for name, values in _tensors(folder).items():
        match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if not match:
            _refuse(folder, f"it contains `{name}`, which is not a matrix of a LoRA on a linear module")
        pairs.setdefault(match[1], {})[match[2]] = values
    if not pairs:
        _refuse(folder, "it contains no weights")
    modules = {}
    for name, pair in pairs.items():
        shapes = [pair[side].shape for side in sorted(pair)]
        if len(shapes) != 2 or len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][0] != shapes[1][1]:
            _refuse(folder, f"its matrices of `{name}` do not match: {', '.join(map(str, shapes))}")
        scale = _scale(config, name, shapes[0][0])
        modules[name] = LowRank(pair["A"].T, pair["B"].T * scale)
    return Lora(folder, str(config.get("base_model_name_or_path") or ""), modules)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the adapter_config.json of the adapter in `folder`. Raises UsageError if there is none."""
    try:
        config = read_json(folder / CONFIG)
        if isinstance(config, dict):
            return config
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as e:
        raise UsageError(f"{folder / CONFIG} cannot be read: {e}", fix="copy the adapter again") from None
    raise UsageError(f"{folder} is not an adapter of peft (no {CONFIG})", fix="name the folder that training wrote")


def _refuse_others(folder: Path, config: Mapping[str, Any]) -> None:
    if start := changed_base(config):
        _refuse(folder, f"`init_lora_weights`: {start} changed the base that it was trained on", fix=CONVERT_START)
    if reason := why_not_low_rank(config):
        _refuse(folder, reason, fix=MERGE)
    for pattern in config.get("alpha_pattern") or ():
        try:
            re.compile(pattern)
        except re.error as e:
            _refuse(folder, f"`{pattern}` in `alpha_pattern` is no regular expression ({e})", fix=f"correct {CONFIG}")


def changed_base(config: Mapping[str, Any]) -> str:
    """Return the initialization of the adapter that changed the base it was trained on; "" for others."""
    start = config.get("init_lora_weights")
    return start if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE) else ""


def why_not_low_rank(config: Mapping[str, Any]) -> str:
    """Return why the adapter of an adapter_config.json is more than two matrices for each module; "" if it is not."""
    kind = config.get("peft_type")
    if kind != "LORA":
        return f"it is {kind or 'of an unknown type'}; only LoRA can be added as matrices"
    defaults = {"bias": "none"}
    for key, value in config.items():
        if key not in _PLAIN and value and value != defaults.get(key):
            return f"{_WHAT.get(key, f'`{key}`')} cannot be inputs of the graph"
    return ""


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return alpha / r as peft computes it: patterns match the end of a module's name, and rsLoRA uses √r."""
    alpha = next(
        (value for key, value in (config.get("alpha_pattern") or {}).items() if re.match(rf"(.*\.)?({key})$", module)),
        config.get("lora_alpha", 8),  # peft's default
    )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    """Read all weights in float32."""
    from safetensors import SafetensorError, deserialize

    file = folder / WEIGHTS
    if not file.is_file():
        raise UsageError(f"{file} does not exist", fix="save the adapter as safetensors")
    try:
        return {name: _array(part) for name, part in deserialize(file.read_bytes())}
    except (SafetensorError, KeyError, ValueError) as e:
        raise UsageError(
            f"{file} cannot be read: {e}", fix="copy the adapter again; the file may be truncated"
        ) from None


def _array(part: Mapping[str, Any]) -> np.ndarray:
    import numpy as np
    from ml_dtypes import bfloat16

    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": bfloat16}
    return np.frombuffer(part["data"], dtype=kinds[part["dtype"]]).reshape(part["shape"]).astype(np.float32)


def _refuse(folder: Path, why: str, fix: str = "use it with peft, or train another") -> NoReturn:
    raise UsageError(f"the adapter in {folder} cannot be used with an ONNX model: {why}", fix=fix)
