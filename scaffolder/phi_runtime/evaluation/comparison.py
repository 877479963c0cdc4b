"""The comparison: measure several models on the same test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.schema import Evaluation, Workflow
from phi_runtime.core.artifacts import folder_bytes, read_json, write_json
from phi_runtime.core.events import Emit, Event
from phi_runtime.data.chat_template import Template
from phi_runtime.data.dataset import DataContext, DataSplit, load_dataset
from phi_runtime.data.hooks import Values, load_training_hooks
from phi_runtime.data.leakage import find_leaks
from phi_runtime.evaluation.baselines import baselines
from phi_runtime.evaluation.metrics import headline, headline_scores, row_scores
from phi_runtime.evaluation.model_processes import ModelProcesses
from phi_runtime.evaluation.own_metrics import OwnMetrics
from phi_runtime.evaluation.questions import Questions, sample_questions
from phi_runtime.evaluation.row_results import RESULTS, ROWS, Measured, RowResult, read_rows, write_rows
from phi_runtime.evaluation.row_tasks import (
    MAX_LABELS,
    ScoredRow,
    few_shot_rows,
    score_labels,
    scored_labels,
    scored_rows,
)
from phi_runtime.evaluation.summary import BASE, FEW_SHOT, LABELS_SCORED, perplexity, summarize
from phi_runtime.evaluation.worker import ModelResults, ModelTask
from phi_runtime.inference.generator import GeneratorOptions
from phi_runtime.inference.loading import context_length
from phi_runtime.models.onnx_adapters import FOLDER, SUFFIX, adapter_file
from phi_runtime.models.reference import ModelRef

BASELINE_ROWS = 20_000  # training rows that baselines learn from

NamedModel = tuple[str, ModelRef]


def evaluate(
    workflow: Workflow,
    training: str,
    models: Sequence[NamedModel],
    place: DataContext,
    out: Path,
    device: str,
    emit: Emit,
    stage: str,
    *,
    rows_of: Literal["test", "validation"] = "validation",
    chosen_on: Sequence[str] = (),
    context_tokens: int = 0,
) -> dict[str, Any]:
    """Measure `models` on rows of the pass `training`, each in a separate process.

    Writes rows.jsonl, with the answer and the loss of each model on each row, and evaluation.json into `out`. Test rows are
    answered by simple baselines, too. Metrics of the user (hooks.py) are added to those of the task. Free text has no
    questions: its models have a perplexity only, and no answers.

    Args:
        models: The models by their names in the comparison.
        place: The data and the tokenizer to read the rows with.
        device: torch device for the models that are not ONNX.
        stage: The stage in whose name events are emitted.
        rows_of: Side to measure on. For the test rows of a pass without any, its validation rows are used.
        chosen_on: Choices that were made on the validation rows.
        context_tokens: Context to measure the memory with; by default that of a short answer.

    Returns:
        The content of evaluation.json, documented in docs/json.md.
    """

    def warn(message: str) -> None:
        emit(Event("warning", stage, {"message": message}))

    settings = workflow.evaluation.of(training)
    measured_on = workflow.passes[training].rows
    assert measured_on is not None
    with ModelProcesses([ref for _, ref in models], device, out) as processes:
        dataset = load_dataset(workflow, measured_on, place, emit, stage)
        side, split = dataset.compared if rows_of == "test" else ("validation", dataset.validation)
        limit = min((context_length(ref) for _, ref in models), default=None)
        questions = sample_questions(split, settings, place.tokenizer, limit)
        if questions.too_long:
            warn(questions.remark)
        test, references = questions.rows, questions.references
        training_rows = dataset.training.first(BASELINE_ROWS).values() if rows_of == "test" and references else []
        template = test.template
        answers = {*map(template.reference, training_rows), *references}
        own = OwnMetrics(settings, load_training_hooks(place.config).metrics, place.config)
        if references:
            own.check(references)
        if settings.cost and rows_of == "test":
            own.check_labels(answers)
        labels: list[str] = []
        if training_rows and settings.task == "classification":
            labels = scored_labels(answers)
            if not labels:
                warn(f"labels are not scored: there are more than {MAX_LABELS}")
        scored = scored_rows(questions, place, limit, labels)
        measured = _baselines(settings.task, training_rows, questions)
        performance: dict[str, dict[str, Any]] = {}
        for number, (name, ref) in enumerate(models if len(test) else ()):
            emit(Event("progress", stage, {"done": number, "total": len(models), "unit": "models", "message": name}))
            variants = {name: scored}
            if name == BASE and training_rows:
                length = context_length(ref) - settings.max_new_tokens
                if few_shot := few_shot_rows(scored, questions, training_rows, place.tokenizer, length):
                    variants[FEW_SHOT] = few_shot
                else:
                    warn("no few-shot prompt: no example fits the context of the base")
            task = ModelTask(
                name,
                ref,
                device,
                GeneratorOptions(template.special, stop_tokens=template.stop_tokens),
                {variant: [row.task for row in rows] for variant, rows in variants.items()},
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
                context_tokens=context_tokens,
            )
            results = processes.work(task, out / f"{name}.log", emit)
            found = _measured(results, variants, template, settings.task)
            if name == BASE and labels:
                scores = [score_labels(m, settings.task, r) for m, r in zip(found[name], references, strict=True)]
                found = {name: found[name], LABELS_SCORED: scores, **found}
            base_bytes = model_bytes(ref.full) if ref.kind == "adapter" else None
            figures = {**asdict(results.performance), "size_bytes": model_bytes(ref), "base_bytes": base_bytes}
            for variant in found:
                performance[variant] = figures
                result = _main_result(settings.task, found[variant], references)
                emit(Event("metric", stage, {"model": variant, **result}))
            measured |= found
    training_side = dataset.training if training_rows else None
    rows = _rows(questions, scored, measured, place.config.parent.parent, training_side)
    summaries = summarize(settings.task, rows) if rows and measured else []
    own_metrics = own.add_to(summaries, rows)
    for summary in summaries:
        summary |= performance.get(summary["name"], {})
    content = {
        "task": settings.task,
        "rows": len(test),
        "rows_of": side,
        "total_rows": len(split),
        "too_long": questions.too_long,
        "chosen_on": list(chosen_on) if side == "validation" else [],
        "own_metrics": own_metrics,
        "baselines": [summary for summary in summaries if summary["name"] not in performance],
        "models": [summary for summary in summaries if summary["name"] in performance],
    }
    write_rows(out / ROWS, rows)
    write_json(out / RESULTS, content)
    return content


def summarize_again(
    settings: Evaluation, config: Path, previous: Path, out: Path, chosen_on: Sequence[str]
) -> dict[str, Any]:
    """Compute the metrics of the evaluation in the folder `previous` again, for other metrics of the project or choices.

    Writes rows.jsonl and evaluation.json into `out`, as `evaluate` does, and returns the content of the latter.
    """
    content, rows = read_json(previous / RESULTS), read_rows(previous / ROWS)
    summaries = summarize(settings.task, rows) if rows else []
    own = OwnMetrics(settings, load_training_hooks(config).metrics, config)
    content["own_metrics"] = own.add_to(summaries, rows)
    content["chosen_on"] = list(chosen_on) if content["rows_of"] == "validation" else []
    by_name = {summary["name"]: summary for summary in summaries}
    for key in ("baselines", "models"):
        content[key] = [{**model, **by_name[model["name"]]} for model in content[key]]
    write_rows(out / ROWS, rows)
    write_json(out / RESULTS, content)
    return content


def _baselines(task: str, training_rows: Sequence[Values], questions: Questions) -> dict[str, list[Measured]]:
    """Return the answers of the baselines, which learn from the training rows, to the questions; none without any."""
    template = questions.rows.template
    inputs = [template.input_text(row) for row in training_rows]
    answers = [template.reference(row) for row in training_rows]
    test_inputs = [template.input_text(row) for row in questions.values] if training_rows else []
    return {
        baseline.name: [
            Measured(answer, row_scores(task, answer, reference))
            for answer, reference in zip(baseline.answers, questions.references, strict=True)
        ]
        for baseline in baselines(task, inputs, answers, test_inputs)
    }


def _measured(
    results: ModelResults, variants: dict[str, list[ScoredRow]], template: Template, task: str
) -> dict[str, list[Measured]]:
    """Return the results of a model by its prompts and by row."""
    return {
        name: [
            row.measured(result, task, None if row.task.prompt is None else template.answer_of(result.answer))
            for row, result in zip(rows, results.rows[name], strict=True)
        ]
        for name, rows in variants.items()
    }


def _main_result(task: str, measured: Sequence[Measured], references: Sequence[str]) -> dict[str, float]:
    """Return the main metric of a model; for free text, its perplexity."""
    if not references:
        return {"perplexity": perplexity(measured)}
    return {headline(task): headline_scores(task, [m.answer or "" for m in measured], references).mean}


def _rows(
    questions: Questions,
    scored: Sequence[ScoredRow],
    measured: dict[str, list[Measured]],
    root: Path,
    training: DataSplit | None,
) -> list[RowResult]:
    test = questions.rows
    leaks = find_leaks(training.store, training.chosen, test.store, test.chosen) if training else None
    return [
        RowResult(
            _shown(Path(where.path), root),
            where.line,
            row.task.prompt,
            row.reference,
            {name: of_model[i] for name, of_model in measured.items()},
            group,
            row.text_bytes,
            i in leaks.repeated if leaks else None,
        )
        for i, (where, row, group) in enumerate(zip(test.places(), scored, questions.groups, strict=True))
    ]


def model_bytes(ref: ModelRef) -> int:
    """Return the size of the model's files in bytes; of several adapters next to a graph, only the active one counts."""
    if ref.kind != "onnx" or ref.adapter is None:
        return folder_bytes(ref.path)
    others = [file for file in (ref.path / FOLDER).glob(f"*{SUFFIX}") if file != adapter_file(ref.path, ref.adapter)]
    return folder_bytes(ref.path) - sum(file.stat().st_size for file in others)


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
