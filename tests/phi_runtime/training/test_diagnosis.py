"""Diagnosis: each problem is found in a curve that shows it, and none in healthy runs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from phi_runtime.training.diagnosis import Diagnosis, diagnose
from phi_runtime.training.diagnosis.run import MIN_LINES, rate_text

Log = list[dict[str, Any]]
SETTINGS = {
    "type": "LoRA",
    "r": 16,
    "num_train_epochs": 3,
    "max_steps": -1,
    "learning_rate": 2e-4,
    "warmup_steps": 0.1,
    "max_grad_norm": 1.0,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "device": "cpu",
    "dtype": "bfloat16",
}


def a_log(
    loss: Callable[[float], float],
    *,
    validation: list[float] | None = None,
    lines: int = 40,
    steps: int = 200,
    noise: float = 0.0,
    norm: Callable[[float], float] = lambda _: 1.0,
    seed: int = 0,
) -> Log:
    """Lines of a training loss, a function of the share of the run that is done, with noise in proportion to it; and of a validation
    loss, measured at even distances."""
    chance = random.Random(seed)
    log: Log = []
    for i in range(1, lines + 1):
        share = i / lines
        value = loss(share) * math.exp(chance.gauss(0, noise))
        step = round(steps * share)
        log.append({"step": step, "epoch": 3 * share, "loss": value, "grad_norm": norm(share), "learning_rate": 2e-4})
    for i, value in enumerate(validation or [], start=1):
        share = i / len(validation or [])
        log.append({"step": round(steps * share), "epoch": 3 * share, "eval_loss": value})
    return sorted(log, key=lambda line: line["step"])


def said(log: Log, **facts: Any) -> list[Diagnosis]:
    return diagnose(log, {**SETTINGS, **facts})


def only(log: Log, **facts: Any) -> Diagnosis:
    (found,) = said(log, **facts)
    return found


def decay(to: float, rate: float = 8.0, start: float = 3.0) -> Callable[[float], float]:
    return lambda share: to + (start - to) * math.exp(-rate * share)


# -- healthy ----------------------------------------------------------------------------------------------------------------

HEALTHY = {
    "decay to a floor": a_log(decay(0.4), validation=[0.8, 0.55, 0.47, 0.45]),
    "linear to a floor": a_log(lambda s: max(3 - 4 * s, 0.6), validation=[1.8, 0.9, 0.7]),
    "perfect, validation as well": a_log(decay(0.02, 12), validation=[0.05, 0.02, 0.02]),
    "perfect early": a_log(decay(0.02, 30), validation=[0.02, 0.02, 0.021]),
    "validation wobbles at its floor": a_log(decay(0.3, 6), validation=[0.6, 0.45, 0.47, 0.44, 0.46, 0.45, 0.47]),
    "a spike that is got over": a_log(lambda s: 9.0 if s == 0.5 else decay(0.4)(s)),
    "one not-a-number line": [*a_log(decay(0.4)), {"step": 201, "loss": math.nan, "grad_norm": math.inf}],
    "no lines at all": [],
    "gradients grow as the loss falls": a_log(decay(0.2), norm=lambda s: 0.2 + 20 * s),
    "one epoch, validation measured once": a_log(decay(0.4), validation=[0.45]),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_yields_nothing(name: str) -> None:
    assert said(HEALTHY[name]) == []


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(n, marks=pytest.mark.slow) for n in range(5, 40))])
@pytest.mark.parametrize("noise", [0.1, 0.3, 0.6])
def test_noise_alone_yields_nothing(seed: int, noise: float) -> None:
    chance = random.Random(seed)
    validation = [(0.5 + 0.5 * math.exp(-i)) * math.exp(chance.gauss(0, 0.02)) for i in range(6)]
    assert said(a_log(decay(0.4, 6), validation=validation, noise=noise, seed=seed)) == []


def test_a_run_of_this_project_yields_nothing() -> None:
    # phi-smol on the sample data, as logged: two epochs, batches of eight short answers
    losses = [5.807, 2.577, 0.948, 0.642, 0.299, 0.405, 0.168, 0.195, 0.101, 0.110, 0.041, 0.037]
    losses += [0.033, 0.021, 0.023, 0.012, 0.023, 0.009, 0.012, 0.011, 0.008, 0.014, 0.012, 0.005]
    norms = [6.62, 8.71, 2.21, 2.39, 1.53, 1.94, 0.89, 0.67, 0.53, 0.48, 0.34, 0.38]
    norms += [0.69, 0.31, 0.17, 0.16, 0.27, 0.14, 0.16, 0.22, 0.3, 0.14, 0.53, 0.04]
    log = [
        {"step": 5 * i, "epoch": i / 12, "loss": loss, "grad_norm": norm}
        for i, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=1)
    ]
    log += [{"step": 60, "epoch": 1.0, "eval_loss": 0.0521}, {"step": 120, "epoch": 2.0, "eval_loss": 0.0273}]
    assert said(log, num_train_epochs=2, learning_rate=7e-4) == []


@pytest.mark.parametrize(
    "log",
    [
        a_log(lambda s: 1 + 3 * s, lines=MIN_LINES - 1),
        a_log(lambda s: 1 + 3 * s, lines=16, steps=16),
        a_log(lambda s: 3 - 2 * s, lines=3, validation=[0.5, 0.9]),
    ],
)
def test_a_curve_too_short_to_read_yields_nothing(log: Log) -> None:
    assert said(log) == []


# -- overfitting ------------------------------------------------------------------------------------------------------------


def test_overfitting_is_a_validation_loss_that_rises_while_the_training_loss_falls() -> None:
    log = a_log(decay(0.02, 5), validation=[0.9, 0.42, 0.47, 0.53, 0.61])
    found = only(log)
    assert found.problem == "overfitting"
    assert found.evidence == "validation loss 0.42 at step 80, 0.61 at the end"
    assert found.setting == "training_args.num_train_epochs"
    assert found.value == 1
    assert "num_train_epochs 3 → 1" in found.advice
    for name in ("early_stopping_patience", "weight_decay", "lora_dropout", "learning_rate"):
        assert name in found.advice


def test_with_max_steps_fewer_steps_are_advised() -> None:
    log = a_log(decay(0.02, 5), validation=[0.9, 0.42, 0.47, 0.53, 0.61])
    found = only(log, max_steps=200)
    assert (found.setting, found.advice.split(",")[0]) == ("training_args.max_steps", "max_steps 200 → 80")


def test_a_single_evaluation_above_the_minimum_must_be_far_above_it() -> None:
    assert only(a_log(decay(0.02, 5), validation=[0.6, 0.42, 0.61])).problem == "overfitting"
    assert said(a_log(decay(0.02, 5), validation=[0.6, 0.42, 0.48])) == []


def test_a_small_rise_of_a_tiny_loss_is_not_overfitting() -> None:
    assert said(a_log(decay(0.002, 9), validation=[0.03, 0.010, 0.012, 0.013, 0.014])) == []


def test_the_evidence_names_the_best_model_and_early_stopping_needs_no_advice() -> None:
    log = a_log(decay(0.02, 5), validation=[0.9, 0.42, 0.47, 0.53, 0.61])
    found = only(log, load_best_model_at_end=True)
    assert "the model of step 80 was kept" in found.evidence
    assert (found.setting, found.value) == ("early_stopping_patience", 2)
    assert said(log, load_best_model_at_end=True, early_stopping_patience=3) == []


def test_nothing_is_advised_that_the_config_has() -> None:
    log = a_log(decay(0.02, 5), validation=[0.9, 0.42, 0.47, 0.53, 0.61])
    advice = only(log, early_stopping_patience=2, weight_decay=0.01, lora_dropout=0.1).advice
    assert advice.startswith("num_train_epochs 3 → 1, or load_best_model_at_end true; more rows")
    assert not any(name in advice for name in ("patience", "weight_decay", "lora_dropout"))
    slow = only(FINE, wall_s=3600.0, device="cuda:0", gpu_share=0.2, dataloader_num_workers=4)
    assert (slow.setting, slow.value) == ("training_args.per_device_train_batch_size", None)


def test_full_fine_tuning_gets_no_advice_on_lora_dropout() -> None:
    log = a_log(decay(0.02, 5), validation=[0.9, 0.42, 0.47, 0.53, 0.61])
    assert "lora_dropout" not in only(log, type="FullFinetune").advice


# -- learning rate ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_a_loss_that_ends_far_above_its_lowest_is_a_rate_too_high(noise: float) -> None:
    found = only(a_log(lambda s: 2.5 - 4 * s if s < 0.3 else 6.0, noise=noise))
    assert found.problem == "learning rate too high"
    assert found.setting == "training_args.learning_rate"
    assert found.advice == "learning_rate 2e-4 → 1e-4"
    assert found.evidence.startswith("training loss 1.")
    assert "at the end" in found.evidence


def test_an_oscillation_that_grows_without_progress_is_a_rate_too_high() -> None:
    swinging = a_log(lambda s: 2.4 + (0.03 if s < 0.3 else 0.6) * (-1) ** round(40 * s))
    found = only(swinging, warmup_steps=0)
    assert found.problem == "learning rate too high"
    assert "between log entries" in found.evidence
    assert "warmup_steps 0 → 0.1" in found.advice


def test_exploding_gradients_without_progress_are_a_rate_too_high() -> None:
    found = only(a_log(lambda s: 2.4 + 0.1 * s, norm=lambda s: 0.8 if s < 0.6 else 90.0), max_grad_norm=0)
    assert found.problem == "learning rate too high"
    assert found.evidence == "gradient norm 0.8 in the first half, 90 in the last quarter"
    assert "max_grad_norm 0 → 1" in found.advice


def test_skipped_steps_are_a_rate_too_high_and_float16_may_skip_some() -> None:
    log = a_log(decay(0.4))
    found = only(log, skipped_steps=6)
    assert (found.problem, found.evidence) == (
        "learning rate too high",
        "skipped 6 of 200 steps: their gradients were not finite",
    )
    assert said(log, skipped_steps=1) == []
    assert said(log, skipped_steps=6, dtype="float16") == []
    assert "bfloat16" in only(log, skipped_steps=20, dtype="float16").advice


def test_a_loss_that_creeps_at_a_tiny_rate_is_a_rate_too_low() -> None:
    found = only(a_log(lambda s: 2.5 - 0.15 * s), learning_rate=1e-6)
    assert (found.problem, found.advice) == ("learning rate too low", "learning_rate 1e-6 → 2e-4")
    assert said(a_log(lambda s: 2.5 - 0.15 * s)) == []  # at the usual rate, the data may be the limit


def test_learning_rates_are_formatted_as_in_papers() -> None:
    assert [rate_text(r) for r in (2e-4, 1e-4, 3.5e-4, 0.01, 0.0)] == ["2e-4", "1e-4", "3.5e-4", "1e-2", "0"]


# -- nothing learned, plateau, not finished ----------------------------------------------------------------------------------


def test_a_loss_that_stays_where_it_was_has_learned_nothing() -> None:
    found = only(a_log(lambda _: 2.4, noise=0.02, validation=[2.41, 2.42, 2.41]))
    assert found.problem == "nothing learned"
    assert "data preview" in found.advice
    assert "a larger r (now 16)" in found.advice
    assert "learning_rate 1e-6 → 2e-4" in only(a_log(lambda _: 2.4), learning_rate=1e-6).advice


def test_a_validation_loss_from_before_training_is_enough_evidence() -> None:
    log = [{"step": 0, "eval_loss": 0.7}, *a_log(decay(0.6, start=0.9), validation=[0.72])]
    assert only(log).evidence == "validation loss 0.7 before training, 0.72 after it"


def test_a_loss_that_falls_until_the_end_is_not_finished() -> None:
    found = only(a_log(lambda s: 3 - 2 * s, noise=0.02, validation=[2.4, 1.7, 1.1]))
    assert found.problem == "not finished"
    assert found.setting == "training_args.num_train_epochs"
    assert found.advice.startswith("num_train_epochs 3 → 6")
    assert said(a_log(lambda s: 3 - 2 * s, validation=[2.4, 1.7, 1.71])) == []


def test_most_of_a_run_without_progress_is_a_plateau() -> None:
    found = only(a_log(lambda s: max(3 - 10 * s, 0.8), noise=0.01, validation=[0.85, 0.85, 0.85, 0.86]))
    assert found.problem == "plateau"
    assert "at the end (step 200)" in found.evidence
    assert found.advice.startswith("num_train_epochs 3 → 1 or early_stopping_patience 2")


def test_a_single_epoch_has_no_plateau() -> None:
    log = [{**line, "epoch": line["epoch"] / 3} for line in a_log(lambda s: max(3 - 10 * s, 0.8))]
    assert said(log, num_train_epochs=1) == []


# -- memory and speed -------------------------------------------------------------------------------------------------------

FINE = a_log(decay(0.4), validation=[0.8, 0.55, 0.47, 0.45])


def test_nearly_full_memory_names_the_settings_that_use_it() -> None:
    found = only(FINE, peak_memory_bytes=23_500_000_000, memory_bytes=24_000_000_000, max_seq_len=2048)
    assert found.problem == "memory"
    assert found.evidence == "used 23.5 of 24.0 GB of memory"
    assert found.setting == "training_args.gradient_checkpointing"
    assert "gradient_checkpointing false → true" in found.advice
    assert "per_device_train_batch_size 8 → 4 with gradient_accumulation_steps 1 → 2" in found.advice
    assert "max_seq_len below 2048" in found.advice
    assert "QLoRA" in found.advice
    assert said(FINE, peak_memory_bytes=20_000_000_000, memory_bytes=24_000_000_000) == []


def test_a_batch_that_was_halved_gets_a_smaller_size_as_advice() -> None:
    found = only(FINE, halved=2, gradient_checkpointing=True)
    assert found.evidence == "the batch did not fit and was halved 2 times"
    assert found.advice.startswith("per_device_train_batch_size 8 → 2 with gradient_accumulation_steps 1 → 4")


@pytest.mark.parametrize(
    ("facts", "evidence", "setting", "change"),
    [
        (
            {"padding_share": 0.45, "packing": False},
            "45 % of the computed tokens were padding",
            "packing",
            "packing false → null",
        ),
        (
            {"gradient_checkpointing": True, "peak_memory_bytes": 6e9, "memory_bytes": 24e9},
            "used 6.0 of 24.0 GB of memory",
            "training_args.gradient_checkpointing",
            "gradient_checkpointing true → false",
        ),
        (
            {"gradient_accumulation_steps": 4, "device": "cuda:0", "peak_memory_bytes": 6e9, "memory_bytes": 24e9},
            "used 6.0 of 24.0 GB",
            "training_args.per_device_train_batch_size",
            "per_device_train_batch_size 8 → 16 with gradient_accumulation_steps 4 → 2",
        ),
        ({"cpu_share": 0.3}, "cores were 30 % busy", "training_args.per_device_train_batch_size", "OMP_NUM_THREADS"),
        (
            {"device": "cuda:0", "gpu_share": 0.2},
            "GPU was 20 % busy",
            "training_args.dataloader_num_workers",
            "dataloader_num_workers",
        ),
    ],
)
def test_a_long_run_that_could_be_shorter_is_slow(
    facts: dict[str, Any], evidence: str, setting: str, change: str
) -> None:
    found = only(FINE, wall_s=3600.0, **facts)
    assert (found.problem, found.setting) == ("slow training", setting)
    assert found.evidence.startswith("60 min: ")
    assert evidence in found.evidence
    assert change in found.advice
    assert said(FINE, wall_s=60.0, **facts) == []


def test_a_long_run_that_used_its_machine_is_not_slow() -> None:
    assert said(FINE, wall_s=36_000.0, padding_share=0.05, cpu_share=0.95, packing=False) == []
