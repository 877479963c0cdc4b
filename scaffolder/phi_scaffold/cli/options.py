"""Flags that several commands share, and values with suggestions."""

from __future__ import annotations

import functools
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from phi_runtime.core.dotenv import read_dotenv
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import ProjectFolder, find_project, for_task, new_command, refuse_links, root_of
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.core.trust import is_trusted, trust
from phi_runtime.hardware.device import machine_cores, share_of
from phi_scaffold.cli import completion
from phi_scaffold.cli.failure import ErrorOutput
from phi_scaffold.environment import handed_over, use_project_environment

if TYPE_CHECKING:
    from phi_runtime.config.overrides import Overrides
    from phi_runtime.core.events import Emit
    from phi_runtime.inference.generator import Guide, SamplingParams
    from phi_runtime.pipeline.session import Session


def _format_errors(ctx: typer.Context, parameter: typer.CallbackParam, value: bool) -> bool:
    """Set the attribute of the output of errors that has the name of the flag."""
    if value and (output := ctx.find_object(ErrorOutput)):
        setattr(output, str(parameter.name), True)
    return value


def _limit_threads(_: typer.Context, value: int | None) -> int | None:
    """Make --threads hold for this process and those that it starts. Raises UsageError if there are not as many cores."""
    if value is not None:
        if value > (cores := machine_cores()):
            raise UsageError(
                f"--threads {value} exceeds the {cores} cores of this machine", fix=f"use at most --threads {cores}"
            )
        os.environ.update(share_of(value))
    return value


