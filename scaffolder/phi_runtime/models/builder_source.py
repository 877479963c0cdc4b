"""Architectures and options of the installed model builder, read from its source: importing it takes seconds.

The builder ignores unknown options (seen in onnxruntime-genai 0.18), and renames them between releases (0.15 and 0.16 removed
the prefix `int4_`), so its source is the only list that is never out of date.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

_ARCHITECTURE = re.compile(r'config\.architectures\[0\] == "(\w+)"')
_OPTION = re.compile(
    r'(?:extra_options|kv_pairs)(?:\.get\(|\.pop\(|\[)\s*"(\w+)"|"(\w+)" (?:not )?in (?:self\.)?extra_options'
)

# The architectures of 0.18, for environments without it. A test compares this with the installed release.
TEXT_MODELS = frozenset(
    f"{name}ForCausalLM"
    for name in (
        "Ernie4_5", "Gemma", "Gemma2", "Gemma3", "GptOss", "Granite", "GraniteMoeHybrid", "HunYuanDenseV1", "InternLM2", "Lfm2",
        "Lfm2Moe", "Llama", "Mistral", "Nemotron", "Olmo", "Phi", "Phi3", "Phi3Small", "PhiMoE", "Qwen2", "Qwen3", "SmolLM3",
    )
)  # fmt: skip
_MULTIMODAL = {"Phi3VForCausalLM", "Phi4MMForCausalLM", "VideoChatFlashQwenForCausalLM"}


def builder_folder() -> Path | None:
    """Return the folder of the installed builder's source, or None. Imports nothing."""
    spec = importlib.util.find_spec("onnxruntime_genai")
    folder = Path(spec.origin).parent / "models" if spec and spec.origin else None
    return folder if folder and (folder / "builder.py").is_file() else None


@cache
def text_models() -> frozenset[str]:
    """Return the text architectures that the installed builder supports, by their names in config.json."""
    folder = builder_folder()
    if folder is None:
        return TEXT_MODELS
    named = set(_ARCHITECTURE.findall((folder / "builder.py").read_text(encoding="utf-8")))
    models = frozenset(name for name in named - _MULTIMODAL if name.endswith("ForCausalLM"))
    return models or TEXT_MODELS  # empty for a release with another way to choose


@cache
def option_names() -> frozenset[str]:
    """Return the options that the installed builder reads anywhere in its source; empty if it is not installed."""
    folder = builder_folder()
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*.py")] if folder else []
    return frozenset(first or second for text in texts for first, second in _OPTION.findall(text))


def gets_8_bits(layer: int, count: int, module: str) -> bool:
    """Return True if `mixed_layers:int8` keeps a module of one of `count` layers in 8 bits.

    These are the modules that rounding hurts most, after llama.cpp; the same rule as make_matmul_mixed_precision in
    builders/base.py of 0.18.
    """
    sensitive = layer < count / 8 or layer >= 7 * count / 8 or (layer - round(count / 8)) % 3 == 2
    return sensitive and module in ("qkv_proj", "v_proj", "down_proj")
