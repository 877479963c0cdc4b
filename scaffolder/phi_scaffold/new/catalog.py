"""The models that we know: sizes, licences, prompt formats."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import UsageError
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.models.memory import Job, Method, with_lora
from phi_runtime.models.shape import Shape, assembled

DEFAULT = "smollm2-135m"
METHODS: tuple[Method, ...] = ("lora", "qlora", "full")
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
    def shape(self) -> Shape:
        """The sizes that its memory depends on."""
        return assembled(
            parameters=self.parameters,
            hidden=self.hidden,
            intermediate=self.intermediate,
            layers=self.layers,
            vocabulary=self.vocabulary,
            heads=self.heads,
            kv_heads=self.kv_heads,
            tied=self.tied,
            fused="qkv_proj" in self.target_modules,
            gated=self.architecture != "PhiForCausalLM",
        )

    def training(self, method: Method, device: str, number_bytes: int) -> Job:
        """A step on one row of 2048 tokens, with an adapter of rank 16 where the method has one."""
        tokens = min(2048, self.context)
        job = Job(method, 1, tokens, device=device, number_bytes=number_bytes, double_quant=method == "qlora")
        if method == "full":
            return job
        return with_lora(job, self.shape.targets(None, all_linear=method == "qlora"), rank=16)


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
