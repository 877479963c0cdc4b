"""An adapter of peft that exists already, checked against its base model. Reads no tensors and imports no ML library."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import digest, file_digest, read_manifest
from phi_runtime.core.errors import UsageError
from phi_runtime.core.hub_id import HUB_ID
from phi_runtime.models.fetch import TOKENIZER_FILES
from phi_runtime.models.modules import is_embedding, is_truncated, last_names, tensors
from phi_runtime.models.peft_lora import CONFIG, CONVERT_START, WEIGHTS, changed_base, read_config

Shapes = Mapping[str, tuple[list[int], str]]
"""Shape and number type of each tensor, by name."""

# Types of peft 0.21 whose adapters, loaded again and merged, computed the same as the trained ones.
MERGED = {
    "LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "HRA", "MISS", "PEANUT", "FOURIERFT", "LN_TUNING",
}  # fmt: skip
_UNMERGED = {"PROMPT_TUNING"}
PROMPT_TEMPLATE = "prompt_template.json"  # of data/template.py
# Settings of peft that change more than the modules they are on, or only a part of a conversation.
_REFUSED = {
    "layer_replication": "it repeats layers of the model",
    "alora_invocation_tokens": "it acts only after certain tokens",
}
_PICKLE = "adapter_model.bin"
_CONVERT = (
    'python -c "import sys; from peft import load_peft_weights as load; from safetensors.torch import save_file as save; '
    "save(load(sys.argv[1], 'cpu'), sys.argv[1] + '/adapter_model.safetensors')\" "
)
_MERGE_ELSEWHERE = "merge it into its model with peft, and set `model_path` to the result"
_PARAMETER = re.compile(
    r"(?:base_model\.model\.)?(.+?)\.(?:base_layer\.)?(?:"
    r"(?P<tuner>(?:lora|hada|lokr|ia3|oft|boft|vera_lambda|hra|miss|peanut|fourierft)_\w+|ln_tuning_layers|token_adapter)(?:\..+)?"
    r"|(?P<saved>weight|bias))"
)
_QUANTIZED = re.compile(r"[-_](unsloth|bnb|[48]bit|gptq|awq|int[48])\b.*", re.IGNORECASE)


@dataclass(frozen=True)
class PeftFolder:
    """An adapter of peft on disk: its adapter_config.json, and the shapes of its weights."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Shapes

    @property
    def kind(self) -> str:
        return str(self.config.get("peft_type"))

    @property
    def base_name(self) -> str:
        """Hub id or folder of the model that it was trained on; "" if unknown."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def base_key(self) -> str | None:
        """Digest of the model that it was trained on, if it was trained by this runtime."""
        return trained_on(self.folder)

    @cached_property
    def modules(self) -> dict[str, dict[str, list[int]]]:
        """Modules of the model that it changes, by full name, with the shapes of its parameters on them."""
        modules: dict[str, dict[str, list[int]]] = {}
        for name, (shape, _) in self.tensors.items():
            match = _PARAMETER.fullmatch(name)
            if match and match["tuner"]:
                modules.setdefault(match[1], {})[match["tuner"]] = shape
        return modules

    @cached_property
    def saved(self) -> dict[str, list[int]]:
        """Shapes of the model's own parameters that are stored with it, by full name: those of modules trained fully."""
        matches = {name: _PARAMETER.fullmatch(name) for name in self.tensors}
        return {
            f"{match[1]}.{match['saved']}": self.tensors[name][0]
            for name, match in matches.items()
            if match and match["saved"]
        }

    def why_not_merged(self) -> str:
        """Return why it cannot be added to the weights of its base; "" if it can."""
        return "learned tokens cannot be merged into the weights" if self.kind in _UNMERGED else ""


def read_peft_folder(folder: Path) -> PeftFolder:
    """Read the adapter in `folder`.

    Raises:
        UsageError: There is none, a file cannot be read, or its weights are pickled.
    """
    if not (folder / CONFIG).is_file():
        below = sorted(file.parent for file in folder.glob(f"*/{CONFIG}"))
        fix = f"set adapter_path to {below[-1]}" if below else "name the folder that training wrote"
        raise UsageError(f"{folder} is not an adapter of peft (no {CONFIG})", fix=fix)
    config = read_config(folder)
    if not (folder / WEIGHTS).is_file():
        if (folder / _PICKLE).is_file():
            raise UsageError(
                f"{folder} has pickled weights ({_PICKLE}), which can run code when they are loaded",
                fix=f"if you trust it, convert it: {_CONVERT}{shlex.quote(folder.as_posix())}",
            )
        raise UsageError(f"{folder} has no {WEIGHTS}", fix="copy the adapter again, with its weights")
    shapes = tensors(folder, WEIGHTS)
    if not shapes or is_truncated(folder / WEIGHTS):
        raise UsageError(f"{folder / WEIGHTS} cannot be read", fix="copy the adapter again; the file may be truncated")
    return PeftFolder(folder, config, shapes)


def content_key(folder: Path) -> str:
    """Return a digest of the content of the adapter in `folder`, with the tokenizer and the template that come with it."""
    return digest([(file.name, file_digest(file)) for file in files_of(folder)])


def files_of(folder: Path) -> list[Path]:
    """Return the files of the adapter in `folder` that belong to it: config, weights, tokenizer, prompt template."""
    patterns = (CONFIG, WEIGHTS, PROMPT_TEMPLATE, *TOKENIZER_FILES)
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def trained_on(folder: Path) -> str | None:
    """Return the key of the full model that the adapter in `folder` was trained on, from its manifest."""
    manifest = read_manifest(folder)
    inputs = manifest.facts.get("inputs", {}) if manifest else {}
    key = inputs.get("base", inputs.get("input"))  # that of an adapter that was trained further is in `base`
    return str(key) if key else None


