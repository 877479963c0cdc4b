"""phi-scaffold data"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from phi_scaffold.cli.options import (
    ConfigFile,
    DataFiles,
    Debug,
    Json,
    ProjectFolder,
    Quiet,
    RunUserScript,
    TrustRemoteCode,
    one_of,
    open_project,
    overrides,
)

if TYPE_CHECKING:
    from pathlib import Path

    from phi_runtime.config.overrides import Overrides
    from phi_runtime.config.schema import FinetunePass, Workflow
    from phi_runtime.core.events import Emit
    from phi_runtime.core.project import Project
    from phi_runtime.data.dataset import Place

Training = Annotated[
    str | None, typer.Option("--pass", help="The pass whose data are meant, where several train; default: the first.")
]

data = typer.Typer(
    help="What the data hold, and what the model will see of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@data.command()
def check(
    training_pass: Training = None,
    files: DataFiles = None,
    run_user_script: RunUserScript = False,
    trust_remote_code: TrustRemoteCode = False,
    project_folder: ProjectFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Count what goes wrong in silence, before anything is trained.

    Broken, empty, double, too long and untrained rows, held-out rows that training has seen, broken encodings, likely personal data.

    Example: phi-scaffold data check --json
    """
    given = overrides(None, files, trust_remote_code, run_user_script=run_user_script)
    project = _project(project_folder, config)
    from phi_runtime.core.errors import DataError
    from phi_runtime.data.report import examine
    from phi_scaffold.show import data as show_data
    from phi_scaffold.show import progress as show_progress

    with show_progress.display(as_json=False, quiet=quiet or as_json) as emit:
        workflow, training, place = _opened(project, given, emit, training_pass)
        found = examine(workflow, training, place, emit)
    if as_json:
        print(json.dumps(found))
    else:
        show_data.report(found)
    if not found["usable"]:
        raise typer.Exit(DataError.exit_code)


@data.command()
def preview(
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows.")] = 3,
    held_out: Annotated[bool, typer.Option("--held-out", help="Rows that are held out instead of trained on.")] = False,
    training_pass: Training = None,
    files: DataFiles = None,
    run_user_script: RunUserScript = False,
    trust_remote_code: TrustRemoteCode = False,
    project_folder: ProjectFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show rows exactly as the model will see them.

    What is asked, what is trained and the special tokens stand apart.

    Example: phi-scaffold data preview --rows 5
    """
    given = overrides(None, files, trust_remote_code, run_user_script=run_user_script, skip_bad_rows=True)
    project = _project(project_folder, config)
    from phi_runtime.data.dataset import load_dataset
    from phi_runtime.data.preview import preview as segments_of
    from phi_scaffold.show import data as show_data
    from phi_scaffold.show import progress as show_progress

    with show_progress.display(as_json=False, quiet=quiet or as_json) as emit:
        workflow, training, place = _opened(project, given, emit, training_pass)
        dataset = load_dataset(workflow, training, place, emit, "data")
    found = segments_of(dataset.held_out if held_out else dataset.training, place.tokenizer, rows)
    if as_json:
        print(json.dumps({"rows": found}))
    else:
        show_data.preview(found)


def _project(folder: Path | None, config: Path | None) -> Project:
    """The project, from here on in its own environment: the light one has not what the report is made with."""
    from phi_scaffold.environment import use_project_environment

    project = open_project(folder, config)
    use_project_environment(project)
    return project


def _opened(project: Project, given: Overrides, emit: Emit, wanted: str | None) -> tuple[Workflow, FinetunePass, Place]:
    """The workflow with its model and its data here, fetched if need be: the tokenizer says what a row becomes."""
    from phi_runtime.core.errors import ConfigError, Location
    from phi_runtime.core.events import Event
    from phi_runtime.data.dataset import data_place
    from phi_runtime.data.fetch import fetch_data
    from phi_runtime.models.fetch import fetch
    from phi_runtime.models.load import quiet_libraries
    from phi_runtime.pipeline.load import load_workflow

    workflow = load_workflow(project.config, given)
    if workflow.finetune is None:
        raise ConfigError(
            "nothing is trained here, so no data are read",
            where=Location(project.config),
            fix="add a pass of type LoRA, QLoRA or FullFinetune",
        )
    training = one_of("--pass", wanted, workflow.trainings) if wanted else workflow.finetune[0]
    quiet_libraries()
    emit(Event("stage-started", "data", {"index": 1, "count": 1}))
    base = fetch(workflow.input_model, project, emit)
    fetch_data(workflow, project.config, emit, "fetch")
    return workflow, workflow.trainings[training], data_place(project, base, given)
