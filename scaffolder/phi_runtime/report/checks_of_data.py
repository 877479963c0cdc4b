"""Checks of the data: each yields the problems that it sees, with the numbers behind them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from phi_runtime.core.units import count
from phi_runtime.data.labels import shortened
from phi_runtime.evaluation.intervals import wilson
from phi_runtime.evaluation.row_results import RowResult
from phi_runtime.report.changes import AdvisedChange, value_at
from phi_runtime.report.facts import Facts
from phi_runtime.report.figures import percent, percents
from phi_runtime.report.finding import MUCH, data_key, finding, rows_file, side_keys
from phi_runtime.training.diagnosis import Diagnosis

FEW_TRAINING_ROWS, FEW_OF_A_LABEL = 100, 10
WELL = 0.9  # main metric above which few training rows are enough
LITTLE = 0.01  # share of rows that is worth a remark
MANY_LONG = 0.2  # share of too long rows that may change what is learned
REPEATED = 0.1  # share of repeated training rows that is worth a remark
CONFIDENT = 2.3  # nats of the reference: the model gave it less than a tenth
_DOUBTFUL = 5  # rows
_ROWS_OF_A_LABEL = 5  # test rows of a label below which its share is not looked at


def leaks(facts: Facts) -> Iterator[Diagnosis]:
    """Check for measured rows that training rows give away."""
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
    key, size = side_keys(side)
    own = value_at(facts.workflow, f"passes.{facts.training}.{key}")
    split_off = {f"passes.{facts.training}.{key}": None, f"passes.{facts.training}.{size}": 0.1}
    yield finding(
        facts,
        "leakage" if same or begun else "near duplicates",
        evidence,
        "check" if total >= MUCH * rows else "ready",
        "remove the repeated rows; `phi-scaffold data check` lists them"
        + ("" if own else ", or set group_by to the column of what belongs together"),
        [AdvisedChange(split_off)] if own else [],
        setting="" if own else f"{data_key(facts)}.group_by",
    )


def labels(facts: Facts) -> Iterator[Diagnosis]:
    """Check for one label, for spellings of one, and for questions with several."""
    data = facts.training_data
    labels: dict[str, int] = (data or {}).get("labels") or {}
    if not data or not labels:
        return
    files, rows = ", ".join(data["files"]), data["rows"]
    if len(labels) == 1:
        evidence = f"all {count(rows['kept'], 'row')} have the label `{shortened(next(iter(labels)))}`"
        yield finding(facts, "one label", evidence, "not ready", "add rows with other labels", file=files)
    same: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        same["".join(label.casefold().split())].append(label)
    if groups := [group for group in same.values() if len(group) > 1]:
        evidence = "; ".join(
            ", ".join(f"`{shortened(label)}` {count(labels[label], 'row')}" for label in group) for group in groups
        )
        yield finding(facts, "inconsistent labels", evidence, "check", "write each label in one way", file=files)
    if rows["contradictory"] >= max(LITTLE * rows["kept"], 1):
        examples = data.get("contradictory_at") or ()
        places = "".join(f", such as {place['file']}:{place['line']} ({place['message']})" for place in examples[:1])
        much = rows["contradictory"] >= MUCH * rows["kept"]
        evidence = (
            f"{count(rows['contradictory'], 'question')} in {count(rows['kept'], 'row')} have several labels{places}"
        )
        action = "keep one label of each question; `phi-scaffold data check` lists them"
        yield finding(facts, "contradictory labels", evidence, "check" if much else "ready", action, file=files)


def doubtful(facts: Facts) -> Iterator[Diagnosis]:
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
    yield finding(facts, "doubtful labels", evidence, "check", action, file=rows_file(facts))


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


def imbalance(facts: Facts) -> Iterator[Diagnosis]:
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
    yield finding(facts, "class imbalance", evidence, "check", action, file=", ".join(data["files"]))


def few_training_rows(facts: Facts) -> Iterator[Diagnosis]:
    """Check for too few rows to learn from, unless they were enough."""
    data, rows = facts.training_data, facts.counts.get("rows") or 0
    labels = (data or {}).get("labels") or {}
    trained = facts.trained
    needed = max(FEW_TRAINING_ROWS, FEW_OF_A_LABEL * len(labels))
    if not 0 < rows < needed or (trained and trained["metrics"].get(facts.metric, 0) >= WELL):
        return
    per_label = f", {rows / len(labels):.0f} of each label" if labels else ""
    place = data_key(facts)
    changes = []
    if value_at(facts.workflow, f"{place}.max_samples"):
        changes.append(AdvisedChange({f"{place}.max_samples": None}))
    split = value_at(facts.workflow, f"{place.rpartition('.')[0]}.load_dataset_config.split") or ""
    if "[" in split:
        changes.append(
            AdvisedChange({f"{place.rpartition('.')[0]}.load_dataset_config.split": split.partition("[")[0]})
        )
    files = ", ".join((data or {}).get("files", ()))
    evidence = f"{count(rows, 'training row')}{per_label}"
    yield finding(facts, "too few training rows", evidence, "ready", f"add rows: {needed} or more", changes, file=files)


def long_rows(facts: Facts) -> Iterator[Diagnosis]:
    """Check for rows that exceed the longest sequence."""
    data = facts.training_data
    if not data or not data["rows"]["kept"] or not data["rows"]["too_long"]:
        return
    rows, longest = data["rows"], data["tokens"]["percentiles"]["99"]
    share = rows["too_long"] / rows["kept"]
    if share < MUCH:
        return
    fate = {"drop": "are dropped", "truncate": "are cut", "split": "are split"}[data["over_long"]]
    evidence = f"{rows['too_long']} of {count(rows['kept'], 'row')} exceed {data['max_seq_len']} tokens and {fate}"
    change = AdvisedChange({f"data_configs.{data['name']}.pre_process_data_config.max_seq_len": -(-longest // 64) * 64})
    yield finding(facts, "rows too long", evidence, "check" if share >= MANY_LONG else "ready", "", [change])


def duplicates(facts: Facts) -> Iterator[Diagnosis]:
    """Check for training rows that repeat others."""
    data = facts.training_data
    if not data or data["rows"]["duplicate"] < max(REPEATED * data["rows"]["kept"], 1):
        return
    rows = data["rows"]
    evidence = f"{rows['duplicate']} of {count(rows['kept'], 'row')} repeat an earlier one"
    action = "remove them, or add different rows: repeated ones weigh more and teach nothing new"
    yield finding(facts, "duplicate rows", evidence, "ready", action, file=", ".join(data["files"]))
