"""The catalog of known models: sizes, licenses, prompt formats."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from phi_runtime.models.exportable import Reason, why_not_exportable
from phi_runtime.models.known import CATALOG
from phi_runtime.models.place import base_model_path, cached_part
from phi_runtime.models.shape import Shape, assembled, shape_of

if TYPE_CHECKING:
    from phi_runtime.config.schema import Workflow
    from phi_runtime.core.project import ProjectFolder

DEFAULT = "smollm2-135m"
_SIZES = ("parameters", "hidden", "layers", "heads", "kv_heads", "intermediate", "vocabulary", "head_dim")


@dataclass(frozen=True)
class PromptFormat:
    """The format of prompts that a model was trained on.

    Attributes:
        prompt: Text around the user's message, which replaces `{}`.
        stop: Text that ends an answer.
        chat_template: The format of conversations in Jinja, for models without a chat template.
    """

    name: str
    prompt: str
    stop: str
    chat_template: str


@dataclass(frozen=True)
class BaseModel:
    """A base model, of the catalog or in a folder of this machine.

    Attributes:
        id: Its id in the catalog or on the Hub, or the absolute path of its folder.
        shape: Sizes that the memory estimates depend on.
        prompt_format: Name of its format of prompts; `own` is that of its chat template.
        source: Origin of the sizes, and its date.
        target_modules: Modules that an adapter changes; None: detected when the model is loaded.
        base: It has no chat template.
        note: A limit that a user must know.
        unverified: Facts that the page of the model does not confirm.
    """

    id: str
    about: str
    shape: Shape
    context: int
    license: str
    architecture: str
    prompt_format: str
    source: str
    why_not_exportable: Reason | None
    target_modules: tuple[str, ...] | None = None
    gated: bool = False
    base: bool = False
    learning_rate: float = 2e-4
    note: str = ""
    unverified: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        return self.shape.parameters


@dataclass(frozen=True)
class UnsupportedModel:
    """A model that cannot be used, with the reason and the id of the most similar one that can."""

    id: str
    reason: str
    instead: str


@dataclass(frozen=True)
class Catalog:
    """Models by id, prompt formats by name, and models that cannot be used."""

    models: dict[str, BaseModel]
    prompt_formats: dict[str, PromptFormat]
    unsupported: tuple[UnsupportedModel, ...]

    def format_of(self, model_id: str) -> PromptFormat:
        """Return the prompt format of a model; `plain` if it is not in the catalog."""
        model = self.models.get(model_id)
        return self.prompt_formats[model.prompt_format if model else "plain"]


@cache
def catalog() -> Catalog:
    """Load the catalog that ships with this version."""
    raw = tomllib.loads(CATALOG.read_text(encoding="utf-8"))
    models = [_model(**entry) for entry in raw["model"]]
    formats = {name: PromptFormat(name, **entry) for name, entry in raw["prompt_format"].items()}
    unsupported = (UnsupportedModel(id_, e["reason"], e["instead"]) for e in raw["unsupported"] for id_ in e["ids"])
    return Catalog({m.id: m for m in models}, formats, tuple(unsupported))


def _model(
    *, architecture: str, target_modules: list[str], unverified: Sequence[str] = (), tied: bool = False, **facts: Any
) -> BaseModel:
    """Return a model of catalog.toml from its entry, in which the sizes are next to the other facts."""
    sizes = {size: facts.pop(size) for size in _SIZES if size in facts}
    gated = architecture not in ("PhiForCausalLM", "GPT2LMHeadModel")
    return BaseModel(
        architecture=architecture,
        shape=assembled(**sizes, tied=tied, fused="qkv_proj" in target_modules, gated=gated),
        why_not_exportable=why_not_exportable({"architectures": [architecture]}),
        target_modules=tuple(target_modules),
        unverified=tuple(unverified),
        **facts,
    )


def base_shape(workflow: Workflow, project: ProjectFolder) -> Shape | None:
    """Return the shape of the base model, from its files or else from the catalog."""
    return shape_of(base_model_path(workflow.input_model, project)) or catalog_shape(workflow)


def catalog_shape(workflow: Workflow) -> Shape | None:
    """Return the shape of the base model, if it is in the catalog."""
    model = catalog().models.get(cached_part(workflow.input_model.name))
    return model.shape if model else None
