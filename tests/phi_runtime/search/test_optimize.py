"""The search for a model that keeps to its constraints, over a tiny Phi-3: what is tried, what is known, what is put into place."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from phi_runtime.config.schema import Constraints
from phi_runtime.core.errors import ConfigError, Interrupted, UsageError
from phi_runtime.core.events import Event
from phi_runtime.core.project import ProjectFolder, find_project
from phi_runtime.evaluation.row_results import Measured, RowResult
from phi_runtime.models.shape import Shape
from phi_runtime.passes.model_builder import ModelBuilder
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.search.optimize.accuracy import accuracy_drop, smallest_drop
from phi_runtime.search.optimize.candidates import ALL, Candidate, candidates_for, expected_bytes, expected_memory_bytes
from phi_runtime.search.optimize.constraints import ConstraintVerdict, check_constraints, nearest, resolve_constraints
from phi_runtime.search.optimize.outcome import OptimizeResult
from phi_runtime.search.optimize.planning import OptimizePlan, prepare
from phi_runtime.search.optimize.search import optimize
from phi_runtime.search.optimize.targets import TARGETS, target_for
from tests.conftest import Listener, MakeProject, edit_config, states
from tests.phi_runtime.models.test_memory import MINI, SMOL

BY_NAME = {candidate.name: candidate for candidate in ALL}


def named(*names: str) -> tuple[Candidate, ...]:
    return tuple(BY_NAME[name] for name in names)


def without_training(project: ProjectFolder) -> ProjectFolder:
    """The same project, where the base model is exported as it is."""
    edit_config(
        project, lambda c: c.update(passes={"export": {"type": "ModelBuilder", "precision": "int4", "gate": None}})
    )
    return project


def worked_on(listener: Listener) -> list[str]:
    return [e["stage"] for e in listener.of("stage-started") if "options" in e]


# -- constraints ---------------------------------------------------------------------------------------------------------------


def test_each_constraint_comes_from_the_nearest_that_has_it_and_a_drop_is_a_fraction() -> None:
    sidecar = Constraints(max_size_mb=100, max_accuracy_drop=0.1)
    found = resolve_constraints({"max_size_mb": 80.0, "max_memory_mb": None}, sidecar, TARGETS["mobile"].defaults)
    assert found == Constraints(max_size_mb=80, max_accuracy_drop=0.1, max_memory_mb=3000)
    for name, value in {"max_accuracy_drop": 2.0, "max_size_mb": 0.0, "min_tokens_per_s": -1.0}.items():
        with pytest.raises(UsageError, match=name.replace("_", "-")):
            resolve_constraints({name: value}, Constraints(), Constraints())


def test_violations_come_with_the_limit_that_would_be_met() -> None:
    limits = Constraints(max_size_mb=80, max_accuracy_drop=0.02, min_tokens_per_s=50, max_memory_mb=500)
    drop = [0.0212, 0.0312]
    figures = {"size_mb": 86.33, "accuracy_drop_interval": drop, "decode_tokens_per_s": 49.96, "peak_memory_mb": 400.0}
    verdict = check_constraints(figures, limits)
    assert [(violation.constraint, violation.excess) for violation in verdict.violations] == [
        ("max_size_mb", 6.33),
        ("max_accuracy_drop", 0.0112),
        ("min_tokens_per_s", 0.04),
    ]
    assert [violation.flag for violation in verdict.violations] == [
        "--max-size-mb 87",
        "--max-accuracy-drop 0.0312",
        "--min-tokens-per-s 49.9",
    ]
    loosened = Constraints(max_size_mb=87, max_accuracy_drop=0.0312, min_tokens_per_s=49.9, max_memory_mb=500)
    assert check_constraints(figures, loosened) == ConstraintVerdict()
    assert check_constraints({"size_mb": 1.0}, limits).unknown == (
        "max_accuracy_drop",
        "min_tokens_per_s",
        "max_memory_mb",
    )
    assert (
        check_constraints({"accuracy_drop_interval": [0.8, 0.9]}, Constraints(max_accuracy_drop=1))
        == ConstraintVerdict()
    )
    assert (
        check_constraints({"accuracy_drop_interval": [-0.3, 0.0]}, Constraints(max_accuracy_drop=0))
        == ConstraintVerdict()
    )


@pytest.mark.parametrize(
    ("lost", "gained", "drop", "interval", "shown"),
    [
        (0, 0, 0.0, [-0.031, 0.031], None),  # meets the limit
        (1, 0, 0.0083, [-0.0234, 0.0457], None),
        (2, 0, 0.0167, [-0.0166, 0.0587], False),  # may be above the limit, may be below
        (11, 1, 0.0833, [0.028, 0.1489], False),
        (14, 0, 0.1167, [0.0613, 0.1863], True),  # is above it
    ],
)
def test_the_end_of_the_interval_of_a_drop_decides(
    lost: int, gained: int, drop: float, interval: list[float], shown: bool | None
) -> None:
    source = measured("source", [True] * (120 - gained) + [False] * gained)
    found = accuracy_drop("classification", source, measured("int4", [False] * lost + [True] * (120 - lost)))
    assert found == {"accuracy_drop": drop, "accuracy_drop_interval": interval, "lost": lost, "gained": gained}
    verdict = check_constraints(found, Constraints(max_accuracy_drop=0.05))
    assert [violation.shown for violation in verdict.violations] == ([] if shown is None else [shown])
    accepted = Constraints(max_accuracy_drop=verdict.violations[0].relaxed_limit) if verdict.violations else None
    assert accepted is None or check_constraints(found, accepted) == ConstraintVerdict()


def test_few_rows_show_no_small_drop() -> None:
    assert smallest_drop("classification", measured("source", [True] * 120)) == 0.031
    assert smallest_drop("classification", measured("source", [True] * 12)) == 0.2425
    assert smallest_drop("classification", measured("source", [True] * 200)) == 0.0188
    same = [replace(row, reference=None) for row in measured("source", [True] * 4)]
    assert smallest_drop("generation", same) > 0.6, "fewer than six rows of free text show nothing"


def measured(model: str, right: list[bool], losses: list[float] | None = None) -> list[RowResult]:
    """Rows of a classification with two labels, or of free text with these losses."""
    rows = []
    for number, is_right in enumerate(right):
        result = Measured("joy" if is_right else "fear", {"accuracy": float(is_right)}, 1.0, 2)
        if losses:
            result = Measured(loss=losses[number], tokens=2)
        rows.append(
            RowResult("train.jsonl", number, None if losses else "?", None if losses else "joy", {model: result})
        )
    return rows


def test_the_nearest_model_misses_few_constraints_by_little() -> None:
    limits = Constraints(max_size_mb=100, max_accuracy_drop=0.02)

    def verdict(size_mb: float, drop: float) -> ConstraintVerdict:
        return check_constraints({"size_mb": size_mb, "accuracy_drop_interval": [drop, drop]}, limits)

    found = {
        "both": verdict(101, 0.021),
        "size": verdict(150, 0.0),
        "bad": verdict(80, 0.5),
        "fine but large": verdict(110, 0),
    }
    assert nearest(found) == "fine but large"
    assert nearest({}) is None


def test_the_drop_of_free_text_is_that_of_the_mean_probability_of_a_token() -> None:
    losses = [2.0, 4.0, 6.0, 8.0, 2.0, 4.0]  # of two tokens each
    source = measured("source", [True] * 6, losses)
    worse = accuracy_drop("generation", source, measured("int4", [True] * 6, [loss + 0.4 for loss in losses]))
    assert worse["accuracy_drop"] == 0.1813  # 1 - exp(-0.2)
    assert worse["accuracy_drop_interval"] == [0.1813, 0.1813]
    assert (worse["lost"], worse["gained"]) == (6, 0)
    with pytest.raises(ValueError, match="different rows"):
        accuracy_drop("generation", source, source[:5])


# -- candidates ----------------------------------------------------------------------------------------------------------------


def test_candidates_run_on_their_target_and_grow(make_project: MakeProject) -> None:
    names = {name: [candidate.name for candidate in candidates_for(target)] for name, target in TARGETS.items()}
    blocks = ["int4-block-128", "int4-block-64", "int4-block-32"]
    int4 = [*blocks, "int4-last-int8", "int4-layers-int8", "int4-mixed-int8"]
    assert names == {
        "laptop-cpu": [*int4, "int8", "fp32"],
        "mobile": int4,
        "cuda": [*int4, "int8", "fp16", "bf16", "fp32"],
        "directml": [*blocks, "int4-k-quant-mixed", "fp16"],
        "webgpu": [*int4, "int8", "fp16", "fp32"],
    }
    for target, shape in itertools.product(TARGETS.values(), (SMOL, MINI)):
        sizes = [expected_bytes(shape, candidate, target) for candidate in candidates_for(target, shape)]
        assert sizes == sorted(sizes)
    workflow = load_workflow(make_project().config)
    assert target_for(None, workflow).name == "laptop-cpu"
    with pytest.raises(UsageError, match="did you mean `mobile`"):
        target_for("moble", workflow)


def test_a_candidate_is_skipped_if_a_more_accurate_one_is_smaller() -> None:
    def skipped(shape: Shape) -> list[str]:
        target = TARGETS["laptop-cpu"]
        names = {candidate.name for candidate in candidates_for(target, shape)}
        return [candidate.name for candidate in candidates_for(target) if candidate.name not in names]

    # Rows of 576 weights are five blocks of 128, with 64 that pad the last one; its head is a fifth of the model.
    assert skipped(SMOL) == ["int4-block-128", "int4-last-int8"]
    assert skipped(MINI) == []


# Measured with onnxruntime-genai 0.18.0, with the tokenizer.
@pytest.mark.parametrize(
    ("name", "size_mb"),
    {
        "int4-block-128": 80,
        "int4-block-32": 86,
        "int4-last-int8": 101,
        "int4-mixed-int8": 114,
        "int8": 267,
        "fp32": 543,
    }.items(),
)
def test_sizes_are_known_beforehand(name: str, size_mb: float) -> None:
    expected = expected_bytes(SMOL, BY_NAME[name], TARGETS["laptop-cpu"]) / 1e6
    assert expected == pytest.approx(size_mb, rel=0.025)


def test_memory_is_known_beforehand() -> None:
    expected = expected_memory_bytes(SMOL, BY_NAME["int4-block-32"], TARGETS["laptop-cpu"], 1024)
    assert expected == pytest.approx(532e6, rel=0.07)  # measured, of which 201 MB are logits
    assert expected_memory_bytes(SMOL, BY_NAME["int4-block-32"], TARGETS["cuda"], 1024) is None


@pytest.mark.parametrize("target", ["laptop-cpu", "directml"])
def test_each_candidate_is_a_config_that_holds_whatever_the_pass_had(make_project: MakeProject, target: str) -> None:
    export = {"int4_accuracy_level": 4, "int4_is_symmetric": True, "int4_calibration": {"tokens": 512}}
    project = make_project(passes={"export": {**export, "search": {"max_length": 64}}})
    planned = prepare(project, target=target)
    for candidate in candidates_for(planned.target):
        step = load_workflow(project.config, planned.overrides_for(candidate)).passes["export"]
        assert isinstance(step, ModelBuilder)
        assert (step.precision, step.int4_block_size) == (candidate.precision, candidate.block_size)
        assert (step.int4_accuracy_level, step.search) == (4 if step.quantizes else None, {"max_length": 64})
        assert step.is_calibrated == (step.precision == "int4" and not candidate.algorithm)


def test_options_that_round_otherwise_than_an_int4_aware_training_make_it_out_of_date(
    make_project: MakeProject,
) -> None:
    project = make_project(
        passes={"finetune": {"int4_aware": True}, "export": {"int4_block_size": 64, "extra_options": {}}}
    )
    planned = prepare(project)
    outdated = {name: planned.outdated_training(BY_NAME[name]) for name in ("int4-block-64", "int4-block-32")}
    assert outdated == {"int4-block-64": None, "int4-block-32": "finetune"}
    edit_config(project, lambda c: c["passes"]["finetune"].update(int4_aware=False))
    assert prepare(project).outdated_training(BY_NAME["int4-block-32"]) is None


# -- searches ------------------------------------------------------------------------------------------------------------------


class StopAt(Listener):
    """Ctrl-C when a stage starts."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if event.event == "stage-started" and event.stage == self.stage:
            os.kill(os.getpid(), signal.SIGINT)


