"""Searches over a tiny Phi-3: what is found, what is ended early, what is not run twice."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.schema import Choice, FloatRange, IntRange, Sweep
from phi_runtime.core.errors import ConfigError, Interrupted, OutOfResources, UsageError, WorkFailed
from phi_runtime.core.events import Event
from phi_runtime.core.project import ProjectFolder, find_project
from phi_runtime.hardware.device import usable_cores
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.search.sweep import planning
from phi_runtime.search.sweep.metric import is_minimized
from phi_runtime.search.sweep.outcome import SweepResult, chart, importances_of, trials_of
from phi_runtime.search.sweep.planning import plan_to_json, prepare
from phi_runtime.search.sweep.search import search
from phi_runtime.search.sweep.space import Space, grid, grid_size, sampler, suggest
from phi_runtime.search.sweep.study import StudyFolder, find_study, storage_failures
from phi_runtime.search.sweep.worker import shares
from tests.conftest import Listener, MakeProject, edit_config

pytest.importorskip("optuna")

RATE, BATCH = "training_args.learning_rate", "training_args.per_device_train_batch_size"


def write_sweep(project: ProjectFolder, space: dict[str, Any], **strategy: Any) -> None:
    strategy = {"type": "grid", "seed": None, **strategy}
    text = json.dumps({"search_strategy": strategy, "search_space": space})
    (project.config.parent / "sweep.yaml").write_text(text, encoding="utf-8")


def choice(*values: Any) -> dict[str, Any]:
    return {"type": "choice", "values": list(values)}


def sweep(project: ProjectFolder, listener: Any = None, **options: Any) -> SweepResult:
    jobs = options.pop("jobs", 0)
    return search(prepare(project, **options), Listener() if listener is None else listener, jobs=jobs)


def test_a_grid_runs_all_and_stops_and_the_best_config_is_run_as_it_is(make_project: MakeProject) -> None:
    project = make_project(max_steps=4)
    before = project.config.read_text()
    write_sweep(project, {RATE: choice(1e-6, 0.01), "r": choice(2)}, pruner="none")
    listener = Listener()
    found = sweep(project, listener)

    assert [(t.values[RATE], t.values["r"]) for t in found.trials] == [(1e-6, 2), (0.01, 2)]
    assert [t.state for t in found.trials] == ["complete", "complete"]
    assert [e["finished"] for e in listener.of("stage-finished") if e["stage"].startswith("trial")] == [1, 2]
    bad, good = found.trials
    assert found.best == good
    assert good.score is not None
    assert bad.score is not None
    assert good.score < bad.score

    # Of the trials that are over the records are left, and of the best one its adapter.
    left = {folder.name: {path.name for path in folder.iterdir()} for folder in found.folder.glob("trial-*")}
    assert left == {"trial-0000": {"runs"}, "trial-0001": {"adapter", "runs"}}
    assert found.model == found.folder / "trial-0001" / "adapter"

    assert project.config.read_text() == before
    assert found.config == project.config.with_name("olive-config.best.json")
    chosen = find_project(project.root, found.config)
    step = load_workflow(chosen.config).trainings["finetune"]
    assert (step.training_args.learning_rate, step.r) == (0.01, 2)  # type: ignore[attr-defined]
    own = Listener()
    run(chosen, own, until="finetune")
    held_out = [e["validation_loss"] for e in own.of("metric") if "validation_loss" in e]
    assert held_out[-1] == pytest.approx(good.score)

    # Nothing is left to do, and what is in the config at a key that is searched makes no difference.
    edit_config(project, lambda c: c["passes"]["finetune"]["training_args"].update(learning_rate=0.01))
    listener = Listener()
    assert sweep(project, listener) == found
    assert [e["stage"] for e in listener.of("stage-started")] == ["fetch"]


def test_a_best_config_that_was_edited_is_kept(make_project: MakeProject) -> None:
    project = make_project(max_steps=1)
    write_sweep(project, {"r": choice(2)})
    first = sweep(project)
    assert sweep(project).previous_config is None
    first.config.write_text("{}")
    again = sweep(project)
    kept = again.previous_config
    assert kept is not None
    assert kept.read_text() == "{}"
    assert again.as_dict(project)["best"]["previous_config"] == project.shown(kept)


def test_a_search_of_another_file_ends_whatever_sweep_yaml_holds(make_project: MakeProject) -> None:
    project = make_project(max_steps=1)
    write_sweep(project, {"r": choice(2)})
    other = project.config.with_name("mine.yaml")
    (project.config.parent / "sweep.yaml").rename(other)
    (project.config.parent / "sweep.yaml").write_text("search_space: 1")
    found = sweep(project, overrides=Overrides(search=other))
    assert found.model.is_dir()
    assert (found.folder / "trials.json").is_file()


def test_a_seeded_search_is_repeatable_and_an_interruption_changes_nothing(make_project: MakeProject) -> None:
    space = {
        "learning_rate": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
        "r": {"type": "int", "low": 1, "high": 8},
    }

    def one(name: str) -> ProjectFolder:
        project = make_project(name, max_steps=2)
        write_sweep(project, space, type="tpe", num_trials=2, seed=7, pruner="none")
        return project

    whole = sweep(one("whole"))
    rates = [t.values[RATE] for t in whole.trials]
    assert len(set(rates)) == 2
    assert all(1e-4 <= rate <= 0.1 for rate in rates)

    class Stop(Listener):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if event.stage == "trial-0001" and event.event == "progress" and event.data.get("done") == 1:
                raise KeyboardInterrupt

    stopped = one("stopped")
    with pytest.raises(Interrupted, match="stopped after 1 of 2 trials; the best so far is trial 0") as caught:
        sweep(stopped, Stop())
    assert "resumes with the others" in caught.value.fix
    assert plan_to_json(prepare(stopped))["trials_to_run"] == 1
    assert plan_to_json(prepare(stopped, trials=5))["trials_to_run"] == 4

    listener = Listener()
    found = sweep(stopped, listener)
    assert [e["stage"] for e in listener.of("stage-started")] == ["fetch", "trial-0001"]
    assert [(t.values, t.score) for t in found.trials] == [(t.values, t.score) for t in whole.trials]


def test_each_sampler_draws_what_it_would_have_drawn_without_an_interruption() -> None:
    import optuna

    places: Space = {
        "rate": FloatRange(type="float", low=1e-5, high=1e-1, log=True),
        "rank": IntRange(type="int", low=1, high=64, step=3),
        "modules": Choice(type="choice", values=[["a"], ["a", "b"], None]),
    }

    def drawn(kind: str, seed: int) -> list[Any]:
        study = optuna.create_study()
        found = []
        for number in range(14):  # TPE begins to learn with the eleventh
            study.sampler = sampler(kind, seed, number)
            trial = study.ask()
            found.append(suggest(trial, places))
            study.tell(trial, abs(found[-1]["rate"] - 1e-3))
        return found

    for kind in ("random", "tpe"):
        values = drawn(kind, 3)
        assert values == drawn(kind, 3)
        assert values != drawn(kind, 4)
        assert len({v["rate"] for v in values}) == 14
        assert {v["rank"] % 3 for v in values} == {1}
        assert all(v["modules"] in (["a"], ["a", "b"], None) for v in values)


@pytest.mark.parametrize(
    "values",
    [
        {"type": "int", "low": 0, "high": 10**12},
        {"type": "float", "low": 0.1, "high": 0.9, "points": 10**9},
        {"type": "choice", "values": list(range(400))},
    ],
)
def test_a_grid_that_fills_the_memory_is_refused(values: dict[str, Any]) -> None:
    raw = {"search_space": {"r": values, "lora_alpha": values}, "search_strategy": {"type": "grid", "num_trials": 3}}
    with pytest.raises(ConfigError, match="more than 100,000 combinations"):
        planning._count(Sweep.model_validate(raw), None)


def test_a_grid_has_every_combination_in_its_order_or_by_chance() -> None:
    places: Space = {
        "rate": FloatRange(type="float", low=1e-5, high=1e-3, log=True, points=3),
        "rank": IntRange(type="int", low=8, high=40, log=True),
        "epochs": IntRange(type="int", low=1, high=4, step=2),
        "share": FloatRange(type="float", low=0.0, high=0.5, points=2),
        "batch": Choice(type="choice", values=[4]),
    }
    combinations = grid(places, None)
    assert len(combinations) == grid_size(places) == 3 * 3 * 2 * 2
    assert combinations[0] == {"rate": 1e-5, "rank": 8, "epochs": 1, "share": 0.0, "batch": 4}
    assert combinations[-1] == {"rate": 1e-3, "rank": 32, "epochs": 3, "share": 0.5, "batch": 4}
    assert {c["rate"] for c in combinations} == {1e-5, 1e-4, 1e-3}
    assert grid(places, 1) == grid(places, 1) != combinations


def test_importances_are_computed_and_drawn() -> None:
    import optuna
    from optuna.trial import TrialState

    study = optuna.create_study(sampler=sampler("random", 0, 0))
    places: Space = {
        "a.rate": FloatRange(type="float", low=0.0, high=1.0),
        "<rank>": IntRange(type="int", low=1, high=9),
    }
    assert importances_of(study) == {}
    for number in range(20):
        study.sampler = sampler("random", 0, number)
        trial = study.ask()
        rate = suggest(trial, places)["a.rate"]
        pruned = number > 4 and rate > 0.5
        study.tell(trial, None if pruned else rate, state=TrialState.PRUNED if pruned else TrialState.COMPLETE)
    shares = importances_of(study)
    assert list(shares) == ["a.rate", "<rank>"]
    assert shares["a.rate"] > 0.7
    assert sum(shares.values()) == pytest.approx(1, abs=0.001)
    drawing = ElementTree.fromstring(chart(shares, "validation_loss"))
    texts = [node.text for node in drawing.iter() if node.text and node.text.strip()]
    assert texts[:2] == ["Importance of each key for validation loss", "a.rate"]
    assert "<rank>" in texts


def test_a_bad_trial_is_ended_early(make_project: MakeProject) -> None:
    project = make_project(max_steps=8, eval_steps=2)
    write_sweep(project, {RATE: choice(0.01, 1e-7)}, num_trials=2)
    listener = Listener()
    found = sweep(project, listener)
    good, bad = found.trials
    assert (good.state, bad.state, bad.score) == ("complete", "pruned", None)
    assert list(good.intermediate_values) == ["25 %", "50 %", "75 %", "100 %"]
    assert len(bad.intermediate_values) < 4
    assert "worse than the median at" in bad.why
    done = [e["done"] for e in listener.of("progress") if e["stage"] == "trial-0001" and e.get("done") is not None]
    assert max(done) < 8
    assert not (found.folder / "trial-0001" / ".work").exists()
    assert found.best == good


def fail_at(project: ProjectFolder, *batch_sizes: int, how: str = "raise ValueError('too many rows')") -> None:
    """Lets the training fail where a batch has so many rows."""
    project.config.with_name("hooks.py").write_text(
        "import os, signal\n\n"
        "def loss(output, batch):\n"
        f"    if len(batch['labels']) in {batch_sizes}:\n"
        f"        {how}\n"
        "    return output.logits.float().logsumexp(-1).mean()\n"
    )


def test_failing_trials_are_recorded_and_the_search_continues(make_project: MakeProject) -> None:
    project = make_project(max_steps=1, per_device_eval_batch_size=12, passes={"finetune": {"packing": False}})
    fail_at(project, 2, 3)
    write_sweep(project, {BATCH: choice(2, 3, 4, 2)})
    found = sweep(project)
    assert [t.state for t in found.trials] == ["failed", "failed", "complete"]
    assert "too many rows" in found.trials[0].why
    assert found.best == found.trials[2]


def test_three_failures_at_the_start_stop_the_search(make_project: MakeProject) -> None:
    project = make_project(max_steps=1, per_device_eval_batch_size=12, passes={"finetune": {"packing": False}})
    fail_at(project, 1, 2, 3)
    write_sweep(project, {BATCH: choice(1, 2, 3, 4)})
    with pytest.raises(WorkFailed, match=r"the first 3 trials failed; the last one: .*too many rows"):
        sweep(project)
    planned = prepare(project)
    assert [t.state for t in trials_of(planned.place, planned.sweep)] == ["failed"] * 3


def test_any_key_of_the_config_reaches_the_trial_and_what_is_shared_is_made_once(make_project: MakeProject) -> None:
    project = make_project(max_steps=1)
    length = "data_configs.train_data.pre_process_data_config.max_seq_len"
    write_sweep(project, {length: choice(24, 256), "passes.finetune.target_modules": choice(["o_proj"])})
    found = sweep(project)
    assert [t.values[length] for t in found.trials] == [24, 256]
    recorded = [json.loads(next(found.folder.glob(f"trial-000{i}/runs/*/config.json")).read_text()) for i in range(2)]
    lengths = [c["data_configs"][0]["pre_process_data_config"]["max_seq_len"] for c in recorded]
    assert lengths == [24, 256]
    assert [c["passes"]["finetune"]["target_modules"] for c in recorded] == [["o_proj"]] * 2
    assert len([p for p in (project.gen_model / ".data").iterdir() if p.is_dir()]) == 1
    assert not list(found.folder.rglob(".data"))


def test_the_keys_of_the_older_guide_are_taken(make_project: MakeProject) -> None:
    project = make_project(max_steps=1)
    (project.config.parent / "sweep.yaml").write_text(
        "search_strategy:\n  type: random\n  num_trials: 1\n"
        "search_space:\n"
        "  learning_rate: {type: float, low: 1e-6, high: 1e-3, log: true}\n"
        "  lora_r: {type: int, low: 2, high: 4}\n"
        "  batch_size: {type: choice, values: [2]}\n"
    )
    found = sweep(project)
    (trial,) = found.trials
    assert set(trial.values) == {RATE, "r", BATCH}
    config = json.loads(next(found.folder.glob("trial-0000/runs/*/config.json")).read_text())["passes"]["finetune"]
    assert (config["r"], config["training_args"]["per_device_train_batch_size"]) == (trial.values["r"], 2)


def test_a_search_in_the_config_itself_is_run_where_there_is_no_file(make_project: MakeProject) -> None:
    project = make_project(max_steps=1)
    (project.config.parent / "sweep.yaml").unlink(missing_ok=True)

    def search_ranks(config: dict[str, Any]) -> None:
        config["search_strategy"] = {"execution_order": "joint", "sampler": "sequential"}
        config["passes"]["finetune"]["r"] = [2]

    edit_config(project, search_ranks)
    found = sweep(project)
    assert [t.values for t in found.trials] == [{"passes.finetune.r": 2}]
    config = load_workflow(found.config)
    assert config.sweep is None


def test_another_metric_is_measured_by_asking_the_trained_model(make_project: MakeProject) -> None:
    project = make_project(max_steps=1)
    write_sweep(project, {RATE: choice(0.01)})
    found = sweep(project, metric="accuracy")
    (trial,) = found.trials
    assert trial.score is not None
    assert 0 <= trial.score <= 1
    assert trial.figures.keys() >= {"accuracy", "macro_f1", "perplexity", "validation_loss"}
    assert prepare(project).place.new
    assert prepare(project).place.why == 'metric: "accuracy" → "validation_loss"'


def test_costs_and_sums_of_metrics_are_objectives(make_project: MakeProject) -> None:
    project = make_project(method="full", max_steps=60, per_device_train_batch_size=8)
    write_sweep(project, {RATE: choice(1e-6, 0.01)}, metric="mean_cost", pruner="none")
    file = project.config.with_name("evaluation.json")
    with pytest.raises(UsageError, match=r"evaluation\.json: error: `mean_cost` needs `cost`") as caught:
        prepare(project)
    assert '"cost": {"fear→joy": 5}' in caught.value.fix

    settings = json.loads(file.read_text(encoding="utf-8"))
    settings |= {"cost": {"joy->fear": 5, "fear->joy": 4}, "combined": {"saved": {"mean_cost": -1, "accuracy": 1}}}
    file.write_text(json.dumps(settings), encoding="utf-8")
    found = sweep(project)
    bad, good = found.trials
    assert (bad.score, good.score) == pytest.approx((1, 0))  # without a label at all, and right
    assert found.best == good
    assert [trial.figures["saved"] for trial in found.trials] == pytest.approx([-1, 1])
    assert (is_minimized("mean_cost"), is_minimized("saved")) == (True, False)
    assert prepare(project, metric="saved").settings.metric == "saved"

    settings["cost"]["joy->fear"] = 6
    file.write_text(json.dumps(settings), encoding="utf-8")
    assert [prepare(project, metric=name).place.new for name in ("mean_cost", "saved")] == [True, True]
    assert "joy->fear: 5.0 → 6.0" in prepare(project).place.why


def test_what_cannot_be_searched_is_refused_before_the_first_trial(make_project: MakeProject) -> None:
    project = make_project()
    for key, values, message in (
        ("lora_rr", choice(1), "unknown key `lora_rr`"),
        (
            "training_args.learning_rates",
            choice(1),
            "unknown key `training_args.learning_rates`",
        ),
        ("target_modules", choice(["qkv_proj"], ["q_proj"]), "the model has no linear module `q_proj`"),
        ("passes.finetun.r", choice(1), "`passes` has no `finetun`; did you mean `finetune`"),
        ("passes.finetune.rr", choice(1), "unknown key `rr`"),
        ("data_configs.data.pre_process_data_config.max_seq_len", choice(1), "`data_configs` has no `data`"),
        ("r", choice(8, "many"), "with 'many': "),
        (RATE, {"type": "float", "low": 0.5, "high": 7.0}, "with 7.0: "),
        (RATE, {"type": "float", "low": 0.0, "high": 0.5, "log": True}, "`log` requires values above 0"),
    ):
        write_sweep(project, {key: values})
        with pytest.raises(ConfigError, match=message) as caught:
            prepare(project)
        assert "sweep.yaml:1:" in str(caught.value), key
    write_sweep(project, {"r": choice(8)})
    with pytest.raises(UsageError, match="no metric is called `acuracy`; did you mean `accuracy`"):
        prepare(project, metric="acuracy")
    edit_config(project, lambda c: c["passes"]["finetune"].update(eval_dataset_size=0))
    with pytest.raises(ConfigError, match="without validation rows"):
        prepare(project)
    (project.config.parent / "sweep.yaml").unlink()
    with pytest.raises(ConfigError, match=r"sweep\.yaml: error: the config has no search") as caught:
        prepare(project)
    assert "search_space:" in caught.value.fix
    assert not (project.gen_model / "sweep").exists()


def test_another_space_or_config_makes_a_new_study_and_says_why(make_project: MakeProject) -> None:
    project = make_project(max_steps=1)
    write_sweep(project, {"r": choice(2)})
    sweep(project)

    def place() -> StudyFolder:
        return prepare(project).place

    assert not place().new
    edit_config(project, lambda c: c["passes"]["export"].update(precision="fp32"))
    assert not place().new
    edit_config(project, lambda c: c["passes"]["finetune"].update(alpha=8))
    assert (place().name, place().why) == ("study-2", "alpha: 32.0 → 8.0")
    edit_config(project, lambda c: c["passes"]["finetune"].update(alpha=32))
    write_sweep(project, {"r": choice(2, 4)})
    assert (place().name, place().why) == ("study-2", "values: [2] → [2, 4]")
    write_sweep(project, {"r": choice(2)}, seed=3, num_trials=7, pruner="none")
    assert not place().new
    write_sweep(project, {"r": choice(2)}, type="random")
    assert (place().new, place().why) == (True, "grid: true → false")
    write_sweep(project, {"r": choice(2)})
    with (project.root / "datasets" / "train.jsonl").open("a") as file:
        file.write('{"phrase": "a new row", "tone": "joy"}\n')
    assert place().why == "the data changed"


@pytest.mark.slow
def test_two_jobs_share_a_study_and_the_machine_and_one_that_is_killed_is_a_failed_trial(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI_SCAFFOLD_CORES", "2")
    project = make_project(max_steps=1, per_device_eval_batch_size=12, passes={"finetune": {"packing": False}})
    fail_at(project, 3, how="os.kill(os.getpid(), signal.SIGKILL)")
    write_sweep(project, {BATCH: choice(2, 3, 4)}, pruner="none")
    found = sweep(project, jobs=2)
    assert [t.state for t in found.trials] == ["complete", "failed", "complete"]
    assert "was killed (SIGKILL)" in found.trials[1].why
    manifest = json.loads(next(found.folder.glob("trial-*/adapter/manifest.json")).read_text())
    assert manifest["facts"]["torch_threads"] == max(1, usable_cores() // 2)


def test_a_trial_whose_process_is_killed_once_is_resumed(make_project: MakeProject) -> None:
    project = make_project(max_steps=1, per_device_eval_batch_size=12, passes={"finetune": {"packing": False}})
    marker = project.root / "killed"
    kill = f"open({str(marker)!r}, 'x'), os.kill(os.getpid(), signal.SIGKILL)"
    fail_at(project, 3, how=f"None if os.path.exists({str(marker)!r}) else ({kill})")
    write_sweep(project, {BATCH: choice(3)}, pruner="none")
    listener = Listener()
    found = sweep(project, listener, jobs=1)
    assert marker.exists()
    assert [t.state for t in found.trials] == ["complete"]
    assert [e["stage"] for e in listener.of("warning") if "SIGKILL" in e["message"]] == ["trial-0000"]


def test_jobs_get_a_gpu_each_or_a_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    given = shares(3, "gpu")
    assert [share["CUDA_VISIBLE_DEVICES"] for share in given] == ["4", "5", "4"]
    monkeypatch.setenv("PHI_SCAFFOLD_CORES", "1")
    assert [share["PHI_SCAFFOLD_CORES"] for share in shares(2, "cpu")] == ["1", "1"]
    assert all("CUDA_VISIBLE_DEVICES" not in share for share in shares(2, "cpu"))


def test_a_study_whose_first_call_was_killed_before_it_began_is_begun_again(tmp_path: Path) -> None:
    project = ProjectFolder(tmp_path, tmp_path / "olive-config.json")
    folder = project.gen_model / "sweep" / "study-1"
    folder.mkdir(parents=True)
    assert find_study(project, {"metric": "validation_loss"}).name == "study-1"
    (folder / "study.db").touch()
    assert find_study(project, {"metric": "validation_loss"}).name == "study-2"


def test_a_study_that_is_no_database_is_named_with_what_to_do(make_project: MakeProject) -> None:
    project = make_project(max_steps=1)
    write_sweep(project, {"r": choice(2)})
    run(project, Listener(), only=["fetch"])
    plan = prepare(project)
    plan.place.folder.mkdir(parents=True)
    (plan.place.folder / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(WorkFailed, match=r"cannot use .*study\.db: file is not a database") as failure:
        search(plan, Listener())
    assert f"move {plan.place.folder} away" in str(failure.value.fix)


def test_a_full_disk_of_a_study_is_said(tmp_path: Path) -> None:
    from optuna.exceptions import StorageInternalError

    place = StudyFolder(tmp_path, {}, new=False)

    def fill() -> None:
        try:
            with closing(sqlite3.connect(tmp_path / "study.db")) as database:
                database.execute("CREATE TABLE trials (content TEXT)")
                database.execute("PRAGMA max_page_count = 3")
                database.execute("INSERT INTO trials VALUES (?)", ["x" * 100_000])
        except sqlite3.OperationalError as error:
            raise StorageInternalError("An exception is raised during the commit.") from error

    with pytest.raises(OutOfResources, match="`sweep`: the disk is full") as failure, storage_failures(place):
        fill()
    assert failure.value.resource == "disk"


def test_an_error_with_its_cause_is_not_taken_for_one_of_the_study(tmp_path: Path) -> None:
    of_tracker = WorkFailed("the tracker failed", fix="check it")
    of_tracker.__cause__ = sqlite3.OperationalError("database is locked")
    with pytest.raises(WorkFailed, match="the tracker failed"), storage_failures(StudyFolder(tmp_path, {}, new=False)):
        raise of_tracker
