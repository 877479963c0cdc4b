"""Trainings with other seeds: the plan, the record and the spread."""

from __future__ import annotations

import json
from typing import Any

import pytest

from phi_runtime.core.artifacts import seal
from phi_runtime.evaluation.seed_spread import add_seeds
from phi_runtime.pipeline.load import load_config
from phi_runtime.pipeline.plan import plan
from phi_runtime.pipeline.seed_runs import record_seed, seed_evaluations
from phi_runtime.search.seeds import plan_seeds
from tests.conftest import Cli, MakeProject, edit_config


def content(**scores: float) -> dict[str, Any]:
    models = [{"name": n, "metrics": {"accuracy": s}, "interval": None} for n, s in scores.items()]
    return {"task": "classification", "models": models}


def test_the_spread_is_that_of_the_trained_models() -> None:
    found = content(base=0.1, adapter=0.9)
    add_seeds(found, 42, {43: content(adapter=0.8), 44: content(adapter=0.7)})
    assert found["seeds"] == [42, 43, 44]
    base, adapter = (model["seeds"] for model in found["models"])
    assert base is None
    assert adapter["values"] == [0.9, 0.8, 0.7]
    assert (adapter["min"], adapter["max"]) == (0.7, 0.9)
    assert (adapter["mean"], adapter["standard_deviation"]) == (pytest.approx(0.8), pytest.approx(0.1))


def test_of_free_text_the_spread_is_that_of_the_perplexity() -> None:
    def text(perplexity: float) -> dict[str, Any]:
        model = {"name": "adapter", "metrics": {}, "perplexity": perplexity, "perplexity_interval": None}
        return {"task": "generation", "models": [model]}

    found = text(4.0)
    add_seeds(found, 42, {43: text(6.0)})
    assert found["models"][0]["seeds"]["values"] == [4.0, 6.0]


@pytest.mark.parametrize(("seed", "expected"), [(7, [7]), (None, [])])
def test_one_training_has_one_seed_and_no_spread(seed: int | None, expected: list[int]) -> None:
    found = content(adapter=0.9)
    add_seeds(found, seed, {})
    assert (found["seeds"], found["models"][0]["seeds"]) == (expected, None)


def test_other_seeds_keep_the_rows_of_the_split(make_project: MakeProject) -> None:
    project = make_project()
    edit_config(project, lambda c: c["passes"]["finetune"]["training_args"].update(seed=7, data_seed=None))
    runs = plan_seeds(load_config(project.config), project, ["evaluate"], 3).runs
    arguments = [run.workflow.trainings["finetune"].training_args for run in runs]
    assert [(a.seed, a.data_seed, a.order_seed) for a in arguments] == [(8, 7, 7), (9, 7, 7)]
    assert [project.shown(run.project.gen_model) for run in runs] == [
        "gen-model/seeds/finetune/seed-8",
        "gen-model/seeds/finetune/seed-9",
    ]
    assert not any(run.is_done for run in runs)


def test_recorded_seeds_count_until_what_is_measured_changes(make_project: MakeProject) -> None:
    project, inputs = make_project(), {"input": "a"}
    folders = {seed: project.gen_model / "seeds" / "finetune" / f"seed-{seed}" / "evaluation" for seed in (43, 44)}
    for seed, folder in folders.items():
        folder.mkdir(parents=True)
        seal(folder, key=str(seed), kind="evaluation", facts={})
        record_seed(project, "finetune", inputs, seed, folder)
    assert seed_evaluations(project, "finetune", inputs) == folders
    assert seed_evaluations(project, "finetune", {"input": "b"}) == seed_evaluations(project, "other", inputs) == {}
    (folders[43] / "manifest.json").unlink()
    assert list(seed_evaluations(project, "finetune", inputs)) == [44]
    record_seed(project, "finetune", {"input": "b"}, 44, folders[44])
    assert list(seed_evaluations(project, "finetune", {"input": "b"})) == [44]


@pytest.mark.slow
def test_more_seeds_are_trained_once_and_their_spread_is_shown(trained_project: MakeProject, cli: Cli) -> None:
    project = trained_project()
    first = cli("evaluate", "--json", "--project", project.root).json
    assert first["seeds"] == [42]
    result = cli("evaluate", "--seeds", "3", "--json", "--project", project.root)
    assert result.code == 0, result.err
    assert "2 more trainings" in result.err
    found = result.json
    assert found["seeds"] == [42, 43, 44]
    spreads = {model["name"]: model["seeds"] for model in found["models"]}
    assert spreads["base"] is None
    assert [spread["values"][0] for name, spread in spreads.items() if spread] == [
        model["metrics"]["accuracy"] for model in first["models"] if not model["name"].startswith("base")
    ]
    seed = project.gen_model / "seeds" / "finetune" / "seed-43"
    rows = [json.loads(line) for line in (seed / "evaluation" / "rows.jsonl").read_text().splitlines()]
    own = [json.loads(line) for line in (project.gen_model / "evaluation" / "rows.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [row["line"] for row in own]
    assert "base" not in rows[0]["models"]
    assert rows[0]["models"]["adapter"]["loss"] != own[0]["models"]["adapter"]["loss"]
    assert not (seed / "merged").exists()

    files = {
        path: path.stat().st_mtime_ns
        for path in project.gen_model.rglob("*")
        if path.is_file() and ".lock" not in path.name
    }
    for left in (".deleted-merged", ".evaluation.old"):  # by a call that was killed at its end
        (seed / left).mkdir()
        (seed / left / "file").touch()
    again = cli("evaluate", "--seeds", "3", "--json", "--project", project.root)
    assert "more training" not in again.err
    assert again.json == cli("evaluate", "--json", "--project", project.root).json == found
    now = {
        path: path.stat().st_mtime_ns
        for path in project.gen_model.rglob("*")
        if path.is_file() and ".lock" not in path.name
    }
    assert now == files
    assert [stage.state for stage in plan(load_config(project.config).require_valid(), project)] == ["cached"] * 5
