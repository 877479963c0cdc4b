"""The facts that a verdict is given on: results, rows, data report, training and config of one training pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.core.artifacts import read_json, read_manifest
from phi_runtime.core.project import CONFIG, ProjectFolder
from phi_runtime.data.report_file import report_file
from phi_runtime.evaluation.metrics import headline
from phi_runtime.evaluation.row_results import ROWS, RowResult, read_rows
from phi_runtime.evaluation.summary import DERIVED, is_untrained
from phi_runtime.pipeline.stage import evaluation_folder, model_folder
from phi_runtime.training.diagnosis import Diagnosis

Model = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """All that is known of one training pass and its models.

    Attributes:
        training: Name of the pass.
        workflow: Its config, with the settings of the evaluation.
        config: File of the config, as it is shown.
        evaluation: Content of evaluation.json; empty if nothing was compared.
        rows: Content of rows.jsonl.
        data: Data report of the training; empty if there is none.
        counts: Facts in the manifest of the trained model.
    """

    training: str
    workflow: Workflow
    config: str = CONFIG.as_posix()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[RowResult] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> FinetunePass | None:
        """The pass whose rows were measured; None if the workflow trains nothing and has no rows."""
        step = self.workflow.passes.get(self.training)
        return step.rows if step else None

    @property
    def measured(self) -> int:
        """Number of measured rows."""
        return int(self.evaluation.get("rows", 0)) if self.evaluation.get("models") else 0

    @property
    def metric(self) -> str:
        """Main metric of the task."""
        return headline(self.evaluation["task"])

    @cached_property
    def models(self) -> dict[str, Model]:
        """All models of the comparison by name, baselines first."""
        entries = (*self.evaluation.get("baselines", ()), *self.evaluation.get("models", ()))
        return {model["name"]: model for model in entries}

    @property
    def trained(self) -> Model | None:
        """The first model that was trained."""
        models = self.evaluation.get("models", ())
        return next(
            (model for model in models if not (is_untrained(model["name"]) or model["name"].startswith(DERIVED))), None
        )

    @property
    def exported(self) -> list[Model]:
        """The ONNX models."""
        return [model for model in self.evaluation.get("models", ()) if model["name"].startswith("onnx")]

    @property
    def diagnoses(self) -> list[Diagnosis]:
        """The problems that the training has recorded."""
        return [Diagnosis(**entry) for entry in self.counts.get("diagnosis", ())]

    @property
    def training_data(self) -> Mapping[str, Any] | None:
        """The entry of the data report for the training data."""
        return next(iter(self.data.get("datasets", ())), None)


def read_facts(
    project: ProjectFolder, workflow: Workflow, training: str, evaluation: Mapping[str, Any] | None = None
) -> Facts:
    """Read the facts of the pass `training` from gen-model/; what is missing there is empty.

    Args:
        evaluation: Content of evaluation.json; None if nothing was compared.
    """
    manifest = read_manifest(model_folder(workflow, project, training)) if training in workflow.passes else None
    counts = manifest.facts if manifest else {}
    rows: list[RowResult] = []
    if evaluation:
        with suppress(OSError, ValueError, KeyError, TypeError):
            rows = read_rows(evaluation_folder(workflow, project, training) / ROWS)
    return Facts(
        training,
        workflow,
        project.shown(project.config),
        evaluation or {},
        rows,
        _data_report(project.runs, report_file(workflow, training), counts),
        counts,
    )


def _data_report(runs: Path, name: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the newest data report with the rows that the training had; empty if there is none."""
    for file in sorted(runs.glob(f"*/{name}"), reverse=True):
        with suppress(OSError, ValueError, KeyError, TypeError):
            report: dict[str, Any] = read_json(file)
            splits = report["splits"]
            if (splits["training"]["rows"], splits["validation"]["rows"]) == (
                counts["rows"],
                counts["validation_rows"],
            ):
                return report
    return {}
