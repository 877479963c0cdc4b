"""A LoRA adapter in peft's folder, as plain matrices: read with numpy alone, and refused where it is more than low-rank matrices."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from phi_runtime.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Keys of peft 0.21's LoraConfig that leave the adapter two matrices for each module, whatever they hold.
_PLAIN = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "lora_dropout", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "init_lora_weights", "fan_in_fan_out", "megatron_core", "qalora_group_size",
    "ensure_weight_tying", "runtime_config", "eva_config", "lora_ga_config", "corda_config", "loftq_config",
}  # fmt: skip
# Ways to start that change the base as well, unless the adapter was converted when it was saved, which sets the key back.
_CHANGES_BASE = ("pissa", "olora", "corda", "mica", "loftq", "lora_ga")
_WHAT = {
    "use_dora": "DoRA",
    "bias": "trained biases",
    "lora_bias": "trained biases",
    "modules_to_save": "modules that are trained whole",
}
MERGE = "merge it into its base (MergeAdapterWeights) and export that"


@dataclass(frozen=True)
class LowRank:
    """What is added to the product of one module: x @ a @ b. `a` is (inputs, r), `b`, with the scale in it, (r, outputs); float32."""

    a: np.ndarray
    b: np.ndarray

    @property
    def rank(self) -> int:
        return int(self.a.shape[1])


@dataclass(frozen=True)
class Lora:
    """An adapter: its `modules` by their full names in the base model, and what base its config names (empty where none)."""

    folder: Path
    base_name: str
    modules: Mapping[str, LowRank]

    @property
    def ranks(self) -> list[int]:
        return sorted({module.rank for module in self.modules.values()})


def read_lora(folder: Path) -> Lora:
    """The adapter in the peft folder `folder`. Raises UsageError where there is none, a file of it is cut off, or it cannot be
    expressed as two matrices beside each module: DoRA, biases, modules trained whole, and all that is no LoRA."""
    config = _config(folder)
    _refuse_others(folder, config)
    pairs: dict[str, dict[str, np.ndarray]] = {}
    for name, values in _tensors(folder).items():
        found = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if not found:
            _refuse(folder, f"it holds `{name}`, which is no matrix of a LoRA on a linear module")
        pairs.setdefault(found[1], {})[found[2]] = values
    if not pairs:
        _refuse(folder, "it holds no weights")
    modules = {}
    for name, pair in pairs.items():
        shapes = [pair[side].shape for side in sorted(pair)]
        if len(shapes) != 2 or len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][0] != shapes[1][1]:
            _refuse(folder, f"its matrices of `{name}` do not belong together: {', '.join(map(str, shapes))}")
        scale = _scale(config, name, shapes[0][0])
        modules[name] = LowRank(pair["A"].T, pair["B"].T * scale)
    return Lora(folder, str(config.get("base_model_name_or_path") or ""), modules)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as e:
        raise UsageError(f"{folder / CONFIG} cannot be read: {e}", fix="copy the adapter anew") from None
    raise UsageError(f"{folder} holds no adapter of peft (no {CONFIG})", fix="name the folder that training wrote")


def _refuse_others(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        _refuse(folder, f"it is {kind or 'of an unknown kind'}, and only LoRA can be added as matrices", fix=MERGE)
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        _refuse(
            folder,
            f"`init_lora_weights`: {start} changed the base that it was trained on",
            fix="convert it to a plain LoRA with peft",
        )
    defaults = {"bias": "none"}
    for key, value in config.items():
        if key not in _PLAIN and value and value != defaults.get(key):
            what = _WHAT.get(key, f"`{key}`")
            _refuse(folder, f"{what} cannot be expressed beside the graph", fix=MERGE)


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r as peft reckons it: a pattern stands for the end of a module's name, and rank-stabilised LoRA takes √r."""
    alpha = next(
        (value for key, value in (config.get("alpha_pattern") or {}).items() if re.match(rf"(.*\.)?({key})$", module)),
        config["lora_alpha"],
    )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    """All weights in float32."""
    from safetensors import SafetensorError, deserialize

    file = folder / WEIGHTS
    if not file.is_file():
        raise UsageError(f"there is no {file}", fix="save the adapter as safetensors")
    try:
        return {name: _array(part) for name, part in deserialize(file.read_bytes())}
    except (SafetensorError, KeyError, ValueError) as e:
        raise UsageError(
            f"{file} cannot be read: {e}", fix="a part of it may be missing: copy the adapter anew"
        ) from None


def _array(part: Mapping[str, Any]) -> np.ndarray:
    import numpy as np

    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    values = np.frombuffer(part["data"], dtype=kinds[part["dtype"]]).reshape(part["shape"])
    if part["dtype"] == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _refuse(folder: Path, why: str, fix: str = "use it with peft, or train another") -> NoReturn:
    raise UsageError(f"the adapter in {folder} cannot be put beside an ONNX model: {why}", fix=fix)
