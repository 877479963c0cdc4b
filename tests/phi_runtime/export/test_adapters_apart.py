"""Several adapters of one project next to one ONNX model, or merged together: by the config, through the engine."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi_runtime.config.pass_graph import BASE, adapters_of, compared_models, sources, trainings_of, with_ancestors
from phi_runtime.config.schema import Pass
from phi_runtime.core.artifacts import read_manifest
from phi_runtime.core.errors import WorkFailed
from phi_runtime.core.project import ProjectFolder
from phi_runtime.export import build
from phi_runtime.models.onnx_adapters import adapter_file, read_record
from phi_runtime.models.reference import ModelRef
from phi_runtime.passes.lora import LoRA
from phi_runtime.passes.merge_adapter_weights import MergeAdapterWeights
from phi_runtime.passes.model_builder import ModelBuilder
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.model_names import comparison_models
from phi_runtime.pipeline.stage import with_active_adapter
from tests.conftest import Cli, Listener, MakeProject, edit_config, states
from tests.factory import BASES
from tests.phi_runtime.export.tiny_adapters import furthest, onnx_logits, peft_logits

SMALL_GATE = {"tokens": 32}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first project leaves its two adapters for the others."""
    return tmp_path_factory.mktemp("trained") / "gen-model"


@pytest.fixture
def project(make_project: MakeProject, trained: Path) -> ProjectFolder:
    """`tone` and `style` were trained on separate rows, with other ranks and modules; `export` puts both next to one fp32 graph."""
    made = make_project(max_steps=4, eval_steps=4)
    rows = [
        {"text": f"{word} {i}", "style": style}
        for i in range(15)
        for style, word in (("old", "thou art"), ("new", "hey you"))
    ]
    file = made.root / "datasets" / "style.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def change(config: dict[str, Any]) -> None:
        tone = config["passes"]["finetune"]
        data = json.loads(json.dumps(config["data_configs"][0]))
        data["name"] = "style_data"
        data["load_dataset_config"]["data_files"] = "../datasets/style.jsonl"
        data["pre_process_data_config"]["text_template"] = "### Text: {text}\n### The style is:\n{style}"
        config["data_configs"].append(data)
        config["passes"] = {
            "tone": {**tone, "r": 4, "target_modules": ["qkv_proj"]},
            "style": {**tone, "r": 2, "target_modules": ["qkv_proj", "down_proj"], "train_data_config": "style_data"},
            "export": {"type": "ModelBuilder", "precision": "fp32", "adapters": ["tone", "style"], "gate": SMALL_GATE},
        }

    edit_config(made, change)
    if trained.exists():
        shutil.copytree(trained, made.gen_model, dirs_exist_ok=True)
    assert run(made, Listener(), until="style").done == (() if trained.exists() else ("tone", "style"))
    if not trained.exists():
        shutil.copytree(made.gen_model, trained)
    return made


def base_of(project: ProjectFolder) -> Path:
    return Path(json.loads(project.config.read_text(encoding="utf-8"))["input_model"]["model_path"])


def test_two_adapters_share_one_graph_and_each_is_in_its_own_comparison(project: ProjectFolder, cli: Cli) -> None:
    outcome = run(project, Listener())
    assert outcome.done == ("export", "evaluate", "evaluate-style")
    onnx, base = project.gen_model / "onnx", base_of(project)
    assert furthest(onnx_logits(onnx), peft_logits(base)) < 1e-3
    for name, folder in (("tone", "adapter"), ("style", "adapter-style")):
        said = onnx_logits(onnx, name)
        assert furthest(said, peft_logits(base, project.gen_model / folder)) < 1e-3
        assert furthest(said, onnx_logits(onnx)) > 1e-3
        template = onnx / "adapters" / name / "prompt_template.json"
        assert template.read_text() == (project.gen_model / folder / "prompt_template.json").read_text()

    manifest, record = read_manifest(onnx), read_record(onnx)
    assert manifest is not None
    assert record is not None
    assert {name: each["ranks"] for name, each in record.adapters.items()} == {"tone": [4], "style": [2]}
    assert manifest.facts["adapters"]["style"]["quality"]["largest_difference"] < 1e-3
    assert manifest.facts["adapters"]["style"]["content"] == record.adapters["style"]["content"]

    workflow = load_workflow(project.config)
    assert comparison_models(workflow, "style") == {"base": "base", "adapter": "style", "onnx-fp32": "export"}
    evaluation = outcome.evaluation
    assert evaluation is not None
    for found in evaluation["trainings"]:
        by_name = {model["name"]: model for model in found["models"]}
        assert list(by_name) == [*BASES, "adapter", "onnx-fp32"]
        assert by_name["onnx-fp32"]["perplexity"] == pytest.approx(by_name["adapter"]["perplexity"], rel=1e-2)
        assert by_name["base"]["perplexity"] != pytest.approx(by_name["adapter"]["perplexity"], rel=1e-2)
    assert run(project, Listener()).done == ()
    assert "export" in cli("status", "--project", project.root).out


