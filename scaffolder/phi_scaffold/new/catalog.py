"""The catalog of known models: sizes, licenses, prompt formats."""

from __future__ import annotations

import tomllib
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
class CatalogModel:
    """A base model, with the sizes of its configuration.

    Attributes:
        source: Origin of the sizes, and its date.
        head_dim: Size of an attention head; 0 if it is hidden / heads.
        note: A limit that a user must know.
    """

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
    license: str
    architecture: str
    prompt_format: str
    target_modules: tuple[str, ...]
    source: str
    head_dim: int = 0
    tied: bool = False
    gated: bool = False
    base: bool = False
    learning_rate: float = 2e-4
    note: str = ""
    unverified: tuple[str, ...] = ()

    @property
    def why_not_exportable(self) -> Reason | None:
        return why_not_exportable({"architectures": [self.architecture]})

    @property
    def shape(self) -> Shape:
        """Sizes that the memory estimates depend on."""
        return assembled(
            parameters=self.parameters,
            hidden=self.hidden,
            intermediate=self.intermediate,
            layers=self.layers,
            vocabulary=self.vocabulary,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            tied=self.tied,
            fused="qkv_proj" in self.target_modules,
            gated=self.architecture not in ("PhiForCausalLM", "GPT2LMHeadModel"),
        )


@dataclass(frozen=True)
class UnsupportedModel:
    """A model that cannot be used, with the reason and the id of the most similar one that can."""

    id: str
    reason: str
    instead: str


@dataclass(frozen=True)
class Catalog:
    """Models by id, prompt formats by name, and models that cannot be used."""

    models: dict[str, CatalogModel]
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
    lists = ("target_modules", "unverified")
    entries: list[dict[str, Any]] = [{k: tuple(v) if k in lists else v for k, v in e.items()} for e in raw["model"]]
    models = [CatalogModel(**entry) for entry in entries]
    formats = {name: PromptFormat(name, **entry) for name, entry in raw["prompt_format"].items()}
    unsupported = (UnsupportedModel(id_, e["reason"], e["instead"]) for e in raw["unsupported"] for id_ in e["ids"])
    return Catalog({m.id: m for m in models}, formats, tuple(unsupported))


def base_shape(workflow: Workflow, project: ProjectFolder) -> Shape | None:
    """Return the shape of the base model, from its files or else from the catalog."""
    return shape_of(base_model_path(workflow.input_model, project)) or catalog_shape(workflow)


def catalog_shape(workflow: Workflow) -> Shape | None:
    """Return the shape of the base model, if it is in the catalog."""
    model = catalog().models.get(cached_part(workflow.input_model.name))
    return model.shape if model else None
