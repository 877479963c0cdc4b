"""A config file in, a checked Workflow out, or every fault of it with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from phi_runtime.data.columns import column_names
from phi_runtime.data.template import PromptTemplate, TemplateFault
from phi_runtime.errors import DataError
from phi_runtime.suggest import nearest
from phi_runtime.workflow.diagnostics import Finding, finding, from_pydantic, raise_if_any
from phi_runtime.workflow.paths import data_path
from phi_runtime.workflow.schema import DataConfig, Evaluation, FinetunePass, Kind, ModelBuilder, Pass, QLoRA, Workflow
from phi_runtime.workflow.source import KeyPath, Source, read_source

EVALUATION = "evaluation.json"
FETCH, EVALUATE = "fetch", "evaluate"

# What the builder of onnxruntime-genai 0.18 builds *and* runs (fp16 and bf16 for the CPU build, but fail when they are loaded).
RUNNABLE = {
    "CPUExecutionProvider": ("fp32", "int8", "int4"),
    "CUDAExecutionProvider": ("fp32", "fp16", "bf16", "int8", "int4"),
    "DmlExecutionProvider": ("fp16", "int4"),
    "WebGpuExecutionProvider": ("int8", "int4"),
}

_KINDS: dict[Kind, str] = {"hf": "a full model", "adapter": "an adapter", "onnx": "an ONNX model"}

M = TypeVar("M", bound=BaseModel)


def load_workflow(path: Path) -> Workflow:
    """Reads, checks and returns the workflow at `path`, with the evaluation.json beside it.

    Raises ConfigError (exit code 3) whose `findings` hold every fault.
    """
    source, workflow, findings = check(path)
    raise_if_any(source, findings)
    assert workflow is not None
    return workflow


def check(path: Path) -> tuple[Source, Workflow | None, list[Finding]]:
    """The file, its workflow (None when its form is wrong) and all findings. Raises ConfigError when it is not even JSON."""
    source = read_source(path)
    workflow, findings = _validate(source, Workflow)
    evaluation_findings: list[Finding] = []
    beside = path.parent / EVALUATION
    if beside.is_file():
        evaluation, evaluation_findings = _validate(read_source(beside), Evaluation)
        if workflow is not None and evaluation is not None:
            workflow = workflow.model_copy(update={"evaluation": evaluation})
    if isinstance(source.value, dict) and "evaluation" in source.value:
        message = f"Olive rejects the key `evaluation` here; its content belongs into {EVALUATION} beside this file"
        findings.append(finding(source, ("evaluation",), "unknown-key", message))
    if workflow is not None:
        findings += _cross_check(source, workflow)
    return source, workflow, findings + evaluation_findings


def _validate(source: Source, model: type[M]) -> tuple[M | None, list[Finding]]:
    try:
        return model.model_validate(source.value), []
    except ValidationError as e:
        return None, from_pydantic(source, e.errors(), model)


def _cross_check(source: Source, workflow: Workflow) -> list[Finding]:
    findings = [
        *_references(source, workflow),
        *(f for i, data in enumerate(workflow.data_configs) for f in _data(source, ("data_configs", i), data)),
        *_order(source, workflow),
        *_passes(source, workflow),
    ]
    return sorted(findings, key=lambda f: (f.where.line, f.where.column))


def _references(source: Source, workflow: Workflow) -> Iterator[Finding]:
    def unknown(key_path: KeyPath, what: str, name: str, known: list[str]) -> Finding:
        message = (
            f"there is no {what} `{name}` (there {'is' if len(known) == 1 else 'are'} {', '.join(known) or 'none'})"
        )
        return finding(source, key_path, "unknown-reference", message, nearest(name, known))

    systems = list(workflow.systems)
    for key in ("host", "target"):
        if (name := getattr(workflow, key)) not in systems:
            yield unknown((key,), "system", name, systems)
    names = [d.name for d in workflow.data_configs]
    for i, name in enumerate(names):
        if name in names[:i]:
            message = f"two data configs are called `{name}`"
            yield finding(source, ("data_configs", i, "name"), "duplicate-name", message)
    for pass_name, step in workflow.passes.items():
        if isinstance(step, FinetunePass):
            for key in ("train_data_config", "eval_data_config"):
                name = getattr(step, key)
                if name is not None and name not in names:
                    yield unknown(("passes", pass_name, key), "data config", name, names)


def _data(source: Source, at: KeyPath, data: DataConfig) -> Iterator[Finding]:
    template_at = (*at, "pre_process_data_config", "text_template")
    try:
        template = PromptTemplate.from_text(data.pre_process_data_config.text_template)
    except TemplateFault as e:
        yield finding(source, template_at, "text-template", f"`text_template`: {e}")
        return
    file = data_path(data, source.path).path
    file_at = (*at, "load_dataset_config", "data_files")
    if not file.is_file():
        yield finding(source, file_at, "file-not-found", f"there is no data file at {file}")
        return
    try:
        columns = column_names(file, data.load_dataset_config.data_name)
    except DataError as e:
        yield finding(source, file_at, "data", str(e))
        return
    for name in template.columns:
        if name not in columns:
            message = f"the data has no column `{name}` (it has {', '.join(columns)})"
            yield finding(source, template_at, "template-column", message, nearest(name, columns))


def _order(source: Source, workflow: Workflow) -> Iterator[Finding]:
    before, kind = "the base model", "hf"
    for name, step in workflow.passes.items():
        if step.accepts != kind:
            message = (
                f"`{name}` ({step.type}) needs {_KINDS[step.accepts]}, but comes after {before}, which gives "
                f"{_KINDS[kind]}"  # type: ignore[index]
            )
            yield finding(source, ("passes", name), "pass-order", message)
            return
        before, kind = f"`{name}` ({step.type})", step.produces


def _passes(source: Source, workflow: Workflow) -> Iterator[Finding]:
    provider = workflow.execution_provider if workflow.target in workflow.systems else None
    trained: list[str] = []
    for name, step in workflow.passes.items():
        at: KeyPath = ("passes", name)
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in (FETCH, EVALUATE):
            message = f"`{name}` cannot name a pass: letters, digits, - and _ can, but not the stages `{FETCH}` and `{EVALUATE}`"
            yield finding(source, at, "pass-name", message)
        if isinstance(step, ModelBuilder) and provider and step.precision not in RUNNABLE[provider]:
            runnable = RUNNABLE[provider]
            message = f"`{step.precision}` does not run on {provider}; {', '.join(runnable)} do"
            yield finding(source, (*at, "precision"), "precision", message, runnable[-1])
        if isinstance(step, QLoRA) and step.int4_aware:
            message = "`int4_aware` is for LoRA: the base of a QLoRA has 4 bits already"
            yield finding(source, (*at, "int4_aware"), "contradiction", message)
        if isinstance(step, FinetunePass):
            trained.append(name)
            yield from _finetune(source, at, step)
    if len(trained) > 1:
        message = f"`{trained[0]}` and `{trained[1]}` both train; one run trains once"
        yield finding(source, ("passes", trained[1]), "pass-order", message)


def _finetune(source: Source, at: KeyPath, step: FinetunePass) -> Iterator[Finding]:
    size = step.eval_dataset_size
    if size > 1 and size != int(size):
        yield finding(
            source, (*at, "eval_dataset_size"), "out-of-range", f"{size} is neither a fraction below 1 nor a count"
        )
    if size and step.eval_data_config:
        message = "`eval_dataset_size` and `eval_data_config` both name the held-out rows; take one out"
        yield finding(source, (*at, "eval_dataset_size"), "contradiction", message)


def stage_order(workflow: Workflow) -> list[str]:
    """The names of all stages, in the order in which they run."""
    return [FETCH, *workflow.passes, EVALUATE]


def passes_before(workflow: Workflow, stage: str) -> list[tuple[str, Pass]]:
    """The passes that run before `stage`."""
    names = list(workflow.passes)
    end = names.index(stage) if stage in names else (len(names) if stage == EVALUATE else 0)
    return [(name, workflow.passes[name]) for name in names[:end]]


def as_dict(findings: list[Finding], path: Path) -> dict[str, Any]:
    """The findings in the form that `validate --json` prints."""
    return {
        "path": str(path),
        "valid": not any(f.severity == "error" for f in findings),
        "findings": [f.as_dict() for f in findings],
    }
