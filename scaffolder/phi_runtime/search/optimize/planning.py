"""The plan of a search: read and checked before anything is built, without ML libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import EVALUATION, parse_config
from phi_runtime.config.pass_graph import sources, trained_rounding, training_of
from phi_runtime.config.schema import Constraints, ExportPass, Workflow, canonical
from phi_runtime.config.sidecars import sidecar_path
from phi_runtime.core.artifacts import digest, versions
from phi_runtime.core.dotenv import read_dotenv
from phi_runtime.core.errors import ConfigError, Location, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.hardware.device import usable_cores
from phi_runtime.hardware.machine import memory_bytes
from phi_runtime.models.memory import CONTEXT_TOKENS
from phi_runtime.models.place import base_model_path
from phi_runtime.models.shape import Shape, shape_of
from phi_runtime.pipeline.graph import CACHED, ModelGraph, existing_models
from phi_runtime.pipeline.load import LoadedConfig, load_config
from phi_runtime.pipeline.model_names import comparison_name
from phi_runtime.pipeline.stage import EVALUATION_LIBRARIES, Stage, data_inputs
from phi_runtime.search.optimize.candidates import Candidate, candidates_for, expected_bytes, expected_memory_bytes
from phi_runtime.search.optimize.constraints import DROP, SIZE, limits_accuracy, resolve_constraints
from phi_runtime.search.optimize.table import CandidateTable
from phi_runtime.search.optimize.targets import Target, target_for, values_for, why_unavailable
from phi_runtime.search.optimize.task import CandidateSettings

FOLDER = "optimize"
_FORM = 3  # of the measurements; figures of another form cannot be compared
_SIZE_TOLERANCE = 1.05  # the expected size is exact to some percent


@dataclass(frozen=True)
class OptimizePlan:
    """The candidates, in order, for a target and its constraints.

    Attributes:
        config: The loaded config, with the overrides of the command line.
        workflow: The workflow for the target, with the options of the first candidate.
        source: The pass whose output is built from; BASE for the base model.
        unavailable: Why models for the target cannot run here, so that only their size is known.
        shape: The shape of the base model; None if it is unknown.
    """

    settings: CandidateSettings
    config: LoadedConfig
    workflow: Workflow
    target: Target
    constraints: Constraints
    source: str
    candidates: tuple[Candidate, ...]
    unavailable: str
    shape: Shape | None

    @property
    def project(self) -> ProjectFolder:
        return self.settings.project

    @property
    def folder(self) -> Path:
        """gen-model/optimize/, with the name of the pass added for all but the first ModelBuilder pass."""
        builders = [n for n, step in self.workflow.passes.items() if isinstance(step, ExportPass)]
        name = self.settings.stage
        return self.project.gen_model / (FOLDER if builders[0] == name else f"{FOLDER}-{name}")

    @property
    def source_name(self) -> str:
        """The kind of the source model: merged, finetuned or base."""
        return comparison_name(self.workflow, self.source)

    @property
    def task(self) -> str:
        """The task of the measured rows, which selects the main metric."""
        assert self.settings.training is not None
        return self.workflow.evaluation.of(self.settings.training).task

    @property
    def measures_accuracy(self) -> bool:
        return not self.unavailable and self.settings.training is not None

    def folder_of(self, candidate: Candidate) -> Path:
        """Return the folder of a candidate: its record, and its model in onnx/ while it is needed."""
        prefix = f"{self.target.name}-" if self.target.on_gpu else ""
        return self.folder / (prefix + candidate.name)

    def overrides_for(self, candidate: Candidate) -> Overrides:
        """Return the overrides that select the target and the options of `candidate`."""
        values = {**self.settings.overrides.values, **candidate.values(self.settings.stage)}
        return replace(self.settings.overrides, values=values)

    def config_values(self, candidate: Candidate) -> dict[str, Any]:
        """Return the values to write into the config; flags such as --on local are not part of it."""
        overrides = replace(self.config.overrides, on_local=False)
        workflow = load_config(self.project.config, overrides, self.config.source).require_valid()
        return {**values_for(self.target, workflow), **candidate.values(self.settings.stage)}

    def outdated_training(self, candidate: Candidate) -> str | None:
        """Return the int4-aware training that rounds otherwise with the options of `candidate`; None if there is none."""
        before = self.config.require_valid()
        after = load_config(self.project.config, self.overrides_for(candidate), self.config.source).require_valid()
        name = training_of(before.passes, self.settings.stage)
        if name is None or not before.trainings[name].rounds_base:
            return None
        return None if trained_rounding(before.passes, name) == trained_rounding(after.passes, name) else name

    def stages(self) -> dict[str, Stage | ConfigError]:
        """Return the stage of the ModelBuilder pass with the options of each candidate, by its name.

        The key of a stage is empty while the source model does not exist. An error means that other options
        of the pass are invalid with those of the candidate.
        """
        models = existing_models(self.config.require_valid(), self.project, accept=CACHED)
        stages: dict[str, Stage | ConfigError] = {}
        for candidate in self.candidates:
            overrides = self.overrides_for(candidate)
            try:
                workflow = load_config(self.project.config, overrides, self.config.source).require_valid()
            except ConfigError as e:
                stages[candidate.name] = e
            else:
                stages[candidate.name] = ModelGraph(workflow, self.project, models).node(self.settings.stage).stage
        return stages

    def inputs(self, source_key: str) -> dict[str, Any]:
        """Return what shapes the figures of every candidate, in addition to its model."""
        inputs: dict[str, Any] = {
            "form": _FORM,
            "source": source_key,
            "versions": versions(EVALUATION_LIBRARIES),
            "machine": {"cores": usable_cores(), "memory_gib": round(memory_bytes() / (1 << 30))},
        }
        if self.settings.training is None:
            return inputs
        step = self.workflow.passes[self.settings.training].rows
        assert step is not None
        evaluation = canonical(self.workflow.evaluation.of(self.settings.training))
        return inputs | {
            "evaluation": {key: value for key, value in evaluation.items() if key != "passes"},
            "training": canonical(step),
            **data_inputs(self.workflow, step.data_names, self.project),
        }

    def key_of(self, stage: Stage, inputs_key: str) -> str:
        """Return the key of a candidate's figures: its model, and how it was measured."""
        own = {"model": stage.key, "tokens": self.settings.tokens, "measured": not self.unavailable}
        return digest({"shared": inputs_key, **own})

    def expected_mb(self, candidate: Candidate) -> float | None:
        """Estimate the size in MB; None if the shape is unknown."""
        return round(expected_bytes(self.shape, candidate, self.target) / 1e6, 1) if self.shape else None

    def expected_memory_mb(self, candidate: Candidate) -> float | None:
        """Estimate the peak memory in MB; None if it is unknown."""
        if self.shape is None:
            return None
        step = self.workflow.passes[self.settings.stage]
        pruned = isinstance(step, ExportPass) and bool(step.extra_options.prune_lm_head)
        expected = expected_memory_bytes(
            self.shape, candidate, self.target, self.settings.tokens, all_logits=not pruned
        )
        return round(expected / 1e6, 1) if expected else None

    def too_large(self, candidate: Candidate) -> bool:
        """Return True if the expected size of `candidate` clearly exceeds the limit."""
        limit, expected = self.constraints.max_size_mb, self.expected_mb(candidate)
        return limit is not None and expected is not None and expected > _SIZE_TOLERANCE * limit