def planned(project: ProjectFolder, **limits: float) -> OptimizePlan:
    """Plan three candidates, the first of which is the largest of this tiny model."""
    plan = prepare(project, limits={"max_accuracy_drop": 1.0, **limits})
    return replace(plan, candidates=named("fp32", "int4-block-32", "int8"))


def search_without_work(project: ProjectFolder, limits: dict[str, float], **options: Any) -> OptimizeResult:
    """Search where everything is known already."""
    listener = Listener()
    result = optimize(planned(project, **limits), listener, **options)
    assert worked_on(listener) == []
    return result


SMALL = {"max_size_mb": 0.4}  # only the second candidate meets it


@pytest.fixture
def searched(make_project: MakeProject, shared: Path) -> ProjectFolder:
    """A project whose search was interrupted after its first candidate and then resumed, once a session."""
    project = make_project(max_steps=2, passes={"export": {"gate": None}})
    original = shared / "searched" / project.root.name
    with FileLock(shared / "searched.lock"):
        if not original.exists():
            with pytest.raises(Interrupted, match="stopped after 1 of 3 candidates") as caught:
                optimize(planned(project, **SMALL), StopAt("int4-block-32"))
            assert "resumes with the others" in caught.value.fix
            assert states(project)["merge"] == "cached"
            listener = Listener()
            optimize(planned(project, **SMALL), listener)
            assert worked_on(listener) == ["int4-block-32"], "the first is known already"
            shutil.copytree(project.root, original)
    shutil.rmtree(project.root)
    shutil.copytree(original, project.root)
    return project


