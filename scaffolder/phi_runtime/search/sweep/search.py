"""The search: get values from Optuna, run trials, and store their results."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from phi_runtime.config.stage_names import FETCH
from phi_runtime.core.errors import Interrupted, UsageError, WorkFailed
from phi_runtime.core.events import Emit, Event, warnings_once
from phi_runtime.core.locks import exclusive
from phi_runtime.core.signals import handled_by, interrupt
from phi_runtime.hardware.device import usable_cores
from phi_runtime.pipeline.engine import run
from phi_runtime.search.sweep import metric as metrics
from phi_runtime.search.sweep import space, study
from phi_runtime.search.sweep.outcome import SweepResult, conclude, trial_of
from phi_runtime.search.sweep.planning import SweepPlan
from phi_runtime.search.sweep.trial import Judge, TrialResult, TrialTask, run_trial
from phi_runtime.search.sweep.worker import TrialWorker, shares

if TYPE_CHECKING:
    import optuna

MAX_INITIAL_FAILURES = 3

Execute = Callable[[TrialTask, Emit, Judge], TrialResult]


def search(plan: SweepPlan, emit: Emit, *, jobs: int = 0, debug: bool = False) -> SweepResult:
    """Run the trials of `plan` that are not done yet.

    Args:
        jobs: The number of worker processes; 0 runs the trials in this process.
        debug: Show the log of Optuna.

    Raises:
        Interrupted: The search was stopped; finished trials are kept and the next call resumes.
        WorkFailed: The first trials all failed, or no trial completed.
        Conflict: Another run is active in the project.
        UsageError: There are more jobs than cores.
        OutOfResources: The disk is full.
        PhiError: A failure that any trial would meet.
    """
    cores = usable_cores()
    if plan.workflow.host_device == "cpu" and jobs > cores:
        raise UsageError(f"--jobs {jobs} exceeds the {cores} cores of this machine", fix=f"use at most --jobs {cores}")
    optuna = study.require_optuna()
    optuna.logging.set_verbosity(optuna.logging.INFO if debug else optuna.logging.ERROR)
    project = plan.settings.project

    def emit_others(event: Event) -> None:
        if event.event != "warning":  # which each trial repeats
            emit(event)

    run(project, emit_others, config=plan.config, only=[FETCH])
    with exclusive(project.run_lock), study.storage_failures(plan.place):
        searching = _SweepSearch(plan, emit)
        if jobs:
            searching.in_processes(jobs)
        else:
            searching.drive(lambda task, emit, judge: run_trial(plan.settings, task, emit, judge))
            searching.end()
        if searching.best is None:
            raise WorkFailed("no trial completed", fix=f"see the records in {plan.place.folder}")
        return conclude(plan, searching.study, searching.best)


class _SweepSearch:
    """The state of a search. One thread drives each job; `lock` guards Optuna and the listener."""

    def __init__(self, plan: SweepPlan, emit: Emit) -> None:
        from optuna.trial import TrialState

        self.plan, self.listener = plan, warnings_once(emit)
        self.study = study.open_study(plan.place, plan.sweep.search_strategy, plan.trials)
        self.lock = threading.RLock()
        self.stopping = False
        self.error: BaseException | None = None
        self.failures = 0
        existing = self.study.get_trials(deepcopy=False)
        self.unfinished = [t.number for t in existing if t.state == TrialState.RUNNING]
        self.started = len(existing)
        self.finished = self.started - len(self.unfinished)
        self.any_success = any(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in existing)
        self.best: int | None = self._best()
        for trial in existing:
            if trial.state.is_finished():
                study.remove_leftovers(plan.place.trial_folder(trial.number), keep_model=trial.number == self.best)

    # -- driving ---------------------------------------------------------------------------------------------------------

    def drive(self, execute: Execute) -> None:
        """Run one trial after another until there are no more, or the search is stopped."""
        try:
            while (trial := self.next()) is not None:
                task = self.task_of(trial)
                if (duplicate := self.find_duplicate(trial)) is None:
                    self.record(trial, task, execute(task, self.emit, self.judge_of(trial)))
                else:
                    self.record(trial, task, duplicate)
        except BaseException as e:
            with self.lock:
                if not self.stopping or not isinstance(e, Interrupted):
                    self.error = self.error or e
                self.stopping = True

    def in_processes(self, jobs: int) -> None:
        """Run the trials in `jobs` worker processes."""
        workers = [TrialWorker(self.plan.settings, share) for share in shares(jobs, self.plan.workflow.host_device)]
        ended: SimpleQueue[TrialWorker] = SimpleQueue()

        def job(worker: TrialWorker) -> None:
            self.drive(worker.run)
            ended.put(worker)

        try:
            with handled_by(interrupt):
                for worker in workers:
                    threading.Thread(target=job, args=(worker,), daemon=True).start()
                self._wait(ended, workers)
        finally:
            for worker in workers:
                worker.close()
        self.end()

    def _wait(self, ended: SimpleQueue[TrialWorker], workers: list[TrialWorker]) -> None:
        """Wait until all jobs have ended.

        Thread.join is no alternative: after a Ctrl-C it returns although the thread still runs (Python 3.11).
        """
        running, interrupted = len(workers), False
        while running:
            try:
                with suppress(Empty):
                    ended.get(timeout=0.1)
                    running -= 1
                if self.stopping and not interrupted:  # a job met a failure that all would meet
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                if interrupted:  # the second Ctrl-C stops at once
                    break
                interrupted = True
                with self.lock:
                    self.error = self.error or Interrupted("stopped")
                    self.stopping = True
                for worker in workers:
                    worker.interrupt()

    def end(self) -> None:
        """Raise the error that stopped the search, if any."""
        if isinstance(self.error, Interrupted | KeyboardInterrupt):
            best = f"; the best so far is trial {self.best}" if self.best is not None else ""
            raise Interrupted(
                f"stopped after {self.finished} of {self.plan.trials} trials{best}",
                fix="`phi-scaffold sweep` resumes with the others",
            )
        if self.error:
            raise self.error

    # -- trials ----------------------------------------------------------------------------------------------------------

    def next(self) -> optuna.Trial | None:
        """Return the next trial to run: first the interrupted ones, then new ones."""
        from optuna.trial import Trial

        with self.lock:
            if self.stopping:
                return None
            strategy, keys = self.plan.sweep.search_strategy, self.plan.sweep.search_space
            fresh = not self.unfinished
            if fresh and self.started >= self.plan.trials:
                return None
            number = self.started if fresh else self.unfinished.pop(0)
            if strategy.type == "grid":
                combination = self._untried(number)
                if combination is None:
                    return None
                self.study.sampler = space.fixed_sampler(combination)
            else:
                self.study.sampler = space.sampler(strategy.type, strategy.seed, number)
            if fresh:
                self.started += 1
                trial = self.study.ask()
            else:
                known = self.study.get_trials(deepcopy=False)[number]
                trial = Trial(self.study, known._trial_id)
            space.suggest(trial, keys)
            return trial

    def _untried(self, number: int) -> space.Values | None:
        """Return the first combination of the grid that no other trial has."""
        strategy = self.plan.sweep.search_strategy
        tried = [t.params for t in self.study.get_trials(deepcopy=False) if t.number != number]
        return next((c for c in space.grid(self.plan.sweep.search_space, strategy.seed) if c not in tried), None)

    def task_of(self, trial: optuna.Trial) -> TrialTask:
        values = space.decoded(self.plan.sweep.search_space, trial.params)
        paths = self.plan.keys()
        task = TrialTask(
            {paths[key]: value for key, value in values.items()},
            self.plan.place.trial_folder(trial.number),
        )
        data = {"index": trial.number + 1, "count": self.plan.trials, "values": values}
        self.emit(Event("stage-started", task.name, data))
        return task

    def find_duplicate(self, trial: optuna.Trial) -> TrialResult | None:
        """Return the result of another trial with the same values, which this one would repeat."""
        with self.lock:
            for other in self.study.get_trials(deepcopy=False):
                if other.number != trial.number and other.params == trial.params and other.state.is_finished():
                    seen = trial_of(other, self.plan.sweep)
                    if seen.state == "complete" or seen.state == "pruned":
                        return TrialResult(
                            seen.state, seen.score, f"the same values as trial {other.number}", seen.figures
                        )
        return None

    def judge_of(self, trial: optuna.Trial) -> Judge:
        def judge(percent: int, value: float) -> bool:
            with self.lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a resumed trial reports its earlier values again
                trial.report(value, percent)
                return bool(trial.should_prune())

        return judge

    def record(self, trial: optuna.Trial, task: TrialTask, result: TrialResult) -> None:
        """Store the result of a trial and clean its folder up."""
        from optuna.trial import TrialState

        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[result.state]
        with self.lock:
            trial.set_user_attr("figures", result.figures)
            trial.set_user_attr("why", result.why)
            trial.set_user_attr("wall_s", result.wall_s)
            self.study.tell(trial, result.score if result.state == "complete" else None, state=state)
            self.finished += 1
            previous, self.best = self.best, self._best()
            for number in {trial.number, previous} - {None, self.best}:
                study.remove_leftovers(self.plan.place.trial_folder(int(number or 0)))
            if self.best == trial.number:
                study.remove_leftovers(task.folder, keep_model=True)
            self._report(task, result)
            self._count_failures(result)

    def _best(self) -> int | None:
        """Return the number of the best complete trial, the earliest of equals."""
        from optuna.trial import TrialState

        done = [
            t for t in self.study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE and t.value is not None
        ]
        sign = 1 if metrics.is_minimized(self.plan.settings.metric) else -1
        return min(done, key=lambda t: (sign * float(t.value or 0), t.number)).number if done else None

    def _report(self, task: TrialTask, result: TrialResult) -> None:
        best = None if self.best is None else self.study.get_trials(deepcopy=False)[self.best].value
        data = {
            "state": result.state,
            "score": result.score,
            "why": result.why,
            "wall_s": result.wall_s,
            "metric": self.plan.settings.metric,
            "finished": self.finished,
            "count": self.plan.trials,
            "best": {"number": self.best, "score": best} if self.best is not None else None,
        }
        self.emit(Event("stage-finished", task.name, data))

    def _count_failures(self, result: TrialResult) -> None:
        self.any_success = self.any_success or result.state != "failed"
        self.failures += result.state == "failed"
        if not self.any_success and self.failures >= MAX_INITIAL_FAILURES:
            raise WorkFailed(
                f"the first {self.failures} trials failed; the last one: {result.why}",
                fix=f"fix the cause; to start over with the same values, delete {self.plan.place.folder}",
            )

    def emit(self, event: Event) -> None:
        with self.lock:
            self.listener(event)
