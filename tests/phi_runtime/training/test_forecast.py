"""What a training stage will take of this machine, and the settings that make it fit, from the config alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.project import ProjectFolder
from phi_runtime.hardware.machine import Gpu
from phi_runtime.models.memory import estimate
from phi_runtime.models.place import base_model_path
from phi_runtime.models.shape import shape_of
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_config, load_workflow
from phi_runtime.training import forecast as forecasting
from phi_runtime.training.forecast import Forecast, check_fits, disk_bytes, forecast, job_of
from tests.conftest import Listener, MakeProject, edit_config
from tests.phi_runtime.training.test_methods import step_of


def foretold(project: ProjectFolder) -> Forecast:
    found = forecast(load_workflow(project.config), project, "finetune")
    assert found is not None
    return found


def with_free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Has this machine `count` bytes free."""
    monkeypatch.setattr(forecasting, "available_bytes", lambda: count)


@pytest.mark.parametrize(
    ("type_", "options"),
    [
        ("LoRA", {"r": 8}),
        ("LoRA", {"r": 4, "target_modules": ["all-linear"], "modules_to_save": ["lm_head"]}),
        ("DoRA", {"r": 8}),
        ("LoHa", {"r": 8}),
        ("LoKr", {"r": 2}),
        ("IA3", {}),
        ("PEANuT", {"r": 8}),
        ("PromptTuning", {"num_virtual_tokens": 7}),
    ],
)
def test_the_trained_weights_are_those_that_peft_makes(
    make_project: MakeProject, type_: str, options: dict[str, Any]
) -> None:
    from phi_runtime.models.fetch import present
    from phi_runtime.models.load import load_model

    project = make_project()

    def change(config: dict[str, Any]) -> None:
        old = config["passes"]["finetune"]
        kept = {key: old[key] for key in ("train_data_config", "training_args")}
        config["passes"] = {"finetune": {"type": type_, **kept, **options}}

    edit_config(project, change)
    (project.root / "fine-tuning" / "sweep.yaml").unlink()  # of keys that not all of them have
    workflow = load_workflow(project.config)
    step, source = workflow.passes["finetune"], present(workflow.input_model, project)
    assert source
    shape = shape_of(base_model_path(workflow.input_model, project))
    assert shape
    job = job_of(workflow.trainings["finetune"], shape, 16)
    model = step.with_adapter(load_model(source, "auto"))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert job.adapter + job.saved == pytest.approx(trained, rel=0.25 if type_ == "LoKr" else 0)


def test_modules_with_the_name_of_one_of_the_attention_are_counted_as_peft_adapts_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1}
    base = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model("gpt2", **sizes))
    base.save_pretrained(tmp_path)
    shape, step = shape_of(tmp_path), step_of("LoRA")
    assert shape
    weights = dict(step.with_adapter(base).named_parameters())
    assert any("mlp.c_proj.lora_A" in name for name in weights)
    assert job_of(step, shape, 16).adapter == sum(w.numel() for w in weights.values() if w.requires_grad)


def test_rows_are_as_long_as_may_be_until_they_were_tokenised(make_project: MakeProject) -> None:
    project = make_project(max_steps=1)
    before = foretold(project)
    assert not before.longest
    run(project, Listener(), until="finetune")
    after = foretold(project)
    assert after.longest
    assert after.job.tokens < before.job.tokens
    data = project.root / "datasets" / "train.jsonl"
    os.utime(data, (data.stat().st_atime, data.stat().st_mtime + 3600))
    assert not foretold(project).longest, "the data changed since"


