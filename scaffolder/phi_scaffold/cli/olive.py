"""The command `phi-scaffold olive`."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phi_runtime.core.project import CONFIG
from phi_scaffold.cli.options import OUTPUT, Flags, accepts

if TYPE_CHECKING:
    from phi_runtime.core.project import ProjectFolder
    from phi_scaffold.olive.build import OliveProject

CONTEXT = {"ignore_unknown_options": True, "help_option_names": []}  # flags and the help are of Olive's commands

_COPY = ".phi-scaffold-copy"
"""File that marks a copy of outputs, which the next call replaces."""


@accepts(*OUTPUT)
def olive(
    flags: Flags,
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND FLAGS", help="A command line of Olive; COMMAND --help lists its flags."),
    ] = None,
) -> None:
    """Run a command line of Olive in a project at its --output_path, which is created; --dry_run only creates it.

    COMMAND is finetune, auto-opt, optimize, quantize, capture-onnx-graph, generate-adapter, convert-adapters or run.

    Example: phi-scaffold olive finetune -m smollm2-135m -d json --data_files rows.jsonl --text_template "{q} {a}" -o out
    """
    words = words or ["--help"]
    if not {"-h", "--help"}.isdisjoint(words):
        _print_help(context, words[0])
        return
    from phi_runtime.config.reading.source import read_source
    from phi_scaffold.new import generate
    from phi_scaffold.new.existing import from_source
    from phi_scaffold.olive.arguments import parse
    from phi_scaffold.olive.build import build
    from phi_scaffold.show.findings import print_findings

    planned = build(parse(words), Path.cwd())
    existing = from_source(planned.source)
    if not flags.quiet:
        for note in (*planned.notes, *existing.notes):
            print(note, file=sys.stderr)
        print_findings(existing.findings, stderr=True)
    config = planned.output / CONFIG
    text = existing.texts[CONFIG.as_posix()]
    if not (config.is_file() and read_source(config).text == text):  # the same command again continues its project
        project = generate.new(planned.output, existing.answers, existing=existing, force=True)
        for name in project.backed_up:
            print(f"kept your {name} as {name}.bak", file=sys.stderr)
    if planned.only_write:
        print(config)
        return
    _run(replace(flags, project_folder=planned.output, trust_remote_code=planned.trust_remote_code), planned)


def _print_help(context: typer.Context, command: str) -> None:
    from phi_scaffold.cli.help_page import HelpPage
    from phi_scaffold.olive.arguments import describe
    from phi_scaffold.olive.flags import COMMANDS

    if command in COMMANDS:
        page = HelpPage(max_width=110)
        page.write_usage(f"phi-scaffold olive {command}", "FLAGS...")
        with page.section("Flags, and what they become"):
            page.write_dl(list(describe(command).items()))
        print(page.getvalue(), end="")
    else:
        print(context.get_help())


def _run(flags: Flags, planned: OliveProject) -> None:
    """Run the project, and put its results where Olive writes them: model/ and adapter/."""
    from phi_runtime.pipeline.load import load_workflow
    from phi_scaffold.cli.run import run_stages

    project = flags.enter_project(runs_hooks=True)
    workflow = load_workflow(project.config)
    trains = workflow.finetune is not None and "export" not in workflow.passes
    run_stages(project, flags, only=[], until=workflow.finetune[0] if trains and workflow.finetune else None)
    for folder in planned.adapters:
        _add_adapter(project, folder)
    _link_results(project)


def _link_results(project: ProjectFolder) -> None:
    from phi_runtime.models.place import base_model_path
    from phi_runtime.pipeline.load import load_workflow

    onnx, adapter = project.gen_model / "onnx", project.gen_model / "adapter"
    base = base_model_path(load_workflow(project.config).input_model, project)
    _link(onnx if (onnx / "genai_config.json").is_file() else base, project.root / "model")
    if (adapter / "adapter_config.json").is_file():
        _link(adapter, project.root / "adapter")


def _link(target: Path, link: Path) -> None:
    """Make `link` a link to the folder `target`, or a copy where links are not allowed."""
    from phi_runtime.core.artifacts import free_name

    if link.is_symlink():
        link.unlink()
    elif (link / _COPY).is_file():
        shutil.rmtree(link)
    elif link.exists():
        link.rename(free_name(link))
    try:
        link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    except OSError:  # Windows without developer mode
        shutil.copytree(target, link)
        (link / _COPY).touch()


def _add_adapter(project: ProjectFolder, folder: Path) -> None:
    from phi_runtime.models.onnx_adapters import adapter_file, fit_adapter

    onnx = project.gen_model / "onnx"
    fit_adapter(onnx, folder, adapter_file(onnx, folder.name))
