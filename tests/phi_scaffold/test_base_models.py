"""The base model of `new`, as people name it, and whether this machine can train it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from phi_runtime.core.errors import UsageError
from phi_runtime.hardware.machine import Gpu
from phi_runtime.models.stored import PHI3, known_modules
from phi_runtime.pipeline.load import load_workflow
from phi_scaffold.new import fit
from phi_scaffold.new.answers import Answers
from phi_scaffold.new.base_models import base_model, find_base_model, matching_models
from phi_scaffold.new.catalog import catalog, catalog_shape
from phi_scaffold.new.fit import fit_notes
from tests.conftest import Cli, MakeProject, edit_config

MINI, REASONING = "microsoft/Phi-4-mini-instruct", "microsoft/Phi-4-mini-reasoning"
PHI_3 = [f"microsoft/Phi-3-{size}-{length}-instruct" for size in ("mini", "medium") for length in ("4k", "128k")]


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("PHI-4", "microsoft/phi-4"),
        ("phi-1.5", "microsoft/phi-1_5"),
        ("phi4 mini", MINI),
        ("phi-4-mini", MINI),
        ("mini-reasoning", REASONING),
        ("phi3", PHI_3[0]),
        ("Phi-3", PHI_3[0]),
        ("phi 3.5", "microsoft/Phi-3.5-mini-instruct"),
        ("smollm2 135m", "smollm2-135m"),
        ("gemma 3", "google/gemma-3-1b-it"),
        ("https://huggingface.co/microsoft/Phi-4-mini-instruct", MINI),
        ("huggingface.co/microsoft/phi-4/tree/main", "microsoft/phi-4"),
        ("https://hf.co/org/own-model?library=transformers", "org/own-model"),
        ("org/own-model", "org/own-model"),
    ],
)
def test_a_model_has_the_names_that_people_type(name: str, id_: str) -> None:
    assert find_base_model(name) == id_


@pytest.mark.parametrize("name", ["google", "microsoft", "meta", "Meta-Llama", "HuggingFaceTB"])
def test_an_owner_means_all_its_models(name: str) -> None:
    found = matching_models(name)
    assert len(found) > 1
    assert found == [id_ for id_ in catalog().models if id_.casefold().startswith(name.casefold())]


@pytest.mark.parametrize(("name", "ids"), [("Phi-3-mini", PHI_3[:2]), ("qwen9", []), ("", [])])
def test_a_part_of_several_names_is_not_guessed(name: str, ids: list[str]) -> None:
    assert matching_models(name) == ids
    with pytest.raises(UsageError, match="is a part of" if ids else "unknown model") as caught:
        find_base_model(name)
    assert all(id_ in caught.value.fix for id_ in ids)


@pytest.mark.parametrize(
    ("name", "id_", "instead"),
    [
        ("phi-3-small", "microsoft/Phi-3-small-8k-instruct", "microsoft/Phi-3.5-mini-instruct"),
        (
            "microsoft/phi-3-small-128k-instruct",
            "microsoft/Phi-3-small-128k-instruct",
            "microsoft/Phi-3.5-mini-instruct",
        ),
        ("hf.co/microsoft/Phi-3.5-MoE-instruct", "microsoft/Phi-3.5-MoE-instruct", "microsoft/phi-4"),
        ("phi-4-multimodal", "microsoft/Phi-4-multimodal-instruct", MINI),
        ("mini-flash", "microsoft/Phi-4-mini-flash-reasoning", REASONING),
    ],
)
def test_a_model_that_does_not_work_has_a_reason_and_another(cli: Cli, name: str, id_: str, instead: str) -> None:
    for refused in (cli("models", name), cli("new", "p", "--yes", "--model", name)):
        assert refused.code == 2
        assert refused.err.startswith(f"error: {id_} is not supported: it ")
        assert f"help: use {instead}" in refused.err
    assert instead in catalog().models


def test_facts_that_are_not_verified_are_at_the_foot_of_the_table(cli: Cli) -> None:
    foot = cli("models").out.splitlines()[-1]
    assert re.match(
        r"Not verified on the page of the model: license of \d+ models; .*; sizes of microsoft/DialoGPT-medium\.", foot
    )
    assert "Not verified" not in cli("models", "phi-3").out
    assert "page of the model: license. " in cli("models", "llama").out


def test_the_documentation_lists_the_models_that_do_not_work() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = page.partition("## Not in the catalog")[2].partition("\n## ")[0]
    for model in catalog().unsupported:
        assert model.id in rows, model.id


def test_a_family_means_its_usual_model_and_the_others_are_named(cli: Cli, tmp_path: Path) -> None:
    assert matching_models("phi3") == PHI_3
    notes = cli("new", tmp_path / "p", "--model", "phi3", "--yes", "--no-git", "--json").json["notes"]
    assert notes[0] == f"`phi3` is {PHI_3[0]}; others are {', '.join(PHI_3[1:])}"
    notes = cli("new", tmp_path / "q", "--model", PHI_3[0], "--yes", "--no-git", "--json").json["notes"]
    assert not any("others are" in note for note in notes)


@pytest.mark.parametrize("name", ["./none", "../none", "~/none", "/none/at/all", r"C:\models\none"])
def test_a_path_without_a_model_is_not_taken_for_a_name(name: str) -> None:
    with pytest.raises(UsageError, match=r"config\.json"):
        find_base_model(name)


def test_a_folder_is_a_base_model_with_the_facts_of_its_files(
    cli: Cli, tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my model"
    shutil.copytree(tiny_phi3, folder)
    found = base_model(find_base_model("my model"))
    assert found is not None
    assert (found.id, found.context) == (
        str(folder),
        json.loads((folder / "config.json").read_text())["max_position_embeddings"],
    )
    assert cli("new", "p", "--yes", "--no-git", "--model", "my model").code == 0
    config = json.loads((tmp_path / "p" / "fine-tuning" / "olive-config.json").read_text(encoding="utf-8"))
    assert config["input_model"]["model_path"] == str(folder)
    assert cli("validate", tmp_path / "p" / "fine-tuning" / "olive-config.json").code == 0


def test_the_context_of_a_model_in_a_folder_limits_the_sequences(
    cli: Cli, tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_phi3, "base")
    described = json.loads(Path("base/config.json").read_text())
    Path("base/config.json").write_text(json.dumps({**described, "max_position_embeddings": 200}))
    Path("rows.jsonl").write_text(json.dumps({"question": "why " * 300, "answer": "so"}) + "\n")
    assert cli("new", "p", "--yes", "--no-git", "--model", "base", "--data", "rows.jsonl").code == 0
    config = json.loads(Path("p/fine-tuning/olive-config.json").read_text(encoding="utf-8"))
    assert config["data_configs"][0]["pre_process_data_config"]["max_seq_len"] == 200


def test_a_path_with_backslashes_names_the_model_of_the_catalog(make_project: MakeProject) -> None:
    project = make_project()
    edit_config(project, lambda config: config["input_model"].update(model_path=rf"..\model-cache\{PHI_3[0]}"))
    workflow = load_workflow(project.config)
    assert catalog_shape(workflow) == catalog().models[PHI_3[0]].shape
    assert known_modules(workflow.input_model, project.config) == PHI3


def notes(monkeypatch: pytest.MonkeyPatch, memory: float, *cards: Gpu, **answers: str) -> list[str]:
    monkeypatch.setattr(fit, "memory_bytes", lambda: int(memory))
    monkeypatch.setattr(fit, "gpus", lambda: cards)
    chosen = Answers(**{"model": "microsoft/phi-4", **answers})
    return fit_notes(chosen, base_model(chosen.model))


def test_a_method_that_does_not_fit_names_one_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--method qlora" in notes(monkeypatch, 25e9)[0]
    assert notes(monkeypatch, 25e9, method="qlora") == []
    assert "--model smollm2-135m" in notes(monkeypatch, 2.5e9)[0]
    assert notes(monkeypatch, 2.5e9, model="smollm2-135m") == []


def test_the_gpu_of_a_project_for_cuda_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Gpu("Test", int(80e9), int(80e9), 9.0)
    assert "no NVIDIA GPU" in notes(monkeypatch, 500e9, target="cuda")[0]
    assert notes(monkeypatch, 8e9, card, target="cuda") == []
    assert "--method qlora" in notes(monkeypatch, 500e9, Gpu("Small", int(24e9), int(24e9), 8.0), target="cuda")[0]
