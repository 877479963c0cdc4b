"""The one training run that LoRA, QLoRA and full fine-tuning share."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.artefacts import digest, write_json
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.dataset import Dataset, load_dataset
from phi_runtime.data.report import FILE as REPORT
from phi_runtime.data.report import report
from phi_runtime.errors import Interrupted, WorkFailed
from phi_runtime.events import Event
from phi_runtime.passes import PassContext
from phi_runtime.training import checkpoints
from phi_runtime.workflow.schema import LoRA, TrainingArgs

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

    from phi_runtime.data.sequences import Sequences
    from phi_runtime.training.trainer import SelectiveTrainer

LOSS_LOG = "loss_log.jsonl"


@dataclass(frozen=True)
class _Data:
    dataset: Dataset
    training: Sequences
    held_out: Sequences
    tokenizer: Any

    @property
    def pad_id(self) -> int:
        """What fills up a batch; it is masked, so that any token will do."""
        found = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if found is None else found)

    @property
    def counts(self) -> dict[str, int]:
        """What is trained on, for the log and the manifest."""
        counts = {
            "rows": self.training.rows,
            "sequences": len(self.training),
            "tokens": self.training.token_count,
            "trained_tokens": self.training.trained_count,
            "held_out_rows": self.held_out.rows,
            "held_out_sequences": len(self.held_out),
        }
        if self.dataset.training.settings.strategy in ("join", "join-sliding-window"):
            counts["last_sequence_tokens"] = int(self.training.lengths[-1])
        return counts


@dataclass(frozen=True)
class Training:
    """All that a training run needs, made ready: the rows, and the trainer with the model on its device."""

    data: _Data
    trainer: SelectiveTrainer


def prepare(context: PassContext, model: Any, dtype: torch.dtype) -> Training:
    """Reads the data and builds the trainer for `model`, as `context.config` says."""
    data = _prepare(context)
    _check_stops(context, model, data)
    facts = {
        **data.counts,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(model.device),
    }
    context.emit(Event("metric", context.name, facts))
    if str(dtype) != f"torch.{context.config.torch_dtype}":
        message = f"{model.device} has no fast {context.config.torch_dtype}: computing in {facts['dtype']}"
        context.emit(Event("warning", context.name, {"message": message}))
    return Training(data, _trainer(context, model, _arguments(context, data, dtype), data))


def finetune(context: PassContext, model: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Trains `model` as `context.config` says, and saves it with tokenizer, prompt template and loss log to `context.out`.

    Goes on from the newest whole checkpoint in `context.work`. Returns the facts for the manifest: losses, steps, tokens.
    Raises Interrupted after SIGINT or SIGTERM, the reached state being saved; WorkFailed when the loss is not a number.
    """
    import torch

    training = prepare(context, model, dtype)
    data, trainer = training.data, training.trainer
    resume, broken = checkpoints.newest(Path(trainer.args.output_dir))
    for folder in broken:
        context.emit(Event("warning", context.name, {"message": f"{folder.name} is not whole and is passed over"}))
    if resume:
        context.emit(
            Event(
                "progress",
                context.name,
                {
                    "done": None,
                    "total": None,
                    "unit": "",
                    "message": f"going on from step {resume.name.rpartition('-')[2]}",
                },
            )
        )
    watch = trainer.signals
    with watch:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if watch.caught:
        raise Interrupted(
            f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; that step is saved",
            fix="`phi-scaffold run` goes on from there",
        )

    log = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    losses = [e["loss"] for e in log if "loss" in e]
    if losses and not math.isfinite(losses[-1]):
        raise WorkFailed("the training loss is not a number", fix="lower training_args.learning_rate")
    model.save_pretrained(context.out)
    template = data.dataset.training.template
    if isinstance(template, ChatTemplate):
        data.tokenizer.chat_template = template.source
    data.tokenizer.save_pretrained(context.out)
    template.save(context.out)
    (context.out / LOSS_LOG).write_text(
        "".join(json.dumps(e, sort_keys=True) + "\n" for e in log), encoding="utf-8", newline="\n"
    )
    held_out = [e["eval_loss"] for e in log if "eval_loss" in e]
    return {
        "steps": trainer.state.global_step,
        **data.counts,
        "skipped_rows": data.dataset.training.store.survey.broken,
        "empty_rows": data.dataset.training.store.survey.empty,
        "dropped_rows": data.training.too_long,
        "cut_rows": data.training.cut,
        "loss": losses[-1] if losses else None,
        "held_out_loss": held_out[-1] if held_out else None,
        "dtype": str(dtype).removeprefix("torch."),
        "torch_threads": torch.get_num_threads(),
    }


def _prepare(context: PassContext) -> _Data:
    config = context.config
    place = context.place
    dataset = load_dataset(context.workflow, config, place, context.emit, context.name)
    tokenizer = place.tokenizer
    seed = config.training_args.order_seed
    training = dataset.training.sequences(tokenizer, seed, context.work / "training")
    held_out = dataset.held_out.sequences(tokenizer, seed, context.work / "held-out")
    remarks = [*dataset.remarks, *training.remarks, *(f"held-out rows: {remark}" for remark in held_out.remarks)]
    if training.endless:
        remarks.append(
            f"{training.endless} of {training.rows} rows end without a special token, and add_special_tokens is false: "
            "the model will not learn to stop"
        )
    found = report(dataset, {"training": training, "held_out": held_out}, context.project)
    if context.record:
        write_json(context.record / REPORT, found)
    leakage = found["splits"]["leakage"]
    if alike := leakage["same_question"] + leakage["near_duplicate"]:
        remarks.append(
            f"{alike} of {held_out.rows} held-out rows ask what training rows ask, in the same or almost the same words: the scores "
            "will be too good (`phi-scaffold data check` shows them)"
        )
    for remark in remarks:
        context.emit(Event("warning", context.name, {"message": remark}))
    return _Data(dataset, training, held_out, tokenizer)


