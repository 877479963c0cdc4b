"""Extras of a training run, in addition to the model's own loss, from the config and hooks.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from phi_runtime.config.pass_graph import trained_rounding
from phi_runtime.config.schema import FinetunePass
from phi_runtime.config.schema.export import Int4Rounding
from phi_runtime.core.errors import ConfigError, Location
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.data.hooks import TrainingHooks, load_training_hooks
from phi_runtime.training.rows import FinetuneContext, TrainingData
from phi_runtime.training.selection import VALIDATION_LOSS, ModelSelection

if TYPE_CHECKING:
    import torch

    from phi_runtime.training.frozen_layers import ActivationCache
    from phi_runtime.training.rounding import AlternatingBase

Batch = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class TrainingExtras:
    """Everything that a run does in addition to training on the model's own loss.

    Attributes:
        loss: The user's loss of (model output, batch): a mean over the trained tokens, as a scalar tensor.
        score_answers: Metrics of the answers that the model generates for validation rows.
        selection: Criterion for the best state, and for stopping early.
        virtual_tokens: Length of a trained prompt, in tokens (prompt tuning).
        split_on_oom: Split batches that do not fit into memory, instead of failing.
        int4_base: Base weights that alternate with their int4-rounded values from step to step.
        activations: Activations that are supplied in place of the layers below the first trained one.
        warn: Shows a message to the user.
        describe_rows: Describes training sequences, given by index, in a message (file and line).
        batch_size: Rows of a micro-batch over all processes; None: those of this process.
    """

    loss: Callable[[Any, Batch], torch.Tensor] | None = None
    score_answers: Callable[[Any], dict[str, float]] | None = None
    selection: ModelSelection = field(default_factory=ModelSelection)
    virtual_tokens: int = 0
    split_on_oom: bool = False
    int4_base: AlternatingBase | None = None
    activations: ActivationCache | None = None
    warn: Callable[[str], None] = lambda _: None
    describe_rows: Callable[[Sequence[int]], str] = lambda indices: ", ".join(map(str, indices))
    batch_size: int | None = None


def training_extras(context: FinetuneContext, model: Any, data: TrainingData) -> TrainingExtras:
    """Build the extras of a pass.

    Raises:
        ConfigError: Answers are to be scored and the rows have no questions.
        DataError: hooks.py cannot be loaded.
    """
    from phi_runtime.training.activations import activation_cache
    from phi_runtime.training.adapter import virtual_tokens

    passes = context.workflow.passes
    config, hooks = context.config, load_training_hooks(context.project.config)
    selection = ModelSelection.from_config(config)
    int4_base = _int4_base(model, config, trained_rounding(passes, context.name)) if config.rounds_base else None
    return TrainingExtras(
        loss=hooks.loss,
        score_answers=_answer_scorer(context, data, hooks, selection) if len(data.validation) else None,
        selection=selection,
        virtual_tokens=virtual_tokens(model),
        split_on_oom=config.training_args.auto_find_batch_size,
        int4_base=int4_base,
        activations=activation_cache(context, model, data, own_loss=hooks.loss is not None, int4_base=int4_base),
        warn=context.warn,
        describe_rows=data.describe_rows,
        batch_size=config.training_args.per_device_train_batch_size,
    )


def _int4_base(model: Any, config: FinetunePass, rounding: Int4Rounding) -> AlternatingBase:
    """Return the base of `model`, to switch between exact and rounded weights."""
    from phi_runtime.training.rounding import Int4AwareBase

    if not config.quantized_base:
        return Int4AwareBase(model, rounding)
    from phi_runtime.training.rounded_base import RoundedBase

    return RoundedBase(model)


def _answer_scorer(
    context: FinetuneContext, data: TrainingData, hooks: TrainingHooks, selection: ModelSelection
) -> Callable[[Any], dict[str, float]] | None:
    """Return a function that scores the answers to the first validation rows; None if only the loss is needed.

    The metrics are the user's, or those of the task if one of them selects the best state.
    """
    from phi_runtime.evaluation.questions import sample_questions
    from phi_runtime.evaluation.row_statistics import score
    from phi_runtime.inference.generator import GeneratorOptions, short_answers
    from phi_runtime.inference.loading import context_length
    from phi_runtime.inference.transformers import TransformersGenerator

    settings = context.workflow.evaluation.of(context.name)
    validation = data.dataset.validation
    template = validation.template
    if hooks.metrics is None and selection.metric == VALIDATION_LOSS:
        return None
    if not template.has_prompt:
        raise ConfigError(
            "metrics need questions and answers, and the rows are free text",
            where=Location(context.project.config),
            fix="remove `metric_for_best_model`, and `metrics` from hooks.py",
        )
    questions = sample_questions(validation, settings, data.tokenizer, context_length(context.source))
    if questions.too_long:
        context.warn(questions.remark)

    def score_answers(model: Any) -> dict[str, float]:
        options = GeneratorOptions(template.special, stop_tokens=template.stop_tokens)
        generator = TransformersGenerator(model, data.tokenizer, str(model.device), options)
        answers = short_answers(generator, questions.prompts, template, settings.max_new_tokens, settings.batch_size)
        references = questions.references
        scores = (
            hooks.metrics.means(answers, references) if hooks.metrics else score(settings.task, answers, references)
        )
        name = selection.metric.removeprefix("eval_")
        if selection.metric != VALIDATION_LOSS and name not in scores:
            raise ConfigError(
                f"unknown metric `{name}` in metric_for_best_model{did_you_mean(name, scores)}",
                where=Location(context.project.config),
                fix=f"set metric_for_best_model to loss, {', '.join(scores)}",
            )
        return scores

    return score_answers
