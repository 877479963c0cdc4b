"""The one training run that LoRA, QLoRA and full fine-tuning share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.context import PassContext
from phi_runtime.core.errors import Interrupted
from phi_runtime.core.events import Event
from phi_runtime.core.project import GEN_MODEL
from phi_runtime.core.signals import handled_by
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.hardware.process_memory import peak_and_total
from phi_runtime.training import checkpoints
from phi_runtime.training.diagnosis import diagnose
from phi_runtime.training.processes import is_first, processes, wait_for_all
from phi_runtime.training.resources import Resources
from phi_runtime.training.rows import Rows, check_stops, read_rows
from phi_runtime.training.trackers import project_name, run_name, trackers

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

    from phi_runtime.training.batches import Layout
    from phi_runtime.training.trainer import SelectiveTrainer

LOSS_LOG = "loss_log.jsonl"

Trainable = Callable[[PassContext], "tuple[Any, torch.dtype]"]
"""Loads the model of a pass, with what is to be trained of it, and says in which type to compute."""


@dataclass(frozen=True)
class Training:
    """All that a training run needs, made ready: the rows, how they lie in a batch, and the trainer with the model on its device."""

    rows: Rows
    layout: Layout
    trainer: SelectiveTrainer
    dtype: str


def prepare(context: PassContext, trainable: Trainable) -> Training:
    """Read the rows, load the model and build the trainer for `context.config`; checks that cost little come first."""
    from phi_runtime.training.arguments import optimizer_of, training_arguments

    given = context.config.training_args
    home = context.project.root / GEN_MODEL
    reports_to = trackers(given.report_to, context.record, home, given.project)
    optimizer = optimizer_of(context)
    rows = read_rows(context)
    model, dtype = trainable(context)
    check_stops(context, model, rows)
    facts = {
        **rows.counts,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(model.device),
    }
    context.emit(Event("metric", context.name, facts))
    if facts["dtype"] != context.config.torch_dtype:
        context.warn(f"{model.device} has no fast {context.config.torch_dtype}: computing in {facts['dtype']}")
    arguments = training_arguments(context, rows, dtype, optimizer, reports_to)
    arguments.run_name = given.run_name or run_name(context.record, context.name)
    arguments.project = given.project or project_name(home)
    layout = _layout(context, model, rows, arguments)
    return Training(rows, layout, _trainer(context, model, arguments, rows, layout), facts["dtype"])


def finetune(context: PassContext, trainable: Trainable) -> dict[str, Any]:
    """Trains a model as `context.config` says, and saves it with tokenizer, prompt template and loss log to `context.out`.

    Goes on from the newest whole checkpoint in `context.work`. Returns the facts for the manifest: losses, steps, tokens.
    Raises Interrupted after SIGINT or SIGTERM, the reached state being saved; WorkFailed when the gradients stay without numbers;
    OutOfResources.
    """
    import torch
    from peft.helpers import disable_input_dtype_casting

    training = prepare(context, trainable)
    rows, trainer = training.rows, training.trainer
    resume = _resumed(context, trainer)
    watch = trainer.signals
    resources = Resources(context.record, context.name)
    trainer.progress.resources = resources
    # Under autocast, which casts by itself, peft's own casts would only copy what an adapter reads there and back.
    autocast = training.dtype != "float32"
    with handled_by(watch.on_signal), resources, disable_input_dtype_casting(trainer.model, active=autocast):
        if resume is None or not _finished(trainer, resume):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if watch.caught:
        raise Interrupted(
            f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; that step is saved",
            fix="`phi-scaffold run` goes on from there",
        )
    best = trainer.load_best()
    if best is not None:
        context.info(f"the state after step {best} is kept, the best of {trainer.state.global_step} steps")
    log = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    _save(context, trainer, rows, log)
    losses = [e["loss"] for e in log if "loss" in e]
    validation = [e["eval_loss"] for e in log if "eval_loss" in e and best in (None, e["step"])]
    survey = rows.dataset.training.store.survey
    return {
        "steps": trainer.state.global_step,
        "best_step": best,
        "skipped_steps": trainer.skipped,
        **rows.counts,
        "skipped_rows": survey.broken,
        "empty_rows": survey.empty,
        "dropped_rows": rows.training.too_long,
        "cut_rows": rows.training.cut,
        "loss": losses[-1] if losses else None,
        "validation_loss": validation[-1] if validation else None,
        "dtype": training.dtype,
        "torch_threads": torch.get_num_threads(),
        "diagnosis": _diagnosed(context, training, resources, log),
    }


def _diagnosed(
    context: PassContext, training: Training, resources: Resources, log: list[dict[str, Any]]
) -> list[dict[str, str]]:
    """What the run suffered from, for its closing summary and the manifest."""
    trainer, config = training.trainer, context.config
    given = {**config.training_args.model_dump(), **config.model_dump(exclude={"training_args"})}
    device = str(trainer.args.device)
    peak, there = peak_and_total(device)
    facts = given | {
        "max_seq_len": training.rows.dataset.training.settings.max_seq_len,
        "steps": trainer.state.global_step,
        "device": device,
        "dtype": training.dtype,
        "wall_s": trainer.progress.wall_s,
        "skipped_steps": trainer.skipped,
        "halved": trainer.parts.bit_length() - 1,
        "padding_share": training.layout.filler,
        "peak_memory_bytes": peak,
        "memory_bytes": there,
        **resources.means(),
    }
    found = [asdict(each) for each in diagnose(log, facts)]
    context.emit(Event("metric", context.name, {"diagnosis": found, **resources.peaks()}))
    return found


def _resumed(context: PassContext, trainer: SelectiveTrainer) -> Path | None:
    """The checkpoint to go on from, what is broken being named; the trainer gets what it had learnt of the machine and the data."""
    resume, broken = checkpoints.newest(Path(trainer.args.output_dir))
    for folder in broken:
        context.warn(f"{folder.name} is not whole and is passed over")
    if resume:
        facts = checkpoints.facts_of(resume)
        trainer.parts, trainer.skipped = facts.get("parts", 1), facts.get("skipped", 0)
        context.info(f"going on from step {resume.name.rpartition('-')[2]}")
        if (before := facts.get("processes", 1)) != processes():
            context.warn(f"it had {before} processes then, and now {processes()}: dropout falls otherwise from here on")
    return resume


def _finished(trainer: SelectiveTrainer, checkpoint: Path) -> bool:
    """Whether the run had stopped early when it saved `checkpoint`, so that only what comes after training is left; its weights
    are in the model then."""
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if not trainer.ways.best.exhausted(state.log_history):
        return False
    trainer.state = state
    trainer._load_from_checkpoint(str(checkpoint))
    return True


def _save(context: PassContext, trainer: SelectiveTrainer, rows: Rows, log: list[dict[str, Any]]) -> None:
    """The model with tokenizer, prompt template and loss log, into `context.out`."""
    weights = _whole_weights(trainer)
    if is_first():
        _write(context, trainer, rows, log, weights)
    wait_for_all()


def _whole_weights(trainer: SelectiveTrainer) -> dict[str, Any] | None:
    """Those of a model that is cut to pieces, gathered by all processes for the first; None where each has them anyway."""
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    tied = getattr(trainer.accelerator.unwrap_model(trainer.model), "all_tied_weights_keys", {})
    return {name: weight for name, weight in whole.items() if name not in tied}


def _write(
    context: PassContext,
    trainer: SelectiveTrainer,
    rows: Rows,
    log: list[dict[str, Any]],
    weights: dict[str, Any] | None,
) -> None:
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(context.out, state_dict=weights)
    template = rows.dataset.training.template
    if isinstance(template, ChatTemplate):
        rows.tokenizer.chat_template = template.source
    rows.tokenizer.save_pretrained(context.out)
    template.save(context.out)
    (context.out / LOSS_LOG).write_text(
        "".join(json.dumps(e, sort_keys=True) + "\n" for e in log), encoding="utf-8", newline="\n"
    )


def _layout(context: PassContext, model: Any, rows: Rows, arguments: TrainingArguments) -> Layout:
    """How the rows lie in a batch, said to the user; packed only if this model keeps packed rows apart."""
    from phi_runtime.training.adapter import virtual_tokens
    from phi_runtime.training.batches import choose_layout, keeps_apart

    wanted, size, seed = context.config.packing, arguments.train_batch_size, arguments.data_seed or 0
    hidden = model.config.get_text_config().hidden_size
    layout = choose_layout(rows.training.lengths, size, seed, hidden, wanted)
    if layout.packed and (virtual_tokens(model) or not keeps_apart(model, rows.pad_id)):
        layout = choose_layout(rows.training.lengths, size, seed, hidden, wanted=False)
        if wanted:
            context.warn("this model lets packed rows see one another: they are padded instead")
    facts = {"layout": "packed" if layout.packed else "padded", "padding_share": round(layout.filler, 4)}
    context.emit(Event("metric", context.name, {**facts, "other_padding_share": round(layout.instead, 4)}))
    context.info(str(layout))
    return layout


def _trainer(context: PassContext, model: Any, arguments: TrainingArguments, rows: Rows, layout: Layout) -> Any:
    from transformers import PrinterCallback

    from phi_runtime.training.callbacks import Progress, SaveWithEvaluation, StopOnSignal
    from phi_runtime.training.extras import ways_of
    from phi_runtime.training.rank_sampler import OrderOfEpoch
    from phi_runtime.training.trainer import SelectiveTrainer

    pad_id, signals = rows.pad_id, StopOnSignal()
    progress = Progress(context.name, context.emit, rows.training.token_count)
    trainer = SelectiveTrainer(
        model=model,
        args=arguments,
        train_dataset=rows.training,
        eval_dataset=rows.validation if len(rows.validation) else None,
        data_collator=lambda examples: layout.collate(examples, pad_id),
        callbacks=[progress, signals, SaveWithEvaluation(), OrderOfEpoch()],
        ways=ways_of(context, model, rows),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.signals, trainer.progress = signals, progress
    return trainer
