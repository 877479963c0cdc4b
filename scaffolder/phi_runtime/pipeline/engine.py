"""Run the stages of a workflow in order: keep what is cached, and build the rest in staging folders."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE, INPUT_ADAPTER, compared_models, with_ancestors
from phi_runtime.config.schema import FinetunePass, Pass, Workflow
from phi_runtime.config.stage_names import FETCH, evaluation_stages, stage_order
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import delete_folder, read_json, read_manifest, write_json
from phi_runtime.core.dotenv import read_dotenv
from phi_runtime.core.errors import Interrupted, Location, MissingDependency, OutOfResources, PhiError, UsageError
from phi_runtime.core.events import Emit, Event, error_event
from phi_runtime.core.locks import exclusive
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.data.dataset import load_dataset
from phi_runtime.data.fetch import fetch_data, hub_data
from phi_runtime.hardware.energy import EnergyMeter
from phi_runtime.hardware.process_memory import peak_rss_bytes, reset_peak
from phi_runtime.models.exportable import check_base_model
from phi_runtime.models.fetch import fetch, fetch_adapter
from phi_runtime.models.load import quiet_libraries
from phi_runtime.models.place import hub_name, input_adapter_path
from phi_runtime.pipeline.artifact import (
    FAILED,
    Work,
    finish_stage,
    interrupted_work,
    make_stage,
    work_folder,
    work_folders,
)
from phi_runtime.pipeline.compare import Comparison
from phi_runtime.pipeline.graph import ModelGraph, PassNode
from phi_runtime.pipeline.load import LoadedConfig, load_config
from phi_runtime.pipeline.plan import fetch_stage, plan, unneeded_stages
from phi_runtime.pipeline.run_record import RunRecord, without_secrets
from phi_runtime.pipeline.stage import Stage, evaluation_stage
from phi_runtime.training.forecast import check_fits
from phi_runtime.workers.failures import failure_from_exception

if TYPE_CHECKING:
    from phi_runtime.training.distributed.nodes import Nodes

_REPORTED_RULES = ("trust-remote-code", "azure", "found-under-root", "unknown-reference", "no-gpu")


@dataclass(frozen=True)
class Outcome:
    """The stages that a run executed, those that were cached, and the evaluation if it was part of the run."""

    done: tuple[str, ...]
    cached: tuple[str, ...]
    evaluation: dict[str, Any] | None
    run_folder: Path | None


Conclude = Callable[[Outcome], dict[str, Any]]


def run(
    project: ProjectFolder,
    emit: Emit,
    *,
    config: LoadedConfig | None = None,
    only: Sequence[str] = (),
    until: str | None = None,
    force: Sequence[str] = (),
    overrides: Overrides | None = None,
    nproc: int = 1,
    nodes: Nodes | None = None,
    conclude: Conclude = lambda _: {},
) -> Outcome:
    """Bring the stages of the project's workflow up to date, in order.

    A stage is cached while its inputs are those of its last result.

    Args:
        config: The loaded config of the project; None loads it with `overrides`.
        only: Run these stages with the stages that they need; default: all stages.
        until: Run the stages up to this one.
        force: Run these stages even if they are cached.
        nproc: Number of processes that train together, on each machine.
        nodes: The machines that train together, of which this is the first; None: this one.
        conclude: Called with the outcome; the facts that it returns are added to the event `run-finished`.

    Raises:
        ConfigError: The config is invalid.
        UsageError: There is no such stage.
        DataError: A row cannot be used.
        Conflict: Another run is active in the project.
        Interrupted: The run was stopped; the next one resumes.
        OutOfResources: Memory or disk is full.
        WorkFailed: A stage failed in another way; the traceback is in the run folder.
    """
    read_dotenv(project.root)
    config = config or load_config(project.config, overrides)
    workflow = config.require_valid()
    names = select_stages(workflow, only, until, force)
    if workflow.remote:
        raise MissingDependency(
            f"`{workflow.remote}` is an Azure ML system, and not this machine",
            fix="submit a job there: phi-scaffold run --on azureml; or run here: --on local --data FILE",
        )
    if nproc > 1 or nodes:
        from phi_runtime.training.distributed.shares import check_processes

        check_processes(workflow, nproc, emit, nodes.rendezvous.count if nodes else 1)
    _warn_of_config(config, emit)
    project.gen_model.mkdir(parents=True, exist_ok=True)
    stages = plan(workflow, project)
    rebuilt = {stage.name for stage in stages if stage.deleted and stage.name in (*only, until)}
    unneeded = unneeded_stages(stages, names, {*force, *rebuilt})
    with exclusive(project.run_lock):
        request = {"only": list(only), "until": until, "force": list(force), "nproc": nproc, "stages": names}
        record = RunRecord(project, config, workflow, request)
        running = _Run(project, workflow, emit, force, config.overrides, nproc, nodes, record, unneeded)
        try:
            return running.stages(names, conclude)
        except OSError as e:  # of the record
            raise failure_from_exception(e, "the record of the run", folder=project.runs) from e


def _warn_of_config(config: LoadedConfig, emit: Emit) -> None:
    """Emit one warning for the translations of an older config, those that change its result, and what matters for a run."""

    def warn(message: str) -> None:
        emit(Event("warning", "", {"message": message}))

    if changes := len(config.draft.translations):
        name = config.source.path.name
        warn(f"{name} uses an older config format ({changes} changes applied); rewrite it with `phi-scaffold migrate`")
    for finding in config.findings:
        if finding.rule in _REPORTED_RULES or finding.changes_result:
            warn("; ".join(filter(None, [f"{finding.where}: {finding.message}", finding.fix])))
    if "sweep" in config.draft.value and not config.overrides.values:  # Olive would search with this config
        warn("this trains once, with the values of the config; `phi-scaffold sweep` runs the search")


def select_stages(workflow: Workflow, only: Sequence[str], until: str | None, force: Sequence[str]) -> list[str]:
    """Return the stages to run: `only` with the stages they need, and those up to `until`; all if neither is given.

    Raises:
        UsageError: A name, also one in `force`, is not a stage, or a stage that is not part of the run.
    """
    order = stage_order(workflow)
    for name in [*only, *([until] if until else []), *force]:
        if name not in order:
            raise UsageError(
                f"no stage is called `{name}`{did_you_mean(name, order)}", fix=f"stages: {', '.join(order)}"
            )
    if not only and not until:
        return order
    selected = {FETCH, *(order[: order.index(until) + 1] if until else [])}
    for name in only:
        if until and order.index(name) > order.index(until):
            raise UsageError(f"`{name}` comes after `{until}`, where the run ends", fix="omit one of them")
        selected |= _with_inputs(workflow, name)
    if outside := [name for name in force if name not in selected]:
        raise UsageError(
            f"`{outside[0]}` cannot be forced: it is not part of this run",
            fix=f"phi-scaffold run {outside[0]} --force {outside[0]}",
        )
    return [name for name in order if name in selected]


def _with_inputs(workflow: Workflow, name: str) -> set[str]:
    """Return the stage `name` and the passes whose models it needs."""
    trainings = evaluation_stages(workflow)
    if name not in trainings:
        return with_ancestors(workflow.passes, name) if name in workflow.passes else {name}
    training = trainings[name]
    models = compared_models(workflow.passes, training) if training else workflow.passes
    return {name}.union(*(with_ancestors(workflow.passes, model) for model in models))


class _Run:
    """The state of one run: the models so far, the stages done, and the run folder once a stage has work to do."""

    def __init__(
        self,
        project: ProjectFolder,
        workflow: Workflow,
        emit: Emit,
        force: Sequence[str],
        overrides: Overrides,
        nproc: int,
        nodes: Nodes | None,
        record: RunRecord,
        unneeded: Collection[str] = (),
    ) -> None:
        self.project, self.workflow, self.listener, self.force = project, workflow, emit, set(force)
        self.overrides, self.nproc, self.nodes = overrides, nproc, nodes
        self.record, self.unneeded = record, unneeded
        self.graph = ModelGraph(workflow, project)
        self.done: list[str] = []
        self.cached: list[str] = []

    def emit(self, event: Event) -> None:
        if self.record.folder and event.event == "metric":
            with (self.record.folder / "metrics.jsonl").open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(event.as_dict()) + "\n")
        self.listener(event)

    def warn(self, stage: str, message: str) -> None:
        self.emit(Event("warning", stage, {"message": message}))

    def stages(self, names: list[str], conclude: Conclude) -> Outcome:
        started = time.monotonic()
        evaluations: list[dict[str, Any]] = []
        with self.record.closing():
            for index, name in enumerate(names, start=1):
                self.emit(Event("stage-started", name, {"index": index, "count": len(names)}))
                if name == FETCH:
                    self.fetch()
                elif name in self.workflow.passes:
                    self.run_pass(name)
                else:
                    evaluations += self.evaluate(name)
        state = "done" if self.done else "cached"
        wall_s = round(time.monotonic() - started, 2)
        evaluation = {**evaluations[0], "trainings": evaluations} if evaluations else None
        outcome = Outcome(tuple(self.done), tuple(self.cached), evaluation, self.record.folder)
        facts = {"wall_s": wall_s, "state": state, "done": self.done, **conclude(outcome)}
        self.emit(Event("run-finished", "", facts))
        return outcome

    # -- stages -------------------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        stage = fetch_stage(self.graph)
        if stage.state == "cached" and FETCH not in self.force:
            self.graph.models[BASE] = fetch(self.workflow.input_model, self.project, self.emit)
            self.report_cached(stage)
            return
        with self.working(FETCH, stage.target), exclusive(self.project.fetch_lock):
            if FETCH in self.force:
                self.delete_fetched(stage)
            self.graph.models[BASE] = fetch(self.workflow.input_model, self.project, self.emit)
            # Needs the config.json of the model, and refuses it before anything is trained.
            check_base_model(self.workflow, self.project)
            fetch_adapter(self.workflow.input_model, self.project, self.emit)
            fetch_data(self.workflow, self.project.config, self.emit, FETCH)

    def delete_fetched(self, stage: Stage) -> None:
        """Delete what was downloaded; a killed deletion leaves no part of a model under its name."""
        if read_manifest(stage.target) is not None:
            delete_folder(stage.target)
        adapter = input_adapter_path(self.workflow.input_model, self.project)
        if adapter and hub_name(adapter, self.project) and read_manifest(adapter) is not None:
            delete_folder(adapter)
        for data in hub_data(self.workflow, self.project.config):
            data.unlink(missing_ok=True)

    def run_pass(self, name: str) -> None:
        node = self.graph.node(name)
        if node.stage.state == "cached" and name not in self.force:
            self.report_cached(node.stage)
        elif node.stage.deleted and name in self.unneeded:
            self.emit(Event("stage-finished", name, {**self.unchanged(node.stage), "state": "deleted"}))
        else:
            self.build(node.stage, node.config.produces, lambda _: self.execute(node))
            node = self.graph.node(name)
        self.graph.models[name] = node.output

    def execute(self, node: PassNode) -> dict[str, Any]:
        """Run the pass of `node`, in several processes if it trains; return the facts for its manifest."""
        context = self.graph.context(
            node,
            work_folder(self.project, node.stage),
            self.emit,
            self.overrides,
            record=self.record.folder,
            previous=None if node.name in self.force else node.stage.target,
        )
        if isinstance(node.config, FinetunePass):
            self.check_fits(context, node.config)
            if self.nproc > 1 or self.nodes:
                from phi_runtime.training.distributed.launch import run_in_processes

                return run_in_processes(context, self.nproc, self.nodes)
        return node.config.run(context)

    def check_fits(self, context: PassContext[Pass], training: FinetunePass) -> None:
        """Warn if the training is likely to need more memory than is free."""
        processes = self.nproc * (self.nodes.rendezvous.count if self.nodes else 1)
        if check_fits(self.workflow, self.project, context.name, processes) is None:
            return
        # Without stored tokens the estimate assumes rows of max_seq_len; tokenizing them makes it exact.
        load_dataset(self.workflow, training, context.data, self.emit, context.name)
        if message := check_fits(self.workflow, self.project, context.name, processes):
            context.warn(message)

    def evaluate(self, name: str) -> list[dict[str, Any]]:
        """Return the results of the evaluation stage `name` with the name of its training; none if no pass trains."""
        training = evaluation_stages(self.workflow)[name]
        if training is None:
            adapter = INPUT_ADAPTER in self.workflow.passes
            missing = "there is no data config with test rows" if adapter else "no pass trains"
            self.warn(name, f"{missing}, so there is nothing to compare")
            return []
        from phi_runtime.evaluation.row_results import RESULTS

        stage = evaluation_stage(self.workflow, self.project, name, self.graph.models)
        if stage.state == "cached" and name not in self.force:
            self.report_cached(stage)
        else:
            comparison = Comparison(
                self.workflow, self.project, self.overrides, training, stage, self.graph.models, self.emit
            )
            self.build(stage, "evaluation", lambda out: self.compare(comparison, out))
        self.record.evaluation(stage.target)
        content: dict[str, Any] = read_json(stage.target / RESULTS)
        return [{"name": training, **content}]

    def compare(self, comparison: Comparison, out: Path) -> dict[str, Any]:
        """Measure the models, unless their rows are up to date; return facts for the manifest."""
        stage = comparison.stage
        again = stage.has_measured_rows and stage.name not in self.force
        content = comparison.compute_again(out) if again else comparison.measure(out)
        if not content["total_rows"]:
            self.warn(stage.name, "there are no test rows, so nothing was measured; set `eval_dataset_size`")
        return {"rows": content["rows"]}

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def build(self, stage: Stage, kind: str, work: Work) -> None:
        """Build the artifact of `stage` in its work folder, which is removed once the artifact is in place."""
        work_dir = work_folder(self.project, stage)
        if stage.name in self.force:
            shutil.rmtree(work_dir, ignore_errors=True)
        elif interrupted := interrupted_work(self.project, stage):
            self.warn(stage.name, f"{interrupted}; starting over (to resume, stop this run and undo the change)")
        with self.working(stage.name, stage.target, work_dir):
            make_stage(stage, kind, work_dir, work)
        for folder in work_folders(self.project, stage.name):
            shutil.rmtree(folder, ignore_errors=True)

    def report_cached(self, stage: Stage) -> None:
        self.cached.append(stage.name)
        self.record.output(stage.name, "cached", stage.target)
        if stage.manifest and stage.name != FETCH:
            finish_stage(stage.target, stage.manifest, work_folder(self.project, stage))
        self.emit(Event("stage-finished", stage.name, self.unchanged(stage)))

    def unchanged(self, stage: Stage) -> dict[str, Any]:
        return {"state": stage.state, "output": self.project.shown(stage.target), "wall_s": 0.0}

    @contextmanager
    def working(self, name: str, target: Path, work_dir: Path | None = None) -> Iterator[None]:
        """Time a stage, record its figures, and turn every exception into a PhiError."""
        started, energy = time.monotonic(), EnergyMeter()
        reset_peak()
        try:
            self.record.open(name)
            quiet_libraries()
            with energy:
                yield
        except (KeyboardInterrupt, BrokenPipeError):  # the latter when the reader of our output has exited
            raise Interrupted(f"`{name}` was stopped", fix="`phi-scaffold run` resumes") from None
        except Interrupted:
            raise
        except BaseException as e:
            error = e if isinstance(e, PhiError) else _as_phi_error(name, e, target, self.record.folder)
            if isinstance(error, OutOfResources) and error.resource == "disk":
                error.where = error.where or Location(target)  # a worker does not know it
            if work_dir:
                with suppress(OSError):  # the disk may be full
                    work_dir.mkdir(parents=True, exist_ok=True)
                    write_json(work_dir / FAILED, {"message": error.what})
            self.emit(error_event(error, name))
            raise error from e
        wall_s = round(time.monotonic() - started, 2)
        data = {"state": "done", "output": self.project.shown(target), "wall_s": wall_s}
        self.done.append(name)
        self.record.finished({"stage": name, **data, "peak_rss_bytes": peak_rss_bytes(), **energy.figures()})
        self.record.output(name, "done", target)
        self.emit(Event("stage-finished", name, data))


def _as_phi_error(name: str, error: BaseException, target: Path, folder: Path | None) -> PhiError:
    """Return the error to show for `error`; the traceback of an unexpected one goes into the run folder."""
    failure = failure_from_exception(error, f"`{name}`", folder=target)
    if folder and not failure.fix:
        log = folder / f"{name}.error.log"
        with suppress(OSError):
            log.write_text(without_secrets("".join(traceback.format_exception(error))), encoding="utf-8")
            failure.fix = f"see the log: {log}"
    return failure