def test_candidates_are_measured_until_one_meets_the_constraints(searched: ProjectFolder) -> None:
    result = search_without_work(searched, SMALL)
    large, small, untried = result.candidates
    assert (large.state, small.state, untried.state) == ("measured", "measured", "skipped")
    assert [violation.constraint for violation in large.verdict(result.plan.constraints).violations] == ["max_size_mb"]
    assert result.chosen == "int4-block-32"
    assert result.reference is not None
    assert result.reference["rows"] == 12
    for row in (large, small):
        assert 0.1 < row.figures["size_mb"] < 1
        assert row.figures["accuracy_drop"] == result.reference["score"] - row.figures["score"]
        assert 1 < row.figures["perplexity"] < 1000
        assert row.figures["decode_tokens_per_s"] > 0
        assert row.figures["peak_memory_mb"] > 20
        assert row.figures["context_tokens"] == 512  # all that the model has


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_without_torch(make_project: MakeProject, fresh_processes: set[str]) -> None:
    fresh_processes.add("phi_runtime.search.optimize.worker")
    project = make_project(max_steps=2, passes={"export": {"gate": None}})
    result = optimize(replace(planned(project), candidates=named("int4-block-32")), Listener())
    assert 20 < result.candidates[0].figures["peak_memory_mb"] < 400


