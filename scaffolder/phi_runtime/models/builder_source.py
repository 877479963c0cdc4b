"""What the installed model builder says of itself: read off its source, since importing it takes seconds and pollutes the process.

The builder passes over options that it does not know (seen in onnxruntime-genai 0.18), and its names have changed from release to
release (0.15 and 0.16 took the prefix `int4_` away), so its own text is the one list that cannot be out of date.
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

# What 0.18 builds, for environments without it. A test compares this with the installed release.
TEXT_MODELS = frozenset(
    f"{name}ForCausalLM"
    for name in (
        "Ernie4_5", "Gemma", "Gemma2", "Gemma3", "GptOss", "Granite", "GraniteMoeHybrid", "HunYuanDenseV1", "InternLM2", "Lfm2",
        "Lfm2Moe", "Llama", "Mistral", "Nemotron", "Olmo", "Phi", "Phi3", "Phi3Small", "PhiMoE", "Qwen2", "Qwen3", "SmolLM3",
    )
)  # fmt: skip
_NO_TEXT_MODELS = {"Phi3VForCausalLM", "Phi4MMForCausalLM", "VideoChatFlashQwenForCausalLM"}  # they see or hear as well


def builder_folder() -> Path | None:
    """The folder of the installed builder's source; None where there is none. Imports nothing."""
    spec = importlib.util.find_spec("onnxruntime_genai")
    folder = Path(spec.origin).parent / "models" if spec and spec.origin else None
    return folder if folder and (folder / "builder.py").is_file() else None


@cache
def text_models() -> frozenset[str]:
    """The architectures of language models that the installed builder takes, as `architectures` in a config.json names them."""
    folder = builder_folder()
    if folder is None:
        return TEXT_MODELS
    named = set(_ARCHITECTURE.findall((folder / "builder.py").read_text(encoding="utf-8")))
    found = frozenset(name for name in named - _NO_TEXT_MODELS if name.endswith("ForCausalLM"))
    return found or TEXT_MODELS  # a release that asks in another way


@cache
def option_names() -> frozenset[str]:
    """The options that the installed builder reads anywhere in its source; empty where it is not installed."""
    folder = builder_folder()
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*.py")] if folder else []
    return frozenset(first or second for text in texts for first, second in _OPTION.findall(text))


def gets_8_bits(layer: int, count: int, module: str) -> bool:
    """Whether `mixed_layers:int8` gives 8 bits to a module, in one of `count` layers: where rounding hurts most, after llama.cpp
    (make_matmul_mixed_precision in builders/base.py of 0.18, written out here)."""
    sensitive = layer < count / 8 or layer >= 7 * count / 8 or (layer - round(count / 8)) % 3 == 2
    return sensitive and module in ("qkv_proj", "v_proj", "down_proj")
