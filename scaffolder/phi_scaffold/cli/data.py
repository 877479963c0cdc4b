"""The command `phi-scaffold data`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from phi_runtime.core.suggestions import one_of
from phi_scaffold.cli.group import CommandGroup
from phi_scaffold.cli.options import OUTPUT, Flags, accepts

if TYPE_CHECKING:
    from phi_runtime.config.overrides import Overrides
    from phi_runtime.config.schema import FinetunePass, Workflow
    from phi_runtime.core.events import Emit
    from phi_runtime.core.project import ProjectFolder
    from phi_runtime.data.dataset import DataContext

PassName = Annotated[
    str | None, typer.Option("--pass", help="Training pass whose data is read, if several train; default: the first.")
]
DATA = ("data", "settings", "trust_project", "trust_remote_code", "task_name", "project_folder", "config", *OUTPUT)

data = typer.Typer(
    cls=CommandGroup,
    help="Check the data, and preview what the model will see of it.",
    no_args_is_help=True,
)


@data.command()
@accepts(*DATA)
def check(flags: Flags, training_pass: PassName = None) -> None:
    """Check the data for problems that training would not report.

    Unusable, empty, duplicate and truncated rows, rows without trained tokens, validation rows that are also trained on, broken
    encodings, likely personal data.

    Example: phi-scaffold data check --json
    """
    project = flags.enter_project(runs_hooks=True)
    from phi_runtime.core.errors import DataError
    from phi_runtime.data.report import examine
    from phi_scaffold.show import data as show_data

    with flags.progress() as emit:
        workflow, training, place = _open_data(project, flags.overrides(), emit, training_pass)
        report = examine(workflow, training, place, emit)
    if flags.as_json:
        print(json.dumps(report))
    else:
        show_data.report(report)
    if not report["usable"]:
        raise typer.Exit(DataError.exit_code)


@data.command()
@accepts(*DATA)
def preview(
    flags: Flags,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Number of rows.")] = 3,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Show validation rows instead of training rows.")
    ] = False,
    training_pass: PassName = None,
) -> None:
    """Show rows exactly as the model will see them: prompt, trained tokens and special tokens marked.

    Example: phi-scaffold data preview --rows 5
    """
    project = flags.enter_project(runs_hooks=True)
    from dataclasses import replace

    from phi_runtime.data.dataset import load_dataset
    from phi_runtime.data.preview import preview as segments_of
    from phi_scaffold.show import data as show_data

    with flags.progress() as emit:
        overrides = replace(flags.overrides(), skip_bad_rows=True)
        workflow, training, place = _open_data(project, overrides, emit, training_pass)
        dataset = load_dataset(workflow, training, place, emit, "data")
    segments = segments_of(dataset.validation if held_out else dataset.training, place.tokenizer, rows)
    if flags.as_json:
        print(json.dumps({"rows": segments}))
    else:
        show_data.preview(segments)


def _open_data(
    project: ProjectFolder, overrides: Overrides, emit: Emit, training_pass: str | None
) -> tuple[Workflow, FinetunePass, DataContext]:
    """Load the workflow, and download its tokenizer and data if they are missing."""
    from phi_runtime.core.errors import ConfigError, Location
    from phi_runtime.core.events import Event
    from phi_runtime.data.dataset import data_context
    from phi_runtime.data.fetch import fetch_data
    from phi_runtime.models.fetch import fetch_tokenizer
    from phi_runtime.models.load import quiet_libraries
    from phi_runtime.pipeline.load import load_workflow

    workflow = load_workflow(project.config, overrides)
    readers = workflow.trainings or {  # where no pass trains, the rows of an input adapter are all test rows
        name: step.rows.model_copy(update={"eval_data_config": None, "test_data_config": None})
        for name, step in workflow.passes.items()
        if step.rows
    }
    if not readers:
        raise ConfigError(
            "no pass of this workflow trains, so it reads no data",
            where=Location(project.config),
            fix="add a pass of type LoRA, QLoRA or FullFinetune",
        )
    training = one_of("--pass", training_pass, readers) if training_pass else next(iter(readers))
    quiet_libraries()
    emit(Event("stage-started", "data", {"index": 1, "count": 1}))
    base = fetch_tokenizer(workflow.input_model, project, emit)
    fetch_data(workflow, project.config, emit, "fetch")
    return workflow, readers[training], data_context(project, base, overrides)
