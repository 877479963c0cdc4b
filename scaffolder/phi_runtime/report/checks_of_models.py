"""Checks of models, their training and the measured rows: each yields problems with the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from phi_runtime.config.schema import ExportPass
from phi_runtime.core.units import count
from phi_runtime.data.labels import FEWEST_ROWS
from phi_runtime.export.gate_limits import more_exact
from phi_runtime.pipeline.model_names import comparison_models
from phi_runtime.report.changes import AdvisedChange, value_at
from phi_runtime.report.facts import Facts, Model
from phi_runtime.report.figures import difference, loss_is_open, quality
from phi_runtime.report.finding import MUCH, data_key, evaluation_key, finding, rows_file, side_keys
from phi_runtime.training.diagnosis import Diagnosis
from phi_runtime.training.diagnosis.problem import Light, ProblemKind

WIDE = 0.2  # width of the interval of a metric above which the rows are too few
NEARLY_PERFECT = 0.99  # a score that leaves nothing to gain
WORSE_PERPLEXITY = 1.2  # times that of the exact weights; of free text, the smallest difference is significant
_USUAL_EPOCHS = 6
_ROWS_FOR_A_FIFTH = 1000  # of all rows: with fewer, a larger share is measured
NO_GAIN: tuple[ProblemKind, ...] = ("no better than a simple baseline", "no better than the base model")


def unmeasured(facts: Facts) -> Iterator[Diagnosis]:
    """Check for a comparison without rows, or without another model."""
    if not facts.measured:
        size = AdvisedChange({f"passes.{facts.training}.eval_dataset_size": 0.1})
        step = facts.step
        if too_long := facts.evaluation.get("too_long"):
            evidence = f"{count(too_long, 'row')} exceed the context of a model, and none is left to measure"
            yield finding(facts, "not measured", evidence, "check", "measure shorter rows", file=rows_file(facts))
        elif facts.evaluation:
            has_rows = step is None or step.eval_data_config or step.eval_dataset_size
            action = "add rows to the file of the validation rows"
            yield finding(facts, "not measured", "there are no test rows", "check", action, [] if has_rows else [size])
        else:
            evidence = "no model was compared yet"
            yield finding(facts, "not measured", evidence, "check", "run `phi-scaffold evaluate`", file=facts.config)
    elif facts.trained is None or facts.trained["versus"] is None:
        names = ", ".join(f"`{model['name']}`" for model in facts.evaluation["models"])
        action = "add a pass that trains, or rows to learn a baseline from"
        yield finding(facts, "no comparison", f"{names} alone was measured", "check", action, file=facts.config)


def truncated(facts: Facts) -> Iterator[Diagnosis]:
    """Check for answers that the limit of tokens has ended."""
    trained = facts.trained
    if trained is None or not facts.rows:
        return
    cut = sum(row.models[trained["name"]].finish_reason == "length" for row in facts.rows)
    rows = len(facts.rows)
    if cut < MUCH * rows:
        return
    limit = facts.workflow.evaluation.of(facts.training).max_new_tokens
    evidence = f"{cut} of {count(rows, 'answer')} end at max_new_tokens, after {limit} tokens"
    change = AdvisedChange({evaluation_key(facts, "max_new_tokens"): 2 * limit}, in_evaluation=True)
    yield finding(facts, "truncated answers", evidence, "check", "", [change])


def few_test_rows(facts: Facts) -> Iterator[Diagnosis]:
    """Check for too few rows to know the main metric."""
    trained, rows = facts.trained, facts.measured
    if trained is None or not _too_few(facts):
        return
    evidence, total = quality(trained, facts.metric, rows), facts.evaluation["total_rows"]
    changes = []
    if rows < total:
        changes.append(AdvisedChange({evaluation_key(facts, "max_rows"): min(total, 10 * rows)}, in_evaluation=True))
    side = facts.evaluation["rows_of"]
    own, key = side_keys(side)
    every = rows + (facts.counts.get("rows") or 0)
    size = value_at(facts.workflow, f"passes.{facts.training}.{key}") or 0
    larger = 0.2 if every >= _ROWS_FOR_A_FIFTH else 0.3
    if facts.step and not getattr(facts.step, own) and (size if size < 1 else size / every) < larger:
        changes.append(AdvisedChange({f"passes.{facts.training}.{key}": larger}))
    action = f"add {side} rows: 100 or more are needed to see a difference of 10 points"
    yield finding(facts, "too few test rows", evidence, "check", action, changes, file=rows_file(facts))


def _too_few(facts: Facts) -> bool:
    """Return True if the main metric is not known to 10 points, or the rows are only a few."""
    ends = facts.trained["interval"] if facts.trained else None
    return facts.measured < FEWEST_ROWS or (ends is not None and ends[1] - ends[0] > WIDE)


def no_gain(facts: Facts) -> Iterator[Diagnosis]:
    """Check for a trained model that is no better than a baseline or an untrained model."""
    model = facts.trained
    versus = model and model["versus"]
    if not model or not versus or versus["outcome"] == "better":
        return
    other, worse = facts.models[versus["model"]], versus["outcome"] == "worse"
    if not worse and _too_few(facts):
        return
    problem = NO_GAIN[0] if other in facts.evaluation.get("baselines", ()) else NO_GAIN[1]
    evidence = difference(model, other, facts.metric, facts.measured)
    if other["metrics"].get(facts.metric, 0) >= NEARLY_PERFECT and not worse:
        action = f"`{other['name']}` answers these rows: use it, or measure on harder rows"
        yield finding(facts, problem, evidence, "check", action, file=rows_file(facts))
        return
    light: Light = "not ready" if worse or versus["difference"] <= 0 else "check"
    action = "check with `phi-scaffold data preview` that the answers are trained; more rows help most"
    yield finding(facts, problem, evidence, light, action, list(_more_training(facts)))


def _more_training(facts: Facts) -> Iterator[AdvisedChange]:
    """Yield ways to learn more from the rows."""
    place = f"passes.{facts.training}"
    now = {key: value_at(facts.workflow, f"{place}.{key}") for key in ("training_args.num_train_epochs", "r")}
    steps = value_at(facts.workflow, f"{place}.training_args.max_steps") or -1
    if value_at(facts.workflow, f"{place}.completion_only_loss") is False:
        yield AdvisedChange({f"{place}.completion_only_loss": True})
    if steps > 0:
        yield AdvisedChange({f"{place}.training_args.max_steps": 2 * steps})
    elif (epochs := now["training_args.num_train_epochs"]) and epochs < _USUAL_EPOCHS:
        yield AdvisedChange({f"{place}.training_args.num_train_epochs": 2 * epochs})
    if rate := value_at(facts.workflow, f"{place}.training_args.learning_rate"):
        yield AdvisedChange({f"{place}.training_args.learning_rate": float(f"{2 * rate:.2g}")})
    if (rank := now["r"]) and rank < 64:
        yield AdvisedChange({f"{place}.r": 2 * rank})


def rounding(facts: Facts) -> Iterator[Diagnosis]:
    """Check for exports that lost quality."""
    for model in facts.exported:
        light = _light_of_loss(model, facts)
        if light == "ready":
            continue
        evidence = difference(model, facts.models[model["versus"]["model"]], facts.metric, facts.measured)
        step = comparison_models(facts.workflow, facts.training).get(model["name"], "")
        changes = list(_more_exact(facts, step))
        action = "use the model before the export"
        yield finding(facts, "loss by rounding", evidence, light, action, changes, file=facts.config)


def _light_of_loss(model: Model, facts: Facts) -> Light:
    """Return the light that the difference of an export from its source allows: one that is seen, or large and not excluded."""
    versus = model["versus"]
    if not versus or versus["outcome"] == "better":
        return "ready"
    worse, loss = versus["outcome"] == "worse", round(-versus["difference"], 6)  # 0.05, not 0.0499…
    if not model["metrics"]:
        noticeable = model["perplexity"] > WORSE_PERPLEXITY * facts.models[versus["model"]]["perplexity"]
        return "not ready" if worse and noticeable else "ready"
    if worse:
        return "not ready" if loss >= MUCH else "check"
    return "check" if loss >= MUCH and loss_is_open(versus) else "ready"


def _more_exact(facts: Facts, name: str) -> Iterator[AdvisedChange]:
    """Yield changes by which the export `name` loses less, the cheapest first; a higher precision is the last."""
    step = facts.workflow.passes.get(name)
    if not isinstance(step, ExportPass):
        return
    training = facts.workflow.passes.get(facts.training)
    for change in more_exact(step, facts.workflow.execution_provider, has_rows=training is not None):
        if "precision" in change.values and step.precision == "int4" and hasattr(training, "int4_aware"):
            yield AdvisedChange({f"passes.{facts.training}.int4_aware": True})
        yield AdvisedChange({f"passes.{name}.{key}": value for key, value in change.values.items()})


def mostly_wrong(facts: Facts) -> Iterator[Diagnosis]:
    """Check for a classifier that is more often wrong than right."""
    trained = facts.trained
    if trained is None or facts.metric != "accuracy" or not trained["interval"] or trained["interval"][1] >= 0.5:
        return
    evidence = quality(trained, facts.metric, facts.measured)
    action = "check the errors in `phi-scaffold report`; more rows help most"
    yield finding(facts, "more wrong than right", evidence, "check", action, list(_more_training(facts)))


def training(facts: Facts) -> Iterator[Diagnosis]:
    """Yield the problems that the training has recorded, with keys from the top of the config."""
    for diagnosis in facts.diagnoses:
        key = diagnosis.setting
        if key == "max_seq_len":
            key = f"{data_key(facts)}.max_seq_len"
        elif key and not diagnosis.file:
            key = f"passes.{facts.training}.{key}"
        yield replace(diagnosis, setting=key, file=facts.config)


def chosen(facts: Facts) -> Iterator[Diagnosis]:
    """Check for choices that the measured rows decided, such as the best step or a trial of a sweep."""
    chosen = facts.evaluation.get("chosen_on")
    if not facts.measured or not chosen:
        return
    evidence = f"on the same {count(facts.evaluation['total_rows'], 'validation row')}: {', '.join(chosen)}"
    change = AdvisedChange({f"passes.{facts.training}.test_dataset_size": 0.1})
    yield finding(facts, "chosen on these rows", evidence, "ready", "", [change])
