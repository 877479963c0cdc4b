"""The models that we know: sizes, licences, prompt formats, and the memory that working with them takes."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from phi_runtime.errors import UsageError
from phi_runtime.suggest import did_you_mean

DEFAULT = "smollm2-135m"
METHODS = ("lora", "qlora", "full")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class PromptFormat:
    """How a model was taught to be asked: `prompt` around the question (at `{}`), and the text that ends an answer.
    `chat_template` is the same for whole conversations, as Jinja, for models that have none of their own."""

    name: str
    prompt: str
    stop: str
    chat_template: str


@dataclass(frozen=True)
class Model:
    """A base model. Sizes are those of its configuration."""

    id: str
    about: str
    parameters: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int
    licence: str
    architecture: str
    prompt_format: str
    target_modules: tuple[str, ...]
    tied: bool = False
    gated: bool = False
    base: bool = False
    learning_rate: float = 2e-4
    unverified: tuple[str, ...] = ()

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def lora_parameters(self, rank: int) -> int:
        """Trainable parameters of a LoRA on the attention's projections (Hu et al. 2021: r · (in + out) for each)."""
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if "qkv_proj" in self.target_modules:
            shapes = [(self.hidden, query + 2 * key_value), (query, self.hidden)]
        else:
            shapes = [(self.hidden, query), (self.hidden, key_value), (self.hidden, key_value), (query, self.hidden)]
        return self.layers * rank * sum(a + b for a, b in shapes)

    def training_bytes(self, method: str, batch: int, tokens: int, bytes_per_weight: int, rank: int = 16) -> int:
        """Estimate of the peak memory of a training step, in bytes.

        Weights, gradients and AdamW's two moments, plus activations with gradient checkpointing, 2BTLh + 2BT(10h + 4i). Logits
        are computed for completions alone and are left out.
        """
        activations = 2 * batch * tokens * (self.layers * self.hidden + 10 * self.hidden + 4 * self.intermediate)
        adapter = 16 * self.lora_parameters(rank)  # fp32 weight, gradient and two moments
        if method == "full":
            return 16 * self.parameters + activations
        if method == "qlora":
            head = 1 if self.tied else 2
            kept = min(head * self.embedding_parameters, self.parameters)
            return int(0.52 * (self.parameters - kept)) + bytes_per_weight * kept + adapter + activations
        return bytes_per_weight * self.parameters + adapter + activations

    def int4_bytes(self) -> int:
        """Estimate of the int4 ONNX model's size on disk: 4 bits and a 4-byte scale for every 32 weights; an embedding of its own
        stays in float32, a tied one shares the quantised head."""
        apart = 0 if self.tied else self.embedding_parameters
        return int((self.parameters - apart) * (0.5 + 4 / 32) + apart * 4)

    def int4_inference_bytes(self, tokens: int = 4096) -> int:
        """Estimate of the memory to answer with the int4 model on a CPU: 1.25 times the file, and the float32 key-value cache."""
        cache_bytes = 2 * self.layers * self.kv_heads * self.head_dim * 4
        return int(150e6 + 1.25 * self.int4_bytes() + min(tokens, self.context) * cache_bytes)


@dataclass(frozen=True)
class Catalog:
    models: dict[str, Model]
    prompt_formats: dict[str, PromptFormat]

    def format_of(self, model_id: str) -> PromptFormat:
        """The prompt format of a model; the plain one for a model that the catalogue does not hold."""
        model = self.models.get(model_id)
        return self.prompt_formats[model.prompt_format if model else "plain"]


@cache
def catalog() -> Catalog:
    """The catalogue that ships with this version."""
    raw = tomllib.loads((Path(__file__).parent / "catalog.toml").read_text(encoding="utf-8"))
    lists = ("target_modules", "unverified")
    entries: list[dict[str, Any]] = [{k: tuple(v) if k in lists else v for k, v in e.items()} for e in raw["model"]]
    models = [Model(**entry) for entry in entries]
    formats = {name: PromptFormat(name, **entry) for name, entry in raw["prompt_format"].items()}
    return Catalog({m.id: m for m in models}, formats)


def find_model(wanted: str) -> str:
    """The id that `wanted` means: a catalogue id (in any case, or without its owner), or a hub id as it is.

    Raises UsageError, naming what is near, when it is neither.
    """
    known = catalog().models
    by_name = {name.casefold(): m for m in known for name in (m, m.rpartition("/")[2])}
    if found := by_name.get(wanted.casefold()):
        return found
    if _HUB_ID.fullmatch(wanted):
        return wanted
    raise UsageError(
        f"unknown model `{wanted}`{did_you_mean(wanted, known)}",
        fix="see `phi-scaffold models`, or give a hub id as OWNER/NAME",
    )
