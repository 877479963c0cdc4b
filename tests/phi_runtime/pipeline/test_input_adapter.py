"""An adapter that exists already (`input_model.adapter_path`) is the start of the chain: merged, exported, measured, trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi_runtime.config.pass_graph import INPUT_ADAPTER, sources
from phi_runtime.config.schema import Pass, Sweep
from phi_runtime.config.schema.registry import pass_types
from phi_runtime.core.artifacts import read_manifest
from phi_runtime.core.errors import ConfigError, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.chat_template import ChatTemplate, load_template
from phi_runtime.passes.input_adapter import InputAdapter
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.session import open_session
from phi_runtime.search.sweep.study import study_inputs
from tests.conftest import Cli, Listener, MakeProject, edit_config, states, weights
from tests.factory import BASES
from tests.phi_runtime.export.tiny_adapters import edit_json, furthest, make_adapter, onnx_logits, peft_logits

Change = Callable[[dict[str, Any]], None]


def without_training(adapter: Path, *, data: bool = True) -> Change:
    """A config that merges and exports the adapter."""

    def change(config: dict[str, Any]) -> None:
        config["input_model"]["adapter_path"] = str(adapter)
        config["passes"].pop("finetune")
        if not data:
            config["data_configs"] = []

    return change


@pytest.fixture
def trained(trained_project: MakeProject) -> ProjectFolder:
    """A project that has trained, merged and exported an adapter."""
    return trained_project("trained")


@pytest.fixture
def moved(trained: ProjectFolder, tmp_path: Path) -> Path:
    """Its adapter, elsewhere."""
    return Path(shutil.copytree(trained.gen_model / "adapter", tmp_path / "elsewhere" / "tone"))


def test_an_adapter_trained_here_and_moved_gives_what_the_chain_that_trained_it_gave(
    trained: ProjectFolder, moved: Path, make_project: MakeProject, cli: Cli
) -> None:
    project = make_project("tiny")
    edit_config(project, without_training(moved))
    outcome = run(project, Listener())
    assert outcome.done == (INPUT_ADAPTER, "merge", "export", "evaluate")
    for name in ("adapter", "merged", "onnx"):
        ours, theirs = project.gen_model / name, trained.gen_model / name
        names = ("tokenizer.json", "prompt_template.json")
        for file in sorted(theirs.rglob("*")):
            if file.suffix in (".safetensors", ".data") or file.name in names:
                assert (ours / file.relative_to(theirs)).read_bytes() == file.read_bytes(), file
    # The builder orders the nodes of a graph differently from process to process.
    assert np.array_equal(onnx_logits(project.gen_model / "onnx"), onnx_logits(trained.gen_model / "onnx"))
    assert outcome.evaluation is not None
    assert [model["name"] for model in outcome.evaluation["models"]] == [*BASES, "adapter", "merged", "onnx-int4"]
    assert outcome.evaluation["rows"] == 60  # nothing is trained, so all rows are test rows
    assert set(states(project).values()) == {"cached"}
    assert run(project, Listener()).done == ()
    answer = cli("generate", "--project", project.root, "--model", "adapter", "--prompt", "a lovely party 3", "--json")
    assert answer.code == 0, answer.err

    checked = cli("data", "check", "--project", project.root, "--json")
    assert checked.code == 0, checked.err
    assert checked.json["datasets"][0]["rows"]["kept"] == 60

    edit_json(moved / "adapter_config.json", lambda c: c.update(lora_alpha=99))
    after = states(project)
    assert after[INPUT_ADAPTER] == "stale"
    assert after["merge"] == "stale"


def test_an_adapter_made_with_peft_is_merged_and_exported_without_any_data(
    make_project: MakeProject, tiny_phi3: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_phi3, tmp_path / "plain", ["qkv_proj", "down_proj"], use_rslora=True)
    project = make_project("tiny")
    edit_config(project, without_training(adapter, data=False))
    listener = Listener()
    outcome = run(project, listener)
    assert outcome.done == (INPUT_ADAPTER, "merge", "export")
    assert outcome.evaluation is None
    assert [e["stage"] for e in listener.of("warning") if "no data config" in e["message"]] == ["evaluate"]
    expected = peft_logits(tiny_phi3, adapter)
    assert furthest(peft_logits(project.gen_model / "merged"), expected) < 1e-4
    assert furthest(peft_logits(tiny_phi3), expected) > 1e-2
    assert (
        json.loads((project.gen_model / "adapter" / "prompt_template.json").read_text(encoding="utf-8"))["prompt"]
        == "{text}"
    )


def test_an_adapter_made_with_peft_is_kept_next_to_the_graph_of_its_base(
    make_project: MakeProject, tiny_phi3: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_phi3, tmp_path / "plain", ["qkv_proj", "down_proj"])
    project = make_project("tiny")

    def change(config: dict[str, Any]) -> None:
        without_training(adapter, data=False)(config)
        config["passes"] = {"export": {"type": "ModelBuilder", "precision": "fp32", "adapters": [INPUT_ADAPTER]}}

    edit_config(project, change)
    assert run(project, Listener()).done == (INPUT_ADAPTER, "export")
    onnx = project.gen_model / "onnx"
    assert furthest(onnx_logits(onnx, INPUT_ADAPTER), peft_logits(tiny_phi3, adapter)) < 1e-3
    assert furthest(onnx_logits(onnx), peft_logits(tiny_phi3)) < 1e-3


def training_on(adapter: Path, **changes: Any) -> Change:
    """A config that trains the adapter further, at a learning rate that changes nothing: every figure is that of the adapter."""

    def change(config: dict[str, Any]) -> None:
        config["input_model"]["adapter_path"] = str(adapter)
        finetune = config["passes"]["finetune"]
        finetune.update(changes)
        finetune["training_args"].update(learning_rate=1e-30, max_steps=1)
        config["passes"] = {"finetune": finetune, "merge": {"type": "MergeAdapterWeights"}}

    return change


@pytest.mark.parametrize("kind", ["LoRA", "QLoRA"])
def test_training_on_starts_at_the_weights_and_the_loss_of_the_adapter(
    kind: str, trained: ProjectFolder, moved: Path, make_project: MakeProject
) -> None:
    if kind == "QLoRA":
        pytest.importorskip("bitsandbytes")
    project = make_project("tiny")
    (project.config.parent / "sweep.yaml").unlink()  # it searches ranks
    edit_config(project, training_on(moved, type=kind))
    outcome = run(project, Listener())
    assert outcome.done == (INPUT_ADAPTER, "finetune", "merge", "evaluate")
    assert weights(project.gen_model / "adapter") == weights(moved)
    assert weights(project.gen_model / INPUT_ADAPTER) == weights(moved)
    assert weights(project.gen_model / "merged") == weights(trained.gen_model / "merged")
    first, then = (read_manifest(p.gen_model / "adapter") for p in (trained, project))
    assert first is not None
    assert then is not None
    if kind == "LoRA":
        assert then.facts["validation_loss"] == pytest.approx(first.facts["validation_loss"], rel=1e-4)
    assert outcome.evaluation is not None
    assert [m["name"] for m in outcome.evaluation["models"]] == [*BASES, INPUT_ADAPTER, "adapter", "merged"]
    by_name = {m["name"]: m for m in outcome.evaluation["models"]}
    assert by_name["adapter"]["perplexity"] == by_name[INPUT_ADAPTER]["perplexity"] != by_name["base"]["perplexity"]


def test_training_on_learns_and_its_output_is_another_adapter(moved: Path, make_project: MakeProject, cli: Cli) -> None:
    project = make_project("tiny")
    (project.config.parent / "sweep.yaml").unlink()
    edit_config(project, training_on(moved))
    edit_config(project, lambda c: c["passes"]["finetune"]["training_args"].update(learning_rate=0.01, max_steps=4))
    dry = cli("run", "--project", project.root, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    assert [(s["name"], s["would_run"]) for s in dry.json["stages"]][1:4] == [
        (INPUT_ADAPTER, True), ("finetune", True), ("merge", True)]  # fmt: skip
    assert dry.json["steps"][0]["stage"] == "finetune"
    assert not (project.gen_model / INPUT_ADAPTER).exists()
    run(project, Listener(), until="merge")
    assert weights(project.gen_model / "adapter") != weights(moved)
    for model in ("adapter", INPUT_ADAPTER, "merged"):
        answer = cli("generate", "--project", project.root, "--model", model, "--prompt", "a lovely party 3", "--json")
        assert answer.code == 0, answer.err


def test_the_adapter_and_what_was_trained_from_it_are_next_to_one_graph_and_on_one_base(
    moved: Path, make_project: MakeProject
) -> None:
    project = make_project("tiny")
    (project.config.parent / "sweep.yaml").unlink()
    both = [INPUT_ADAPTER, "finetune"]

    def change(config: dict[str, Any]) -> None:
        training_on(moved)(config)
        config["passes"]["finetune"]["training_args"].update(learning_rate=0.01, max_steps=2)
        del config["passes"]["merge"]
        config["passes"]["export"] = {"type": "ModelBuilder", "precision": "fp32", "adapters": both}

    edit_config(project, change)
    run(project, Listener(), until="export")
    base, onnx = Path(json.loads(project.config.read_text(encoding="utf-8"))["input_model"]["model_path"]), "onnx"
    for name, folder in zip(both, (INPUT_ADAPTER, "adapter"), strict=True):
        expected = peft_logits(base, project.gen_model / folder)
        assert furthest(onnx_logits(project.gen_model / onnx, name), expected) < 1e-3
    with_base = open_session(project, "base")
    assert set(with_base.generator.adapters) == set(both)


def without_data(make_project: MakeProject, model: Path, folder: Path, template: str) -> tuple[ProjectFolder, Path]:
    """A project without data, on a copy of `model` with a chat template, and its adapter."""
    base = shutil.copytree(model, folder / "base")
    edit_json(base / "tokenizer_config.json", lambda c: c.update(chat_template=template))
    project, adapter = make_project("tiny"), make_adapter(model, folder / "plain", ["qkv_proj"])
    edit_config(project, without_training(adapter, data=False))
    edit_config(project, lambda c: c["input_model"].update(model_path=str(base)))
    return project, adapter


def test_without_data_the_chat_template_of_the_tokenizer_is_that_of_the_adapter(
    make_project: MakeProject, tiny_phi3: Path, tmp_path: Path
) -> None:
    project, adapter = without_data(make_project, tiny_phi3, tmp_path, "{{ messages[0]['content'] }}")
    folder = open_session(project, str(adapter))
    assert folder.generator.encode("a lovely party") == open_session(project, "base").generator.encode("a lovely party")
    run(project, Listener(), until=INPUT_ADAPTER)
    assert isinstance(load_template(project.gen_model / "adapter"), ChatTemplate)
    assert (project.gen_model / "adapter" / "tokenizer.json").is_file()


def test_without_data_the_base_is_prompted_with_the_chat_template_of_its_tokenizer(
    make_project: MakeProject, tiny_phi3: Path, tmp_path: Path
) -> None:
    project, _ = without_data(make_project, tiny_phi3, tmp_path, "<user>{{ messages[0]['content'] }}")
    assert open_session(project, "base").render("a lovely party") == "<user>a lovely party"


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"<|new|>": 600}, "has added tokens"),
        ({"a": 7}, "numbers tokens differently"),
    ],
)
def test_a_tokenizer_of_the_adapter_that_does_not_suit_the_base_is_refused(
    tokens: dict[str, int], message: str, make_project: MakeProject, tiny_phi3: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_phi3, tmp_path / "plain", ["qkv_proj"])
    for file in tiny_phi3.glob("tokenizer*"):
        shutil.copyfile(file, adapter / file.name)

    def change(tokenizer: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        by_number = {number: token for token, number in vocabulary.items()}
        for token, number in tokens.items():
            if number in by_number:
                vocabulary[by_number[number]] = vocabulary[token]
            vocabulary[token] = number

    edit_json(adapter / "tokenizer.json", change)
    project = make_project("tiny")
    edit_config(project, without_training(adapter))
    with pytest.raises(ConfigError, match=message):
        run(project, Listener(), until=INPUT_ADAPTER)


def test_settings_of_a_newer_peft_are_refused_unless_they_are_off(
    make_project: MakeProject, tiny_phi3: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_phi3, tmp_path / "plain", ["qkv_proj"])
    edit_json(adapter / "adapter_config.json", lambda c: c.update(use_next_year=None))
    project = make_project("tiny")
    edit_config(project, without_training(adapter))
    run(project, Listener(), until="merge")
    assert furthest(peft_logits(project.gen_model / "merged"), peft_logits(tiny_phi3, adapter)) < 1e-4
    edit_json(adapter / "adapter_config.json", lambda c: c.update(use_next_year=True))
    with pytest.raises(UsageError, match="use_next_year"):
        run(project, Listener(), until="merge")


def test_another_base_makes_the_merge_stale_though_the_adapter_is_the_same(
    make_project: MakeProject, tiny_phi3: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_phi3, tmp_path / "plain", ["qkv_proj"])
    project = make_project("tiny")
    edit_config(project, without_training(adapter))
    run(project, Listener(), until="merge")
    base = shutil.copytree(tiny_phi3, tmp_path / "base")
    edit_json(base / "generation_config.json", lambda c: c.update(top_k=7))
    edit_config(project, lambda c: c["input_model"].update(model_path=str(base)))
    assert run(project, Listener(), until="merge").done == (INPUT_ADAPTER, "merge")


LORA, TUNED = {"type": "LoRA", "train_data_config": "d"}, {"type": "FullFinetune", "train_data_config": "d"}
MERGE, BUILD = {"type": "MergeAdapterWeights"}, {"type": "ModelBuilder", "precision": "int4"}


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ([MERGE, BUILD], [INPUT_ADAPTER, "0"]),
        ([LORA, MERGE], [INPUT_ADAPTER, "0"]),
        ([LORA, LORA, MERGE], [INPUT_ADAPTER, INPUT_ADAPTER, "1"]),
        ([MERGE, LORA, MERGE], [INPUT_ADAPTER, "0", "1"]),
        ([MERGE, TUNED, BUILD], [INPUT_ADAPTER, "0", "1"]),
        ([TUNED], [None]),
        ([BUILD], [None]),
        ([LORA, {**BUILD, "adapters": ["0", INPUT_ADAPTER]}], [INPUT_ADAPTER, "base"]),
    ],
)
def test_each_pass_starts_from_the_adapter_of_the_input_model(
    passes: list[dict[str, Any]], expected: list[str | None]
) -> None:
    steps: dict[str, Pass] = {INPUT_ADAPTER: InputAdapter(folder=Path("nowhere"))}
    steps |= {str(i): pass_types()[step["type"]].model_validate(step) for i, step in enumerate(passes)}
    found = sources(steps)
    assert found.pop(INPUT_ADAPTER) == "base"
    assert list(found.values()) == expected


def test_a_search_starts_over_with_another_adapter(moved: Path, make_project: MakeProject) -> None:
    project = make_project("tiny")
    (project.config.parent / "sweep.yaml").unlink()
    edit_config(project, training_on(moved))
    space = {"training_args.learning_rate": {"type": "choice", "values": [0.1, 0.2]}}
    sweep = Sweep.model_validate({"search_space": space})
    workflow = load_workflow(project.config)
    before = study_inputs(workflow, project, sweep, "finetune", "validation_loss")
    assert study_inputs(workflow, project, sweep, "finetune", "validation_loss") == before
    edit_json(moved / "adapter_config.json", lambda c: c.update(lora_dropout=0.5))
    assert study_inputs(workflow, project, sweep, "finetune", "validation_loss") != before
