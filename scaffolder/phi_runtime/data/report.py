"""Report on a data set before training: counts of everything that would otherwise go wrong silently."""

from __future__ import annotations

import tempfile
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
from phi_runtime.data.leakage import find_leaks
from phi_runtime.data.selection import read_options
from phi_runtime.data.sequences import Sequences, over_long
from phi_runtime.data.survey import RowNote

FILE = "data_report.json"
PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)
_FORMS = 20  # data files whose form is examined
_COMPARED = 200_000  # training rows that are searched for near duplicates of validation rows


def examine(workflow: Workflow, training: FinetunePass, context: DataContext, emit: Emit) -> dict[str, Any]:
    """Return the report on the data that `training` reads; bad rows are counted.

    Raises:
        DataError: a file cannot be read.
    """
    project = project_of(context.config)
    read = load_splits(workflow, training, context.skipping_bad_rows(), emit, "data")
    unusable: dict[str, Any] = {"usable": False, "datasets": [], "splits": None, "warnings": []}
    if not all(len(split) for split in read):
        return unusable | {"datasets": [_of_split(split, project) for split in read]}
    try:
        dataset = split_dataset(read, training)
    except DataError as e:
        return unusable | {"datasets": [_of_split(split, project) for split in read], "warnings": [e.what]}
    sequences: dict[str, Sequences] = {}
    errors = []
    with tempfile.TemporaryDirectory(prefix=".joined-", dir=context.cache.parent) as scratch:
        seed = training.training_args.order_seed
        for name, split in (("training", dataset.training), ("validation", dataset.validation)):
            try:
                sequences[name] = split.sequences(context.tokenizer, seed, Path(scratch) / name)
            except DataError as e:
                errors.append(e.what if name == "training" else f"validation rows: {e.what}")
        return report(dataset, sequences, project, errors)


def report(
    dataset: Dataset, sequences: Mapping[str, Sequences], project: ProjectFolder, errors: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the report on a loaded data set.

    Args:
        dataset: Its rows.
        sequences: Sequences of the splits `training` and `validation`, as far as they could be built.
        project: Paths are shown relative to it.
        errors: Why the others could not be built.

    Returns:
        `datasets` with one entry for each data config, `splits` with the counts of training and validation, `warnings`, and
        `usable`, which is false if no row is left to train on.
    """
    splits = {dataset.training.data.name: dataset.training}
    splits.setdefault(dataset.validation.data.name, dataset.validation)
    remarks = [*dataset.remarks, *errors]
    remarks += [remark for split in splits.values() for form in _forms(split) for remark in form.remarks]
    counts = {}
    for name, built in sequences.items():
        remarks += [r if name == "training" else f"validation rows: {r}" for r in built.remarks]
        counts[name] = built.counts
    return {
        "usable": "training" in sequences,
        "datasets": [_of_split(split, project) for split in splits.values()],
        "splits": {**counts, "leakage": _leakage(dataset, project)},
        "warnings": remarks,
    }


def _of_split(split: DataSplit, project: ProjectFolder) -> dict[str, Any]:
    store, survey = split.store, split.store.survey
    sizes: np.ndarray = store.rows["tokens"].astype(np.int64)
    trained = int(store.rows["trained"].sum())
    settings, total = split.settings, int(sizes.sum())
    joined = "join" in settings.strategy
    return {
        "name": split.data.name,
        "files": [project.shown(path) for path in split.files],
        "form": _forms(split)[0].text,
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
            "duplicate": _duplicates(store.rows),
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
        },
        "labels": dict(survey.labels.most_common()) if survey.labels and _are_labels(split) else None,
        "columns": dict(survey.columns.most_common()),
        "personal_data": dict(survey.personal),
        "encoding_faults": dict(survey.encoding),
        "broken_at": _shown(split, project, survey.broken_at),
        "empty_at": _shown(split, project, survey.empty_at),
        "personal_data_at": _shown(split, project, survey.personal_at),
        "encoding_faults_at": _shown(split, project, survey.encoding_at),
    }


def _forms(split: DataSplit) -> list[FileForm]:
    """Return the forms of the first files."""
    load = split.data.load_dataset_config
    return [file_form(path, read_options(load, path)) for path in split.files[:_FORMS]]


def _are_labels(split: DataSplit) -> bool:
    labels = split.store.survey.labels
    return split.template.has_prompt and labels is not None and len(labels) <= max(2, len(split.store) // 5)


def _duplicates(rows: np.ndarray) -> int:
    """Return the number of rows that repeat question and answer of an earlier one."""
    key = np.stack([rows["question"][:, 0], rows["question"][:, 1], rows["answer"]], axis=1)
    return len(rows) - len(np.unique(key, axis=0)) if len(rows) else 0


def _shown(split: DataSplit, project: ProjectFolder, places: Iterable[RowNote]) -> list[dict[str, Any]]:
    return [
        {"file": project.shown(split.files[file]), "line": line, "message": what} for file, line, what, *_ in places
    ]


def _leakage(dataset: Dataset, project: ProjectFolder) -> dict[str, Any]:
    training, validation = dataset.training, dataset.validation
    compared = training.chosen[:_COMPARED]
    leaks = find_leaks(training.store, compared, validation.store, validation.chosen)
    places = [
        {"training": _place(training.place_of(t), project), "validation": _place(validation.place_of(v), project)}
        for t, v in leaks.examples
    ]
    return {
        "same_question": leaks.same,
        "near_duplicate": leaks.near,
        "compared_rows": len(compared),
        "examples": places,
    }


def _place(where: Location, project: ProjectFolder) -> str:
    return f"{project.shown(Path(where.path))}:{where.line}"
