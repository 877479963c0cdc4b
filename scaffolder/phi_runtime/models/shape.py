"""Sizes of a model that determine its memory, from config.json and the headers of its weight files; loads no weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import read_object
from phi_runtime.models.modules import adapted, is_embedding, tensors

_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Linear:
    """A linear module that can have an adapter, by its full name."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder.

    `embeddings` counts the weights of the input embedding, and of the output head if it is not tied; `stored_bytes` is the
    size of one weight in the model's files, `tokenizer_bytes` that of the tokenizer's files (0: unknown).
    """

    parameters: int
    embeddings: int
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    linear: tuple[Linear, ...]
    stored_bytes: int = 2
    tokenizer_bytes: int = 0

    @property
    def linear_parameters(self) -> int:
        return sum(m.inputs * m.outputs for m in self.linear)

    @property
    def fused(self) -> bool:
        """True if q, k and v are one matrix, as in Phi-3."""
        return any(m.name.endswith(".qkv_proj") for m in self.linear)

    def targets(self, setting: list[str] | str | None, *, all_linear: bool) -> tuple[Linear, ...]:
        """Return the modules that get an adapter, as `describe.target_modules` does for a loaded model."""
        names = [m.name for m in self.linear]
        chosen = set(adapted(names, setting, all_linear=all_linear) or adapted(names, None, all_linear=all_linear))
        return tuple(m for m in self.linear if m.name in chosen)


def assembled(
    *,
    parameters: int,
    hidden: int,
    intermediate: int,
    layers: int,
    vocabulary: int,
    heads: int,
    kv_heads: int,
    head_dim: int = 0,
    tied: bool,
    fused: bool,
    gated: bool,
    stored_bytes: int = 2,
    tokenizer_bytes: int = 0,
) -> Shape:
    """Return the shape of a model from its main sizes.

    `fused`: q, k, v and gate, up are one matrix each, as in Phi-3; `gated`: the feed-forward block has a gate.
    """
    head_dim = head_dim or hidden // heads
    query, key = heads * head_dim, kv_heads * head_dim
    if fused:
        sizes = {"self_attn.qkv_proj": (hidden, query + 2 * key), "mlp.gate_up_proj": (hidden, 2 * intermediate)}
    else:
        sizes = {f"self_attn.{n}_proj": (hidden, size) for n, size in (("q", query), ("k", key), ("v", key))}
        sizes |= {f"mlp.{n}_proj": (hidden, intermediate) for n in (("gate", "up") if gated else ("up",))}
    sizes |= {"self_attn.o_proj": (query, hidden), "mlp.down_proj": (intermediate, hidden)}
    linear = [Linear(f"model.layers.{i}.{name}", *size) for i in range(layers) for name, size in sizes.items()]
    embeddings = vocabulary * hidden * (1 if tied else 2)
    return Shape(
        parameters,
        embeddings,
        vocabulary,
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
        head_dim,
        tied,
        tuple(linear),
        stored_bytes,
        tokenizer_bytes,
    )


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json with the settings of its language model, which models of several media have in `text_config`."""
    inner = config.get("text_config")
    return {**config, **(inner if isinstance(inner, dict) else {})}


def shape_of(folder: Path) -> Shape | None:
    """Return the shape of the model in `folder`; None if its config.json lacks a size."""
    text = text_config(read_object(folder / "config.json"))

    def size(*names: str, default: int = 0) -> int:
        return next((int(text[name]) for name in names if isinstance(text.get(name), int)), default)

    hidden, layers, heads = (
        size("hidden_size", "n_embd"),
        size("num_hidden_layers", "n_layer"),
        size("num_attention_heads", "n_head"),
    )
    vocabulary = size("vocab_size")
    if min(hidden, layers, heads, vocabulary) < 1:
        return None
    sizes: dict[str, Any] = {
        "vocabulary": vocabulary,
        "hidden": hidden,
        "intermediate": size("intermediate_size", "n_inner", default=4 * hidden),
        "layers": layers,
        "heads": heads,
        "kv_heads": size("num_key_value_heads", default=heads),
        "head_dim": size("head_dim", default=hidden // heads),
        "tied": bool(text.get("tie_word_embeddings", "n_embd" in text)),
        "tokenizer_bytes": sum(file.stat().st_size for file in folder.glob("tokenizer*") if file.is_file()),
    }
    found = tensors(folder)
    if not found:
        stored = _BYTES.get(str(text.get("dtype", text.get("torch_dtype", "float32"))), 4)
        parameters = sum(file.stat().st_size for file in folder.glob("*.bin")) // stored
        fused = text.get("model_type") == "phi3"
        return (
            assembled(**sizes, parameters=parameters, fused=fused, gated=True, stored_bytes=stored)
            if parameters
            else None
        )
    if sizes["tied"]:
        found.pop("lm_head.weight", None)
    modules = {name.removesuffix(".weight"): shape for name, (shape, _) in found.items() if name.endswith(".weight")}
    linear = [Linear(n, s[1], s[0]) for n, s in modules.items() if len(s) == 2 and not is_embedding(n)]
    embeddings = sum(prod(shape) for name, shape in modules.items() if is_embedding(name))
    if not (parameters := sum(prod(shape) for shape, _ in found.values())):
        return None
    stored = sum(prod(shape) * _BYTES.get(kind, 2) for shape, kind in found.values()) // parameters
    return Shape(**sizes, parameters=parameters, embeddings=embeddings, linear=tuple(linear), stored_bytes=stored)
