"""The command `phi-scaffold report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phi_runtime.core.errors import UsageError
from phi_scaffold.cli.options import MODEL, Flags, accepts


@accepts("on", "data", *MODEL)
def report(
    flags: Flags,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", help="With --ratings: filled sheets, one of each rater. With --judge: one sheet."
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="RUN RUN", help="Compare two runs of gen-model/runs instead; `latest` is the last one."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead, write a CSV sheet on which people rate two models, unnamed."),
    ] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="MODEL MODEL", help="With --sheet: the models. Default: the last two of the comparison."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="With --sheet: rows, at most; those that differ come first.")] = 60,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="URL|MODEL",
            help="Instead, let a model fill in FILE: one of an OpenAI-compatible server, or an ONNX model or folder here.",
        ),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --judge: the model. Default: the first of the server.")
    ] = None,
    send: Annotated[
        bool, typer.Option("--send", help="With --judge: send the rows to a server on another machine.")
    ] = False,
    ratings: Annotated[
        bool, typer.Option("--ratings", help="Instead, evaluate sheets that people have filled in.")
    ] = False,
) -> None:
    """Write the last run as one HTML page: verdict, models, losses, errors, slices, data, and how to repeat it.

    Example: phi-scaffold report --open
    """
    files = [file.absolute() for file in files or ()]
    if bool(files) != (ratings or bool(judge)) or (judge and len(files) != 1):
        fix = "phi-scaffold report --ratings FILE FILE …, or phi-scaffold report --judge URL FILE"
        raise UsageError("the sheets do not fit the options", fix=fix)
    sheet = sheet.absolute() if sheet else None
    project = flags.enter_project()
    from phi_runtime.pipeline.load import load_workflow
    from phi_runtime.report.judge import connect, is_on_this_machine, is_url, local_judge
    from phi_runtime.report.project_facts import read_project
    from phi_runtime.report.rating_files import evaluate_files, judged_path, read_key, write_judged, write_sheet
    from phi_runtime.report.write import write_comparison, write_report
    from phi_scaffold.show import rating as show_ratings
    from phi_scaffold.show import report as show
    from phi_scaffold.show.terminal import note

    if judge:
        key = read_key(project, files[0])
        out = judged_path(files[0], key)
        what = f"prompts, references and answers of {key.differing_in_sheet:,} rows"
        if not is_url(judge):
            name, ask = judge_model or judge, local_judge(project, judge)
        elif send or is_on_this_machine(judge):
            name, ask = connect(judge, judge_model)
            note(f"sending {what} to {judge} ({name}), in both orders")
        else:
            raise UsageError(f"{what} would leave this machine, to {judge}", fix="add --send to send them")
        write_judged(key, out, name, ask)
        show_ratings.judged(out, name, key, as_json=flags.as_json)
        return
    if ratings:
        show_ratings.ratings(evaluate_files(project, files), as_json=flags.as_json)
        return
    workflow = load_workflow(project.config, flags.overrides())
    if sheet:
        drawn = write_sheet(project, read_project(workflow, project), sheet, between, rows)
        show_ratings.sheet(drawn, sheet, as_json=flags.as_json)
        return
    path, content = write_comparison(project, *compare) if compare else write_report(workflow, project)
    show.report(path, content, project, as_json=flags.as_json, open_it=open_it)
