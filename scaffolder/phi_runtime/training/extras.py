"""Beside the loss: the user's own functions, and the answers to validation questions while a model is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import digest
from phi_runtime.core.errors import ConfigError, Location
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.data.hooks import TrainingHooks, load_training_hooks
from phi_runtime.training.best import VALIDATION_LOSS, Best
from phi_runtime.training.processes import processes
from phi_runtime.training.rows import Rows

if TYPE_CHECKING:
    from phi_runtime.training.trainer import Ways


def ways_of(context: PassContext, model: Any, rows: Rows) -> Ways:
    """What a run does beside training on the model's own loss, as the config and hooks.py say."""
    from phi_runtime.training.adapter import virtual_tokens
    from phi_runtime.training.rounding import AlternatingBase
    from phi_runtime.training.trainer import Ways

    config, hooks = context.config, load_training_hooks(context.project.config)
    best = Best.of(config)
    return Ways(
        loss=hooks.loss,
        answer=_answer(context, rows, hooks, best) if len(rows.validation) else None,
        best=best,
        virtual_tokens=virtual_tokens(model),
        halve=config.training_args.auto_find_batch_size,
        base=AlternatingBase(model) if config.rounds_base else None,
        say=context.warn,
        rows=rows.places,
        facts={"config": digest(config.model_dump(mode="json")), "processes": processes()},
        batch=config.training_args.per_device_train_batch_size,
    )


def _answer(
    context: PassContext, rows: Rows, hooks: TrainingHooks, best: Best
) -> Callable[[Any], dict[str, float]] | None:
    """Return a function that scores the answers to validation rows; None where the validation loss is enough."""
    from phi_runtime.evaluation.metrics import score
    from phi_runtime.inference.generator import short_answers
    from phi_runtime.inference.transformers import TransformersGenerator

    settings = context.workflow.evaluation.of(context.name)
    validation = rows.dataset.held_out.first(settings.max_rows)
    template = validation.template
    if hooks.metrics is None and best.metric == VALIDATION_LOSS:
        return None
    if not template.asks:
        raise ConfigError(
            "free text asks nothing, so that there are no answers to measure",
            where=Location(context.project.config),
            fix="take out metric_for_best_model and the metrics of hooks.py",
        )
    values = validation.values()
    prompts = [template.render_prompt(each) for each in values]
    references = [template.reference(each) for each in values]

    def answer(model: Any) -> dict[str, float]:
        generator = TransformersGenerator(model, rows.tokenizer, str(model.device), special=template.special)
        answers = short_answers(generator, prompts, template.stop, settings.max_new_tokens, settings.batch_size)
        found = hooks.metrics(answers, references) if hooks.metrics else score(settings.task, answers, references)
        name = best.metric.removeprefix("eval_")
        if best.metric != VALIDATION_LOSS and name not in found:
            raise ConfigError(
                f"there is no metric `{name}`{did_you_mean(name, found)}",
                where=Location(context.project.config),
                fix=f"metric_for_best_model can be loss, {', '.join(found)}",
            )
        return found

    return answer