def _check_stops(context: PassContext, model: Any, data: _Data) -> None:
    """Warns where conversations end a turn in a token at which the model, as its generation config has it, goes on talking."""
    side = data.dataset.training
    if not isinstance(side.template, ChatTemplate) or not side.completion_only:
        return
    stops = model.generation_config.eos_token_id
    known = {data.tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])}
    rows = (side.store.row(index) for index in side.chosen[:100])
    ends = {int(ids[trained.nonzero()[0][-1]]) for ids, trained in rows if trained.any()}
    if ends and not ends & known:
        token = data.tokenizer.convert_ids_to_tokens(ends.pop())
        message = f"turns end in `{token}`, at which the model does not stop: add it to eos_token_id in its generation_config.json"
        context.emit(Event("warning", context.name, {"message": message}))


def _arguments(context: PassContext, data: _Data, dtype: torch.dtype) -> TrainingArguments:
    import torch
    from transformers import TrainingArguments

    given = context.config.training_args
    batches = math.ceil(len(data.training) / given.per_device_train_batch_size)
    steps = (
        given.max_steps
        if given.max_steps > 0
        else math.ceil(given.num_train_epochs * math.ceil(batches / given.gradient_accumulation_steps))
    )
    return TrainingArguments(
        **_given(given, context.workflow.host_device, context),
        output_dir=str(context.work / "checkpoints"),
        use_cpu=context.workflow.host_device == "cpu",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        tf32=context.config.allow_tf32 if torch.cuda.is_available() else None,
        **_evaluation(given, bool(len(data.held_out))),
        save_strategy="steps",
        save_steps=given.save_steps or max(1, steps // 10),
        logging_strategy="steps",
        logging_nan_inf_filter=False,  # Trainer's default shows a running mean where the loss is not a number
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=["labels"],
    )


def _given(given: TrainingArgs, device: str, context: PassContext) -> dict[str, Any]:
    """What the config says to the trainer as it is."""
    values: dict[str, Any] = {"data_seed": given.order_seed}
    values |= given.model_dump(
        exclude={"save_steps", "eval_steps", "eval_strategy", "output_dir", "data_seed"}, exclude_none=True
    )
    if device == "cpu" and ("paged" in given.optim or "8bit" in given.optim):
        values["optim"] = "adamw_torch"
        message = f"{given.optim} needs CUDA: adamw_torch takes its place, which trains the same in more memory"
        context.emit(Event("warning", context.name, {"message": message}))
    return values


def _evaluation(given: TrainingArgs, held_out: bool) -> dict[str, Any]:
    """When the held-out loss is measured."""
    strategy = given.eval_strategy or ("steps" if given.eval_steps else "epoch")
    if not held_out or strategy == "no":
        return {"eval_strategy": "no"}
    return {"eval_strategy": strategy, "eval_steps": given.eval_steps or given.logging_steps}


def _layout(context: PassContext, model: Any, data: _Data, arguments: TrainingArguments) -> Any:
    """How the rows lie in a batch, said to the user; packed only if this model keeps packed rows apart."""
    from phi_runtime.training.batches import Layout, choose_layout, keeps_apart

    wanted, size = context.config.packing, arguments.train_batch_size
    hidden = model.config.get_text_config().hidden_size
    layout: Layout = choose_layout(data.training.lengths, size, arguments.data_seed or 0, hidden, wanted)
    if layout.packed and not keeps_apart(model, data.pad_id):
        layout = choose_layout(data.training.lengths, size, arguments.data_seed or 0, hidden, wanted=False)
        message = "this model lets packed rows see one another: they are padded instead"
        context.emit(Event("warning", context.name, {"message": message}))
    facts = {"layout": "packed" if layout.packed else "padded", "filler_share": round(layout.filler, 4)}
    context.emit(Event("metric", context.name, {**facts, "other_filler_share": round(layout.instead, 4)}))
    context.emit(Event("progress", context.name, {"done": None, "total": None, "unit": "", "message": str(layout)}))
    return layout


def _trainer(context: PassContext, model: Any, arguments: TrainingArguments, data: _Data) -> Any:
    from transformers import PrinterCallback

    from phi_runtime.training.callbacks import Progress, StopOnSignal
    from phi_runtime.training.rounding import AlternatingBase
    from phi_runtime.training.trainer import SelectiveTrainer

    pad_id, layout = data.pad_id, _layout(context, model, data, arguments)
    signals = StopOnSignal()
    trainer = SelectiveTrainer(
        model=model,
        args=arguments,
        train_dataset=data.training,
        eval_dataset=data.held_out if len(data.held_out) else None,
        data_collator=lambda examples: layout.collate(examples, pad_id),
        callbacks=[Progress(context.name, context.emit, data.training.token_count), signals],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.model_accepts_loss_kwargs = True  # our loss divides by the trained tokens of the whole step
    trainer.signals = signals
    if isinstance(context.config, LoRA) and context.config.int4_aware:
        trainer.base = AlternatingBase(model)
    trainer.checkpoint_facts = {"config": digest(context.config.model_dump(mode="json"))}
    return trainer
