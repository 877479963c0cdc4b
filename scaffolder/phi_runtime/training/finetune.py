"""The training run that LoRA, QLoRA and full fine-tuning share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.context import PassContext
from phi_runtime.core.errors import Conflict, Interrupted, Location
from phi_runtime.core.events import Event
from phi_runtime.core.project import GEN_MODEL
from phi_runtime.core.signals import handled_by
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.tokenize import pad_id
from phi_runtime.hardware.busy_cores import AdaptedThreads
from phi_runtime.hardware.process_memory import peak_and_total
from phi_runtime.training import checkpoints
from phi_runtime.training.diagnosis import diagnose
from phi_runtime.training.diagnosis.run import LOSS_LOG
from phi_runtime.training.process_group import barrier, is_main_process, world_size
from phi_runtime.training.resources import ResourceMonitor
from phi_runtime.training.rows import FinetuneContext, TrainingData, check_stop_tokens, load_training_data
from phi_runtime.training.starting_weights import save_plain
from phi_runtime.training.trackers import configure_trackers, project_name, receiver, run_name

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from phi_runtime.training.batches import Layout
    from phi_runtime.training.callbacks import ProgressEvents, StopOnSignal
    from phi_runtime.training.pass_bases import TrainingPass
    from phi_runtime.training.trainer import SelectiveTrainer


@dataclass(frozen=True)
class PreparedTraining:
    """A training run that is ready to start: the model is on its device, the rows are tokenized."""

    data: TrainingData
    layout: Layout
    trainer: SelectiveTrainer
    dtype: str
    progress: ProgressEvents
    stop: StopOnSignal
    resources: ResourceMonitor
    threads: AdaptedThreads | None


def prepare(context: PassContext[TrainingPass]) -> PreparedTraining:
    """Read the rows, load the model and build the trainer; cheap checks come first.

    Raises:
        PhiError: The config, the data or the machine does not allow the run.
    """
    from phi_runtime.training.arguments import resolve_optimizer, training_arguments

    settings = context.config.training_args
    gen_model = context.project.root / GEN_MODEL
    trackers = configure_trackers(settings.report_to, context.record, gen_model, settings.project)
    for name in trackers:
        if to := receiver(name, settings.trackio_space_id):
            context.warn(f"training_args.report_to: `{name}` sends losses and settings to {to}")
    optimizer = resolve_optimizer(context)
    data = load_training_data(context)
    model, dtype = context.config.load_trainable(context)
    check_stop_tokens(context, model, data)
    dtype_name = str(dtype).removeprefix("torch.")
    facts = {
        **data.counts,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "dtype": dtype_name,
        "device": str(model.device),
    }
    context.emit(Event("metric", context.name, facts))
    if dtype_name != context.config.torch_dtype:
        context.warn(f"{model.device} has no fast {context.config.torch_dtype}; computing in {dtype_name}")
    arguments = training_arguments(context, data, dtype, optimizer, trackers)
    arguments.run_name = settings.run_name or run_name(context.record, context.name)
    arguments.project = settings.project or project_name(gen_model)
    layout = _choose_layout(context, model, data, arguments)
    return _build(context, model, arguments, data, layout, dtype_name)


def finetune(context: PassContext[TrainingPass]) -> dict[str, Any]:
    """Train a model, and save it with tokenizer, prompt template and loss log to `context.out`.

    Resumes from the newest complete checkpoint in `context.work`.

    Returns:
        The facts for the manifest: losses, steps, tokens, diagnosis.

    Raises:
        Interrupted: SIGINT or SIGTERM stopped the run; its last step is saved.
        WorkFailed: Gradients were not finite in several steps in a row.
        OutOfResources: Memory or disk space ran out.
    """
    import torch

    run = prepare(context)
    data, trainer, stop = run.data, run.trainer, run.stop
    checkpoint = _resume_point(context, trainer)
    # peft would compile and write an empty card, with the path of the base model, at each save.
    trainer.model.create_or_update_model_card = lambda _folder: None
    with handled_by(stop.on_signal), run.resources, computing(context, run):
        if checkpoint is None or not _restore_stopped_early(trainer, checkpoint):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.caught:
        raise Interrupted(
            f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; the step is saved",
            fix="resume with `phi-scaffold run`",
        )
    best_step = trainer.load_best_weights()
    if best_step is not None:
        context.info(f"keeping the best state: step {best_step} of {trainer.state.global_step}")
    log = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    _save(context, trainer, data, log)
    losses = [e["loss"] for e in log if "loss" in e]
    validation_losses = [e["eval_loss"] for e in log if "eval_loss" in e and best_step in (None, e["step"])]
    survey = data.dataset.training.store.survey
    return {
        "steps": trainer.state.global_step,
        "best_step": best_step,
        "skipped_steps": trainer.skipped_steps,
        **data.counts,
        "skipped_rows": survey.broken,
        "empty_rows": survey.empty,
        "dropped_rows": data.training.too_long,
        "cut_rows": data.training.cut,
        "loss": losses[-1] if losses else None,
        "validation_loss": validation_losses[-1] if validation_losses else None,
        "dtype": run.dtype,
        "torch_threads": torch.get_num_threads(),
        **({"fewest_threads": run.threads.fewest} if run.threads and run.threads.fewest < run.threads.cores else {}),
        "diagnosis": _diagnose(context, run, log),
    }


@contextmanager
def computing(context: FinetuneContext, run: PreparedTraining) -> Iterator[None]:
    """Let the model of `run` compute within the context as a training does."""
    from peft.helpers import disable_input_dtype_casting
    from peft.tuners.tuners_utils import BaseTunerLayer

    from phi_runtime.training.recomputation import recomputed_activations

    model: Any = run.trainer.model
    # Under autocast peft's own casts would only copy the inputs of an adapter back and forth. Layers of IA3 and PEANuT have none,
    # and peft 0.21.2 fails for them.
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    casts = run.dtype != "float32" and all(hasattr(layer, "cast_input_dtype_enabled") for layer in layers)
    recomputed = recomputed_activations(model) if context.config.recomputes_activations else nullcontext()
    with disable_input_dtype_casting(model, active=casts), recomputed:
        yield


# -- preparation ------------------------------------------------------------------------------------------------------


def _choose_layout(context: FinetuneContext, model: Any, data: TrainingData, arguments: TrainingArguments) -> Layout:
    """Choose how rows are arranged in a batch, and report it; packed only if this model keeps packed rows apart."""
    from phi_runtime.training.adapter import virtual_tokens
    from phi_runtime.training.batches import choose_layout, isolates_packed_rows

    packing, size, seed = context.config.packing, arguments.train_batch_size, arguments.data_seed or 0
    hidden_size = model.config.get_text_config().hidden_size
    layout = choose_layout(data.training.lengths, size, seed, hidden_size, packing)
    if layout.packed and (virtual_tokens(model) or not isolates_packed_rows(model, pad_id(data.tokenizer))):
        layout = choose_layout(data.training.lengths, size, seed, hidden_size, packing=False)
        if packing:
            context.warn("packing disabled: this model's attention crosses row boundaries")
    facts = {"layout": "packed" if layout.packed else "padded", "padding_share": round(layout.padding_share, 4)}
    context.emit(Event("metric", context.name, {**facts, "other_padding_share": round(layout.other_padding_share, 4)}))
    context.info(str(layout))
    return layout


def _build(
    context: FinetuneContext, model: Any, arguments: TrainingArguments, data: TrainingData, layout: Layout, dtype: str
) -> PreparedTraining:
    from transformers import PrinterCallback

    from phi_runtime.training.callbacks import AdaptThreads, ProgressEvents, SaveAfterEvaluation, StopOnSignal
    from phi_runtime.training.extras import training_extras
    from phi_runtime.training.rank_sampler import SetSamplerEpoch
    from phi_runtime.training.trainer import SelectiveTrainer

    padding, stop = pad_id(data.tokenizer), StopOnSignal()
    resources = ResourceMonitor(context.record, context.name)
    progress = ProgressEvents(context.name, context.emit, data.training.token_count, resources)
    threads = AdaptedThreads(context.info) if arguments.device.type == "cpu" and world_size() == 1 else None
    callbacks = [
        progress,
        stop,
        SaveAfterEvaluation(),
        SetSamplerEpoch(),
        *([AdaptThreads(threads)] if threads else []),
    ]
    trainer = SelectiveTrainer(
        model=model,
        args=arguments,
        train_dataset=data.training,
        eval_dataset=data.validation if len(data.validation) else None,
        data_collator=lambda examples: layout.collate(examples, padding),
        callbacks=callbacks,
        extras=training_extras(context, model, data),
    )
    trainer.remove_callback(PrinterCallback)
    return PreparedTraining(data, layout, trainer, dtype, progress, stop, resources, threads)


# -- resuming ---------------------------------------------------------------------------------------------------------


def _resume_point(context: FinetuneContext, trainer: SelectiveTrainer) -> Path | None:
    """Return the checkpoint to resume from, and restore what the trainer recorded in it.

    Raises:
        Conflict: Several processes have sharded the checkpoint, and this run has one, which cannot read it.
    """
    checkpoint, incomplete = checkpoints.newest(Path(trainer.args.output_dir))
    for folder in incomplete:
        context.warn(f"ignored {folder.name}: it is incomplete")
    if checkpoint:
        facts = checkpoints.read_facts(checkpoint)
        if not trainer.is_fsdp_enabled and next(checkpoint.glob("pytorch_model_fsdp*"), None):
            raise Conflict(
                f"step {checkpoint.name.rpartition('-')[2]} was saved in shards (fsdp), which one process cannot read",
                where=Location(checkpoint),
                fix=f"resume with --nproc {facts.get('processes', 2)} or more, or start over with --force {context.name}",
            )
        trainer.restore(facts)
        context.info(f"resuming from step {checkpoint.name.rpartition('-')[2]}")
        if (previous := facts.get("processes", 1)) != world_size():
            context.warn(f"resuming with {world_size()} processes (was {previous}): dropout masks will differ")
        _warn_of_other_threads(context, trainer, facts)
    return checkpoint


def _warn_of_other_threads(context: FinetuneContext, trainer: SelectiveTrainer, facts: Mapping[str, Any]) -> None:
    """Warn if sums are now divided among another number of threads than before the checkpoint with `facts`."""
    import torch

    threads = torch.get_num_threads()
    before = facts.get("threads", threads)
    if trainer.args.device.type == "cpu" and world_size() == facts.get("processes", 1) and threads != before:
        context.warn(f"resuming with {threads} threads (was {before}): the weights may differ in their last digits")


def _restore_stopped_early(trainer: SelectiveTrainer, checkpoint: Path) -> bool:
    """Load `checkpoint` and return True if training had stopped early there, so that only saving is left to do."""
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if not trainer.extras.selection.patience_exhausted(state.log_history):
        return False
    trainer.state = state
    trainer._load_from_checkpoint(str(checkpoint))
    return True


# -- results ----------------------------------------------------------------------------------------------------------


def _diagnose(context: FinetuneContext, run: PreparedTraining, log: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Emit and return the problems of the run, for its summary and the manifest."""
    trainer, config = run.trainer, context.config
    settings = {**config.training_args.model_dump(), **config.model_dump(exclude={"training_args"})}
    device = str(trainer.args.device)
    peak_bytes, total_bytes = peak_and_total(device)
    facts = settings | {
        "max_seq_len": run.data.dataset.training.settings.max_seq_len,
        "steps": trainer.state.global_step,
        "device": device,
        "dtype": run.dtype,
        "wall_s": run.progress.wall_s,
        "skipped_steps": trainer.skipped_steps,
        "halved": trainer.batch_parts.bit_length() - 1,
        "padding_share": run.layout.padding_share,
        "peak_memory_bytes": peak_bytes,
        "memory_bytes": total_bytes,
        **run.resources.means(),
    }
    diagnoses = [diagnosis.as_dict() for diagnosis in diagnose(log, facts)]
    context.emit(Event("metric", context.name, {"diagnosis": diagnoses, **run.resources.peaks()}))
    return diagnoses


def _save(context: FinetuneContext, trainer: SelectiveTrainer, data: TrainingData, log: list[dict[str, Any]]) -> None:
    """Save model, tokenizer, prompt template and loss log to `context.out`."""
    weights = _gather_weights(trainer)
    if is_main_process():
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.save_pretrained(context.out, state_dict=weights)
        save_plain(model, context.out)
        template = data.dataset.training.template
        if isinstance(template, ChatTemplate):
            data.tokenizer.chat_template = template.source
        data.tokenizer.save_pretrained(context.out)
        template.save(context.out)
        lines = "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in log)
        (context.out / LOSS_LOG).write_text(lines, encoding="utf-8", newline="\n")
    barrier()


def _gather_weights(trainer: SelectiveTrainer) -> dict[str, Any] | None:
    """Gather the weights of a sharded model in the main process; None if each process has them all."""
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    tied = getattr(trainer.accelerator.unwrap_model(trainer.model), "all_tied_weights_keys", {})
    return {name: weight for name, weight in weights.items() if name not in tied}
