"""Report on a data set before training: counts of everything that would otherwise go wrong silently."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.core.errors import DataError, Location
from phi_runtime.core.events import Emit
from phi_runtime.core.project import ProjectFolder, project_of
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.dataset import DataContext, Dataset, DataSplit, load_splits, split_dataset
from phi_runtime.data.file_form import FileForm, file_form
from phi_runtime.data.labels import (
    contradiction_remark,
    few_rows,
    label_remarks,
    shortened,
    side_remarks,
)
from phi_runtime.data.leakage import find_leaks
from phi_runtime.data.prepare import answer_hash
from phi_runtime.data.selection import read_options
from phi_runtime.data.sequences import Sequences, over_long
from phi_runtime.data.survey import RowNote

PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)
_FORMS = 20  # data files whose form is examined
_LONGEST_LABEL = 80  # characters


def examine(workflow: Workflow, training: FinetunePass, context: DataContext, emit: Emit) -> dict[str, Any]:
    """Return the report on the data that `training` reads; bad rows are counted.

    Raises:
        DataError: a file cannot be read.
    """
    project = project_of(context.config)
    read = load_splits(workflow, training, context.skipping_bad_rows(), emit, "data")
    if not all(len(split) for split in read.values()):
        return _unusable(read, project)
    try:
        dataset = split_dataset(read, training)
    except DataError as e:
        return _unusable(read, project, e.what)
    sequences: dict[str, Sequences] = {}
    errors = []
    with tempfile.TemporaryDirectory(prefix=".joined-", dir=context.cache.parent) as scratch:
        seed = training.training_args.order_seed
        for name, split in dataset.sides.items():
            try:
                sequences[name] = split.sequences(context.tokenizer, seed, Path(scratch) / name)
            except DataError as e:
                errors.append(e.what if name == "training" else f"{name} rows: {e.what}")
        return report(dataset, sequences, project, errors)


def _unusable(read: Mapping[str, DataSplit], project: ProjectFolder, *warnings: str) -> dict[str, Any]:
    data_sets = [_of_split(split, project, _form(split, split.path)) for split in read.values()]
    return {"usable": False, "datasets": data_sets, "splits": None, "warnings": [*warnings]}


def report(
    dataset: Dataset, sequences: Mapping[str, Sequences], project: ProjectFolder, errors: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the report on a loaded data set.

    Args:
        dataset: Its rows.
        sequences: Sequences of the splits `training`, `validation` and `test`, as far as they could be built.
        project: Paths are shown relative to it.
        errors: Why the others could not be built.

    Returns:
        `datasets` with one entry for each data config, `splits` with the counts of each split, `warnings`, and `usable`, which is
        false if no row is left to train on.
    """
    splits: dict[str, DataSplit] = {}
    for split in dataset.sides.values():
        splits.setdefault(split.data.name, split)
    unused = _unused(dataset)
    remarks = [*dataset.remarks, *errors, *_label_remarks(list(splits.values()), dataset, project)]
    forms = {name: [_form(split, path) for path in split.files[:_FORMS]] for name, split in splits.items()}
    remarks += [remark for of_split in forms.values() for form in of_split for remark in form.remarks]
    if unused:
        remarks.append(
            f"{unused} of {len(dataset.training.store)} rows are unused: validation or test rows have their questions"
        )
    remarks += [remark for name, split in _measured(dataset).items() for remark in few_rows(len(split), name)]
    counts = {}
    for name, built in sequences.items():
        remarks += [r if name == "training" else f"{name} rows: {r}" for r in built.remarks]
        counts[name] = built.counts
    return {
        "usable": "training" in sequences,
        "datasets": [_of_split(split, project, forms[name][0]) for name, split in splits.items()],
        "splits": {
            **counts,
            "unused_rows": unused,
            "leakage": _leakage(dataset.training, dataset.validation, project),
            "test_leakage": _leakage(dataset.training, dataset.test, project) if len(dataset.test) else None,
        },
        "warnings": remarks,
    }


def _of_split(split: DataSplit, project: ProjectFolder, form: FileForm) -> dict[str, Any]:
    store, survey = split.store, split.store.survey
    sizes: np.ndarray = store.rows["tokens"].astype(np.int64)
    trained = int(store.rows["trained"].sum())
    settings, total = split.settings, int(sizes.sum())
    joined = "join" in settings.strategy
    return {
        "name": split.data.name,
        "files": [project.shown(path) for path in split.files],
        "form": form.text,
        "row_type": "conversations"
        if isinstance(split.template, ChatTemplate)
        else "questions"
        if split.template.has_prompt
        else "texts",
        "loss": "completions" if split.completion_only else "all",
        "strategy": settings.strategy,
        "rows": {
            "read": survey.read,
            "broken": survey.broken,
            "empty": survey.empty,
            "filtered": survey.filtered,
            "kept": len(store),
            "duplicate": store.repeats.duplicates,
            "contradictory": store.repeats.contradictory if split.template.has_prompt else 0,
            "all_masked": int((store.rows["trained"] == 0).sum()),
            "no_end_token": survey.endless,
            "too_long": 0 if joined else int((sizes > settings.max_seq_len).sum()),
        },
        "max_seq_len": settings.max_seq_len,
        "over_long": None if joined else over_long(settings, split.completion_only),
        "tokens": {
            "total": total,
            "trained": trained,
            "trained_share": round(trained / total, 4) if total else 0.0,
            "percentiles": {str(p): int(np.percentile(sizes, p, method="higher")) for p in PERCENTILES}
            if len(sizes)
            else {},
            "histogram": _histogram(sizes),
        },
        "labels": _shown_labels(survey.labels) if survey.labels and _are_labels(split) else None,
        "columns": dict(survey.columns.most_common()),
        "personal_data": dict(survey.personal),
        "encoding_faults": dict(survey.encoding),
        "written_ends": dict(survey.ends),
        "special_tokens": dict(survey.special),
        "foreign_tokens": dict(survey.foreign),
        "untrained": dict(survey.untrained),
        "broken_at": _shown(split, project, survey.broken_at),
        "empty_at": _shown(split, project, survey.empty_at),
        "personal_data_at": _shown(split, project, survey.personal_at),
        "encoding_faults_at": _shown(split, project, survey.encoding_at),
        "written_ends_at": _shown(split, project, survey.ends_at),
        "special_tokens_at": _shown(split, project, survey.special_at),
        "foreign_tokens_at": _shown(split, project, survey.foreign_at),
        "untrained_at": _shown(split, project, survey.untrained_at),
        "contradictory_at": _contradictions(split, project),
    }