def names_other_model(name: str, other: str) -> bool:
    """Return True if two names are Hub ids of different models.

    The same model is in several repositories of the Hub, also quantized; the last part of its id starts alike in all of them.
    """
    if not (HUB_ID.fullmatch(name.rstrip("/")) and HUB_ID.fullmatch(other.rstrip("/"))):
        return False
    one, two = (_QUANTIZED.sub("", each.rstrip("/").rpartition("/")[2].lower()) for each in (name, other))
    return one != two


@dataclass(frozen=True)
class Base:
    """The base model of an adapter, as far as it is known without loading it.

    Attributes:
        name: Its Hub id; "" if it has none.
        key: Digest of its content; None if it is unknown.
        tensors: Its weights; empty if it is not downloaded.
        tied: True if its input embedding is also its output head.
    """

    name: str
    key: str | None
    tensors: Shapes
    tied: bool


def problems(adapter: PeftFolder, base: Base) -> Iterator[tuple[str, str]]:
    """Yield why `adapter` cannot be used on `base`: each problem with its fix."""
    config, kind = adapter.config, adapter.kind
    if kind not in MERGED | _UNMERGED:
        yield f"adapters of the type {kind} are not supported", _MERGE_ELSEWHERE
        return
    if (task := config.get("task_type")) not in (None, "CAUSAL_LM"):
        yield f"the adapter is for {task}, not for CAUSAL_LM", "use an adapter of a causal language model"
        return
    if start := changed_base(config):
        yield f"`init_lora_weights`: {start} changed the base of the adapter", CONVERT_START
    for key, why in _REFUSED.items():
        if config.get(key):
            yield f"`{key}` of the adapter is not supported: {why}", _MERGE_ELSEWHERE
    if names_other_model(adapter.base_name, base.name):
        fix = f"set `model_path` to {adapter.base_name}, or correct base_model_name_or_path in {CONFIG}"
        yield f"the adapter was trained on {adapter.base_name}, but the model is {base.name}", fix
    elif base.key and adapter.base_key not in (None, base.key):
        fix = "use the model that it was trained on; if this is the same, delete manifest.json of the adapter"
        yield "the adapter was trained on another model, by the digest in its manifest", fix
    if base.tensors:
        yield from _misfits(adapter, base)


def _misfits(adapter: PeftFolder, base: Base) -> Iterator[tuple[str, str]]:
    """Yield the first module of the adapter that the base lacks, or that has another size in it."""
    weights = {name.removesuffix(".weight"): shape for name, (shape, _) in base.tensors.items()}
    embeddings = [shape for name, shape in weights.items() if is_embedding(name)]  # of tokens, and of positions
    if base.tied and embeddings:
        weights.setdefault("lm_head", max(embeddings))
    # transformers 5 loads mixtures of experts under other names than they are stored: peft compares those at the run.
    renamed = any("experts" in name for name in weights)
    fix = "use it with the model that it was trained on"
    for module, parameters in adapter.modules.items():
        shape = _named(module, weights)
        if shape is None and not renamed:
            names = ", ".join(last_names(name for name, size in weights.items() if len(size) == 2))
            yield f"the model has no `{module}`, which the adapter changes; it has {names}", fix
            return
        if shape and (message := _other_size(adapter, module, parameters, shape)):
            yield message, fix
            return
        if base.tied and is_embedding(module) and "token_adapter" not in parameters:
            yield f"the adapter changes `{module}`, which is both embedding and output head", _MERGE_ELSEWHERE
            return
        if adapter.config.get("lora_bias") and f"{module}.bias" not in base.tensors:
            yield f"the adapter has a bias (`lora_bias`) for `{module}`, which has none", "train it without lora_bias"
            return
    for name, shape in adapter.saved.items():
        own = _named(name.removesuffix(".weight"), weights)
        if own and own != shape:
            what = f"`{name}` of the adapter is {_sizes(shape)}, that of the model {_sizes(own)}"
            resized = is_embedding(name.removesuffix(".weight")) and shape[1:] == own[1:]
            yield what, f"it has added tokens: {_MERGE_ELSEWHERE}" if resized else fix
            return


def _named(module: str, weights: Mapping[str, list[int]]) -> list[int] | None:
    """Return the shape of a module, whose name in the files may lack the prefix that it has in the loaded model."""
    if module in weights:
        return weights[module]
    ends = [
        shape for name, shape in weights.items() if f".{module}".endswith(f".{name}") or name.endswith(f".{module}")
    ]
    return ends[0] if len(ends) == 1 else None


def _other_size(adapter: PeftFolder, module: str, parameters: Mapping[str, list[int]], shape: list[int]) -> str:
    """Return how the matrices of a LoRA differ in size from the weight of their module; "" if they fit."""
    a, b = parameters.get("lora_A"), parameters.get("lora_B")
    if not a or not b or len(a) != 2 or len(b) != 2 or len(shape) != 2:
        return ""
    rank = adapter.config.get("r", 8)  # peft's default
    if adapter.kind == "LORA" and not adapter.config.get("rank_pattern") and a[0] != rank:
        return f"`{module}` of the adapter has rank {a[0]}, but {CONFIG} has r: {rank}"
    sizes = [b[0], a[1]]
    if sizes == shape or (adapter.config.get("fan_in_fan_out") and sizes[::-1] == shape):
        return ""
    return f"`{module}` of the adapter is for {_sizes(sizes)} weights, that of the model has {_sizes(shape)}"


def _sizes(shape: list[int]) -> str:
    return " × ".join(map(str, shape))
