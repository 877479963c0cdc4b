"""Load a config: read, translate, override, validate, join the sidecar files, cross-check."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi_runtime.checks.cross_check import cross_check
from phi_runtime.checks.evaluation import check_evaluation
from phi_runtime.config.diagnostics import Finding, in_order, raise_if_any
from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.no_effect import check_effect
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import ParsedFile, kind_of, parse_config, parse_file
from phi_runtime.config.reading.source import Source, parse_source, read_source
from phi_runtime.config.schema import Evaluation, Sweep, Workflow
from phi_runtime.config.search_space import check_metric, check_values, trained_pass
from phi_runtime.config.sidecars import Sidecars, join_sidecars
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import project_of
from phi_runtime.data.hooks import hooks_file
from phi_runtime.passes.input_adapter import with_input_adapter


@dataclass(frozen=True)
class LoadedConfig:
    """A config as it was loaded: load it once per command and hand it on.

    `workflow` is None if `findings`, which list errors first, hold an error.
    """

    source: Source
    draft: Draft
    workflow: Workflow | None
    findings: list[Finding]
    overrides: Overrides

    @property
    def valid(self) -> bool:
        return not any(f.severity == "error" for f in self.findings)

    def require_valid(self) -> Workflow:
        """Return the workflow, with `trust_remote_code` only if the command line allows it.

        Raises:
            ConfigError: The config has errors (exit code 3); `findings` holds all of them.
        """
        raise_if_any(self.source, self.findings)
        workflow = self.workflow
        assert workflow is not None
        if self.overrides.trust_remote_code:
            return workflow
        load = workflow.input_model.load_kwargs.model_copy(update={"trust_remote_code": False})
        model = workflow.input_model.model_copy(update={"load_kwargs": load})
        return workflow.model_copy(update={"input_model": model})


def load_workflow(path: Path, overrides: Overrides | None = None) -> Workflow:
    """Load the config at `path` and return its workflow. Raises ConfigError if it has errors."""
    return load_config(path, overrides).require_valid()


def load_config(path: Path, overrides: Overrides | None = None, source: Source | None = None) -> LoadedConfig:
    """Load the config at `path`, or its `source` if that was read already, with its sidecar files.

    Returns:
        The config with everything that is wrong with it.

    Raises:
        ConfigError: The file cannot be read or parsed.
        UsageError: `overrides` name something that the config does not have.
    """
    overrides = overrides or Overrides()
    source = source or read_source(path)
    config = parse_config(source, overrides)
    sidecars = join_sidecars(path, config, overrides.search)
    findings = _cross_check(path, config, sidecars, overrides)
    workflow = None
    if config.workflow is not None and not any(f.severity == "error" for f in findings):
        workflow = config.workflow
        names = [data.name for data in workflow.data_configs]
        passes = with_input_adapter(workflow.input_model, workflow.passes, names, project_of(path))
        joined = {"evaluation": sidecars.evaluation or Evaluation(), "sweep": sidecars.sweep, "passes": passes}
        workflow = workflow.model_copy(update=joined)
    return LoadedConfig(source, config.draft, workflow, findings, overrides)


def check_file(path: Path, text: str | None = None, overrides: Overrides | None = None) -> LoadedConfig:
    """Load a workflow config, or check one of its sidecar files by itself; `text` replaces the content of the file.

    Raises:
        ConfigError: It cannot be parsed.
        UsageError: `overrides` name something that the file does not have.
    """
    source = read_source(path) if text is None else parse_source(path, text)
    if kind_of(source) is Workflow:
        return load_config(path, overrides, source)
    if overrides and overrides.settings:
        raise UsageError(f"--set changes a workflow config, and {path} is not one", fix="remove --set")
    parsed = parse_file(source)
    errors = parsed.errors
    if kind_of(source) is Evaluation and not errors:
        errors = in_order(check_evaluation(parsed.draft, Evaluation.model_validate(parsed.value), path, None))
    return LoadedConfig(source, parsed.draft, None, [*errors, *parsed.draft.warnings()], Overrides())


def _cross_check(path: Path, config: ParsedFile, sidecars: Sidecars, overrides: Overrides) -> list[Finding]:
    """Return the findings of all phases, errors first, each kind in the order of the file."""
    across = cross_check(config.draft, config.value, config.workflow, config.errors, path, overrides)
    later = [*across, *sidecars.findings]
    if sidecars.evaluation and sidecars.evaluation_draft and not overrides.values:  # a trial changes none of it
        later += check_evaluation(sidecars.evaluation_draft, sidecars.evaluation, path, config.workflow)
    errors = [*config.errors, *in_order([f for f in later if f.severity == "error"])]
    warnings = [f for f in later if f.severity == "warning"] + config.draft.warnings()
    warnings += check_effect(config.draft, config.workflow) if config.workflow else []
    if not errors and config.workflow and sidecars.sweep and not overrides.values:  # a trial's values have been checked
        warnings += _check_search_metric(path, config.workflow, sidecars, sidecars.sweep)
        errors = _check_search_values(path, config, sidecars, overrides)
    return errors + in_order(warnings)


def _check_search_metric(path: Path, workflow: Workflow, sidecars: Sidecars, sweep: Sweep) -> list[Finding]:
    trained = trained_pass(workflow, list(sweep.search_space))
    if trained is None or hooks_file(path, ("metrics",)):  # which may return any name
        return []
    evaluation = (sidecars.evaluation or Evaluation()).of(trained)
    return check_metric(sidecars.sweep_draft, sweep, sidecars.sweep_path, evaluation)


def _check_search_values(path: Path, config: ParsedFile, sidecars: Sidecars, overrides: Overrides) -> list[Finding]:
    """Return the values of the search space that make the config invalid, located in the search space."""
    sweep, workflow = sidecars.sweep, config.workflow
    assert sweep is not None
    assert workflow is not None
    trained = trained_pass(workflow, list(sweep.search_space))
    if trained is None:
        return []
    source = config.draft.source

    def errors_with(key: str, value: Any) -> list[Finding]:
        trial = replace(overrides, values={key: value})
        findings = _cross_check(path, parse_config(source, trial), sidecars, trial)
        return [f for f in findings if f.severity == "error"]

    return check_values(sidecars.sweep_draft, sweep, sidecars.sweep_path, trained, errors_with)