def _form(split: DataSplit, path: Path) -> FileForm:
    return file_form(path, read_options(split.data.load_dataset_config, path))


def _are_labels(split: DataSplit) -> bool:
    labels = split.store.survey.labels
    return split.template.has_prompt and labels is not None and len(labels) <= max(2, len(split.store) // 5)


def _shown_labels(labels: Counter[str]) -> dict[str, int]:
    """Return the rows of each label, most first; a long one is cut."""
    result: Counter[str] = Counter()
    for label, rows in labels.most_common():
        result[shortened(label, _LONGEST_LABEL)] += rows
    return dict(result)


def _label_remarks(splits: list[DataSplit], dataset: Dataset, project: ProjectFolder) -> list[str]:
    """Return remarks on the labels of all data sets together, and on questions with several of them."""
    if not _are_labels(dataset.training):
        return []
    labels: Counter[str] = Counter()
    remarks = []
    for split in splits:
        labels.update(split.store.survey.labels or {})
        repeats = split.store.repeats
        if repeats.contradictory:
            first, second = (_place(split.place_of(row), project) for row in repeats.examples[0])
            remarks.append(contradiction_remark(repeats.contradictory, repeats.questions, first, second))
    remarks += label_remarks(labels)
    training = _rows_of(labels, dataset.training)
    for name, side in _measured(dataset).items():
        remarks += side_remarks(labels, training, _rows_of(labels, side), name)
    return remarks


def _measured(dataset: Dataset) -> dict[str, DataSplit]:
    """Return the sides with rows that are not trained on, by name."""
    return {name: side for name, side in dataset.sides.items() if name != "training" and len(side)}


def _rows_of(labels: Iterable[str], split: DataSplit) -> dict[str, int]:
    """Return the number of rows of a split that have each label."""
    hashes, counts = np.unique(split.store.rows["answer"][split.chosen], return_counts=True)
    rows = dict(zip(hashes.tolist(), counts.tolist(), strict=True))
    return {label: rows.get(answer_hash(label), 0) for label in labels}


def _unused(dataset: Dataset) -> int:
    """Return the number of rows that are on no side."""
    store = dataset.training.store
    sides = [side.chosen for side in (dataset.training, dataset.validation, dataset.test) if side.store is store]
    return len(store) - len(np.unique(np.concatenate(sides)))


def _histogram(sizes: np.ndarray) -> list[dict[str, int]]:
    """Count rows by their number of tokens, up to each power of two."""
    if not len(sizes):
        return []
    exponents = np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
    rows = np.bincount(exponents)
    return [{"up_to": 2**exponent, "rows": int(rows[exponent])} for exponent in range(exponents.min(), len(rows))]


def _contradictions(split: DataSplit, project: ProjectFolder) -> list[dict[str, Any]]:
    """Return the places of rows whose question an earlier row has with another answer."""
    if not split.template.has_prompt:
        return []
    pairs = split.store.repeats.examples
    places = [(split.place_of(second), _place(split.place_of(first), project)) for first, second in pairs]
    return [
        {
            "file": project.shown(Path(where.path)),
            "line": where.line,
            "message": f"the question of {first}, another answer",
        }
        for where, first in places
    ]


def _shown(split: DataSplit, project: ProjectFolder, places: Iterable[RowNote]) -> list[dict[str, Any]]:
    return [
        {"file": project.shown(split.files[file]), "line": line, "message": what} for file, line, what, *_ in places
    ]


def _leakage(training: DataSplit, measured: DataSplit, project: ProjectFolder) -> dict[str, Any]:
    leaks = find_leaks(training.store, training.chosen, measured.store, measured.chosen)
    places = [
        {"training": _place(training.place_of(t), project), "validation": _place(measured.place_of(v), project)}
        for t, v in leaks.examples
    ]
    return {
        "same_question": leaks.same,
        "near_duplicate": leaks.near,
        "same_beginning": leaks.begun,
        "compared_rows": len(training),
        "examples": places,
    }


def _place(where: Location, project: ProjectFolder) -> str:
    return f"{project.shown(Path(where.path))}:{where.line}"