def test_a_search_leaves_the_chosen_model_its_config_and_a_table(searched: ProjectFolder) -> None:
    result = search_without_work(searched, SMALL)
    folder = searched.gen_model / "optimize"
    assert result.model == folder / "int4-block-32" / "onnx"
    assert not (folder / "fp32" / "onnx").exists()
    assert result.config == searched.config.with_name("olive-config.optimized.json")
    step = load_workflow(find_project(searched.root, result.config).config).passes["export"]
    assert isinstance(step, ModelBuilder)
    assert (step.precision, step.int4_block_size, step.extra_options.matmul_mixed_precision) == ("int4", 32, None)
    content = json.loads((folder / "candidates.json").read_text())
    assert [row["name"] for row in content["candidates"]] == ["fp32", "int4-block-32", "int8"]


def test_a_second_search_changes_nothing_and_other_constraints_use_what_is_known(searched: ProjectFolder) -> None:
    table = searched.gen_model / "optimize" / "candidates.json"
    initial = table.stat().st_mtime_ns
    first, again = search_without_work(searched, SMALL), search_without_work(searched, SMALL)
    assert (again.chosen, again.candidates) == (first.chosen, first.candidates)
    assert table.stat().st_mtime_ns == initial
    assert search_without_work(searched, {"max_size_mb": 10}).chosen == "fp32"


def test_an_edited_config_of_a_search_is_kept(searched: ProjectFolder) -> None:
    config = search_without_work(searched, SMALL).config
    assert config is not None
    config.write_text("{}")
    kept = search_without_work(searched, SMALL).previous_config
    assert kept is not None
    assert kept.read_text() == "{}"


def test_the_chosen_model_is_applied_and_a_run_finds_it_cached(searched: ProjectFolder) -> None:
    config = searched.config.read_text()
    applied = search_without_work(searched, SMALL, apply=True)
    assert applied.applied
    assert applied.model == searched.gen_model / "onnx"
    assert applied.backup == searched.config.with_name("olive-config.json.bak")
    assert applied.backup.read_text() == config
    assert "export" in run(searched, Listener(), until="export").cached
    assert search_without_work(searched, SMALL, apply=True).backup is None


