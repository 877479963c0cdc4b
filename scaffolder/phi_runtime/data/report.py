"""What a data set holds and what a model will see of it: everything that goes wrong in silence, counted before it is trained on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.core.errors import DataError, Location
from phi_runtime.core.events import Emit
from phi_runtime.core.project import Project, project_of
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.dataset import Dataset, Place, Side, divide, load_sides
from phi_runtime.data.leakage import leaks
from phi_runtime.data.sequences import Sequences, over_long
from phi_runtime.data.survey import Place as SurveyPlace

FILE = "data_report.json"
PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)
_COMPARED = 200_000  # training rows that are looked through for near duplicates of held-out ones


def examine(
    workflow: Workflow, training: FinetunePass, place: Place, emit: Emit, stage: str = "data"
) -> dict[str, Any]:
    """The report on the data that `training` reads, broken rows being counted. Raises DataError for a file that cannot be read."""
    project = project_of(place.config)
    read = load_sides(workflow, training, place.tolerant(), emit, stage)
    unusable: dict[str, Any] = {"usable": False, "datasets": [], "splits": None, "warnings": []}
    if not all(len(side) for side in read):
        return unusable | {"datasets": [_of_side(side, project) for side in read]}
    try:
        dataset = divide(read, training)
    except DataError as e:
        return unusable | {"datasets": [_of_side(side, project) for side in read], "warnings": [e.what]}
    made: dict[str, Sequences] = {}
    faults = []
    with tempfile.TemporaryDirectory(prefix=".joined-", dir=place.cache.parent) as scratch:
        for name, side in (("training", dataset.training), ("validation", dataset.held_out)):
            try:
                made[name] = side.sequences(place.tokenizer, training.training_args.order_seed, Path(scratch) / name)
            except DataError as e:
                faults.append(e.what if name == "training" else f"validation rows: {e.what}")
        return report(dataset, made, project, faults)


def report(
    dataset: Dataset, made: Mapping[str, Sequences], project: Project, faults: Iterable[str] = ()
) -> dict[str, Any]:
    """The report on a data set that is loaded: `made` are the sequences of its sides, `training` and `validation`, as far as they
    could be made; `faults` say why not.

    `datasets` has one entry for each data config, `splits` what is trained on and what is held out; `usable` says whether anything
    is left to train on.
    """
    sides = {dataset.training.data.name: dataset.training}
    sides.setdefault(dataset.held_out.data.name, dataset.held_out)
    remarks = [*dataset.remarks, *faults]
    counts = {}
    for name, sequences in made.items():
        remarks += [r if name == "training" else f"validation rows: {r}" for r in sequences.remarks]
        counts[name] = {
            "rows": sequences.rows,
            "sequences": len(sequences),
            "tokens": sequences.token_count,
            "trained_tokens": sequences.trained_count,
        }
    return {
        "usable": "training" in made,
        "datasets": [_of_side(side, project) for side in sides.values()],
        "splits": {**counts, "leakage": _leakage(dataset, project)},
        "warnings": remarks,
    }


def _of_side(side: Side, project: Project) -> dict[str, Any]:
    store, survey = side.store, side.store.survey
    sizes: np.ndarray = store.rows["tokens"].astype(np.int64)
    trained = int(store.rows["trained"].sum())
    settings, total = side.settings, int(sizes.sum())
    joined = "join" in settings.strategy
    return {
        "name": side.data.name,
        "files": [project.shown(path) for path in side.files],
        "row_type": "conversations"
        if isinstance(side.template, ChatTemplate)
        else "questions"
        if side.template.asks
        else "texts",
        "loss": "completions" if side.completion_only else "all",
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
        "over_long": None if joined else over_long(settings, side.completion_only),
        "tokens": {
            "total": total,
            "trained": trained,
            "trained_share": round(trained / total, 4) if total else 0.0,
            "percentiles": {str(p): int(np.percentile(sizes, p, method="higher")) for p in PERCENTILES}
            if len(sizes)
            else {},
        },
        "labels": dict(survey.labels.most_common()) if survey.labels and _are_labels(side) else None,
        "columns": dict(survey.columns.most_common()),
        "personal_data": dict(survey.personal),
        "encoding_faults": dict(survey.encoding),
        "broken_at": _shown(side, project, survey.broken_at),
        "empty_at": _shown(side, project, survey.empty_at),
        "personal_data_at": _shown(side, project, survey.personal_at),
        "encoding_faults_at": _shown(side, project, survey.encoding_at),
    }


def _are_labels(side: Side) -> bool:
    labels = side.store.survey.labels
    return side.template.asks and labels is not None and len(labels) <= max(2, len(side.store) // 5)


def _duplicates(rows: np.ndarray) -> int:
    """Rows that have question and answer of one before them."""
    key = np.stack([rows["question"][:, 0], rows["question"][:, 1], rows["answer"]], axis=1)
    return len(rows) - len(np.unique(key, axis=0)) if len(rows) else 0


def _shown(side: Side, project: Project, places: Iterable[SurveyPlace]) -> list[dict[str, Any]]:
    return [{"file": project.shown(side.files[file]), "line": line, "message": what} for file, line, what, *_ in places]


def _leakage(dataset: Dataset, project: Project) -> dict[str, Any]:
    training, held_out = dataset.training, dataset.held_out
    compared = training.chosen[:_COMPARED]
    found = leaks(training.store, compared, held_out.store, held_out.chosen)
    places = [
        {"training": _told(training.place_of(t), project), "validation": _told(held_out.place_of(h), project)}
        for t, h in found.examples
    ]
    return {
        "same_question": found.same,
        "near_duplicate": found.near,
        "compared_rows": len(compared),
        "examples": places,
    }


def _told(where: Location, project: Project) -> str:
    return f"{project.shown(Path(where.path))}:{where.line}"
