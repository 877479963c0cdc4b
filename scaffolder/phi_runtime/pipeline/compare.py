"""Compare the models of one training pass, or compute the metrics of such a comparison again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE, INPUT_ADAPTER, sources, trainings_of
from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.core.artifacts import read_json, write_json
from phi_runtime.core.events import Emit
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.dataset import data_context
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.model_names import comparison_models
from phi_runtime.pipeline.seed_runs import seed_evaluations
from phi_runtime.pipeline.stage import Stage, with_active_adapter


@dataclass(frozen=True)
class Comparison:
    """The comparison of the models of one training pass: its evaluation `stage`, and the models of the project by pass."""

    workflow: Workflow
    project: ProjectFolder
    overrides: Overrides
    training: str
    stage: Stage
    models: Mapping[str, ModelRef]
    emit: Emit

    def measure(self, out: Path, *, trained_only: bool = False) -> dict[str, Any]:
        """Measure the models, or only the trained ones; return the content of evaluation.json."""
        from phi_runtime.evaluation.comparison import evaluate
        from phi_runtime.hardware.device import pick_device

        passes = self.workflow.passes
        models = [
            (name, with_active_adapter(self.workflow, self.training, step, self.models[step]))
            for name, step in comparison_models(self.workflow, self.training).items()
            if not trained_only or self.training in trainings_of(passes, step)
        ]
        start = self.training if self.training == INPUT_ADAPTER else sources(passes)[self.training]
        source = self.models.get(start or BASE, self.models[BASE])
        content = evaluate(
            self.workflow,
            self.training,
            models,
            data_context(self.project, source, self.overrides),
            out,
            pick_device(self.workflow.host_device),
            self.emit,
            self.stage.name,
            rows_of="test",
            chosen_on=self.stage.inputs["chosen_on"],
        )
        return self._with_seeds(content, out)

    def compute_again(self, out: Path) -> dict[str, Any]:
        """Compute the content of evaluation.json from the rows of the previous one."""
        from phi_runtime.evaluation.comparison import summarize_again

        settings, chosen = self.workflow.evaluation.of(self.training), self.stage.inputs["chosen_on"]
        content = summarize_again(settings, self.project.config, self.stage.target, out, chosen)
        return self._with_seeds(content, out)

    def _with_seeds(self, content: dict[str, Any], out: Path) -> dict[str, Any]:
        from phi_runtime.evaluation.row_results import RESULTS
        from phi_runtime.evaluation.seed_spread import add_seeds

        step = self.workflow.passes[self.training]
        seed = step.training_args.seed if isinstance(step, FinetunePass) else None
        others = seed_evaluations(self.project, self.training, self.stage.measured_inputs)
        add_seeds(content, seed, {other: read_json(folder / RESULTS) for other, folder in others.items()})
        write_json(out / RESULTS, content)
        return content
