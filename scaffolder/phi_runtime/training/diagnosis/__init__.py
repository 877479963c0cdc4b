"""What went wrong in a training run, told from what it left: its loss log, its figures, and the scores of its models.

Every diagnosis names a setting of the config and the numbers that speak for it. A curve is noise as much as it is trend, and a
false alarm costs trust: what is short, noisy or merely imperfect yields nothing. No ML library is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from phi_runtime.training.diagnosis.cost import memory, slow
from phi_runtime.training.diagnosis.problem import Diagnosis, recorded
from phi_runtime.training.diagnosis.results import diagnose_results
from phi_runtime.training.diagnosis.run import Run
from phi_runtime.training.diagnosis.shape import (
    learning_rate_too_high,
    not_finished,
    nothing_learnt,
    overfitting,
    plateau,
)

__all__ = ["Diagnosis", "diagnose", "diagnose_results", "recorded"]


def diagnose(log: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[Diagnosis]:
    """What a training run suffered from: at most one problem of its curves, then memory, then speed.

    `log` holds the lines of Trainer's log_history. `facts` is flat; what is absent or None is not judged by:

    - of the config, by their names there: type, r, num_train_epochs, max_steps, learning_rate, warmup_steps, max_grad_norm,
      per_device_train_batch_size, gradient_accumulation_steps, gradient_checkpointing, packing, early_stopping_patience,
      load_best_model_at_end, max_seq_len;
    - measured: steps, device ("cpu", "cuda:0"), dtype, wall_s (of the training alone), skipped_steps, halved (times that the
      batch was halved for want of memory), padding_share, peak_memory_bytes and memory_bytes (of the device: what was taken at
      most, and what there is), cpu_share and gpu_share (mean use, 0 to 1).
    """
    run = Run(log, facts)
    looks = (learning_rate_too_high, overfitting, nothing_learnt, not_finished, plateau)
    found = next((d for look in looks if (d := look(run))), None)
    return [d for d in (found, memory(run), slow(run)) if d]
