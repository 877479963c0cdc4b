"""What a call of `optimize` would do: read and checked before anything is made, without an ML library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import EVALUATION, parse_config
from phi_runtime.config.pass_graph import sources, training_of
from phi_runtime.config.reading.source import read_source
from phi_runtime.config.schema import Constraints, ExportPass, Workflow, canonical
from phi_runtime.config.sidecars import sidecar_path
from phi_runtime.core.artifacts import digest, versions
from phi_runtime.core.errors import ConfigError, Location, UsageError
from phi_runtime.core.project import Project, read_dotenv
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.hardware.device import usable_cores
from phi_runtime.hardware.machine import memory_bytes
from phi_runtime.models.place import base_model_path
from phi_runtime.models.shape import Shape, shape_of
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.model_names import comparison_name
from phi_runtime.pipeline.plan import plan
from phi_runtime.pipeline.stage import EVALUATION_LIBRARIES, Stage, data_inputs
from phi_runtime.search.optimize.candidates import Candidate, candidates_for, expected_bytes, expected_memory_bytes
from phi_runtime.search.optimize.constraints import DROP, SIZE, asks_for_accuracy, constraints_of
from phi_runtime.search.optimize.table import CandidateRow, CandidateTable
from phi_runtime.search.optimize.targets import Target, target_for, values_for, why_unavailable
from phi_runtime.search.optimize.task import CandidateSettings

FOLDER = "optimize"
TOKENS = 2048
_FORM = 1  # of what is measured: figures of another one are not comparable
_SURELY = 1.05  # times what is allowed, the expected size that rules a candidate out: it is exact to some percent


@dataclass(frozen=True)
class OptimizePlan:
    """What is tried, in order, for which target, and what it must keep to. `source` is the pass whose model is built from (BASE for
    the base model); `lacking` says why models for the target cannot be run here, so that their size alone is known."""

    setting: CandidateSettings
    overrides: Overrides
    workflow: Workflow
    target: Target
    constraints: Constraints
    source: str
    candidates: tuple[Candidate, ...]
    lacking: str
    shape: Shape | None

    @property
    def project(self) -> Project:
        return self.setting.project

    @property
    def folder(self) -> Path:
        """Where the table and the models of candidates lie: gen-model/optimize/; for a second ModelBuilder pass, its name added."""
        builders = [n for n, step in self.workflow.passes.items() if isinstance(step, ExportPass)]
        name = self.setting.stage
        return self.project.gen_model / (FOLDER if builders[0] == name else f"{FOLDER}-{name}")

    @property
    def source_name(self) -> str:
        """What the model that is built from is called: merged, finetuned, base."""
        return comparison_name(self.workflow, self.source)

    @property
    def measures_accuracy(self) -> bool:
        return not self.lacking and self.setting.training is not None

    def folder_of(self, candidate: Candidate) -> Path:
        """What is made of one candidate lies here: its model in onnx/, until it is not needed any more, and its record."""
        prefix = f"{self.target.name}-" if self.target.on_gpu else ""
        return self.folder / (prefix + candidate.name)

    def overrides_for(self, candidate: Candidate) -> Overrides:
        """The config as it is with the options of `candidate`, for the target."""
        values = {**self.setting.overrides.values, **candidate.values(self.setting.stage)}
        return replace(self.setting.overrides, values=values)

    def stage_of(self, candidate: Candidate) -> Stage:
        """The stage of the ModelBuilder pass as it would be with `candidate`; its key is empty while what it is built from is not
        there. Raises ConfigError where the other options of the pass do not go with it."""
        workflow = load_workflow(self.project.config, self.overrides_for(candidate))
        return next(stage for stage in plan(workflow, self.project) if stage.name == self.setting.stage)

    def inputs(self, source_key: str) -> dict[str, Any]:
        """All that shapes the figures of every candidate, beside what makes the model itself."""
        inputs: dict[str, Any] = {
            "form": _FORM,
            "source": source_key,
            "versions": versions(EVALUATION_LIBRARIES),
            "machine": {"cores": usable_cores(), "memory_gib": round(memory_bytes() / (1 << 30))},
        }
        if self.setting.training is None:
            return inputs
        step = self.workflow.trainings[self.setting.training]
        evaluation = canonical(self.workflow.evaluation.of(self.setting.training))
        return inputs | {
            "evaluation": {key: value for key, value in evaluation.items() if key != "passes"},
            "training": canonical(step),
            **data_inputs(self.workflow, step, self.project),
        }

    def key_of(self, stage: Stage, shared: str) -> str:
        """Names the figures of a candidate: its model, and how it was measured."""
        own = {"model": stage.key, "tokens": self.setting.tokens, "measured": not self.lacking}
        return digest({"shared": shared, **own})

    def expected_mb(self, candidate: Candidate) -> float | None:
        """Size of the weights in MB, None where nothing is known of the model yet."""
        return round(expected_bytes(self.shape, candidate, self.target) / 1e6, 1) if self.shape else None

    def expected_memory_mb(self, candidate: Candidate) -> float | None:
        """Peak memory in MB, None where nothing is known of it."""
        if self.shape is None:
            return None
        step = self.workflow.passes[self.setting.stage]
        pruned = isinstance(step, ExportPass) and bool(step.extra_options.prune_lm_head)
        tokens = self.setting.tokens
        found = expected_memory_bytes(self.shape, candidate, self.target, tokens, all_logits=not pruned)
        return round(found / 1e6, 1) if found else None

    def too_large(self, candidate: Candidate) -> bool:
        """Whether it needs no trying to see that `candidate` is larger than allowed."""
        limit, expected = self.constraints.max_size_mb, self.expected_mb(candidate)
        return limit is not None and expected is not None and expected > _SURELY * limit


def prepare(
    project: Project,
    *,
    target: str | None = None,
    limits: Mapping[str, float | None] | None = None,
    stage: str | None = None,
    tokens: int = TOKENS,
    apply: bool = False,
    overrides: Overrides | None = None,
    shape: Shape | None = None,
) -> OptimizePlan:
    """Reads and checks what `optimize` is asked for. Raises ConfigError and UsageError before anything is made.

    `limits` are constraints of the command line, by name; `stage` is the ModelBuilder pass, by default the first; `shape` that of a
    base model that is not here yet.
    """
    read_dotenv(project.root)
    given = overrides or Overrides()
    workflow = load_workflow(project.config, given)
    name = _builder(workflow, stage, project)
    chosen = target_for(target, workflow)
    candidates = candidates_for(chosen)
    limited = constraints_of(limits or {}, workflow.evaluation.constraints, chosen.defaults)
    made_for = replace(given, values={**given.values, **values_for(chosen, workflow)})
    training = training_of(workflow.passes, name)
    if training is not None and not _holds_out(workflow, training):
        training = None
    setting = CandidateSettings(project, made_for, name, training, tokens)
    one = replace(made_for, values={**made_for.values, **candidates[0].values(name)})
    found = OptimizePlan(
        setting,
        given,
        load_workflow(project.config, one),
        chosen,
        limited,
        sources(workflow.passes)[name] or "",
        candidates,
        why_unavailable(chosen),
        shape_of(base_model_path(workflow.input_model, project)) or shape,
    )
    if asks_for_accuracy(limited) and training is None and not found.lacking:
        raise ConfigError(
            f"no rows are held out, so {DROP} ({limited.max_accuracy_drop:g}) cannot be told",
            where=Location(project.config),
            fix="set `eval_dataset_size` of the pass that trains, such as 0.2; or let any model pass: --max-accuracy-drop 1",
        )
    if apply:
        check_applicable(project.config)
    return found


def _builder(workflow: Workflow, wanted: str | None, project: Project) -> str:
    """The ModelBuilder pass that is meant."""
    builders = {name: step for name, step in workflow.passes.items() if isinstance(step, ExportPass)}
    if not builders:
        raise ConfigError(
            "no pass builds an ONNX model, so there is nothing to optimize",
            where=Location(project.config),
            fix='add one: "export": {"type": "ModelBuilder", "precision": "int4"}',
        )
    name = next(iter(builders)) if wanted is None else wanted
    if name not in builders:
        raise UsageError(
            f"there is no ModelBuilder pass `{name}`{did_you_mean(name, list(builders))}",
            fix=f"choose one of {', '.join(builders)}",
        )
    if builders[name].adapters:
        raise UsageError(
            f"`{name}` keeps adapters beside its model, and which of them is to be measured is not clear",
            fix="merge one of them before it, and optimize that; the options found suit the others",
        )
    return name


def _holds_out(workflow: Workflow, training: str) -> bool:
    step = workflow.trainings[training]
    return bool(step.eval_data_config or step.eval_dataset_size)


def check_applicable(config: Path) -> None:
    """Raises UsageError where the config cannot be written anew without changing more than the options that were found."""
    form = parse_config(read_source(config))
    if form.draft.translations or "sweep" in form.value:
        raise UsageError(
            f"{config.name} is in an older form, which --apply would rewrite as a whole",
            fix="write it anew first: phi-scaffold migrate",
        )


def plan_as_dict(planned: OptimizePlan) -> dict[str, Any]:
    """What `optimize --dry-run --json` prints."""
    table = CandidateTable.read(planned.folder)
    rows = []
    for candidate in planned.candidates:
        known, refused = None, ""
        try:
            known = _known(planned, candidate, table)
        except ConfigError as e:
            refused = why_refused(e)
        memory = planned.expected_memory_mb(candidate)
        why = refused or (f"larger than {SIZE}" if planned.too_large(candidate) else "")
        rows.append(
            {
                "name": candidate.name,
                "options": candidate.written,
                "expected_size_mb": planned.expected_mb(candidate),
                "expected_memory_mb": memory,
                "known": known is not None,
                "holds": known.holds(planned.constraints, planned.lacking) if known else None,
                "why": why,
            }
        )
    evaluation = sidecar_path(planned.project.config, EVALUATION)
    return {
        "pass": planned.setting.stage,
        "source": planned.source_name,
        "target": planned.target.name,
        "lacking": planned.lacking,
        "constraints": canonical(planned.constraints),
        "constraints_file": planned.project.shown(evaluation),
        "context_tokens": planned.setting.tokens,
        "candidates": rows,
    }


def why_refused(error: ConfigError) -> str:
    """Why the config does not allow a candidate: the first fault of it."""
    first = error.findings[0] if error.findings else None
    return first.message if isinstance(first, Finding) else error.what


def _known(planned: OptimizePlan, candidate: Candidate, table: CandidateTable) -> CandidateRow | None:
    """What an earlier call measured of `candidate`, if all that it depends on is as it was."""
    stage = planned.stage_of(candidate)
    if not stage.key:
        return None
    return table.rows.get(planned.key_of(stage, digest(planned.inputs(stage.inputs["input"]))))
