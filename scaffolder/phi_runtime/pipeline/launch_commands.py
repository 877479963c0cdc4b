"""Write a command line that starts the processes of a training manually: on a cluster, or with other accelerate settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE, with_ancestors
from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.core.artifacts import write_text
from phi_runtime.core.errors import ConfigError, Location, UsageError
from phi_runtime.core.events import silent
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.artifact import work_folder
from phi_runtime.pipeline.graph import ModelGraph
from phi_runtime.training.distributed.accelerate_config import accelerate_config, as_yaml
from phi_runtime.training.distributed.launch import command_line
from phi_runtime.training.distributed.request import write_request
from phi_runtime.training.distributed.shares import check_processes


@dataclass(frozen=True)
class LaunchCommand:
    """An accelerate config and the command line that trains the pass `stage` with it.

    It trains in the work folder of the pass, where `run` finds the checkpoint and completes the stage.
    """

    config: Path
    stage: str
    command: str


def write_launch_command(
    project: ProjectFolder, workflow: Workflow, overrides: Overrides, count: int, config: Path, name: str | None
) -> LaunchCommand:
    """Write the accelerate config for a training on `count` processes.

    Args:
        config: The file to write.
        name: The pass to train; None: the first one that trains.

    Raises:
        UsageError: The pass does not train, or its inputs do not exist yet.
    """
    check_processes(workflow, count, silent)
    config = config.absolute()
    if not config.parent.is_dir():
        raise UsageError(f"there is no folder {config.parent}", fix="create it, or choose another file")
    if name is None and workflow.finetune:
        name = workflow.finetune[0]
    step = workflow.passes.get(name or "")
    if name is None or not isinstance(step, FinetunePass):
        what = f"`{name}` does not train" if name else "no pass of this config trains"
        raise UsageError(what, fix="choose a stage that trains")
    graph = ModelGraph(workflow, project)
    require_source(graph, name)
    node = graph.node(name)
    work = work_folder(project, node.stage)
    folder = work / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    context = graph.context(node, work, silent, overrides)
    write_text(config, as_yaml(accelerate_config(workflow, step, count)))
    return LaunchCommand(config, name, command_line(config, write_request(context, folder), count))


def require_source(graph: ModelGraph, name: str) -> None:
    """Add the ancestors of the pass `name` to the models of `graph`.

    Raises:
        UsageError: The base model is missing, or an ancestor is not up to date.
        ConfigError: No model fits the pass.
    """
    if BASE not in graph.models:
        raise UsageError("the base model is missing", fix="download it with `phi-scaffold fetch`")
    ancestors = with_ancestors(graph.workflow.passes, name) - {name}
    for node in graph.walk():
        if node.name in ancestors and node.stage.state != "cached":
            raise UsageError(
                f"`{node.name}`, an input of `{name}`, is not up to date", fix=f"run it: phi-scaffold run {node.name}"
            )
    if graph.source_of(name) is None:
        where = Location(graph.project.config)
        raise ConfigError(f"no model fits the pass `{name}`", where=where, fix="change the order of the passes")
