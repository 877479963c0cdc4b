"""A config file in, a checked Workflow out, or every fault of it with its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from phi_runtime.config.diagnostics import Finding, dotted, from_pydantic, in_order, raise_if_any, warning
from phi_runtime.config.dialects.draft import Draft, Translation
from phi_runtime.config.dialects.passes import translate_sweep
from phi_runtime.config.dialects.translate import translate
from phi_runtime.config.overrides import Overrides, override
from phi_runtime.config.reading.source import KeyPath, Source, read_source
from phi_runtime.config.schema import CondaEnvironment, Evaluation, Sweep, Workflow
from phi_runtime.config.search_space import check_search, check_values, trained_pass
from phi_runtime.core.project import CONFIG

EVALUATION, SWEEP = "evaluation.json", "sweep.yaml"
SWEEP_IN_CONFIG: KeyPath = ("sweep",)

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Checked:
    """A file as it was read: its canonical form, the Workflow if that is sound, and all findings, errors first."""

    source: Source
    draft: Draft
    workflow: Workflow | None
    findings: list[Finding]

    @property
    def valid(self) -> bool:
        return not any(f.severity == "error" for f in self.findings)


def load_workflow(path: Path, overrides: Overrides | None = None) -> Workflow:
    """Reads, checks and returns the workflow at `path`, with the evaluation.json and sweep.yaml beside it.

    Raises ConfigError (exit code 3) whose `findings` hold every fault.
    """
    return sound(check_workflow(path, overrides), overrides)


def sound(checked: Checked, overrides: Overrides | None = None) -> Workflow:
    """The workflow of `checked`, as it may be run. Raises ConfigError for its findings."""
    raise_if_any(checked.source, checked.findings)
    workflow = checked.workflow
    assert workflow is not None
    if not (overrides and overrides.trust_remote_code):
        load = workflow.input_model.load_kwargs.model_copy(update={"trust_remote_code": False})
        model = workflow.input_model.model_copy(update={"load_kwargs": load})
        workflow = workflow.model_copy(update={"input_model": model})
    return workflow


def check(path: Path) -> Checked:
    """Checks the file at `path`: a workflow, or a file that stands beside one. Raises ConfigError when it cannot be parsed."""
    source = read_source(path)
    model = _kind(source)
    if model is Workflow:
        return check_workflow(path, source=source)
    form = form_of(source)
    return Checked(source, form.draft, None, [*form.errors, *told(form.draft)])


def check_workflow(path: Path, overrides: Overrides | None = None, source: Source | None = None) -> Checked:
    """Checks the workflow at `path`, with `overrides`. Raises ConfigError when the file cannot be parsed."""
    from phi_runtime.checks.cross_check import cross_check

    form = read_form(source or read_source(path), overrides)
    evaluation, beside, of_evaluation = _read_beside(beside_of(path, EVALUATION), Evaluation)
    sweep, of_sweep, at = form.sweep, form.draft, SWEEP_IN_CONFIG
    if "sweep" not in form.value:
        sweep, more, there = _read_beside(beside_of(path, SWEEP), Sweep)
        of_sweep, at = there or of_sweep, ()
        beside += more
    across = cross_check(form.draft, form.value, form.workflow, form.errors, path, overrides or Overrides())
    errors = [*form.errors, *in_order([f for f in [*across, *beside] if f.severity == "error"])]
    warnings = [f for f in across if f.severity == "warning"] + told(form.draft)
    if evaluation and of_evaluation and form.workflow:
        warnings += _unknown_passes(evaluation, of_evaluation, list(form.workflow.trainings))
    if (
        sweep and form.workflow and not errors and not (overrides and overrides.values)
    ):  # those of a trial were looked at
        errors = _check_values(path, form.workflow, overrides or Overrides(), sweep, of_sweep, at)
    workflow = None
    if form.workflow is not None and not errors:
        workflow = form.workflow.model_copy(update={"evaluation": evaluation or Evaluation(), "sweep": sweep})
    return Checked(form.draft.source, form.draft, workflow, errors + in_order(warnings))


def beside_of(config: Path, file: str) -> Path:
    """The `file` that belongs to a config: NAME.evaluation.json of NAME.olive-config.json, if it is there, else evaluation.json.
    What a search found to be best, NAME.olive-config.best.json, and what `optimize` chose, NAME.olive-config.optimized.json, have the
    same ones."""
    name = config.name.replace(".best.json", ".json").replace(".optimized.json", ".json")
    own = config.with_name(name.removesuffix(CONFIG.name) + file)
    return own if name.endswith(CONFIG.name) and own.is_file() else config.with_name(file)


def _unknown_passes(evaluation: Evaluation, draft: Draft, known: list[str]) -> list[Finding]:
    """No errors: other configs beside this one may have those passes, and read the same file."""

    def finding(name: str) -> Finding:
        message = f"no pass called `{name}` trains (those that do: {', '.join(known) or 'none'})"
        return warning(draft.source, ("passes", name), "unknown-reference", message)

    return [finding(name) for name in evaluation.passes if name not in known]


def _check_values(
    path: Path, workflow: Workflow, overrides: Overrides, sweep: Sweep, draft: Draft, at: KeyPath
) -> list[Finding]:
    """What of the search a sound config cannot take, said where the search stands."""
    trained = trained_pass(workflow, list(sweep.search_space))
    if trained is None:
        return []

    def faults(key: str, value: Any) -> list[Finding]:
        found = check_workflow(path, replace(overrides, values={key: value})).findings
        return [f for f in found if f.severity == "error"]

    return check_values(draft, sweep, at, trained, faults)


@dataclass(frozen=True)
class Form:
    """A config by itself: its canonical `value`, what is wrong with that, and the models of it that are sound."""

    draft: Draft
    value: dict[str, Any]
    workflow: Workflow | None
    sweep: Sweep | None
    errors: list[Finding]


def form_of(source: Source) -> Form:
    """The form of any file that `check` takes."""
    model = _kind(source)
    if model is Workflow:
        return read_form(source)
    draft = translate_sweep(source) if model is Sweep else Draft(source)
    value, errors = _validate(draft, draft.value, model)
    if isinstance(value, Sweep):
        errors += check_search(draft, value)
    return Form(draft, draft.value if isinstance(draft.value, dict) else {}, None, None, errors)


def read_form(source: Source, overrides: Overrides | None = None) -> Form:
    """Translates a workflow and checks its form, without a look at any other file."""
    draft = translate(source)
    override(draft, overrides or Overrides())
    if not isinstance(draft.value, dict):
        return Form(draft, {}, None, None, _validate(draft, draft.value, Workflow)[1])
    own = {key: value for key, value in draft.value.items() if key not in ("sweep", "evaluation")}
    workflow, errors = _validate(draft, own, Workflow)
    sweep = None
    if "sweep" in draft.value:
        sweep, more = _validate(draft, draft.value["sweep"], Sweep, ("sweep",))
        errors += more + (check_search(draft, sweep, ("sweep",)) if sweep else [])
    if "evaluation" in draft.value:
        message = f"Olive rejects the key `evaluation` here; its content belongs into {EVALUATION} beside this file"
        errors.append(draft.finding(("evaluation",), "unknown-key", message))
    return Form(draft, draft.value, workflow, sweep, in_order([*draft.refused, *errors]))


def told(draft: Draft) -> list[Finding]:
    """Every translation as a warning where it was written."""
    return [warning(draft.source, draft.origin(t), t.rule, _told(t)) for t in draft.translations]


def _told(translation: Translation) -> str:
    if translation.old is None and translation.new is not None:
        return f"`{dotted(translation.new)}` is filled in: {translation.message}"
    return translation.message


def _kind(source: Source) -> type[BaseModel]:
    keys = set(source.value) if isinstance(source.value, dict) else set()
    if source.path.name == EVALUATION or source.path.name.endswith(f".{EVALUATION}"):
        return Evaluation
    if "search_space" in keys and not keys & {"input_model", "model", "passes"}:
        return Sweep
    if "dependencies" in keys and not keys & {"input_model", "model", "passes"}:
        return CondaEnvironment
    return Workflow


def _read_beside(path: Path, model: type[M]) -> tuple[M | None, list[Finding], Draft | None]:
    """A file beside the config, what is wrong with it, and how it was read; None where there is none."""
    if not path.is_file():
        return None, [], None
    source = read_source(path)
    draft = translate_sweep(source) if model is Sweep else Draft(source)
    value, findings = _validate(draft, draft.value, model)
    return value, findings + (check_search(draft, value) if isinstance(value, Sweep) else []), draft


def _validate(
    draft: Draft, value: Any, model: type[M], at: tuple[str | int, ...] = ()
) -> tuple[M | None, list[Finding]]:
    try:
        return model.model_validate(value), []
    except ValidationError as e:
        errors = e.errors(include_url=False)
        return None, from_pydantic(draft.source, errors, model, value, lambda path: draft.written((*at, *path)))


def as_dict(findings: list[Finding], path: Path) -> dict[str, Any]:
    """The findings in the form that `validate --json` prints."""
    return {
        "path": str(path),
        "valid": not any(f.severity == "error" for f in findings),
        "findings": [f.as_dict() for f in findings],
    }