def test_what_does_not_fit_is_told_with_settings_that_the_config_takes(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(per_device_train_batch_size=32)
    found = foretold(project)
    assert found.fits is True
    assert check_fits(load_workflow(project.config), project, "finetune") is None

    with_free(monkeypatch, found.estimate.total_bytes - 1)
    short = foretold(project)
    assert short.fits is False
    assert short.settings["passes.finetune.training_args.per_device_train_batch_size"] == 16
    assert short.settings["passes.finetune.training_args.gradient_accumulation_steps"] == 2
    assert "per_device_train_batch_size to 16" in short.advice
    warning = check_fits(load_workflow(project.config), project, "finetune")
    assert warning
    assert short.advice in warning

    def change(config: dict[str, Any]) -> None:
        for key, value in short.settings.items():
            part: Any = config
            *way, last = key.split(".")
            for name in way:
                part = next(d for d in part if d["name"] == name) if isinstance(part, list) else part[name]
            part[last] = value

    edit_config(project, change)
    assert load_config(project.config).valid
    assert foretold(project).fits is True


def test_a_full_fine_tuning_that_never_fits_is_told_to_be_a_lora(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(method="full", passes={"finetune": {"torch_dtype": "float32"}})
    shape = shape_of(base_model_path(load_workflow(project.config).input_model, project))
    assert shape
    small = replace(foretold(project).job, batch=1, evaluation_batch=1, tokens=128)
    least = min(estimate(shape, replace(small, checkpointing=c)).total_bytes for c in (False, True))
    with_free(monkeypatch, least - 1)
    warning = check_fits(load_workflow(project.config), project, "finetune")
    assert warning
    assert 'passes.finetune.type to "LoRA"' in warning
    assert "MergeAdapterWeights" in warning


def test_where_nothing_fits_a_smaller_model_is_the_way(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    with_free(monkeypatch, 1000)
    assert foretold(project).fit is None
    assert "smaller base model" in str(check_fits(load_workflow(project.config), project, "finetune"))


@pytest.mark.parametrize(
    ("device_map", "processes", "cards"), [("auto", 1, 2), ("current_device", 1, 1), ("auto", 2, 1)]
)
def test_a_model_that_exceeds_one_gpu_has_the_memory_of_all_if_it_is_spread_over_them(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, device_map: str, processes: int, cards: int
) -> None:
    project = make_project(method="full", passes={"finetune": {"device_map": device_map}})
    accelerator = {"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}
    edit_config(project, lambda config: config["systems"][config["host"]].update(accelerators=[accelerator]))
    workflow = load_workflow(project.config)
    shape = shape_of(base_model_path(workflow.input_model, project))
    assert shape
    size = 16 * shape.parameters
    for memory_bytes, used in ((size, cards), (2 * size, 1)):
        monkeypatch.setattr(forecasting, "gpus", lambda size=memory_bytes: [Gpu("", size, size - 1, 9.0)] * 2)
        found = forecast(workflow, project, "finetune", processes=processes)
        assert found
        assert found.available_bytes == used * (memory_bytes - 1)


def test_a_run_warns_once_of_a_training_that_is_not_likely_to_fit(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(max_steps=1)
    foretold_bytes = foretold(project).estimate.total_bytes
    with_free(monkeypatch, foretold_bytes // 100)
    listener = Listener()
    run(project, listener, until="finetune")
    warned = [w for w in listener.of("warning") if "likely to run out of memory" in w["message"]]
    assert [w["stage"] for w in warned] == ["finetune"]


def test_a_model_of_which_nothing_is_known_has_no_forecast(make_project: MakeProject) -> None:
    project = make_project()
    edit_config(project, lambda config: config["input_model"].update(model_path="../model-cache/org/unknown"))
    workflow = load_workflow(project.config)
    assert forecast(workflow, project, "finetune") is None
    assert check_fits(workflow, project, "finetune") is None


def test_the_disk_holds_what_each_stage_leaves(make_project: MakeProject) -> None:
    project = make_project(max_steps=1)
    workflow = load_workflow(project.config)
    shape = shape_of(base_model_path(workflow.input_model, project))
    assert shape
    foretold_bytes = disk_bytes(workflow, project, shape)
    run(project, Listener(), until="merge")
    files = ("adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json")
    adapter = [(project.gen_model / "adapter" / name).stat().st_size for name in files]
    assert foretold_bytes["finetune"] == pytest.approx(sum(adapter), rel=0.1)
    merged = sum(file.stat().st_size for file in (project.gen_model / "merged").iterdir())
    assert foretold_bytes["merge"] == pytest.approx(merged, rel=0.1)
    assert foretold_bytes["checkpoints"] == pytest.approx(2 * 3 * adapter[0], rel=0.1)
