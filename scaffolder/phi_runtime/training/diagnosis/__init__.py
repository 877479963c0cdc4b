"""Diagnosis of a training run, from its loss log and its figures.

Every diagnosis names a setting of the config and the numbers behind it. A curve is as much noise as trend, and a false
alarm costs trust: a curve that is short, noisy or merely imperfect yields nothing. No ML library is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from phi_runtime.training.diagnosis.cost import memory_tight, slow
from phi_runtime.training.diagnosis.loss_curves import (
    learning_rate_too_high,
    not_finished,
    nothing_learned,
    overfitting,
    plateau,
)
from phi_runtime.training.diagnosis.problem import Diagnosis
from phi_runtime.training.diagnosis.run import TrainingRecord

__all__ = ["Diagnosis", "diagnose"]

_CURVE_CHECKS = (
    learning_rate_too_high,
    overfitting,
    nothing_learned,
    not_finished,
    plateau,
)  # a cause before its effects


def diagnose(log: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[Diagnosis]:
    """Return the problems of a training run: at most one of its curves, then memory, then speed.

    Args:
        log: Entries of Trainer's log_history.
        facts: Settings and measurements, flat. A check is skipped if its facts are missing or None.

            - Settings, by their keys in the config: type, r, num_train_epochs, max_steps, learning_rate, warmup_steps,
              max_grad_norm, per_device_train_batch_size, gradient_accumulation_steps, gradient_checkpointing, packing,
              early_stopping_patience, load_best_model_at_end, weight_decay, lora_dropout, dataloader_num_workers, max_seq_len.
            - Measurements: steps; device ("cpu", "cuda:0"); dtype; wall_s, of the training alone; skipped_steps; halved, times
              that the batch was halved since memory ran out; padding_share; peak_memory_bytes and memory_bytes, peak use and
              size of the device's memory; cpu_share and gpu_share, mean use, 0 to 1.
    """
    run = TrainingRecord(log, facts)
    curve_problem = next((diagnosis for check in _CURVE_CHECKS if (diagnosis := check(run))), None)
    return [diagnosis for diagnosis in (curve_problem, memory_tight(run), slow(run)) if diagnosis]
