"""Several adapters in one project: as passes of one config, and as tasks of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from phi_runtime.config.pass_graph import compared_models, sources, training_of, with_ancestors
from phi_runtime.config.schema import Pass
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import ProjectFolder, for_task
from phi_runtime.passes.full_finetune import FullFinetune
from phi_runtime.passes.lora import LoRA
from phi_runtime.passes.merge_adapter_weights import MergeAdapterWeights
from phi_runtime.passes.model_builder import ModelBuilder
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_config, load_workflow
from phi_runtime.pipeline.model_names import comparison_models
from phi_runtime.pipeline.plan import plan
from phi_runtime.pipeline.session import open_session
from tests.conftest import Cli, Listener, MakeProject, edit_config, states, weights, write_rows
from tests.factory import BASES


def steps(text: str) -> dict[str, Pass]:
    """Passes from `tone: LoRA, merge: MergeAdapterWeights`."""
    made: dict[str, Pass] = {
        "LoRA": LoRA(type="LoRA", train_data_config="d"),
        "FullFinetune": FullFinetune(type="FullFinetune", train_data_config="d"),
        "Merge": MergeAdapterWeights(type="MergeAdapterWeights"),
        "Build": ModelBuilder(type="ModelBuilder", precision="int4"),
    }
    return {name: made[kind] for name, kind in (part.split(": ") for part in text.split(", "))}


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ("lora: LoRA, merge: Merge, build: Build", ["base", "lora", "merge"]),
        ("full: FullFinetune, build: Build", ["base", "full"]),
        (
            "a: LoRA, b: LoRA, merge: Merge, build: Build",
            ["base", "base", "b", "merge"],
        ),  # an adapter is an end by itself
        ("a: LoRA, full: FullFinetune, merge: Merge", ["base", "base", "a"]),
        ("a: LoRA, merge: Merge, b: LoRA, both: Merge", ["base", "a", "merge", "b"]),  # goes on from a full model
        ("full: FullFinetune, a: LoRA, merge: Merge", ["base", "full", "a"]),
        ("a: LoRA, b: LoRA, merge: Merge, again: Merge", ["base", "base", "b", None]),
        ("a: LoRA, build: Build", ["base", None]),
        ("a: LoRA, merge: Merge, build: Build, b: LoRA", ["base", "a", "merge", None]),  # from the base, or from merge?
        ("merge: Merge, a: LoRA", [None, None]),
    ],
)
def test_each_pass_takes_what_a_reader_from_top_to_bottom_expects(passes: str, expected: list[str | None]) -> None:
    found = list(sources(steps(passes)).values())
    until = expected.index(None) + 1 if None in expected else len(expected)
    assert found[:until] == expected[:until]


def test_what_is_measured_of_each_training_is_what_was_made_of_it() -> None:
    apart = steps("tone: LoRA, style: LoRA, merge: Merge, build: Build")
    assert compared_models(apart, "tone") == ["base", "tone"]
    assert compared_models(apart, "style") == ["base", "style", "merge", "build"]
    assert with_ancestors(apart, "build") == {"style", "merge", "build"}
    upon = steps("tone: LoRA, merge: Merge, style: LoRA, both: Merge")
    assert compared_models(upon, "tone") == ["base", "tone", "merge"]
    assert compared_models(upon, "style") == ["base", "merge", "style", "both"]
    assert [training_of(upon, name) for name in upon] == ["tone", "tone", "style", "style"]


STYLES = {"old": ["thou art {}", "whither goest thou {}"], "new": ["hey you {}", "where to {}"]}


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    """Two adapters, each on data of its own: `tone` says joy or fear, `style` says old or new; `style` is merged."""
    made = make_project(max_steps=8, eval_steps=8)
    rows = [
        {"text": patterns[i % len(patterns)].format(i), "style": style}
        for i in range(20)
        for style, patterns in STYLES.items()
    ]
    file = made.root / "datasets" / "style.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def change(config: dict[str, Any]) -> None:
        config["passes"].pop("export")
        tone, merge = config["passes"].pop("finetune"), config["passes"].pop("merge")
        data = json.loads(json.dumps(config["data_configs"][0]))
        data["name"] = "style_data"
        data["load_dataset_config"]["data_files"] = "../datasets/style.jsonl"
        data["pre_process_data_config"]["text_template"] = "### Text: {text}\n### The style is:\n{style}"
        config["data_configs"].append(data)
        config["passes"] = {"tone": tone, "style": {**tone, "train_data_config": "style_data"}, "merge": merge}

    edit_config(made, change)
    return made


@pytest.fixture
def finished(project: ProjectFolder, shared: Path) -> ProjectFolder:
    """The project after a run, which happens once a session: two adapters with their own evaluations."""
    original = shared / "two adapters" / project.root.name
    with FileLock(shared / "two adapters.lock"):
        if not original.exists():
            of_passes = {"style": {"task": "generation", "max_rows": 5}}
            settings = {"task": "classification", "max_new_tokens": 2, "passes": of_passes}
            project.config.with_name("evaluation.json").write_text(json.dumps(settings))
            assert run(project, Listener()).done == ("tone", "style", "merge", "evaluate", "evaluate-style")
            shutil.copytree(project.root, original)
            return project
    shutil.rmtree(project.root)
    shutil.copytree(original, project.root)
    return project


def test_each_adapter_is_trained_on_its_own_data(finished: ProjectFolder) -> None:
    tone, style = finished.gen_model / "adapter", finished.gen_model / "adapter-style"
    assert weights(tone) != weights(style)
    assert "The tone is" in (tone / "prompt_template.json").read_text()
    for folder in (style, finished.gen_model / "merged"):
        assert "The style is" in (folder / "prompt_template.json").read_text()


def test_each_adapter_has_its_own_evaluation_and_the_first_is_that_of_the_run(
    finished: ProjectFolder, cli: Cli
) -> None:
    outcome = run(finished, Listener())
    assert outcome.done == ()
    evaluation = outcome.evaluation
    assert evaluation is not None
    of_tone, of_style = evaluation["trainings"]
    assert {key: evaluation[key] for key in ("task", "rows", "models")} == {
        key: of_tone[key] for key in ("task", "rows", "models")
    }
    assert (of_tone["name"], of_tone["task"], of_tone["rows"]) == ("tone", "classification", 12)
    assert (of_style["name"], of_style["task"], of_style["rows"]) == ("style", "generation", 5)
    assert [model["name"] for model in of_tone["models"]] == [*BASES, "adapter"]
    assert [model["name"] for model in of_style["models"]] == ["base", "base, few-shot", "adapter", "merged"]
    assert "accuracy" in of_tone["models"][0]["metrics"]
    assert "accuracy" not in of_style["models"][0]["metrics"]
    for training in (of_tone, of_style):
        perplexities = {model["name"]: model["perplexity"] for model in training["models"]}
        assert perplexities["adapter"] < perplexities["base"]
    listed = cli("evaluate", "--project", finished.root).out
    assert "12 of 12 validation rows of `tone`" in listed
    assert "5 of 8 validation rows of `style`" in listed


def test_commands_name_the_passes_of_several_adapters(finished: ProjectFolder, cli: Cli) -> None:
    assert cli("evaluate", "--json", "--model", "merged", "--project", finished.root).json["name"] == "style"
    outputs = {s["name"]: s["output"] for s in cli("status", "--json", "--project", finished.root).json["stages"]}
    assert outputs["evaluate-style"] == "gen-model/evaluation-style"
    checked = cli("data", "check", "--pass", "style", "--json", "--project", finished.root).json
    assert checked["datasets"][0]["name"] == "style_data"
    assert cli("data", "check", "--pass", "merge", "--project", finished.root).code == 2


def test_a_change_for_one_adapter_leaves_the_other_cached(finished: ProjectFolder, cli: Cli) -> None:
    write_rows(finished.root / "datasets" / "train.jsonl", 64)
    assert states(finished) == {
        "fetch": "cached",
        "tone": "stale",
        "style": "cached",
        "merge": "cached",
        "evaluate": "stale",
        "evaluate-style": "cached",
    }
    rows = cli("run", "--dry-run", "--json", "--project", finished.root).json["stages"]
    assert [r["name"] for r in rows if r["would_run"]] == ["tone", "evaluate"]
    assert run(finished, Listener(), only=["style"]).done == ()
    assert run(finished, Listener()).done == ("tone", "evaluate")


def test_each_model_is_opened_by_kind_folder_or_pass(finished: ProjectFolder, cli: Cli) -> None:
    tone, style = finished.gen_model / "adapter", finished.gen_model / "adapter-style"
    for name, folder, prompt in (
        ("adapter", tone, "The tone is"),
        ("tone", tone, "The tone is"),
        ("style", style, "The style is"),
        ("adapter-style", style, "The style is"),
        ("merge", finished.gen_model / "merged", "The style is"),
        (None, finished.gen_model / "merged", "The style is"),
    ):
        session = open_session(finished, name)
        assert session.path == folder
        assert prompt in session.render("hey you")
    refused = cli("chat", "--model", "adapter-stile", "--project", finished.root)
    assert refused.code == 2
    assert "did you mean `adapter-style`?" in refused.err
    assert "choose one of base, adapter (tone), adapter-style (style), merged (merge)" in refused.err


def test_an_adapter_upon_a_merged_one_is_compared_with_its_source(project: ProjectFolder) -> None:
    def change(config: dict[str, Any]) -> None:
        passes = config["passes"]
        merge = passes["merge"]
        config["passes"] = {"tone": passes["tone"], "merge": merge, "style": passes["style"], "both": merge}

    edit_config(project, change)
    run(project, Listener(), until="both")
    models = comparison_models(load_workflow(project.config), "style")
    assert models == {"base": "base", "merged": "merge", "adapter": "style", "merged-both": "both"}
    assert (project.gen_model / "merged-both" / "config.json").is_file()
    base = json.loads((project.gen_model / "adapter-style" / "adapter_config.json").read_text())
    assert base["base_model_name_or_path"] == str(project.gen_model / "merged")


def test_a_pass_in_evaluation_json_that_does_not_train_is_said(project: ProjectFolder, cli: Cli) -> None:
    project.config.with_name("evaluation.json").write_text('{"passes": {"stile": {"task": "chat"}}}')
    checked = load_config(project.config)
    assert checked.valid
    warned = next(f for f in checked.findings if f.rule == "unknown-reference")
    assert (warned.where.line, "stile" in warned.message, "tone, style" in warned.message) == (1, True, True)
    assert "stile" in cli("run", "--until", "fetch", "--project", project.root).err


def test_two_tasks_have_models_and_runs_of_their_own_and_share_the_tokens(make_project: MakeProject, cli: Cli) -> None:
    project = make_project(max_steps=4)
    outcome = run(project, Listener(), until="finetune")
    other = project.config.with_name("shout.olive-config.json")
    other.write_text(project.config.read_text(encoding="utf-8"), encoding="utf-8")
    other.with_name("shout.evaluation.json").write_text('{"task": "generation", "max_rows": 3}')
    shout = for_task(project, "shout")
    assert (shout.config, shout.gen_model) == (other, project.gen_model / "shout")
    edit_config(shout, lambda c: c["passes"]["finetune"].update(r=4))

    before = sorted(p for p in project.gen_model.rglob("*") if "shout" not in p.parts and not p.name.endswith(".lock"))
    assert cli("run", "--until", "merge", "--task-name", "shout", "--project", project.root).code == 0
    after = sorted(p for p in project.gen_model.rglob("*") if "shout" not in p.parts and not p.name.endswith(".lock"))
    assert after == before
    assert not (shout.gen_model / ".data").exists()
    assert json.loads((shout.gen_model / "adapter" / "adapter_config.json").read_text())["r"] == 4
    assert (shout.gen_model / "merged" / "config.json").is_file()
    assert not (project.gen_model / "merged" / "config.json").is_file()
    assert outcome.run_folder is not None
    assert outcome.run_folder.parent == project.gen_model / "runs"
    assert len(list((shout.gen_model / "runs").iterdir())) == 1

    assert states(project)["finetune"] == "cached"
    assert states(project)["merge"] == "missing"
    assert load_workflow(shout.config).evaluation.max_rows == 3
    said = cli("status", "--json", "--task-name", "shout", "--project", project.root).json["stages"]
    assert {s["name"]: (s["state"], s["output"]) for s in said}["merge"] == ("cached", "gen-model/shout/merged")
    assert cli("status", "--json", "--project", project.root).json["tasks"] == ["shout"]
    assert "with --task-name: shout" in cli("status", "--project", project.root).out
    answer = cli(
        "generate", "--prompt", "a lovely party", "--model", "merge", "--max-new-tokens", "2", "--json",
        "--task-name", "shout", "--project", project.root,
    )  # fmt: skip
    assert answer.json["model"] == "merge"
    assert open_session(project, None).path == project.gen_model / "adapter"


def test_a_task_without_a_config_of_its_own_takes_that_of_the_project(make_project: MakeProject) -> None:
    project = make_project()
    assert for_task(project, "other").config == project.config
    other = project.config.with_name("other.olive-config.json")
    other.write_text("{}")
    assert for_task(project, "other").config == other
    assert for_task(project, "other", config_given=True).config == project.config


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", ".data", "adapter", "Merged", "onnx-2", "evaluation-style", "runs", "con"]
)
def test_a_task_cannot_take_the_name_of_another_folder_in_gen_model(make_project: MakeProject, name: str) -> None:
    with pytest.raises(UsageError, match="is not a valid task name"):
        for_task(make_project(), name)


def test_two_tasks_may_run_at_once(make_project: MakeProject) -> None:
    from phi_runtime.core.locks import exclusive

    project = make_project()
    other = for_task(project, "other")
    with exclusive(project.run_lock):
        assert run(other, Listener(), until="finetune").done == ("finetune",)


def interrupted(project: ProjectFolder, steps: int) -> None:
    """Leaves the training as a run does that was stopped after `steps` steps."""
    from phi_runtime.core.errors import Interrupted
    from phi_runtime.core.events import Event

    def stop(event: Event) -> None:
        if event.event == "progress" and event.data.get("unit") == "steps" and event.data["done"] > steps:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(project, stop, until="finetune")


def add_hook(project: ProjectFolder, function: str) -> None:
    file = project.config.with_name("hooks.py")
    file.write_text(file.read_text(encoding="utf-8") + f"\n\n{function}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: edit_config(p, lambda c: c["passes"]["finetune"].update(alpha=8)), "alpha: 32.0 → 8.0"),
        (lambda p: write_rows(p.root / "datasets" / "train.jsonl", 64), "the data changed"),
        (lambda p: add_hook(p, "def filter(row):\n    return True"), "the functions over the rows changed"),
        (lambda p: add_hook(p, "def metrics(said, references):\n    return {'n': len(said)}"), "hooks.py changed"),
    ],
)
def test_an_interrupted_training_whose_inputs_changed_starts_over_and_says_why(
    make_project: MakeProject, change: Any, why: str
) -> None:
    project = make_project(max_steps=6, save_steps=2)
    interrupted(project, 4)
    assert status_of(project, "finetune") == "interrupted; `phi-scaffold run` resumes"
    change(project)
    said = f"interrupted at step 4; cannot resume because {why}"
    assert status_of(project, "finetune") == f"{said}; `phi-scaffold run` starts over"

    listener = Listener()
    run(project, listener, until="finetune")
    warned = [w["message"] for w in listener.of("warning") if w["stage"] == "finetune"]
    assert [w for w in warned if w.startswith(f"{said}; starting over")]
    assert not any("going on" in e.get("message", "") for e in listener.of("progress"))
    assert not list((project.gen_model / ".work").iterdir())
    quiet = Listener()
    run(project, quiet, until="finetune")
    assert not quiet.of("warning")


def test_a_change_that_is_undone_lets_the_interrupted_training_go_on(make_project: MakeProject) -> None:
    project = make_project(max_steps=8, save_steps=2)
    interrupted(project, 4)
    edit_config(project, lambda c: c["passes"]["finetune"].update(alpha=8))
    interrupted(project, 2)
    edit_config(project, lambda c: c["passes"]["finetune"].update(alpha=32))
    listener = Listener()
    run(project, listener, until="finetune")
    assert any(e.get("message") == "resuming from step 4" for e in listener.of("progress"))


def test_another_tokenizer_and_another_template_are_named(make_project: MakeProject, tmp_path: Path) -> None:
    import shutil

    project = make_project(max_steps=6, save_steps=2)
    config = json.loads(project.config.read_text(encoding="utf-8"))
    own = tmp_path / "own-model"
    shutil.copytree(config["input_model"]["model_path"], own)
    edit_config(project, lambda c: c["input_model"].update(model_path=str(own)))
    interrupted(project, 4)
    settings = own / "tokenizer_config.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps({**content, "chat_template": "{{ messages }}"}), encoding="utf-8")
    long = "### Text: {phrase}\n### The tone of this text, in one word, is as follows:\n{tone}"
    process = "pre_process_data_config"
    edit_config(project, lambda c: c["data_configs"][0][process].update(text_template=long))
    why = status_of(project, "finetune")
    assert "its input model changed (with its tokenizer); text_template changed" in why


def status_of(project: ProjectFolder, name: str) -> str:
    return next(s.why for s in plan(load_workflow(project.config), project) if s.name == name)
