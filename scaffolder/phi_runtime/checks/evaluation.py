"""Check the metrics that evaluation.json defines: forms and labels of `cost`, metrics of `combined`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from phi_runtime.config.confusions import MEAN_COST, parse_confusion, unknown_labels
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.paths import data_paths
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import DataConfig, Datastore, Evaluation, FinetunePass, Workflow
from phi_runtime.config.tasks import METRICS
from phi_runtime.core.errors import DataError, MissingDependency
from phi_runtime.core.suggestions import nearest
from phi_runtime.data.hooks import functions_key, hooks_file
from phi_runtime.data.row import RowError
from phi_runtime.data.rows import BadRow
from phi_runtime.data.selection import select
from phi_runtime.data.template import PromptTemplate, TemplateError

_LIKELIHOODS = ("loss", "perplexity", "validation_loss")


def check_evaluation(draft: Draft, evaluation: Evaluation, config: Path, workflow: Workflow | None) -> list[Finding]:
    """Return errors in `cost` and `combined`, for all passes and for single ones.

    Args:
        draft: The file, which locates findings.
        evaluation: Its content.
        config: The workflow config, or a file next to it.
        workflow: Its content, whose rows have the labels; None if it is not known.
    """
    findings: dict[tuple[KeyPath, str], Finding] = {}
    for name in (None, *evaluation.passes, *(workflow.trainings if workflow else ())):
        found = [*_costs(draft, evaluation, name, config, workflow), *_combined(draft, evaluation, name, config)]
        for finding in found:
            findings.setdefault(((finding.where.line, finding.where.column), finding.rule), finding)
    return list(findings.values())


def _settings(evaluation: Evaluation, name: str | None, key: str) -> tuple[Evaluation, KeyPath]:
    """Return the settings of a pass (None: of all), and the place of their `key`."""
    own = evaluation.passes.get(name) if name else None
    place: KeyPath = ("passes", str(name), key) if own and getattr(own, key) is not None else (key,)
    return evaluation.of(name) if name else evaluation, place


def _costs(
    draft: Draft, evaluation: Evaluation, name: str | None, config: Path, workflow: Workflow | None
) -> Iterator[Finding]:
    settings, at = _settings(evaluation, name, "cost")
    if not settings.cost:
        return
    if settings.task != "classification":
        fix = 'set `"task": "classification"`, or `cost` in `passes`'
        yield draft.finding(at, "contradiction", f"`cost` has no labels in the task `{settings.task}`", fix=fix)
        return
    seen: dict[tuple[str, str], str] = {}
    for key in settings.cost:
        confusion = parse_confusion(key)
        if confusion is None:
            message = f"`{key}` is not two labels; expected `expected→predicted`"
            yield draft.finding((*at, key), "unknown-value", message)
        elif confusion.expected == confusion.predicted:
            yield draft.finding((*at, key), "contradiction", f"`{key}` is a right answer, which costs 0: remove it")
        elif confusion in seen:
            message = f"`{seen[confusion]}` and `{key}` are the same confusion: remove one"
            yield draft.finding((*at, key), "contradiction", message)
        else:
            seen[confusion] = key
    training = workflow.trainings.get(name) if workflow and name else None
    labels = _labels(workflow, training, config) if workflow and training else None
    for unknown in unknown_labels(settings.cost, labels) if labels else ():
        yield draft.finding((*at, unknown.key), "unknown-value", unknown.message, unknown.suggestion)


def _combined(draft: Draft, evaluation: Evaluation, name: str | None, config: Path) -> Iterator[Finding]:
    settings, at = _settings(evaluation, name, "combined")
    known = [*METRICS[settings.task], *([MEAN_COST] if settings.cost else [])]
    user_metrics = hooks_file(config, ("metrics",)) is not None  # which may return any name
    for metric, weights in settings.combined.items():
        if metric in (*known, MEAN_COST, *_LIKELIHOODS):
            yield draft.finding((*at, metric), "duplicate-name", f"`{metric}` is a metric already: choose another name")
        for part in weights:
            if part == MEAN_COST and not settings.cost:
                message = f"`{MEAN_COST}` needs `cost`, the costs of confusions"
                yield draft.finding((*at, metric, part), "missing-key", message)
            elif part not in known and not user_metrics:
                message = f"no metric `{part}` in the task `{settings.task}` (known: {', '.join(known)})"
                yield draft.finding((*at, metric, part), "unknown-reference", message, nearest(part, known))


def _labels(workflow: Workflow, training: FinetunePass, config: Path) -> set[str] | None:
    """Return the answers in the files of a training and its comparison; None if they cannot be known before it runs."""
    labels: set[str] = set()
    configs = {data.name: data for data in workflow.data_configs}
    for name in training.measured_names:
        of_data = _labels_of(configs[name], config) if name in configs else None
        if of_data is None:
            return None
        labels |= of_data
    return labels


def _labels_of(data: DataConfig, config: Path) -> set[str] | None:
    load, process = data.load_dataset_config, data.pre_process_data_config
    if not process.text_template or process.chat_template or isinstance(load.data_files, Datastore):
        return None
    try:
        if functions_key(config, data):  # they may change the answers
            return None
        template = PromptTemplate.from_text(process.text_template)
        files = [file.path for file in data_paths(data, config)]
        if not all(file.is_file() for file in files):
            return None
        rows = [item.row.values for item in select(load, files) if not isinstance(item, BadRow)]
        return {template.reference(row) for row in rows if row.get(template.answer) is not None}
    except (DataError, MissingDependency, OSError, RowError, TemplateError):
        return None
