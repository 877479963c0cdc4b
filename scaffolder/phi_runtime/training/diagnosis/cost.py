"""What a run took of memory and time, where a setting would have made it less."""

from __future__ import annotations

from phi_runtime.training.diagnosis.problem import Diagnosis
from phi_runtime.training.diagnosis.run import Run

TIGHT = 0.92  # of the memory: a longer row than any so far may not fit
ROOMY = 0.4  # of the memory: as much again would fit
LONG_S = 600.0  # a shorter run is not worth hastening
FILLER = 0.3  # of what is computed
IDLE_DEVICE = 0.5  # mean use of the device that computes


def memory(run: Run) -> Diagnosis | None:
    """The device was filled to the brim, or over it."""
    facts = run.facts
    peak, there = facts.get("peak_memory_bytes"), facts.get("memory_bytes")
    halved = facts.get("halved", 0)
    if not halved and not (peak and there and peak >= TIGHT * there):
        return None
    said = []
    if halved:
        said.append(f"the batch did not fit and was halved {halved} time{'s' if halved > 1 else ''}")
    if peak and there:
        said.append(f"{peak / 1e9:.1f} GB of {there / 1e9:.1f} GB were taken")
    changes: list[tuple[str, str]] = []
    batch, accumulation = facts.get("per_device_train_batch_size", 1), facts.get("gradient_accumulation_steps", 1)
    if facts.get("gradient_checkpointing") is False:
        changes.append(("training_args.gradient_checkpointing", "gradient_checkpointing false → true"))
    if batch > 1:
        smaller = max(1, batch // 2 ** max(halved, 1))
        change = f"per_device_train_batch_size {batch} → {smaller} with gradient_accumulation_steps {accumulation} → "
        changes.append(("training_args.per_device_train_batch_size", change + f"{accumulation * batch // smaller}"))
    if "max_seq_len" in facts:
        changes.append(("max_seq_len", f"max_seq_len below {facts['max_seq_len']}"))
    if facts.get("type") == "LoRA":
        changes.append(("type", "type QLoRA in place of LoRA"))
    if facts.get("type") == "FullFinetune":
        changes.append(("type", "type LoRA in place of FullFinetune"))
    if not changes:
        changes.append(("max_seq_len", "a smaller max_seq_len"))
    return Diagnosis("memory", "; ".join(said), changes[0][0], ", or ".join(change for _, change in changes))


def slow(run: Run) -> Diagnosis | None:
    """A run that took long, and a setting that would have made it shorter."""
    facts = run.facts
    wall_s = facts.get("wall_s", 0.0)
    if wall_s < LONG_S:
        return None
    found: list[tuple[str, str, str]] = []  # what was seen, the setting, its change
    filler = facts.get("padding_share", 0.0)
    if filler >= FILLER and facts.get("packing") is False:
        found.append((f"{100 * filler:.0f} % of what was computed was filler", "packing", "packing false → null"))
    peak, there = facts.get("peak_memory_bytes", 0), facts.get("memory_bytes", 0)
    if 0 < peak < ROOMY * there:
        seen = f"{peak / 1e9:.1f} GB of {there / 1e9:.1f} GB of memory were used"
        batch, accumulation = facts.get("per_device_train_batch_size", 1), facts.get("gradient_accumulation_steps", 1)
        if facts.get("gradient_checkpointing"):
            setting, change = "training_args.gradient_checkpointing", "gradient_checkpointing true → false"
            found.append((f"{seen}, and activations were computed twice", setting, change))
        elif accumulation % 2 == 0 and run.facts.get("device", "cpu") != "cpu":
            change = f"per_device_train_batch_size {batch} → {2 * batch}"
            change += f" with gradient_accumulation_steps {accumulation} → {accumulation // 2}"
            found.append((seen, "training_args.per_device_train_batch_size", change))
    on_cpu = facts.get("device", "cpu") == "cpu"
    share = facts.get("cpu_share" if on_cpu else "gpu_share")
    if share is not None and share < IDLE_DEVICE:
        if on_cpu:
            setting, change = "training_args.per_device_train_batch_size", "a larger per_device_train_batch_size"
            change += ", and nothing beside it that needs the cores (OMP_NUM_THREADS unset)"
        else:
            setting, change = "training_args.dataloader_num_workers", "dataloader_num_workers 2, or a larger batch"
        found.append(
            (f"the {'cores were' if on_cpu else 'GPU was'} at work {100 * share:.0f} % of the time", setting, change)
        )
    if not found:
        return None
    evidence = f"{wall_s / 60:.0f} min: " + "; ".join(seen for seen, _, _ in found)
    return Diagnosis("slow training", evidence, found[0][1], "; ".join(change for _, _, change in found))