def test_a_build_that_was_killed_at_its_end_is_recorded_and_leaves_nothing(searched: ProjectFolder) -> None:
    folder = searched.gen_model / "optimize" / "int4-block-32"
    (folder / ".outputs" / "onnx.json").unlink()
    left = [folder / ".work", folder / ".onnx.old"]
    for each in left:
        each.mkdir()
    search_without_work(searched, SMALL, apply=True)
    assert (folder / ".outputs" / "onnx.json").is_file()
    assert not any(each.exists() for each in left)


def test_where_no_candidate_meets_the_constraints_the_nearest_is_named(searched: ProjectFolder) -> None:
    impossible = replace(planned(searched, min_tokens_per_s=1e9), candidates=named("fp32", "int4-block-32"))
    result = optimize(impossible, listener := Listener(), everything=True)
    assert worked_on(listener) == []
    assert result.chosen is None
    assert result.nearest is not None
    _, verdict = result.nearest
    assert [violation.constraint for violation in verdict.violations] == ["min_tokens_per_s"]
    relaxed = {"min_tokens_per_s": verdict.violations[0].relaxed_limit}
    assert result.as_dict()["nearest"]["relaxed_constraints"] == relaxed


def test_rows_that_can_show_no_such_drop_end_the_search_before_a_build(searched: ProjectFolder) -> None:
    with pytest.raises(ConfigError, match=r"12 rows cannot show a drop below 0\.2") as caught:
        optimize(planned(searched, max_accuracy_drop=0.05), listener := Listener())
    assert "--max-accuracy-drop 0.2" in caught.value.fix
    assert worked_on(listener) == []


class Killer(Listener):
    """Kills processes that build a candidate, as a system does that has no memory left: so many for each candidate."""

    def __init__(self, **kills: int) -> None:
        super().__init__()
        self.kills, self.killed = kills, {0}

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        candidate = event.stage.replace("-", "_")
        if self.kills.get(candidate) and event.data.get("unit") and (pid := worker()) not in self.killed:
            self.kills[candidate] -= 1
            self.killed.add(pid)  # more of its events may be on their way
            os.kill(pid, signal.SIGKILL)


def worker() -> int:
    """The process id of our worker."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == os.getpid() and b"phi_runtime.search.optimize.worker" in command:
            return int(status.parent.name)
    return 0  # its last events are on their way


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process through /proc")
def test_a_crash_takes_nothing_along_and_what_cannot_run_here_is_taken_for_its_size(make_project: MakeProject) -> None:
    project = without_training(make_project())
    with pytest.raises(ConfigError, match="without test rows"):
        prepare(project)
    planned = prepare(project, target="webgpu", limits={"max_memory_mb": 1})
    if not planned.unavailable:
        pytest.skip("WebGPU is here")
    planned = replace(planned, candidates=named("int4-block-128", "int4-block-32", "int8"))
    found = optimize(planned, killer := Killer(int4_block_128=2, int4_block_32=1), apply=True)
    crashed, built, untried = found.candidates
    assert (crashed.state, built.state, untried.state) == ("failed", "built", "skipped")
    assert "was killed (SIGKILL)" in crashed.why
    warned = [event["stage"] for event in killer.of("warning") if "SIGKILL" in event["message"]]
    assert warned == ["int4-block-128", "int4-block-32"]
    assert set(built.figures) == {"size_mb"}
    assert built.verdict(planned.constraints).unknown == ("max_accuracy_drop", "max_memory_mb")
    assert found.chosen == "int4-block-32"
    assert not list((project.gen_model / "optimize").glob("*/onnx"))

    # The target of the config is another one now; what it runs on is the same.
    workflow = load_workflow(project.config)
    assert workflow.execution_provider == "WebGpuExecutionProvider"
    assert (workflow.host, workflow.host_device) == ("local_system", "cpu")
    assert states(project)["export"] == "cached"

    known = optimize(planned, listener := Listener())
    assert worked_on(listener) == []
    assert known.candidates == found.candidates


def test_what_is_larger_than_allowed_is_not_built(make_project: MakeProject) -> None:
    planned = prepare(make_project(), limits={"max_size_mb": 0.2})
    large = [candidate.name for candidate in planned.candidates if planned.too_large(candidate)]
    assert large == ["int8", "fp32"]