def test_an_adapter_that_is_added_later_or_trained_anew_takes_no_rebuild(
    project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_config(project, lambda c: c["passes"]["export"].update(adapters=["tone"]))
    run(project, Listener(), until="export")
    run(project, Listener(), only=["evaluate"])
    onnx = project.gen_model / "onnx"
    weights, before = (onnx / "model.onnx.data").stat(), onnx_logits(onnx)
    tone = onnx_logits(onnx, "tone")

    def never(*_: Any) -> None:
        raise AssertionError("the builder was called")

    monkeypatch.setattr(build, "build", never)
    edit_config(project, lambda c: c["passes"]["export"].update(adapters=["tone", "style"]))
    listener = Listener()
    assert run(project, listener, until="export").done == (
        "export",
    )  # `style` is on other modules: the graph gets inputs for them
    tried = [e["message"] for e in listener.of("progress") if e.get("message", "").startswith("testing the adapter")]
    assert tried == ["testing the adapter `style`"]
    after = (onnx / "model.onnx.data").stat()
    assert (after.st_mtime_ns, after.st_size) == (weights.st_mtime_ns, weights.st_size)
    assert np.array_equal(onnx_logits(onnx), before)
    assert np.array_equal(onnx_logits(onnx, "tone"), tone)
    assert (
        furthest(onnx_logits(onnx, "style"), peft_logits(base_of(project), project.gen_model / "adapter-style")) < 1e-3
    )
    assert states(project)["evaluate"] == "cached"  # that of `tone`, which did not change

    edit_config(project, lambda c: c["passes"]["style"].update(r=6))
    assert run(project, Listener(), until="export").done == ("style", "export")
    record = read_record(onnx)
    assert record is not None
    assert record.adapters["style"]["ranks"] == [6]
    assert (
        furthest(onnx_logits(onnx, "style"), peft_logits(base_of(project), project.gen_model / "adapter-style")) < 1e-3
    )

    edit_config(project, lambda c: c["passes"]["export"].update(adapters=["style"]))
    assert run(project, Listener(), until="export").done == ("export",)
    assert not adapter_file(onnx, "tone").exists()
    with pytest.raises(WorkFailed, match="the builder was called"):
        run(project, Listener(), until="export", force=["export"])


def test_an_adapter_whose_weights_were_replaced_is_converted_again(project: ProjectFolder) -> None:
    from safetensors.numpy import load_file, save_file

    edit_config(project, lambda c: c["passes"]["export"].update(adapters=["tone", "style"]))
    run(project, Listener(), until="export")
    onnx, style = project.gen_model / "onnx", project.gen_model / "adapter-style"
    before = {name: onnx_logits(onnx, name) for name in ("tone", "style")}
    file = style / "adapter_model.safetensors"
    weights = {name: -values if "lora_A" in name else values for name, values in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    assert read_manifest(style) is not None  # its files have the sizes that it lists
    assert run(project, Listener(), until="export").done == ("export",)
    assert np.array_equal(onnx_logits(onnx, "tone"), before["tone"])
    assert furthest(onnx_logits(onnx, "style"), before["style"]) > 1e-3
    assert furthest(onnx_logits(onnx, "style"), peft_logits(base_of(project), style)) < 1e-3


def test_an_adapter_that_does_not_say_what_it_says_in_peft_fails_the_stage(
    project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi_runtime.models import onnx_adapters

    honest = onnx_adapters.arranged

    def swapped(record: Any, lora: Any) -> Any:
        found = honest(record, lora)
        return {name: (place, values * np.float32(0.5)) for name, (place, values) in found.items()}

    monkeypatch.setattr(onnx_adapters, "arranged", swapped)
    with pytest.raises(WorkFailed, match="the ONNX model with the adapter `tone` is too far from its source"):
        run(project, Listener(), until="export")
    assert not (project.gen_model / "onnx" / "manifest.json").exists()
    assert states(project)["export"] == "failed"


@pytest.mark.slow
def test_a_kill_while_an_adapter_is_added_leaves_what_was_there(project: ProjectFolder) -> None:
    edit_config(project, lambda c: c["passes"]["export"].update(adapters=["tone"]))
    run(project, Listener(), until="export")
    onnx = project.gen_model / "onnx"
    manifest = (onnx / "manifest.json").read_bytes()
    edit_config(project, lambda c: c["passes"]["export"].update(adapters=["tone", "style"]))
    code = (
        "import sys, os, signal, pathlib\n"
        "from phi_runtime.pipeline.engine import run\n"
        "from phi_runtime.core.project import find_project\n"
        "def kill(e):\n"
        "    if e.data.get('message') == 'testing the adapter `style`':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "run(find_project(pathlib.Path(sys.argv[1])), kill, until='export')\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(project.root)], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (onnx / "manifest.json").read_bytes() == manifest
    assert read_manifest(onnx) is not None
    assert sorted(p.name for p in (onnx / "adapters").iterdir()) == ["tone", "tone.onnx_adapter"]
    assert run(project, Listener(), until="export").done == ("export",)
    assert (
        furthest(onnx_logits(onnx, "style"), peft_logits(base_of(project), project.gen_model / "adapter-style")) < 1e-3
    )


def test_two_adapters_merged_together_say_what_both_say_at_once_and_are_in_both_comparisons(
    project: ProjectFolder,
) -> None:
    def change(config: dict[str, Any]) -> None:
        config["passes"].pop("export")
        config["passes"]["both"] = {"type": "MergeAdapterWeights", "adapters": ["tone", "style"]}

    edit_config(project, change)
    outcome = run(project, Listener())
    merged = project.gen_model / "merged"
    expected = peft_logits(base_of(project), project.gen_model / "adapter", project.gen_model / "adapter-style")
    assert furthest(peft_logits(merged), expected) < 1e-4
    assert furthest(expected, peft_logits(base_of(project), project.gen_model / "adapter-style")) > 1e-3
    manifest = read_manifest(merged)
    assert manifest is not None
    assert manifest.facts["adapters"] == ["tone", "style"]
    assert outcome.evaluation is not None
    assert [[r["name"] for r in e["models"]] for e in outcome.evaluation["trainings"]] == [
        [*BASES, "adapter", "merged"]
    ] * 2


def test_what_takes_several_adapters_starts_from_the_base_that_they_share() -> None:
    lora = LoRA(type="LoRA", train_data_config="d")
    passes: dict[str, Pass] = {
        "tone": lora,
        "style": lora,
        "apart": ModelBuilder(type="ModelBuilder", precision="int4", adapters=["tone", "style"]),
        "both": MergeAdapterWeights(type="MergeAdapterWeights", adapters=["style", "tone"]),
        "one": ModelBuilder(type="ModelBuilder", precision="int4"),
        "last": MergeAdapterWeights(type="MergeAdapterWeights"),
    }
    assert sources(passes) == {"tone": BASE, "style": BASE, "apart": BASE, "both": BASE, "one": "both", "last": None}
    assert adapters_of(passes, "apart") == ("tone", "style")
    assert trainings_of(passes, "one") == ("style", "tone")
    assert with_ancestors(passes, "one") == {"tone", "style", "both", "one"}
    assert with_ancestors(passes, "apart") == {"tone", "style", "apart"}
    assert compared_models(passes, "tone") == [BASE, "tone", "apart", "both", "one"]
    del passes["both"]  # which has taken both
    del passes["one"]
    assert sources(passes)["last"] == "style"  # an adapter next to a graph can still be merged


def test_the_ref_in_a_comparison_names_the_adapter_and_keeps_its_key_when_another_comes(
    project: ProjectFolder, tmp_path: Path
) -> None:
    from phi_runtime.core.artifacts import seal

    workflow = load_workflow(project.config)
    keys = []
    for style in ("one", "other"):
        folder = tmp_path / style
        folder.mkdir()
        adapters = {"tone": {"content": "t"}, "style": {"content": style}}
        manifest = seal(folder, key="k", kind="onnx", facts={"graph": "g", "adapters": adapters})
        ref = ModelRef(folder, "onnx", manifest.content + style)
        found = {name: with_active_adapter(workflow, name, "export", ref) for name in ("tone", "style")}
        assert {name: each.adapter for name, each in found.items()} == {"tone": "tone", "style": "style"}
        keys.append({name: each.key for name, each in found.items()})
    assert keys[0]["tone"] == keys[1]["tone"]
    assert keys[0]["style"] != keys[1]["style"]
