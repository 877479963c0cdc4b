"""Runs the stages in order: what is cached is left, what is not is made aside and put in place when it is whole."""

from __future__ import annotations

import errno
import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE, ladder, needed, sources
from phi_runtime.config.schema import FinetunePass, Workflow, canonical
from phi_runtime.config.stage_names import FETCH, evaluation_stages, stage_order
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import put_in_place, read_manifest, seal, versions, write_json
from phi_runtime.core.errors import Interrupted, MissingDependency, OutOfResources, PhiError, UsageError, WorkFailed
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.locks import exclusive
from phi_runtime.core.project import Project, read_dotenv
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.data.fetch import fetch_data, hub_data
from phi_runtime.hardware.device import has_gpu
from phi_runtime.hardware.process_memory import peak_rss_bytes, reset_peak
from phi_runtime.models.exportable import check_exportable
from phi_runtime.models.fetch import fetch
from phi_runtime.models.load import quiet_libraries
from phi_runtime.models.place import base_model_path
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.load import LoadedConfig, load_config
from phi_runtime.pipeline.plan import (
    FAILED,
    INPUTS,
    LOCK,
    Stage,
    adapters_there,
    evaluation_stage,
    left_behind,
    on_ladder,
    pass_stage,
    plan,
    produced,
    rungs_of,
    work_folder,
    work_folders,
)


@dataclass(frozen=True)
class Outcome:
    """What a run did: the stages that worked, those that were cached, and the evaluation if it was reached."""

    done: tuple[str, ...]
    cached: tuple[str, ...]
    evaluation: dict[str, Any] | None
    run_folder: Path | None


def run(
    project: Project,
    emit: Emit,
    *,
    only: Sequence[str] = (),
    until: str | None = None,
    force: Sequence[str] = (),
    config: LoadedConfig | None = None,
    overrides: Overrides | None = None,
    nproc: int = 1,
) -> Outcome:
    """Brings the stages of the project's workflow up to date, in order; `only` and `until` say which, `force` does some again.

    `config` is the loaded config, with its overrides; without it, the one of the project is loaded with `overrides`.
    A stage whose inputs are those of its last result is not run. What trains is done by `nproc` processes together. Raises PhiError:
    ConfigError, DataError, Conflict when another run is at work, Interrupted, OutOfResources, or WorkFailed for what a stage died of.
    """
    read_dotenv(project.root)
    config = config or load_config(project.config, overrides)
    overrides, workflow = config.overrides, config.require_valid()
    names = chosen_stages(workflow, only, until)
    for name in force:
        chosen_stages(workflow, [name], None)
    if workflow.remote:
        raise MissingDependency(
            f"`{workflow.remote}` is an Azure ML system, and running there is not built yet",
            fix="run it on this machine: phi-scaffold run --on local --data FILE",
        )
    if nproc > 1:
        from phi_runtime.training.distributed.shares import check_processes

        check_processes(workflow, nproc, emit)
    _tell_dialect(config, workflow, emit)
    project.gen_model.mkdir(parents=True, exist_ok=True)
    with exclusive(project.gen_model / LOCK):
        return _Run(project, workflow, emit, force, overrides, nproc).stages(names)


def _tell_dialect(checked: LoadedConfig, workflow: Workflow, emit: Emit) -> None:
    """One warning for all that was translated, and each of those that a user must know of."""
    older = len(checked.draft.translations)
    if older:
        name = checked.source.path.name
        message = f"{name} is in an older form ({older} changes to read it): `phi-scaffold migrate` writes it anew"
        emit(Event("warning", "", {"message": message}))
    for finding in checked.findings:
        if finding.rule in ("trust-remote-code", "azure", "found-under-root", "unknown-reference"):
            emit(Event("warning", "", {"message": f"{finding.where}: {finding.message}"}))
    if workflow.host_device == "gpu" and not has_gpu():
        message = (
            f"`{workflow.host}` has a GPU and this machine seems to have none: `run --on local` takes what is here"
        )
        emit(Event("warning", "", {"message": message}))
    if "sweep" in checked.draft.value and not checked.overrides.values:  # Olive would search with this config
        message = "this trains once, with the values that stand in the config; `phi-scaffold sweep` runs the search"
        emit(Event("warning", "", {"message": message}))


def chosen_stages(workflow: Workflow, only: Sequence[str], until: str | None) -> list[str]:
    """The stages to run: those asked for with all that they need, and those up to `until`; all where neither is given.

    Raises UsageError.
    """
    order = stage_order(workflow)
    for name in [*only, *([until] if until else [])]:
        if name not in order:
            raise UsageError(
                f"there is no stage `{name}`{did_you_mean(name, order)}", fix=f"the stages are {', '.join(order)}"
            )
    if not only and not until:
        return order
    chosen = {FETCH, *(order[: order.index(until) + 1] if until else [])}
    for name in only:
        chosen |= _with_needs(workflow, name)
    return [name for name in order if name in chosen]


