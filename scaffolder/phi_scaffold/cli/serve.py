"""phi-scaffold serve"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from phi_runtime.core.errors import MissingDependency, UsageError
from phi_runtime.core.events import Event
from phi_scaffold.cli.options import (
    ConfigFile,
    Debug,
    Json,
    ProjectFolder,
    Quiet,
    TaskName,
    TrustRemoteCode,
    open_project,
)


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="base, adapter, merged, onnx, or a pass's name; may be given several times; default: the last one."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER", help="One more adapter for each model, asked for as MODEL:NAME; repeatable."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; one that others reach needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="What clients must know; better set PHI_SCAFFOLD_API_KEY (environment or .env), which `ps` does not show.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="A web page that may ask, as https://example.org; repeatable."),
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Answers that are written in turn.")] = 4,
    max_queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more get 429.")] = 32,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, in tokens, and what a request gets that names none.")
    ] = 1024,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="For requests that name none; 0 always takes the likeliest token.")
    ] = 0.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request, its wait included.")] = 600.0,
    trust_remote_code: TrustRemoteCode = False,
    task_name: TaskName = None,
    project_folder: ProjectFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Serve models of the project as OpenAI's API does: /v1/chat/completions, /v1/completions, /v1/models. Ctrl-C ends it.

    Example: phi-scaffold serve --model onnx --port 8080
    """
    from phi_scaffold.environment import use_project_environment

    project = open_project(project_folder, config, task_name)
    use_project_environment(project)
    try:
        from phi_runtime.serving.server import Ready, Settings
        from phi_runtime.serving.server import serve as run_server
    except ModuleNotFoundError as e:
        if e.name not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise MissingDependency(f"{e.name} is not installed", fix='run `pip install "phi-scaffold[serve]"`') from None
    from phi_runtime.config.overrides import Overrides
    from phi_runtime.serving.app import Limits
    from phi_runtime.serving.engine import KEY
    from phi_runtime.serving.wire import Load

    adapters = {}
    for given in adapter or ():
        name, equals, path = given.partition("=")
        if not (name and equals and path):
            raise UsageError(
                f"--adapter {given} is not NAME=FOLDER", fix="give it as --adapter style=gen-model/adapter-style"
            )
        adapters[name] = str(Path(path).absolute())
    load = Load(
        project.as_dict(),
        Overrides(trust_remote_code=trust_remote_code).as_dict(),
        list(model) if model else [None],
        adapters,
        parallel,
    )
    settings = Settings(
        load,
        host,
        port,
        api_key or os.environ.get(KEY) or None,
        tuple(cors_origin or ()),
        Limits(max_tokens, temperature, parallel, max_queue, timeout),
    )

    def tell(event: Event) -> None:
        if event.event == "warning":
            print(f"warning: {event.data['message']}", file=sys.stderr)
        elif not quiet:
            print(_line(event.data), file=sys.stderr)

    def ready(at: Ready) -> None:
        said = f"{at.url} serves {', '.join(at.models)}"
        print(json.dumps({"url": at.url, "models": at.models}) if as_json else said, flush=True)

    if not quiet:
        print("loading …; Ctrl-C ends it", file=sys.stderr)
    run_server(settings, tell, ready)


def _line(facts: dict[str, Any]) -> str:
    """What there is to say of a request that is over."""
    tokens = f"{facts['prompt_tokens']} tokens ({facts['cached_tokens']} cached) → {facts['completion_tokens']}"
    return f"{facts['status']}  {facts['model']}  {tokens}  {facts['wall_s']:.2f} s"