def prepare(
    project: ProjectFolder,
    *,
    config: LoadedConfig | None = None,
    target: str | None = None,
    limits: Mapping[str, float | None] | None = None,
    stage: str | None = None,
    tokens: int = CONTEXT_TOKENS,
    apply: bool = False,
    shape: Shape | None = None,
) -> OptimizePlan:
    """Plan a search.

    Args:
        config: The loaded config of the project; default: its file.
        target: Name of the target; default: the one of the config.
        limits: Constraints of the command line, by name.
        stage: The ModelBuilder pass; default: the first one.
        tokens: The context length at which memory is measured.
        apply: Check that the chosen options can be written into the config.
        shape: The shape of a base model that is not downloaded yet.

    Raises:
        ConfigError: The config is invalid, builds no ONNX model, or has no test rows to measure accuracy.
        UsageError: An argument is invalid.
    """
    read_dotenv(project.root)
    config = config or load_config(project.config)
    workflow = config.require_valid()
    name = _builder(workflow, stage, project)
    selected = target_for(target, workflow)
    shape = shape_of(base_model_path(workflow.input_model, project)) or shape
    candidates = candidates_for(selected, shape)
    constraints = resolve_constraints(limits or {}, workflow.evaluation.constraints, selected.defaults)
    training = training_of(workflow.passes, name)
    rows = workflow.passes[training].rows if training else None
    if rows is None or not rows.has_validation_rows:
        training = None
    values = {**config.overrides.values, **values_for(selected, workflow)}
    settings = CandidateSettings(project, replace(config.overrides, values=values), name, training, tokens)
    with_options = replace(config.overrides, values={**values, **candidates[0].values(name)})
    plan = OptimizePlan(
        settings,
        config,
        load_config(project.config, with_options, config.source).require_valid(),
        selected,
        constraints,
        sources(workflow.passes)[name] or "",
        candidates,
        why_unavailable(selected),
        shape,
    )
    if limits_accuracy(constraints) and training is None and not plan.unavailable:
        raise ConfigError(
            f"{DROP} ({constraints.max_accuracy_drop:g}) cannot be measured without test rows",
            where=Location(project.config),
            fix="set `eval_dataset_size` of the training pass, such as 0.2, or allow any drop: --max-accuracy-drop 1",
        )
    if apply:
        check_applicable(config)
    return plan


