"""Findings: problems of a model before its use, from results, rows, data and training, a cause before its effects.

Each check yields the problems that it sees, with the numbers behind them and the first change that is not made yet.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, get_args

from phi_runtime.config.schema import ExportPass
from phi_runtime.data.labels import shortened
from phi_runtime.evaluation.intervals import wilson
from phi_runtime.evaluation.row_results import RowResult
from phi_runtime.export.gate_limits import more_exact
from phi_runtime.pipeline.model_names import comparison_models
from phi_runtime.report.changes import EVALUATION, Change, as_text, open_changes, value_at
from phi_runtime.report.facts import Facts, Model
from phi_runtime.report.figures import count, difference, loss_is_open, percent, percents, quality
from phi_runtime.training.diagnosis import Diagnosis
from phi_runtime.training.diagnosis.problem import Light, ProblemKind

LIGHTS: tuple[Light, ...] = ("not ready", "check", "ready")  # the worst first
FEWEST_ROWS = 20  # test rows below which a score is mostly chance
WIDE = 0.2  # width of the interval of a metric above which the rows are too few
FEW_TRAINING_ROWS, FEW_OF_A_LABEL = 100, 10
WELL = 0.9  # main metric above which few training rows are enough
MUCH = 0.05  # share of rows, or loss of the main metric, that matters
LITTLE = 0.01  # share of rows that is worth a remark
MANY_LONG = 0.2  # share of too long rows that may change what is learned
REPEATED = 0.1  # share of repeated training rows that is worth a remark
NEARLY_PERFECT = 0.99  # a score that leaves nothing to gain
WORSE_PERPLEXITY = 1.2  # times that of the exact weights; of free text, the smallest difference is significant
CONFIDENT = 2.3  # nats of the reference: the model gave it less than a tenth
_DOUBTFUL = 5  # rows
_ROWS_OF_A_LABEL = 5  # test rows of a label below which its share is not looked at
_USUAL_EPOCHS = 6

_NO_GAIN: tuple[ProblemKind, ...] = ("no better than a simple baseline", "no better than the base model")
_OF_TRAINING: tuple[ProblemKind, ...] = (
    "learning rate too high",
    "nothing learned",
    "too few training rows",
    "overfitting",
    "learning rate too low",
    "not finished",
)
"""Problems that matter where the model is no better than what it started from, and otherwise are a way to improve it."""


def find(facts: Facts) -> tuple[Diagnosis, ...]:
    """Return the problems of a training and its models, the most important first.

    Those that decide the light are first, among them a cause before its effects: a model that is no better than a baseline has
    a reason, if one is seen, before it.
    """
    found = [diagnosis for check in _CHECKS for diagnosis in check(facts)]
    effects = [diagnosis.light for diagnosis in found if diagnosis.problem in _NO_GAIN]
    found = [_as_cause(diagnosis, effects[0]) if effects else diagnosis for diagnosis in found]
    return tuple(sorted(found, key=lambda d: (LIGHTS.index(d.light), _RANK[d.problem])))


_RANK = {problem: rank for rank, problem in enumerate(get_args(ProblemKind))}


def _as_cause(diagnosis: Diagnosis, effect: Light) -> Diagnosis:
    """Return the diagnosis with the light of its effect if it can be the cause of a model without a gain."""
    before = _RANK[diagnosis.problem] < _RANK[_NO_GAIN[0]]
    if before and (diagnosis.light != "ready" or diagnosis.problem in _OF_TRAINING):
        return replace(diagnosis, light=min(diagnosis.light, effect, key=LIGHTS.index))
    return diagnosis


# -- the measurement --------------------------------------------------------------------------------------------------


def _unmeasured(facts: Facts) -> Iterator[Diagnosis]:
    if not facts.measured:
        size = Change({f"passes.{facts.training}.eval_dataset_size": 0.1})
        step = facts.step
        if too_long := facts.evaluation.get("too_long"):
            evidence = f"{count(too_long, 'row')} exceed the context of a model, and none is left to measure"
            yield _finding(facts, "not measured", evidence, "check", "measure shorter rows", file=_rows_file(facts))
        elif facts.evaluation:
            has_rows = step is None or step.eval_data_config or step.eval_dataset_size
            action = "add rows to the file of the validation rows"
            yield _finding(facts, "not measured", "there are no test rows", "check", action, [] if has_rows else [size])
        else:
            evidence = "no model was compared yet"
            yield _finding(facts, "not measured", evidence, "check", "run `phi-scaffold evaluate`", file=facts.config)
    elif facts.trained is None or facts.trained["versus"] is None:
        names = ", ".join(f"`{model['name']}`" for model in facts.evaluation["models"])
        action = "add a pass that trains, or rows to learn a baseline from"
        yield _finding(facts, "no comparison", f"{names} alone was measured", "check", action, file=facts.config)


def _leaks(facts: Facts) -> Iterator[Diagnosis]:
    side = facts.evaluation.get("rows_of", "validation")
    splits = facts.data.get("splits") or {}
    leakage = splits.get("test_leakage" if side == "test" else "leakage")
    rows = splits.get(side, {}).get("rows") or facts.evaluation.get("total_rows")
    if not leakage or not rows:
        return
    same, near, begun = (leakage[key] for key in ("same_question", "near_duplicate", "same_beginning"))
    total = same + near + begun
    if total < LITTLE * rows:
        return
    kinds = ((same, "the same question"), (near, "almost the same words"), (begun, "the same beginning"))
    parts = ", ".join(f"{n} {what}" for n, what in kinds if n)
    evidence = f"{total} of {count(rows, f'{side} row')} {'repeat' if total > 1 else 'repeats'} training rows ({parts})"
    if leakage["examples"]:
        pair = leakage["examples"][0]
        evidence += f", such as {pair['validation']} and {pair['training']}"
    key, size = (
        ("test_data_config", "test_dataset_size") if side == "test" else ("eval_data_config", "eval_dataset_size")
    )
    own = value_at(facts.workflow, f"passes.{facts.training}.{key}")
    split_off = {f"passes.{facts.training}.{key}": None, f"passes.{facts.training}.{size}": 0.1}
    yield _finding(
        facts,
        "leakage" if same or begun else "near duplicates",
        evidence,
        "check" if total >= MUCH * rows else "ready",
        "remove the repeated rows; `phi-scaffold data check` lists them"
        + ("" if own else ", or set group_by to the column of what belongs together"),
        [Change(split_off)] if own else [],
        setting="" if own else f"{_data_key(facts)}.group_by",
    )


def _truncated(facts: Facts) -> Iterator[Diagnosis]:
    trained = facts.trained
    if trained is None or not facts.rows:
        return
    cut = sum(row.models[trained["name"]].finish_reason == "length" for row in facts.rows)
    rows = len(facts.rows)
    if cut < MUCH * rows:
        return
    limit = facts.workflow.evaluation.of(facts.training).max_new_tokens
    evidence = f"{cut} of {count(rows, 'answer')} end at max_new_tokens, after {limit} tokens"
    change = Change({_evaluation_key(facts, "max_new_tokens"): 2 * limit}, in_evaluation=True)
    yield _finding(facts, "truncated answers", evidence, "check", "", [change])


def _few_test_rows(facts: Facts) -> Iterator[Diagnosis]:
    trained, rows = facts.trained, facts.measured
    if trained is None or not _too_few(facts):
        return
    evidence, total = quality(trained, facts.metric, rows), facts.evaluation["total_rows"]
    changes = []
    if rows < total:
        changes.append(Change({_evaluation_key(facts, "max_rows"): min(total, 10 * rows)}, in_evaluation=True))
    side = facts.evaluation["rows_of"]
    own, key = (
        ("test_data_config", "test_dataset_size") if side == "test" else ("eval_data_config", "eval_dataset_size")
    )
    every = rows + (facts.counts.get("rows") or 0)
    size = value_at(facts.workflow, f"passes.{facts.training}.{key}") or 0
    larger = 0.2 if every >= 10 * FEW_TRAINING_ROWS else 0.3
    if facts.step and not getattr(facts.step, own) and (size if size < 1 else size / every) < larger:
        changes.append(Change({f"passes.{facts.training}.{key}": larger}))
    action = f"add {side} rows: 100 or more are needed to see a difference of 10 points"
    yield _finding(facts, "too few test rows", evidence, "check", action, changes, file=_rows_file(facts))


def _too_few(facts: Facts) -> bool:
    """Return True if the main metric is not known to 10 points, or the rows are only a few."""
    ends = facts.trained["interval"] if facts.trained else None
    return facts.measured < FEWEST_ROWS or (ends is not None and ends[1] - ends[0] > WIDE)


# -- the models -------------------------------------------------------------------------------------------------------


def _no_gain(facts: Facts) -> Iterator[Diagnosis]:
    model = facts.trained
    versus = model and model["versus"]
    if not model or not versus or versus["outcome"] == "better":
        return
    other, worse = facts.models[versus["model"]], versus["outcome"] == "worse"
    if not worse and _too_few(facts):
        return
    problem = _NO_GAIN[0] if other in facts.evaluation.get("baselines", ()) else _NO_GAIN[1]
    evidence = difference(model, other, facts.metric, facts.measured)
    if other["metrics"].get(facts.metric, 0) >= NEARLY_PERFECT and not worse:
        action = f"`{other['name']}` answers these rows: use it, or measure on harder rows"
        yield _finding(facts, problem, evidence, "check", action, file=_rows_file(facts))
        return
    light: Light = "not ready" if worse or versus["difference"] <= 0 else "check"
    action = "check with `phi-scaffold data preview` that the answers are trained; more rows help most"
    yield _finding(facts, problem, evidence, light, action, list(_more_training(facts)))


def _more_training(facts: Facts) -> Iterator[Change]:
    """Yield ways to learn more from the rows."""
    place = f"passes.{facts.training}"
    now = {key: value_at(facts.workflow, f"{place}.{key}") for key in ("training_args.num_train_epochs", "r")}
    steps = value_at(facts.workflow, f"{place}.training_args.max_steps") or -1
    if value_at(facts.workflow, f"{place}.completion_only_loss") is False:
        yield Change({f"{place}.completion_only_loss": True})
    if steps > 0:
        yield Change({f"{place}.training_args.max_steps": 2 * steps})
    elif (epochs := now["training_args.num_train_epochs"]) and epochs < _USUAL_EPOCHS:
        yield Change({f"{place}.training_args.num_train_epochs": 2 * epochs})
    if rate := value_at(facts.workflow, f"{place}.training_args.learning_rate"):
        yield Change({f"{place}.training_args.learning_rate": float(f"{2 * rate:.2g}")})
    if (rank := now["r"]) and rank < 64:
        yield Change({f"{place}.r": 2 * rank})


def _rounding(facts: Facts) -> Iterator[Diagnosis]:
    for model in facts.exported:
        light = _light_of_loss(model, facts)
        if light == "ready":
            continue
        evidence = difference(model, facts.models[model["versus"]["model"]], facts.metric, facts.measured)
        step = comparison_models(facts.workflow, facts.training).get(model["name"], "")
        changes = list(_more_exact(facts, step))
        action = "use the model before the export"
        yield _finding(facts, "loss by rounding", evidence, light, action, changes, file=facts.config)


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


def _more_exact(facts: Facts, name: str) -> Iterator[Change]:
    """Yield changes by which the export `name` loses less, the cheapest first; a higher precision is the last."""
    step = facts.workflow.passes.get(name)
    if not isinstance(step, ExportPass):
        return
    training = facts.workflow.passes.get(facts.training)
    for change in more_exact(step, facts.workflow.execution_provider):
        if "precision" in change.values and step.precision == "int4" and hasattr(training, "int4_aware"):
            yield Change({f"passes.{facts.training}.int4_aware": True})
        yield Change({f"passes.{name}.{key}": value for key, value in change.values.items()})


def _mostly_wrong(facts: Facts) -> Iterator[Diagnosis]:
    trained = facts.trained
    if trained is None or facts.metric != "accuracy" or not trained["interval"] or trained["interval"][1] >= 0.5:
        return
    evidence = quality(trained, facts.metric, facts.measured)
    action = "check the errors in `phi-scaffold report`; more rows help most"
    yield _finding(facts, "more wrong than right", evidence, "check", action, list(_more_training(facts)))


# -- the data ---------------------------------------------------------------------------------------------------------


def _labels(facts: Facts) -> Iterator[Diagnosis]:
    data = facts.training_data
    labels: dict[str, int] = (data or {}).get("labels") or {}
    if not data or not labels:
        return
    files, rows = ", ".join(data["files"]), data["rows"]
    if len(labels) == 1:
        evidence = f"all {count(rows['kept'], 'row')} have the label `{shortened(next(iter(labels)))}`"
        yield _finding(facts, "one label", evidence, "not ready", "add rows with other labels", file=files)
    same: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        same["".join(label.casefold().split())].append(label)
    if groups := [group for group in same.values() if len(group) > 1]:
        evidence = "; ".join(
            ", ".join(f"`{shortened(label)}` {count(labels[label], 'row')}" for label in group) for group in groups
        )
        yield _finding(facts, "inconsistent labels", evidence, "check", "write each label in one way", file=files)
    if rows["contradictory"] >= max(LITTLE * rows["kept"], 1):
        examples = data.get("contradictory_at") or ()
        places = "".join(f", such as {place['file']}:{place['line']} ({place['message']})" for place in examples[:1])
        much = rows["contradictory"] >= MUCH * rows["kept"]
        evidence = (
            f"{count(rows['contradictory'], 'question')} in {count(rows['kept'], 'row')} have several labels{places}"
        )
        action = "keep one label of each question; `phi-scaffold data check` lists them"
        yield _finding(facts, "contradictory labels", evidence, "check" if much else "ready", action, file=files)


def _doubtful(facts: Facts) -> Iterator[Diagnosis]:
    """Find rows on which a confident model and the best baseline agree on another label than the row has.

    Two models that make errors for other reasons seldom make the same: agreement counts if it is the rule.
    """
    trained = facts.trained
    if trained is None or facts.metric != "accuracy" or not facts.rows:
        return
    learners = [model for model in facts.evaluation["baselines"] if not model["name"].startswith("majority")]
    if not learners:
        return
    baseline = max(learners, key=lambda model: float(model["metrics"][facts.metric]))["name"]
    right, total = _right_by_label(facts.rows, trained["name"])
    learned = {label for label, n in total.items() if 2 * right[label] > n}
    wrong = [row for row in facts.rows if str(row.reference) in learned and _is_surely_wrong(row, trained["name"])]
    doubtful = [row for row in wrong if row.models[baseline].answer == row.models[trained["name"]].answer]
    rows = len(facts.rows)
    if len(doubtful) < max(_DOUBTFUL, MUCH * rows) or 2 * len(doubtful) < len(wrong):
        return
    first = doubtful[0]
    answer = first.models[trained["name"]].answer
    evidence = (
        f"in {len(doubtful)} of {count(rows, 'row')} ({percents(wilson(len(doubtful), rows))}) model and {baseline} agree on "
        f"another label, such as {first.file}:{first.line} (`{shortened(str(answer))}`, not `{shortened(str(first.reference))}`)"
    )
    action = "check these labels, and those of the training rows; `phi-scaffold report` lists them"
    yield _finding(facts, "doubtful labels", evidence, "check", action, file=_rows_file(facts))


def _is_surely_wrong(row: RowResult, model: str) -> bool:
    return not _is_right(row, model) and (row.models[model].loss or 0.0) >= CONFIDENT


def _is_right(row: RowResult, model: str) -> bool:
    return row.models[model].scores.get("accuracy") == 1


def _right_by_label(rows: Iterable[RowResult], model: str) -> tuple[Counter[str], Counter[str]]:
    """Return the right answers of a model, and the rows, by label."""
    right, total = Counter[str](), Counter[str]()
    for row in rows:
        total[str(row.reference)] += 1
        right[str(row.reference)] += _is_right(row, model)
    return right, total


def _imbalance(facts: Facts) -> Iterator[Diagnosis]:
    """Find the label with the lowest share of right answers, if it is rare and the others hide it."""
    trained, data = facts.trained, facts.training_data
    labels: dict[str, int] = (data or {}).get("labels") or {}
    if trained is None or facts.metric != "accuracy" or not facts.rows or len(labels) < 2 or not data:
        return
    right, total = _right_by_label(facts.rows, trained["name"])
    every, all_rows = sum(labels.values()), len(facts.rows)
    intervals = {label: wilson(right[label], n) for label, n in total.items() if n >= _ROWS_OF_A_LABEL}
    rare = [label for label in intervals if labels.get(label, 0) < every / len(labels) / 2]
    if not rare:
        return
    label = min(rare, key=lambda name: (right[name] / total[name], name))
    if intervals[label].high >= wilson(right.total(), all_rows).low:
        return
    evidence = (
        f"`{shortened(label)}`: {right[label]} of {total[label]} right ({percents(intervals[label])}), all labels: "
        f"{percent(right.total() / all_rows)}; {labels.get(label, 0)} of {count(every, 'row')} have it"
    )
    action = f"add rows with the label `{shortened(label)}`, and compare by balanced accuracy"
    yield _finding(facts, "class imbalance", evidence, "check", action, file=", ".join(data["files"]))


def _few_training_rows(facts: Facts) -> Iterator[Diagnosis]:
    data, rows = facts.training_data, facts.counts.get("rows") or 0
    labels = (data or {}).get("labels") or {}
    trained = facts.trained
    needed = max(FEW_TRAINING_ROWS, FEW_OF_A_LABEL * len(labels))
    if not 0 < rows < needed or (trained and trained["metrics"].get(facts.metric, 0) >= WELL):
        return
    per_label = f", {rows / len(labels):.0f} of each label" if labels else ""
    place = _data_key(facts)
    changes = []
    if value_at(facts.workflow, f"{place}.max_samples"):
        changes.append(Change({f"{place}.max_samples": None}))
    split = value_at(facts.workflow, f"{place.rpartition('.')[0]}.load_dataset_config.split") or ""
    if "[" in split:
        changes.append(Change({f"{place.rpartition('.')[0]}.load_dataset_config.split": split.partition("[")[0]}))
    files = ", ".join((data or {}).get("files", ()))
    evidence = f"{count(rows, 'training row')}{per_label}"
    yield _finding(
        facts, "too few training rows", evidence, "ready", f"add rows: {needed} or more", changes, file=files
    )


def _long_rows(facts: Facts) -> Iterator[Diagnosis]:
    data = facts.training_data
    if not data or not data["rows"]["kept"] or not data["rows"]["too_long"]:
        return
    rows, longest = data["rows"], data["tokens"]["percentiles"]["99"]
    share = rows["too_long"] / rows["kept"]
    if share < MUCH:
        return
    fate = {"drop": "are dropped", "truncate": "are cut", "split": "are split"}[data["over_long"]]
    evidence = f"{rows['too_long']} of {count(rows['kept'], 'row')} exceed {data['max_seq_len']} tokens and {fate}"
    change = Change({f"data_configs.{data['name']}.pre_process_data_config.max_seq_len": -(-longest // 64) * 64})
    yield _finding(facts, "rows too long", evidence, "check" if share >= MANY_LONG else "ready", "", [change])


def _duplicates(facts: Facts) -> Iterator[Diagnosis]:
    data = facts.training_data
    if not data or data["rows"]["duplicate"] < max(REPEATED * data["rows"]["kept"], 1):
        return
    rows = data["rows"]
    evidence = f"{rows['duplicate']} of {count(rows['kept'], 'row')} repeat an earlier one"
    action = "remove them, or add different rows: repeated ones weigh more and teach nothing new"
    yield _finding(facts, "duplicate rows", evidence, "ready", action, file=", ".join(data["files"]))


# -- the training -----------------------------------------------------------------------------------------------------


def _training(facts: Facts) -> Iterator[Diagnosis]:
    """Yield the problems that the training has recorded, with keys from the top of the config."""
    for diagnosis in facts.diagnoses:
        key = diagnosis.setting
        if key == "max_seq_len":
            key = f"{_data_key(facts)}.max_seq_len"
        elif key and not diagnosis.file:
            key = f"passes.{facts.training}.{key}"
        yield replace(diagnosis, setting=key, file=facts.config)


def _chosen(facts: Facts) -> Iterator[Diagnosis]:
    """Check for choices that the measured rows decided, such as the best step or a trial of a sweep."""
    chosen = facts.evaluation.get("chosen_on")
    if not facts.measured or not chosen:
        return
    evidence = f"on the same {count(facts.evaluation['total_rows'], 'validation row')}: {', '.join(chosen)}"
    change = Change({f"passes.{facts.training}.test_dataset_size": 0.1})
    yield _finding(facts, "chosen on these rows", evidence, "ready", "", [change])


_CHECKS: tuple[Callable[[Facts], Iterator[Diagnosis]], ...] = (
    _unmeasured,
    _leaks,
    _truncated,
    _labels,
    _doubtful,
    _few_training_rows,
    _training,
    _imbalance,
    _long_rows,
    _no_gain,
    _few_test_rows,
    _rounding,
    _mostly_wrong,
    _chosen,
    _duplicates,
)


# -- what all have in common ------------------------------------------------------------------------------------------


def _finding(
    facts: Facts,
    problem: ProblemKind,
    evidence: str,
    light: Light,
    action: str,
    changes: Iterable[Change] = (),
    *,
    file: str = "",
    setting: str = "",
) -> Diagnosis:
    """Return a diagnosis with the first of `changes` that is not made, and after the others `action`.

    Args:
        file: File to change if no change is left.
        setting: Key to set if no change is left, whose value the user knows.
    """
    left = open_changes(changes, facts.workflow)
    value: Any = None
    if left:
        setting, value = next(iter(left[0].values.items()))
        file = _next_to(facts.config, EVALUATION) if left[0].in_evaluation else facts.config
    elif setting:
        file = facts.config
    texts = [as_text(change, facts.workflow) for change in left]
    advice = "; ".join(filter(None, [", or ".join(texts), action]))
    return Diagnosis(problem, evidence, setting, advice, value, file, light)


def _next_to(config: str, name: str) -> str:
    folder, slash, _ = config.rpartition("/")
    return f"{folder}{slash}{name}"


def _data_key(facts: Facts) -> str:
    """Return the key of the settings of the training data."""
    name = facts.step.train_data_config if facts.step else ""
    return f"data_configs.{name}.pre_process_data_config"


def _evaluation_key(facts: Facts, key: str) -> str:
    """Return where evaluation.json has a setting of this training."""
    own = f"passes.{facts.training}.{key}"
    return own if value_at(facts.workflow.evaluation, own) is not None else key


def _rows_file(facts: Facts) -> str:
    """Return the files of the measured rows."""
    files = dict.fromkeys(row.file for row in facts.rows)
    return ", ".join(files)
