"""The runs of a project, read from records that are written here by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.schema import canonical
from phi_runtime.core.artifacts import file_digest, seal, write_json
from phi_runtime.core.errors import Conflict, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.evaluation.intervals import Difference, Interval
from phi_runtime.pipeline.engine import run as run_workflow
from phi_runtime.pipeline.load import load_config
from phi_runtime.report.differences import (
    RunDifferences,
    ScoreChange,
    ValueChange,
    chosen_config,
    compare_runs,
    flattened,
)
from phi_runtime.report.history import MainScore, RecordedRun, find_run, read_runs, run_before
from phi_runtime.report.reproduction import compare_outputs, plan_reproduction
from phi_scaffold.show.runs import differences
from tests.conftest import Cli, Listener, MakeProject

FIRST, SECOND, THIRD = "20260101-080000-000001", "20260102-080000-000002", "20260203-080000-000003"


def write_run(project: ProjectFolder, run_id: str, record: dict[str, Any] | None = None, **config: Any) -> Path:
    """Write a record as a run writes it, without outputs."""
    folder = project.runs / run_id
    folder.mkdir(parents=True)
    workflow = load_config(project.config).require_valid()
    settings = {**canonical(workflow), "evaluation": canonical(workflow.evaluation)}
    settings["passes"]["finetune"] |= config
    write_json(folder / "config.json", settings)
    write_json(folder / "environment.json", {"python": "3.11.7", "cores": 1, "versions": {"torch": "2.13.0"}})
    write_json(
        folder / "stages.json", [{"stage": "finetune", "state": "done", "output": "gen-model/adapter", "wall_s": 2.5}]
    )
    if record is not None:
        write_json(folder / "run.json", {"state": "done", "started": "2026-01-01T08:00:00+00:00", **record})
    return folder


def write_evaluation(folder: Path, right: str, task: str = "classification", first_line: int = 1) -> None:
    """Write an evaluation of one model: a row per character of `right`, `1` for a right answer."""
    rows = [
        {
            "file": "datasets/train.jsonl",
            "line": first_line + n,
            "prompt": f"row {first_line + n}",
            "reference": "joy",
            "models": {
                "adapter": {"answer": "joy" if answer == "1" else "fear", "scores": {}, "loss": 0.5, "tokens": 1}
            },
        }
        for n, answer in enumerate(right)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    accuracy = right.count("1") / len(right)
    model = {"name": "adapter", "metrics": {"accuracy": accuracy}, "interval": [0.5, 1.0]}
    model |= {"perplexity": 1.65, "perplexity_interval": None}
    write_json(
        folder / "evaluation.json",
        {"task": task, "rows": len(right), "total_rows": 2 * len(right), "baselines": [], "models": [model]},
    )


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    return make_project()


def test_runs_are_found_by_id_prefix_and_age(project: ProjectFolder) -> None:
    for run_id in (SECOND, THIRD, FIRST):
        write_run(project, run_id)
    assert [run.id for run in read_runs(project)] == [THIRD, SECOND, FIRST]
    names = {"latest": THIRD, "-1": THIRD, "-3": FIRST, "20260102": SECOND, FIRST: FIRST}
    assert {name: find_run(project, name).id for name in names} == names
    before = run_before(find_run(project, SECOND))
    assert before is not None
    assert before.id == FIRST
    assert run_before(find_run(project, FIRST)) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("202601", f"2 runs begin with `202601`; .*{SECOND}, {FIRST}"),
        ("20260102-080000-00002", f"no run is called .* did you mean `{SECOND}`"),
        ("-4", "no run is called `-4`"),
        ("", "no run is called ``"),
    ],
)
def test_an_unknown_run_is_a_usage_error_with_suggestions(project: ProjectFolder, name: str, message: str) -> None:
    for run_id in (FIRST, SECOND, THIRD):
        write_run(project, run_id)
    with pytest.raises(UsageError) as caught:
        find_run(project, name)
    assert re.search(message, f"{caught.value.what}; {caught.value.fix}")


@pytest.mark.parametrize(
    ("record", "files", "state"),
    [
        ({"state": "done"}, [], "done"),
        ({"state": "failed"}, [], "failed"),
        ({"state": "running"}, [], "interrupted"),  # killed: no process holds the lock
        (None, [], "done"),
        (None, ["finetune.error.log"], "failed"),
    ],
)
def test_the_state_of_a_run(
    project: ProjectFolder, record: dict[str, Any] | None, files: list[str], state: str
) -> None:
    folder = write_run(project, FIRST, record)
    for file in files:
        (folder / file).touch()
    assert find_run(project, "latest").state == state


def test_a_damaged_record_hides_no_other_run(project: ProjectFolder, cli: Cli) -> None:
    write_run(project, FIRST, {})
    damaged = write_run(project, SECOND)
    write_json(damaged / "run.json", {"id": SECOND})
    (damaged / "evaluation").mkdir()
    write_json(damaged / "evaluation" / "evaluation.json", {"models": []})
    listed = cli("runs", "list", "--json", "--project", project.root).json["runs"]
    assert [(run["id"], run["state"], run["score"]) for run in listed] == [
        (SECOND, "done", None),
        (FIRST, "done", None),
    ]


def test_a_record_of_an_older_version_is_listed(project: ProjectFolder) -> None:
    write_run(project, FIRST)
    (project.runs / SECOND).mkdir()
    empty, older = read_runs(project)
    assert (older.started[:16], older.wall_s, older.score) == ("2026-01-01T08:00", 2.5, None)
    assert list(older.trainings) == ["finetune"]
    assert older.is_current("finetune") is None
    assert (empty.state, empty.model, empty.evaluations, empty.outputs) == ("interrupted", "", [], {})


def test_scores_have_their_interval_and_rows(project: ProjectFolder) -> None:
    folder = write_run(project, FIRST, {})
    write_evaluation(folder / "evaluation", "1110")
    run = find_run(project, "latest")
    assert run.score == MainScore("adapter", "accuracy", 0.75, (0.5, 1.0), 4, 8)
    assert run.evaluations[0].name == "finetune"
    assert len(run.evaluations[0].rows) == 4


def test_an_output_is_current_until_it_is_replaced_and_a_large_evaluation_is_read_there(project: ProjectFolder) -> None:
    write_evaluation(project.gen_model / "evaluation", "10")
    manifest = seal(project.gen_model / "evaluation", key="k", kind="evaluation", facts={})
    output = {"output": "gen-model/evaluation", "state": "done", "key": "k", "content": manifest.content, "facts": {}}
    write_run(project, FIRST, {"outputs": {"evaluate": output}})
    run = find_run(project, "latest")
    assert run.is_current("evaluate") is True
    assert [evaluation.content["rows"] for evaluation in run.evaluations] == [2]
    write_evaluation(project.gen_model / "evaluation", "111")
    seal(project.gen_model / "evaluation", key="k2", kind="evaluation", facts={})
    replaced = find_run(project, "latest")
    assert replaced.is_current("evaluate") is False
    assert replaced.evaluations == []


def pair(project: ProjectFolder, before: dict[str, Any], after: dict[str, Any]) -> tuple[RecordedRun, RecordedRun]:
    write_run(project, FIRST, before)
    write_run(project, SECOND, after, r=4, lora_dropout=0.1)
    return find_run(project, FIRST), find_run(project, SECOND)


def test_differences_are_settings_versions_data_and_base_model(project: ProjectFolder) -> None:
    def record(sha256: str, base: str, commit: str) -> dict[str, Any]:
        files = [{"file": "datasets/train.jsonl", "sha256": sha256, "size_bytes": 1}]
        return {
            "data": [{"name": "train_data", "files": files}],
            "base_model": {"name": "m", "content": base},
            "git": {"commit": commit, "changed": False},
        }

    before, after = pair(project, record("aa", "b1", "c1"), record("bb", "b1", "c2"))
    environment = {"python": "3.11.7", "cores": 2, "versions": {"torch": "2.14.0", "peft": "1"}}
    write_json(after.folder / "environment.json", environment)
    found = compare_runs(before, after)
    rank = flattened(before.config)["passes.finetune.r"]
    assert found.settings == [
        ValueChange("passes.finetune.r", rank, 4),
        ValueChange("passes.finetune.lora_dropout", flattened(before.config)["passes.finetune.lora_dropout"], 0.1),
    ]
    assert found.data == [
        ValueChange("git commit", "c1", "c2"),
        ValueChange("datasets/train.jsonl", "sha256 aa", "sha256 bb"),
    ]
    assert found.environment == [
        ValueChange("cores", 1, 2),
        ValueChange("torch", "2.13.0", "2.14.0"),
        ValueChange("peft", None, "1"),
    ]


def test_settings_are_flattened_as_set_takes_them() -> None:
    config = {"data_configs": [{"name": "a", "x": {"y": 1}}], "passes": {"p": {"list": [1, 2], "empty": {}}}}
    assert flattened(config) == {
        "data_configs.a.name": "a",
        "data_configs.a.x.y": 1,
        "passes.p.list": [1, 2],
        "passes.p.empty": {},
    }


def test_chosen_settings_are_those_other_than_the_defaults(project: ProjectFolder) -> None:
    write_run(project, FIRST, {}, r=64, alpha=3.0)
    chosen = flattened(chosen_config(find_run(project, FIRST)))
    assert chosen["passes.finetune.alpha"] == 3.0
    assert "passes.finetune.use_rslora" not in chosen


def test_scores_are_compared_on_the_rows_that_both_runs_measured(project: ProjectFolder) -> None:
    before, after = pair(project, {}, {})
    write_evaluation(before.folder / "evaluation", "1" * 2 + "0" * 8 + "1" * 10)
    write_evaluation(after.folder / "evaluation", "0" + "1" * 19, first_line=1)
    (score,) = compare_runs(before, after).scores
    assert score.difference is not None
    assert (score.difference.lost, score.difference.gained, score.shared_rows) == (1, 8, 20)
    assert score.difference.value == pytest.approx(0.35)
    assert score.difference.p == pytest.approx(2 * (1 + 9) / 2**9)  # McNemar, 1 of 9
    assert (score.before.value, score.after.value) == (0.6, 0.95)

    write_evaluation(after.folder / "evaluation", "1" * 20, first_line=11)
    (score,) = compare_runs(before, find_run(project, SECOND)).scores
    assert score.difference is not None
    assert (score.shared_rows, score.difference.lost, score.difference.gained) == (10, 0, 0)

    write_evaluation(after.folder / "evaluation", "1" * 20, first_line=100)
    (score,) = compare_runs(before, find_run(project, SECOND)).scores
    assert (score.shared_rows, score.difference) == (0, None)


def test_differences_of_free_text_are_shown_in_thousandths_of_nats(
    project: ProjectFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier, later = (MainScore("adapter", "perplexity", value, None, 40, 40) for value in (3.0, 2.9))
    difference = Difference(0.021, Interval(0.012, 0.03), 9, 31)
    changed = ScoreChange("finetune", "adapter", earlier, later, 40, difference)
    differences(RunDifferences(*pair(project, {}, {}), [], [], [], [changed]))
    assert "better: +0.021 nats per token (+0.012 to +0.030), 9 lost, 31 gained of 40 rows" in capsys.readouterr().out


def recorded_run(project: ProjectFolder) -> RecordedRun:
    """A record whose inputs are those of the project now."""
    data, hooks = project.root / "datasets" / "train.jsonl", project.config.with_name("hooks.py")
    folder = write_run(
        project,
        FIRST,
        {
            "config": project.shown(project.config),
            "request": {"only": [], "until": "finetune", "nproc": 2},
            "overrides": {"data": {}, "settings": {"passes.finetune.r": "4"}, "on_local": True, "values": {}},
            "data": [{"name": "d", "files": [{"file": "datasets/train.jsonl", "sha256": file_digest(data)}]}],
            "functions": [{"file": "fine-tuning/hooks.py", "sha256": file_digest(hooks)}],
            "outputs": {"finetune": {"output": "gen-model/adapter", "content": "c0", "facts": {"torch_threads": 1}}},
        },
    )
    write_json(folder / "environment.json", {"cores": 1, "versions": {}})
    (folder / "config-files").mkdir()
    shutil.copy(project.config, folder / "config-files")
    return find_run(project, FIRST)


def test_a_reproduction_restores_the_config_as_a_task_with_the_flags_of_the_run(project: ProjectFolder) -> None:
    plan = plan_reproduction(recorded_run(project), Overrides())
    assert plan.mismatches == []
    task = f"reproduce-{FIRST}"
    flags = "--on local --set passes.finetune.r=4 --nproc 2"
    assert plan.command == f"phi-scaffold run --until finetune --task-name {task} {flags}"
    assert plan.project.gen_model == project.root / "gen-model" / task
    written = project.config.with_name(f"{task}.olive-config.json")
    assert not written.exists()
    plan.write()
    assert written.read_bytes() == project.config.read_bytes()
    plan.write()
    written.write_text("{}")
    with pytest.raises(Conflict):
        plan.write()


def test_a_reproduction_names_each_input_that_is_not_that_of_the_run(
    project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recorded_run(project)
    write_json(run.folder / "environment.json", {"cores": 1, "versions": {"numpy": "0.1", "nowhere": "2"}})
    with (project.root / "datasets" / "train.jsonl").open("a") as data:
        data.write("\n")
    project.config.with_name("hooks.py").unlink()
    monkeypatch.setattr("phi_runtime.report.reproduction.usable_cores", lambda: 4)
    text = (run.folder / "config-files" / "olive-config.json").read_text()
    (run.folder / "config-files" / "olive-config.json").write_text(text.replace("{", '{"x": "<secret>", ', 1))
    found = {m.subject: (m.current, m.changes_result) for m in plan_reproduction(run, Overrides()).mismatches}
    assert found.keys() == {
        f"reproduce-{FIRST}.olive-config.json",
        "datasets/train.jsonl",
        "fine-tuning/hooks.py",
        "numpy",
        "nowhere",
        "threads",
    }
    assert found["fine-tuning/hooks.py"] == ("missing", True)
    assert found["datasets/train.jsonl"][1]
    assert found["nowhere"] == ("missing", False)
    assert found["threads"] == ("4", False)


def test_the_command_that_restores_a_file_can_be_copied(project: ProjectFolder) -> None:
    run = recorded_run(project)
    run.record["git"] = {"commit": "0123456789abcdef", "changed": False}
    run.record["functions"] = [{"file": "my data/rows.py", "sha256": "0" * 64}]
    fixes = [m.fix for m in plan_reproduction(run, Overrides()).mismatches if m.subject == "my data/rows.py"]
    assert fixes == ["restore it: git checkout 0123456789ab -- 'my data/rows.py'"]


def test_a_reproduction_says_that_the_threads_of_the_run_changed(project: ProjectFolder) -> None:
    run = recorded_run(project)
    run.record["outputs"]["finetune"]["facts"] |= {"torch_threads": 1, "fewest_threads": 1}
    (found,) = plan_reproduction(run, Overrides()).mismatches
    assert (found.subject, found.changes_result) == ("threads", False)
    assert "--threads" in found.fix


@pytest.mark.parametrize(
    ("here", "recorded", "config", "fix"),
    [
        ("1", "float32", {}, "PHI_SCAFFOLD_BFLOAT16=0"),
        ("0", "bfloat16", {}, "PHI_SCAFFOLD_BFLOAT16=1"),
        ("1", "bfloat16", {}, None),
        ("1", "float32", {"torch_dtype": "float32"}, None),
    ],
)
def test_a_reproduction_names_a_number_type_that_is_not_that_of_the_run(
    project: ProjectFolder,
    monkeypatch: pytest.MonkeyPatch,
    here: str,
    recorded: str,
    config: dict[str, str],
    fix: str | None,
) -> None:
    monkeypatch.setenv("PHI_SCAFFOLD_BFLOAT16", here)
    run = recorded_run(project)
    run.record["outputs"]["finetune"]["facts"]["dtype"] = recorded
    run.config["passes"]["finetune"] |= config
    found = {m.subject: m for m in plan_reproduction(run, Overrides()).mismatches}
    assert ("number type" in found) == bool(fix)
    if fix:
        assert found["number type"].changes_result
        assert fix in found["number type"].fix


def test_an_older_record_is_reproduced_from_its_complete_config(project: ProjectFolder) -> None:
    write_run(project, FIRST, r=2)
    plan = plan_reproduction(find_run(project, FIRST), Overrides())
    assert [m.subject for m in plan.mismatches if m.recorded == "not recorded"] == ["data and base model"]
    plan.write()
    config = load_config(plan.project.config)
    assert config.valid
    assert canonical(config.require_valid())["passes"]["finetune"]["r"] == 2


def test_commands_over_runs(project: ProjectFolder, cli: Cli) -> None:
    before, after = pair(project, {}, {"state": "failed", "failure": {"stage": "merge", "message": "no", "fix": ""}})
    for run in (before, after):
        write_evaluation(run.folder / "evaluation", "1110")
    at = ("--project", project.root)
    listed = cli("runs", "list", *at, "--json").json["runs"]
    assert [(run["id"], run["state"], run["score"]["rows"]) for run in listed] == [
        (SECOND, "failed", 4),
        (FIRST, "done", 4),
    ]
    assert f"{SECOND}" in cli("runs", "list", *at).out
    shown = cli("runs", "show", "-1", *at, "--json").json
    assert (shown["before"], shown["failure"]["stage"]) == (FIRST, "merge")
    assert [change["key"] for change in shown["changes"]] == ["passes.finetune.r", "passes.finetune.lora_dropout"]
    assert "adapter: accuracy 75.0 % (50.0–100.0), 4 of 8 rows" in cli("runs", "show", FIRST, *at).out
    compared = cli("runs", "diff", "-2", "latest", *at)
    assert "no difference seen: +0.0 points" in compared.out
    assert cli("runs", "diff", "-2", "latest", *at, "--json").json["scores"][0]["versus"]["lost"] == 0
    unknown = cli("runs", "show", "nothing", *at)
    assert unknown.code == 2
    assert SECOND in unknown.err


def test_changed_data_is_not_reproduced_without_a_flag(project: ProjectFolder, cli: Cli) -> None:
    recorded_run(project)
    with (project.root / "datasets" / "train.jsonl").open("a") as data:
        data.write("\n")
    planned = cli("runs", "reproduce", "latest", "--dry-run", "--project", project.root, "--json")
    assert [(d["subject"], d["changes_result"]) for d in planned.json["differences"]] == [
        ("datasets/train.jsonl", True)
    ]
    refused = cli("runs", "reproduce", "latest", "--project", project.root)
    assert refused.code == 6
    assert "--allow-differences" in refused.err
    assert not (project.gen_model / f"reproduce-{FIRST}").exists()


@pytest.mark.slow
def test_a_reproduced_run_has_the_same_bytes(project: ProjectFolder, cli: Cli) -> None:
    run_workflow(project, Listener(), until="finetune")
    result = cli("runs", "reproduce", "latest", "--project", project.root, "--json")
    assert result.code == 0, result.err
    (output,) = result.json["outputs"]
    assert (output["stage"], output["same"]) == ("finetune", True)
    assert result.json["differences"] == []
    run = find_run(project, "latest")
    (again,) = compare_outputs(plan_reproduction(run, Overrides()))
    assert again.is_same
    assert run.is_current("finetune") is True
