"""What a user needs to start the processes of a training himself, on a cluster or with settings of accelerate that we do not have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE, adapters_of, sources
from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import write_text
from phi_runtime.core.errors import ConfigError, Location, UsageError
from phi_runtime.core.events import silent
from phi_runtime.core.project import Project
from phi_runtime.models.fetch import present
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.plan import pass_stage, produced, work_folder
from phi_runtime.training.distributed.accelerate_config import accelerate_config, as_yaml
from phi_runtime.training.distributed.launch import command_line
from phi_runtime.training.distributed.request import write_request
from phi_runtime.training.distributed.shares import check_processes


@dataclass(frozen=True)
class ByHand:
    """The config that was written, the pass that it is for, and the command line that trains it: in the work folder of that pass,
    so that `run` finds its last checkpoint there and makes the rest."""

    config: Path
    stage: str
    command: str


def write_by_hand(
    project: Project, workflow: Workflow, overrides: Overrides, count: int, config: Path, name: str | None = None
) -> ByHand:
    """Writes accelerate's config for the pass `name`, the first that trains if that is None, on `count` processes to `config`.

    Raises UsageError when the pass does not train, or what it starts from is not there yet.
    """
    check_processes(workflow, count, silent)
    if name is None and workflow.finetune:
        name = workflow.finetune[0]
    step = workflow.passes.get(name or "")
    if name is None or not isinstance(step, FinetunePass):
        what = f"`{name}` does not train" if name else "no pass of this config trains"
        raise UsageError(what, fix="name a stage that does")
    source = _model(workflow, project, sources(workflow.passes)[name])
    stage = pass_stage(workflow, project, name, source)
    work = work_folder(project, stage)
    folder = work / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    context = PassContext(name, step, source, work / "out", work, workflow, project, silent, overrides)
    config = config.absolute()
    if not config.parent.is_dir():
        raise UsageError(f"there is no folder {config.parent}", fix="make it, or name another file")
    write_text(config, as_yaml(accelerate_config(workflow, step, count)))
    return ByHand(config, name, command_line(config, write_request(context, folder), count))


def _model(workflow: Workflow, project: Project, name: str | None) -> ModelRef:
    """The model of the pass `name`, or the base model."""
    if name is None:
        raise ConfigError("there is no model that it can start from", where=Location(project.config), fix="mend passes")
    if name == BASE:
        base = present(workflow.input_model, project)
        if base is None:
            raise UsageError("the base model is not here yet", fix="bring it with `phi-scaffold fetch`")
        return base
    source = _model(workflow, project, sources(workflow.passes)[name])
    adapters = {each: _model(workflow, project, each) for each in adapters_of(workflow.passes, name)}
    stage = pass_stage(workflow, project, name, source, adapters)
    if stage.state != "cached":
        raise UsageError(f"`{name}`, from which it starts, is not done yet", fix=f"run it: phi-scaffold run {name}")
    return produced(workflow.passes[name], stage, source)