def _with_needs(workflow: Workflow, name: str) -> set[str]:
    """The stage `name` with the passes whose models go into it."""
    measured = evaluation_stages(workflow)
    if name not in measured:
        return needed(workflow.passes, name) if name in workflow.passes else {name}
    training = measured[name]
    models = ladder(workflow.passes, training) if training else workflow.passes
    return {name}.union(*(needed(workflow.passes, model) for model in models))


class _Run:
    def __init__(
        self, project: Project, workflow: Workflow, emit: Emit, force: Sequence[str], overrides: Overrides, nproc: int
    ) -> None:
        self.project, self.workflow, self.listener, self.force = project, workflow, emit, set(force)
        self.overrides, self.nproc = overrides, nproc
        self.sources = sources(workflow.passes)
        self.refs: dict[str, ModelRef] = {}
        self.done: list[str] = []
        self.cached: list[str] = []
        self.folder: Path | None = None
        self.figures: list[dict[str, Any]] = []

    def emit(self, event: Event) -> None:
        if self.folder and event.event == "metric":
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(event.as_dict()) + "\n")
        self.listener(event)

    def stages(self, names: list[str]) -> Outcome:
        started = time.monotonic()
        measured: list[dict[str, Any]] = []
        for index, name in enumerate(names, start=1):
            self.emit(Event("stage-started", name, {"index": index, "count": len(names)}))
            if name == FETCH:
                self.fetch()
            elif name in self.workflow.passes:
                self.pass_(name)
            else:
                measured += self.evaluate(name)
        wall_s = round(time.monotonic() - started, 2)
        self.emit(
            Event("run-finished", "", {"wall_s": wall_s, "state": "done" if self.done else "cached", "done": self.done})
        )
        evaluation = {**measured[0], "adapters": measured} if measured else None
        return Outcome(tuple(self.done), tuple(self.cached), evaluation, self.folder)

    # -- stages -------------------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        path = base_model_path(self.workflow.input_model, self.project)
        state = plan(self.workflow, self.project)[0].state
        if FETCH in self.force:
            state = "missing"
            if read_manifest(path) is not None:
                shutil.rmtree(path)
            for data in hub_data(self.workflow, self.project.config):
                data.unlink(missing_ok=True)
        if state == "cached":
            self.refs[BASE] = fetch(self.workflow.input_model, self.project, self.emit)
            self.was_cached(FETCH, path)
            return
        with self.working(FETCH, path), exclusive(self.project.fetch_lock):
            self.refs[BASE] = fetch(self.workflow.input_model, self.project, self.emit)
            # Now that its config.json is here, and before anything is trained.
            check_exportable(self.workflow, self.project)
            fetch_data(self.workflow, self.project.config, self.emit, FETCH)

    def pass_(self, name: str) -> None:
        step = self.workflow.passes[name]
        source = self.refs[self.sources[name] or BASE]
        adapters = adapters_there(self.workflow, name, self.refs)
        stage = pass_stage(self.workflow, self.project, name, source, adapters)
        if stage.state == "cached" and name not in self.force:
            self.was_cached(name, stage.target)
        else:

            def work(out: Path, aside: Path) -> dict[str, Any]:
                context = PassContext(
                    name, step, source, out, aside, self.workflow, self.project, self.emit, self.overrides, self.folder,
                    adapters, None if name in self.force else stage.target,
                )  # fmt: skip
                if self.nproc > 1 and isinstance(step, FinetunePass):
                    from phi_runtime.training.distributed.launch import run_in_processes

                    return run_in_processes(context, self.nproc)
                return step.run(context)

            self.make(stage, step.produces, work)
            stage = pass_stage(self.workflow, self.project, name, source, adapters)
        self.refs[name] = produced(step, stage, source)

    def evaluate(self, name: str) -> list[dict[str, Any]]:
        """What the evaluation stage `name` found, with the name of the pass that it is about; nothing where none trains."""
        training = evaluation_stages(self.workflow)[name]
        if training is None:
            self.emit(Event("warning", name, {"message": "nothing was trained, so there is nothing to compare"}))
            return []
        from phi_runtime.evaluation.comparison import RESULTS

        stage = evaluation_stage(self.workflow, self.project, name, self.refs)
        if stage.state == "cached" and name not in self.force:
            self.was_cached(name, stage.target)
        else:
            self.make(stage, "evaluation", lambda out, _: self.measure(name, training, out))
        content: dict[str, Any] = json.loads((stage.target / RESULTS).read_text(encoding="utf-8"))
        return [{"name": training, **content}]

    def measure(self, stage: str, training: str, out: Path) -> dict[str, Any]:
        from phi_runtime.data.dataset import data_place
        from phi_runtime.evaluation.comparison import evaluate
        from phi_runtime.hardware.device import pick_device

        device = pick_device(self.workflow.host_device)
        rungs = [
            (rung, on_ladder(self.workflow, training, name, self.refs[name]))
            for rung, name in rungs_of(self.workflow, training).items()
        ]
        place = data_place(self.project, self.refs[self.sources[training] or BASE], self.overrides)
        content = evaluate(self.workflow, training, rungs, place, out, device, self.emit, stage)
        if not content["rows"]:
            message = "no rows are held out, so nothing was measured: set eval_dataset_size"
            self.emit(Event("warning", stage, {"message": message}))
        return {"rows": content["rows"]}

    # -- how a stage becomes an artefact --------------------------------------------------------------------------------

    def make(self, stage: Stage, kind: str, work: Callable[[Path, Path], dict[str, Any]]) -> None:
        """Runs `work(out, aside)` in the stage's work folder; seals `out` and puts it in place."""
        aside = work_folder(self.project, stage)
        if stage.name in self.force:
            shutil.rmtree(aside, ignore_errors=True)
        elif left := left_behind(self.project, stage):
            message = f"it was {left}. It starts anew; to go on from there, stop this and undo the change"
            self.emit(Event("warning", stage.name, {"message": message}))
        out = aside / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        (aside / FAILED).unlink(missing_ok=True)
        with self.working(stage.name, stage.target, aside):
            known = {"inputs": stage.inputs, "origins": stage.origins()}
            write_json(aside / INPUTS, known)
            facts = work(out, aside)
            seal(out, key=stage.key, kind=kind, facts={**facts, **known})
            put_in_place(out, stage.target)
        for leftover in work_folders(self.project, stage.name):
            shutil.rmtree(leftover, ignore_errors=True)

    def was_cached(self, name: str, target: Path) -> None:
        self.cached.append(name)
        self.emit(
            Event("stage-finished", name, {"state": "cached", "output": self.project.shown(target), "wall_s": 0.0})
        )

    @contextmanager
    def working(self, name: str, target: Path, aside: Path | None = None) -> Iterator[None]:
        """Times a stage and turns what it dies of into one error for the user."""
        self.open_folder()
        started = time.monotonic()
        reset_peak()
        try:
            quiet_libraries()
            yield
        except (KeyboardInterrupt, BrokenPipeError):  # the latter when the reader of our output has gone
            raise Interrupted(f"`{name}` was stopped", fix="`phi-scaffold run` goes on from what is there") from None
        except Interrupted:
            raise
        except BaseException as e:
            error = e if isinstance(e, PhiError) else _explained(name, e, self.folder)
            if aside:
                write_json(aside / FAILED, {"message": error.what})
            self.emit(Event("error", name, {"message": error.what, "fix": error.fix, "exit_code": error.exit_code}))
            raise error from e
        figures = {
            "state": "done",
            "output": self.project.shown(target),
            "wall_s": round(time.monotonic() - started, 2),
        }
        self.done.append(name)
        self.figures.append({"stage": name, **figures, "peak_rss_bytes": peak_rss_bytes()})
        assert self.folder is not None
        write_json(self.folder / "stages.json", self.figures)
        self.emit(Event("stage-finished", name, figures))

    def open_folder(self) -> None:
        """Makes gen-model/runs/<id>/ when the first stage works, with the config and the versions that this run has."""
        if self.folder:
            return
        now = datetime.now().astimezone()
        self.folder = self.project.runs / f"{now:%Y%m%d-%H%M%S-%f}"
        self.folder.mkdir(parents=True)
        config = {**canonical(self.workflow), "evaluation": canonical(self.workflow.evaluation)}
        write_json(self.folder / "config.json", config)
        write_json(self.folder / "environment.json", _environment())


def _explained(name: str, error: BaseException, folder: Path | None) -> PhiError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OutOfResources(
            f"the disk is full (in `{name}`)", fix="free some space; `phi-scaffold run` goes on from what is there"
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfResources(
            f"`{name}` ran out of memory",
            fix="lower per_device_train_batch_size and raise gradient_accumulation_steps, or train with QLoRA",
        )
    if isinstance(error, ImportError):
        return MissingDependency(
            f"`{name}` needs a library that is not installed: {error}", fix="run setup/setup.sh again"
        )
    log = None
    if folder:
        log = folder / f"{name}.error.log"
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return WorkFailed(
        f"`{name}` failed: {first}", fix=f"the details are in {log}" if log else "use --debug for the details"
    )


def _environment() -> dict[str, Any]:
    import platform
    import sys

    from phi_runtime.hardware.device import usable_cores

    libraries = (
        "phi-scaffold",
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "bitsandbytes",
        "tokenizers",
        "onnxruntime",
        "onnxruntime-genai",
        "onnxruntime-genai-cuda",
        "huggingface-hub",
    )
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cores": usable_cores(),
        "versions": versions(libraries),
    }