@dataclass(frozen=True)
class Flags:
    """Values of the shared flags. A command declares those that it accepts with `@accepts`."""

    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="SYSTEM",
            help="local: this machine and its device, whatever system the config names; with `run` also azureml or slurm.",
        ),
    ] = None
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="[NAME=]FILE", help="Read this file instead of the one that a data config names."
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Replace a value of the config, such as passes.finetune.r=16; VALUE is JSON or text; repeatable.",
        ),
    ] = None
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Skip and count unusable rows instead of stopping at the first.")
    ] = False
    trust_project: Annotated[
        bool,
        typer.Option(
            "--trust-project",
            "--run-user-script",
            help="Run code of this project from now on: its .venv, hooks.py and user_script.",
        ),
    ] = False
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Allow Python code of the model to run if the config requests it."),
    ] = False
    task_name: Annotated[
        str | None,
        typer.Option(
            "--task-name",
            metavar="NAME",
            help="Work in gen-model/NAME/, with fine-tuning/NAME.olive-config.json if it exists.",
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            metavar="N",
            callback=_limit_threads,
            help="Compute with N threads on the CPU; default: OMP_NUM_THREADS if set, else all free cores.",
        ),
    ] = None
    project_folder: Annotated[
        Path | None,
        typer.Option("--project", help="Project folder; default: the one that contains the current folder."),
    ] = None
    config: Annotated[
        Path | None, typer.Option("--config", help="Workflow config; default: fine-tuning/olive-config.json.")
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME|FOLDER",
            autocompletion=completion.project_models,
            help="base, adapter, merged, onnx, the name of a pass, or a model folder; default: the last output of the workflow.",
        ),
    ] = None
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            metavar="NAME|FOLDER",
            help="Answer with this adapter: one next to the model, or a PEFT folder; `none` for the base model.",
        ),
    ] = None
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")] = 256
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", min=0.0, max=5.0, help="Sampling temperature; 0 always picks the likeliest token."
        ),
    ] = 0.0
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p", min=0.0, max=1.0, help="Sample from the likeliest tokens that add up to this probability."
        ),
    ] = 1.0
    top_k: Annotated[
        int, typer.Option("--top-k", min=0, help="Sample from this many of the likeliest tokens; 0: from all.")
    ] = 0
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Make sampling repeatable.")] = None
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the answer before this text; repeatable.")
    ] = None
    as_json: Annotated[
        bool, typer.Option("--json", is_eager=True, callback=_format_errors, help="Print JSON on stdout.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result.")] = False
    debug: Annotated[
        bool,
        typer.Option("--debug", is_eager=True, callback=_format_errors, help="Show the traceback of an error."),
    ] = False

    def find_project(self) -> ProjectFolder:
        """Find the project (and its task, with --task-name) and read its .env.

        Raises:
            UsageError: The folder or the config does not exist, or the current folder is in no project.
        """
        if self.project_folder is not None and not self.project_folder.is_dir():
            raise UsageError(f"no folder {self.project_folder}", fix="check --project")
        project = self._located()
        read_dotenv(project.root, self._warn)
        return project if self.task_name is None else for_task(project, self.task_name, config_given=bool(self.config))

    def _located(self) -> ProjectFolder:
        folder = self.project_folder or Path.cwd()
        return find_project(folder, self.config, explicit=self.project_folder is not None)

    def _is_trusted(self) -> bool:
        with suppress(UsageError):
            return is_trusted(self._located().root)
        return False

    def _warn(self, message: str) -> None:
        if not (self.quiet or self.as_json or handed_over()):
            print(f"warning: {message}", file=sys.stderr)

    def enter_project(self, *, runs_hooks: bool = False) -> ProjectFolder:
        """Find the project and continue in its own environment: the one of the command line may lack the ML libraries.

        A config outside of a project is run where it is, with a note on how to create a project around it.

        Args:
            runs_hooks: The command calls the functions of hooks.py.

        Raises:
            UsageError: The project is not trusted and has a hooks.py, or links where outputs are written.
            MissingDependency: There are no ML libraries.
        """
        project = self.find_project()
        trusted = self.record_trust(project)
        use_project_environment(project, trusted=trusted)
        if not trusted:
            refuse_links(project)
        if runs_hooks:
            from phi_runtime.data.hooks import require_trusted_hooks

            require_trusted_hooks(project.config, trusted=trusted)
        if self.config is not None and root_of(self.config) is None and not (self.quiet or self.as_json):
            print(
                f"note: {self.config} is not in a project; outputs are written next to it\n"
                f"  help: {new_command(self.config)}",
                file=sys.stderr,
            )
        return project

    def record_trust(self, project: ProjectFolder) -> bool:
        """Record --trust-project, and return True if the project is trusted."""
        if self.trust_project:
            trust(project.root, "user")
        return is_trusted(project.root)

    def repeated(self, *, settings: bool = True) -> str:
        """Return the flags that name the project, config, task and settings of this call, for a command to be copied.

        Args:
            settings: Include the settings; a command that loads no config has no --set.
        """
        named = (
            ("--project", self.project_folder),
            ("--config", self.config),
            ("--task-name", self.task_name),
            *(("--set", setting) for setting in (self.settings if settings else None) or ()),
        )
        words = [word for flag, value in named if value is not None for word in (flag, str(value))]
        return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)

    def overrides(self, *, remote: bool = False) -> Overrides:
        """Return the config overrides that these flags request.

        Args:
            remote: --on may name another machine.

        Raises:
            UsageError: --on names another machine.
        """
        from phi_runtime.config.overrides import Overrides

        if self.on not in (None, "local") and not remote:
            hint = did_you_mean(self.on or "", ["local"])
            raise UsageError(f"this command runs on this machine, not on `{self.on}`{hint}", fix="use --on local")
        files = {}
        for value in self.data or ():
            name, equals, file = value.partition("=")
            if equals and not Path(value).exists():
                files[name] = Path(file)
            else:
                files[""] = Path(value)
        return Overrides(
            on_local=self.on == "local",
            data=files,
            trust_remote_code=self.trust_remote_code,
            skip_bad_rows=self.skip_bad_rows,
            run_user_script=self.trust_project or self._is_trusted(),
            settings=dict(map(_setting, self.settings or ())),
        )

    def progress(self) -> AbstractContextManager[Emit]:
        """Show the progress of a command that prints its result: only warnings with --quiet or --json."""
        from phi_scaffold.show import progress

        return progress.display(quiet=self.quiet or self.as_json)

    def open_session(self, project: ProjectFolder) -> Session:
        """Load the model that --model names, with the adapter that --adapter names: one of its own, or a folder."""
        from phi_runtime.pipeline.session import open_session

        name, folders = self.adapter, {}
        if self.adapter is not None and Path(self.adapter).is_dir():
            folder = Path(self.adapter).resolve()
            name = re.sub(r"[^A-Za-z0-9_-]", "-", folder.name)
            folders = {name: folder}
        return open_session(project, self.model, self.overrides(), adapters=folders).select_adapter(name)

    def sampling(self, guide: Guide | None = None) -> SamplingParams:
        """Return the sampling that these flags request."""
        from phi_runtime.inference.generator import SamplingParams

        stop = tuple(self.stop or ())
        return SamplingParams(self.max_new_tokens, self.temperature, self.top_p, self.top_k, self.seed, stop, guide)


def _setting(option: str) -> tuple[str, str]:
    key, equals, value = option.partition("=")
    if not equals or not all(key.split(".")):
        raise UsageError(
            f"`--set {option}` is not KEY=VALUE",
            fix="write, for example, --set passes.finetune.training_args.max_steps=100",
        )
    return key, value


OUTPUT = ("as_json", "quiet", "debug")
SAMPLING = ("model", "adapter", "max_new_tokens", "temperature", "top_p", "top_k", "seed", "stop")
MODEL = ("settings", "threads", "trust_project", "trust_remote_code", "task_name", "project_folder", "config", *OUTPUT)
WORKFLOW = ("on", "data", "skip_bad_rows", *MODEL)


def accepts(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the shared flags `names` to a command, which receives their values as its argument `flags`."""
    hints = get_type_hints(Flags, include_extras=True)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(Flags, name), annotation=hints[name])
        for name in names
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "flags"]

        @functools.wraps(command)
        def with_flags(**values: Any) -> None:
            flags = Flags(**{name: values.pop(name) for name in names})
            command(**values, flags=flags)

        # typer reads the options of a command from its signature.
        with_flags.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        with_flags.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
        return with_flags

    return decorate
