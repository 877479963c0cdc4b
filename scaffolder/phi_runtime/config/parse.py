"""The phases of loading that look at one file alone: translate, override, validate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from phi_runtime.config.diagnostics import Finding, from_pydantic, in_order
from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.dialects.other_domain import OTHER_DOMAIN
from phi_runtime.config.dialects.search import translate_sweep
from phi_runtime.config.dialects.translate import translate
from phi_runtime.config.overrides import Overrides, override
from phi_runtime.config.reading.source import KeyPath, Source
from phi_runtime.config.schema import CondaEnvironment, Evaluation, Sweep, Workflow
from phi_runtime.config.search_space import check_search

EVALUATION, SWEEP = "evaluation.json", "sweep.yaml"
SWEEP_IN_CONFIG: KeyPath = ("sweep",)

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class ParsedFile:
    """One config file: its canonical `value`, the errors in it, and the models of its valid parts."""

    draft: Draft
    value: dict[str, Any]
    workflow: Workflow | None
    sweep: Sweep | None
    errors: list[Finding]


def parse_file(source: Source) -> ParsedFile:
    """Parse a workflow config or any of its sidecar files."""
    model = kind_of(source)
    if model is Workflow:
        return parse_config(source)
    _, draft, errors = parse_sidecar(source, model)
    return ParsedFile(draft, draft.value if isinstance(draft.value, dict) else {}, None, None, errors)


def parse_sidecar(source: Source, model: type[M]) -> tuple[M | None, Draft, list[Finding]]:
    """Translate and validate a file that is not a workflow config; return the model (None if it has errors) and the errors."""
    draft = translate_sweep(source) if model is Sweep else Draft(source)
    value, errors = validate(draft, draft.value, model)
    if isinstance(value, Sweep):
        errors += check_search(draft, value)
    return value, draft, in_order([*draft.refused, *errors])


def parse_config(source: Source, overrides: Overrides | None = None) -> ParsedFile:
    """Translate, override and validate a workflow config, without reading any other file."""
    draft = translate(source)
    if any(error.rule == OTHER_DOMAIN for error in draft.refused):
        return ParsedFile(draft, {}, None, None, draft.refused)
    override(draft, overrides or Overrides())
    if not isinstance(draft.value, dict):
        return ParsedFile(draft, {}, None, None, validate(draft, draft.value, Workflow)[1])
    own = {key: value for key, value in draft.value.items() if key not in ("sweep", "evaluation")}
    workflow, errors = validate(draft, own, Workflow)
    sweep = None
    if "sweep" in draft.value:
        sweep, sweep_errors = validate(draft, draft.value["sweep"], Sweep, SWEEP_IN_CONFIG)
        errors += sweep_errors + (check_search(draft, sweep, SWEEP_IN_CONFIG) if sweep else [])
    if "evaluation" in draft.value:
        message = f"Olive rejects the key `evaluation`; move its content to {EVALUATION} next to this file"
        errors.append(draft.finding(("evaluation",), "unknown-key", message))
    return ParsedFile(draft, draft.value, workflow, sweep, in_order([*draft.refused, *errors]))


def validate(draft: Draft, value: Any, model: type[M], at: KeyPath = ()) -> tuple[M | None, list[Finding]]:
    """Validate `value`, which is at `at` in `draft`; return the model, or None and the errors."""
    try:
        return model.model_validate(value), []
    except ValidationError as e:
        errors = e.errors(include_url=False)
        return None, from_pydantic(draft.source, errors, model, value, lambda path: draft.source_path((*at, *path)))


WORKFLOW_KEYS = frozenset({"input_model", "model", "passes"})
"""Keys that only a workflow config has; it has one of them."""


def kind_of(source: Source) -> type[BaseModel]:
    """Return the model of a file, chosen by its name and its keys."""
    keys = set(source.value) if isinstance(source.value, dict) else set()
    if source.path.name == EVALUATION or source.path.name.endswith(f".{EVALUATION}"):
        return Evaluation
    if "search_space" in keys and not keys & WORKFLOW_KEYS:
        return Sweep
    if "dependencies" in keys and not keys & WORKFLOW_KEYS:
        return CondaEnvironment
    return Workflow