def _builder(workflow: Workflow, requested: str | None, project: ProjectFolder) -> str:
    """Return the name of the ModelBuilder pass to optimize."""
    builders = {name: step for name, step in workflow.passes.items() if isinstance(step, ExportPass)}
    if not builders:
        raise ConfigError(
            "no pass builds an ONNX model, so there is nothing to optimize",
            where=Location(project.config),
            fix='add one: "export": {"type": "ModelBuilder", "precision": "int4"}',
        )
    name = next(iter(builders)) if requested is None else requested
    if name not in builders:
        raise UsageError(
            f"no ModelBuilder pass is called `{name}`{did_you_mean(name, list(builders))}",
            fix=f"choose one of {', '.join(builders)}",
        )
    if builders[name].adapters:
        raise UsageError(
            f"`{name}` keeps several adapters next to its graph; it is unclear which one to measure",
            fix="merge one of them before the export and optimize that; its options suit the others",
        )
    return name


def check_applicable(config: LoadedConfig) -> None:
    """Raise UsageError if writing the options would rewrite more of the config than these options."""
    parsed = parse_config(config.source)
    if parsed.draft.translations or "sweep" in parsed.value:
        raise UsageError(
            f"{config.source.path.name} uses an older config format, which --apply would rewrite",
            fix="rewrite it first: phi-scaffold migrate",
        )


def plan_to_json(plan: OptimizePlan) -> dict[str, Any]:
    """Return the output of `optimize --dry-run --json` (docs/json.md)."""
    table, stages = CandidateTable.read(plan.folder), plan.stages()
    ready = {name: stage for name, stage in stages.items() if isinstance(stage, Stage) and stage.key}
    source_key = next((stage.inputs["input"] for stage in ready.values()), None)  # the same for all
    inputs_key = digest(plan.inputs(source_key)) if source_key else ""
    candidates = []
    for candidate in plan.candidates:
        stage = stages[candidate.name]
        known = table.rows.get(plan.key_of(ready[candidate.name], inputs_key)) if candidate.name in ready else None
        why = why_refused(stage) if isinstance(stage, ConfigError) else ""
        if not why and plan.too_large(candidate):
            why = f"larger than {SIZE}"
        candidates.append(
            {
                "name": candidate.name,
                "options": candidate.written,
                "expected_size_mb": plan.expected_mb(candidate),
                "expected_memory_mb": plan.expected_memory_mb(candidate),
                "known": known is not None,
                "meets_constraints": known.meets(plan.constraints, plan.unavailable) if known else None,
                "why": why,
            }
        )
    return {
        "pass": plan.settings.stage,
        "source": plan.source_name,
        "target": plan.target.name,
        "unavailable": plan.unavailable,
        "constraints": canonical(plan.constraints),
        "constraints_file": plan.project.shown(sidecar_path(plan.project.config, EVALUATION)),
        "context_tokens": plan.settings.tokens,
        "candidates": candidates,
    }


def why_refused(error: ConfigError) -> str:
    """Return the first reason why the config does not allow a candidate."""
    first = error.findings[0] if error.findings else None
    return first.message if isinstance(first, Finding) else error.what
