"""The estimate of memory: its parts are those of the formulas, it grows as it must, and what it proposes fits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from phi_runtime.models import memory
from phi_runtime.models.memory import (
    FIXED_CPU_BYTES,
    FIXED_GPU_BYTES,
    NEW_PROJECT_IN_8_BITS,
    TrainingJob,
    estimate,
    inference_bytes,
    longest_that_fits,
    onnx_bytes,
    what_fits,
    with_lora,
)
from phi_runtime.models.shape import Shape, assembled, shape_of
from phi_runtime.passes.lora import LoRA

# Phi-3-mini's: q, k, v and gate, up in one matrix each, embedding and head apart
SMOL = assembled(  # SmolLM2-135M's weights as a Phi-3
    parameters=134_515_008,
    hidden=576,
    intermediate=1536,
    layers=30,
    vocabulary=49152,
    heads=9,
    kv_heads=3,
    tied=True,
    fused=True,
    gated=True,
)
MINI = assembled(
    parameters=3_821_079_552,
    hidden=3072,
    intermediate=8192,
    layers=32,
    vocabulary=32064,
    heads=32,
    kv_heads=32,
    tied=False,
    fused=True,
    gated=True,
)
LORA = with_lora(TrainingJob("lora", 1, 2048, device="gpu"), MINI.targets(None, all_linear=False), rank=16)
FULL = TrainingJob("full", 1, 2048, device="gpu", accumulation=2)


def test_the_assembled_shape_has_the_parameters_of_the_model() -> None:
    norms = 2 * 32 * 3072 + 3072
    assert MINI.linear_parameters + MINI.embeddings + norms == MINI.parameters


def test_only_layers_from_the_first_adapted_one_on_keep_activations() -> None:
    step = LoRA.model_validate({"type": "LoRA", "train_data_config": "rows", "r": 16, "layers": "upper-third"})
    job = step.memory_job(TrainingJob("lora", 1, 2048, device="gpu", checkpointing=False), MINI)
    assert job.frozen_layers == 21
    assert 32 * job.adapter == 11 * LORA.adapter
    everything = estimate(MINI, replace(LORA, checkpointing=False))
    assert estimate(MINI, job).activations < 0.4 * everything.activations


def test_a_lora_holds_the_base_once_and_sixteen_bytes_for_each_weight_of_its_own() -> None:
    adapter = 32 * 16 * ((3072 + 3 * 3072) + (3072 + 3072))
    found = estimate(MINI, replace(LORA, accumulation=2))
    assert found.weights == 2 * MINI.parameters
    assert (found.adapter, found.gradients, found.optimizer) == (4 * adapter, 4 * adapter, 8 * adapter)
    assert found.fixed == FIXED_GPU_BYTES
    assert found.total_bytes == sum(v for k, v in found.as_dict().items() if k != "total_bytes")


def test_with_one_batch_a_step_gradients_come_as_activations_go() -> None:
    several, one = estimate(MINI, FULL), estimate(MINI, replace(FULL, accumulation=1))
    assert several.gradients == 4 * MINI.parameters
    assert one.gradients == several.gradients - several.activations - several.logits


def test_full_fine_tuning_holds_eighteen_bytes_a_weight_and_sixteen_in_float32() -> None:
    for number_bytes, each in ((2, 18), (4, 16)):
        found = estimate(MINI, replace(FULL, number_bytes=number_bytes))
        assert found.weights + found.gradients + found.optimizer == each * MINI.parameters


def test_activations_are_those_of_the_formula() -> None:
    tokens, h, i, layers = 2 * 256, 3072, 8192, 32
    adapter_inputs = 2 * h  # of qkv_proj and o_proj, in every layer
    job = replace(LORA, device="cpu", number_bytes=4, batch=2, tokens=256, checkpointing=False)
    layer = 4 * tokens * (7 * h + 2 * i + 2 * adapter_inputs)
    at_work, mask = 4 * tokens * (4 * h + 4 * i), 4 * 2 * 256**2
    assert estimate(MINI, job).activations == 1.5 * (layer * layers + at_work + mask)
    recomputed = estimate(MINI, replace(job, checkpointing=True)).activations
    all_of_one = 4 * tokens * (8 * h + 3 * i + 2 * adapter_inputs)
    assert recomputed == 2 * (4 * tokens * h * layers + all_of_one + at_work + mask)
    every_second = estimate(MINI, replace(job, checkpointing=True, every=2)).activations
    assert recomputed < every_second < 2 * (layer * layers + at_work + mask)


def test_logits_are_never_there_all_at_once() -> None:
    short, long = (estimate(MINI, replace(LORA, tokens=tokens)).logits for tokens in (4096, 8192))
    assert long - short == pytest.approx(1.1 * 2 * 2 * 4096 * 3072)  # the hidden states alone
    all_at_once = 4 * 8192 * MINI.vocabulary
    assert long < all_at_once / 2


def test_four_bits_take_half_a_byte_and_the_embeddings_stay() -> None:
    kept = MINI.parameters - MINI.linear_parameters
    plain = estimate(MINI, replace(LORA, method="qlora")).weights
    double = estimate(MINI, replace(LORA, method="qlora", double_quant=True)).weights
    assert plain == pytest.approx((0.5 + 4 / 64) * MINI.linear_parameters + 2 * kept)
    assert double == pytest.approx(0.516 * MINI.linear_parameters + 2 * kept, rel=1e-3)
    as_exported = estimate(MINI, replace(LORA, method="qlora", int4_aware=True)).weights
    assert as_exported == pytest.approx((1 + 2 / 32) * MINI.linear_parameters + 2 * kept)


@pytest.mark.parametrize(
    "more",
    [
        {"batch": 2},
        {"tokens": 4096},
        {"checkpointing": False},
        {"number_bytes": 4},
        {"int4_aware": True},
        {"eager": True},
        {"evaluation_batch": 32},
        {"rebuilt": MINI.linear_parameters},
        {"method": "full"},
    ],
)
def test_it_grows_with_what_takes_more(more: dict[str, object]) -> None:
    assert estimate(MINI, replace(LORA, **more)).total_bytes > estimate(MINI, LORA).total_bytes  # type: ignore[arg-type]


@pytest.mark.parametrize("less", [{"optimizer": "adamw_8bit"}, {"optimizer": "sgd"}, {"optimizer": "adafactor"}])
def test_small_optimizers_take_less_on_a_gpu(less: dict[str, str]) -> None:
    assert estimate(MINI, replace(FULL, **less)).optimizer < estimate(MINI, FULL).optimizer  # type: ignore[arg-type]
    on_cpu = replace(FULL, device="cpu", optimizer="adamw_8bit")  # where plain AdamW takes its place
    assert estimate(MINI, on_cpu).optimizer == 8 * MINI.parameters


def test_what_fits_tries_a_smaller_batch_first_and_keeps_the_size_of_the_step() -> None:
    job = replace(LORA, batch=8, accumulation=2)
    enough = estimate(MINI, replace(job, batch=2)).total_bytes
    found = what_fits(MINI, job, enough)
    assert found
    assert found.changes == {"batch": 2, "accumulation": 8}
    assert found.estimate.total_bytes <= enough


def test_what_fits_takes_rows_out_of_the_evaluation_before_any_else() -> None:
    job = replace(LORA, batch=4, evaluation_batch=64)
    found = what_fits(MINI, job, estimate(MINI, replace(job, evaluation_batch=4)).total_bytes)
    assert found
    assert found.changes == {"evaluation_batch": 4}


def test_an_int4_aware_training_that_does_not_fit_is_int4_aware_with_qlora_too() -> None:
    job = replace(LORA, int4_aware=True)
    found = what_fits(MINI, job, estimate(MINI, replace(job, int4_aware=False, tokens=128)).total_bytes - 1)
    assert found
    assert (found.changes["method"], found.job.int4_aware, found.job.double_quant) == ("qlora", True, False)


def test_what_fits_goes_on_with_checkpointing_then_length_then_method() -> None:
    job = replace(LORA, batch=2, checkpointing=False)
    seen = []
    available = estimate(MINI, job).total_bytes
    while found := what_fits(MINI, job, available - 1):
        assert found.estimate.total_bytes < available
        available = found.estimate.total_bytes
        seen.append(found.changes)
    assert {"batch", "accumulation"} == set(seen[0])
    assert any(change.get("checkpointing") and "tokens" not in change for change in seen)
    first_short = next(i for i, change in enumerate(seen) if "tokens" in change)
    first_qlora = next(i for i, change in enumerate(seen) if change.get("method") == "qlora")
    assert first_short < first_qlora
    assert all("method" not in change for change in seen[:first_qlora])
    assert seen[-1]["tokens"] == 128


def test_nothing_fits_into_nothing() -> None:
    assert what_fits(MINI, LORA, 10**9) is None
    assert longest_that_fits(MINI, LORA, 10**9, 4096) == 0


def test_full_fine_tuning_that_does_not_fit_becomes_a_lora() -> None:
    found = what_fits(MINI, FULL, 20 * 10**9)
    assert found
    assert found.job.method == "lora"
    assert found.job.adapter > 0


def test_the_longest_rows_that_fit_just_fit() -> None:
    available = estimate(MINI, replace(LORA, tokens=1024)).total_bytes
    assert longest_that_fits(MINI, LORA, available, 4096) == 1024


def test_longer_rows_never_take_less_memory_and_few_lengths_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = range(128, 4097, 128)
    for job in (LORA, FULL, replace(LORA, method="qlora", eager=True), replace(FULL, accumulation=4)):
        totals = [estimate(MINI, replace(job, tokens=length)).total_bytes for length in lengths]
        assert totals == sorted(totals)
    estimated: list[int] = []
    monkeypatch.setattr(memory, "estimate", lambda shape, job: estimated.append(job.tokens) or estimate(shape, job))
    longest_that_fits(MINI, LORA, totals[-1], 4096)
    assert len(estimated) < 8


def test_the_known_figures_of_the_catalogue_stay() -> None:
    assert onnx_bytes(MINI) == pytest.approx(2.72e9, rel=0.01)  # measured on like models, within 2 %
    cache = inference_bytes(MINI, 0, 4096) - inference_bytes(MINI, 0, 0)
    layer = 2 * 4 * (4 * 3072 + 3 * 8192)
    assert cache == 4096 * (2 * 32 * 32 * 96 * 4 + layer)
    # LLaMA-Factory's table: 2 bytes a parameter for LoRA, 0.5 for 4 bits, 18 for full, and what a step takes
    assert 8e9 < estimate(MINI, LORA).total_bytes < 11e9
    assert 62e9 < estimate(MINI, FULL).total_bytes < 75e9


def test_the_int4_model_of_a_new_project_has_the_measured_size_and_memory() -> None:
    size = onnx_bytes(SMOL, in_8_bits=NEW_PROJECT_IN_8_BITS)
    assert size == pytest.approx(114.3e6, rel=0.02)
    for tokens, measured in {72: 309e6, 512: 340e6, 2048: 497e6, 4096: 725e6}.items():
        assert inference_bytes(SMOL, size, tokens) == pytest.approx(measured, rel=0.05)
    assert onnx_bytes(replace(SMOL, tokenizer_bytes=3_523_167)) - onnx_bytes(SMOL) == 3_523_167 - 75 * 49_152


def test_weights_in_8_bits_are_those_of_the_template() -> None:
    template = Path(__file__).parents[3] / "template" / "fine-tuning" / "olive-config.json.jinja"
    assert ",".join(f"{group}:int8" for group in NEW_PROJECT_IN_8_BITS) in template.read_text(encoding="utf-8")


def test_the_fixed_part_is_that_of_the_device() -> None:
    assert estimate(MINI, replace(LORA, device="cpu")).fixed == FIXED_CPU_BYTES


def test_a_shape_is_read_from_the_headers_of_the_weight_files(tiny_phi3: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_phi3)
    shape = shape_of(tiny_phi3)
    assert shape is not None
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.tied, shape.fused, shape.stored_bytes) == (True, True, 4)
    assert shape.embeddings == 512 * 64
    assert [m.name.rpartition(".")[2] for m in shape.targets(None, all_linear=False)] == ["o_proj", "qkv_proj"] * 2
    assert {(m.inputs, m.outputs) for m in shape.targets(["qkv_proj"], all_linear=False)} == {(64, 128)}
    assert len(shape.targets(None, all_linear=True)) == 8


def test_a_model_without_safetensors_is_told_by_its_config(tiny_phi3: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_phi3 / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert shape_of(tmp_path) is None  # no weights: nothing to count
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(4000))
    shape, whole = shape_of(tmp_path), shape_of(tiny_phi3)
    assert isinstance(shape, Shape)
    assert isinstance(whole, Shape)
    assert shape.parameters == 1000
    assert shape.linear_parameters == whole.linear_parameters
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    assert shape_of(tmp_path) is None
