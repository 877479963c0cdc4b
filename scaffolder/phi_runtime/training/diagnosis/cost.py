"""Memory and time of a run, where a setting would have saved some."""

from __future__ import annotations

from phi_runtime.training.diagnosis.problem import Adjustment, Diagnosis
from phi_runtime.training.diagnosis.run import TrainingRecord

TIGHT = 0.92  # of the memory: a longer row than any so far may not fit
ROOMY = 0.4  # of the memory: twice as much would fit
LONG_S = 600.0  # a shorter run is not worth speeding up
MUCH_PADDING = 0.3  # of the computed tokens
IDLE_DEVICE = 0.5  # mean use of the device that computes

_BATCH = "training_args.per_device_train_batch_size"


def memory_tight(run: TrainingRecord) -> Diagnosis | None:
    """Check for memory that was nearly full, or ran out."""
    facts = run.facts
    peak_bytes, total_bytes = facts.get("peak_memory_bytes"), facts.get("memory_bytes")
    halved = facts.get("halved", 0)
    if not halved and not (peak_bytes and total_bytes and peak_bytes >= TIGHT * total_bytes):
        return None
    evidence = []
    if halved:
        evidence.append(f"the batch did not fit and was halved {halved} time{'s' if halved > 1 else ''}")
    if peak_bytes and total_bytes:
        evidence.append(f"used {peak_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB of memory")
    changes: list[Adjustment] = []
    batch, accumulation = facts.get("per_device_train_batch_size", 1), facts.get("gradient_accumulation_steps", 1)
    if facts.get("gradient_checkpointing") is False:
        changes.append(Adjustment("training_args.gradient_checkpointing", True, "gradient_checkpointing false → true"))
    if batch > 1:
        smaller = max(1, batch // 2 ** max(halved, 1))
        change = f"per_device_train_batch_size {batch} → {smaller} with gradient_accumulation_steps {accumulation} → "
        change += f"{accumulation * batch // smaller}"
        changes.append(Adjustment(_BATCH, smaller, change))
    if "max_seq_len" in facts:
        changes.append(Adjustment("max_seq_len", None, f"max_seq_len below {facts['max_seq_len']}"))
    if facts.get("type") == "LoRA":
        changes.append(Adjustment("type", "QLoRA", "type LoRA → QLoRA"))
    if facts.get("type") == "FullFinetune":
        changes.append(Adjustment("type", "LoRA", "type FullFinetune → LoRA"))
    if not changes:
        changes.append(Adjustment("max_seq_len", None, "a smaller max_seq_len"))
    return Diagnosis.of("memory", "; ".join(evidence), changes[0], ", or ".join(change.text for change in changes))


def slow(run: TrainingRecord) -> Diagnosis | None:
    """Check for a long run that a setting would have shortened."""
    facts = run.facts
    wall_s = facts.get("wall_s", 0.0)
    if wall_s < LONG_S:
        return None
    causes: list[tuple[str, Adjustment]] = []  # evidence, and what to change
    padding = facts.get("padding_share", 0.0)
    if padding >= MUCH_PADDING and facts.get("packing") is False:
        change = Adjustment("packing", None, "packing false → null")
        causes.append((f"{100 * padding:.0f} % of the computed tokens were padding", change))
    peak_bytes, total_bytes = facts.get("peak_memory_bytes", 0), facts.get("memory_bytes", 0)
    if 0 < peak_bytes < ROOMY * total_bytes:
        evidence = f"used {peak_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB of memory"
        batch, accumulation = facts.get("per_device_train_batch_size", 1), facts.get("gradient_accumulation_steps", 1)
        if facts.get("gradient_checkpointing"):
            change = Adjustment("training_args.gradient_checkpointing", False, "gradient_checkpointing true → false")
            causes.append((f"{evidence}, and computed activations twice", change))
        elif accumulation % 2 == 0 and facts.get("device", "cpu") != "cpu":
            text = f"per_device_train_batch_size {batch} → {2 * batch}"
            text += f" with gradient_accumulation_steps {accumulation} → {accumulation // 2}"
            causes.append((evidence, Adjustment(_BATCH, 2 * batch, text)))
    on_cpu = facts.get("device", "cpu") == "cpu"
    share = facts.get("cpu_share" if on_cpu else "gpu_share")
    if share is not None and share < IDLE_DEVICE:
        if on_cpu:
            text = "a larger per_device_train_batch_size, OMP_NUM_THREADS unset, and no other process on the cores"
            change = Adjustment(_BATCH, None, text)
        elif facts.get("dataloader_num_workers", 0) < 2:
            change = Adjustment(
                "training_args.dataloader_num_workers", 2, "dataloader_num_workers 2, or a larger batch"
            )
        else:
            change = Adjustment(_BATCH, None, "a larger per_device_train_batch_size")
        causes.append((f"{'cores were' if on_cpu else 'GPU was'} {100 * share:.0f} % busy", change))
    if not causes:
        return None
    evidence = f"{wall_s / 60:.0f} min: " + "; ".join(text for text, _ in causes)
    return Diagnosis.of("slow training", evidence, causes[0][1], "; ".join(change.text for _, change in causes))
