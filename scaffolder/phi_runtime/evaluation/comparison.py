"""The comparison: measure several models on the same test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.schema import Evaluation, Workflow
from phi_runtime.core.artifacts import folder_bytes, read_json, write_json
from phi_runtime.core.events import Emit, Event
from phi_runtime.data.dataset import DataContext, DataSplit, load_dataset
from phi_runtime.data.hooks import load_training_hooks
from phi_runtime.data.tokenize import Encoder
from phi_runtime.evaluation.baselines import baselines
from phi_runtime.evaluation.metrics import headline, headline_scores, row_scores
from phi_runtime.evaluation.own_metrics import OwnMetrics
from phi_runtime.evaluation.questions import Questions, sample_questions
from phi_runtime.evaluation.row_results import ROWS, Measured, RowResult, read_rows, write_rows
from phi_runtime.evaluation.summary import perplexity, summarize
from phi_runtime.evaluation.worker import ModelResults, ModelTask, work_apart
from phi_runtime.inference.generator import GeneratorOptions, TokenPair
from phi_runtime.inference.loading import context_length
from phi_runtime.models.onnx_adapters import FOLDER, SUFFIX, adapter_file
from phi_runtime.models.reference import ModelRef

RESULTS = "evaluation.json"
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
    settings = workflow.evaluation.of(training)
    measured_on = workflow.passes[training].rows
    assert measured_on is not None
    dataset = load_dataset(workflow, measured_on, place, emit, stage)
    side, split = dataset.compared if rows_of == "test" else ("validation", dataset.validation)
    limit = min((context_length(ref) for _, ref in models), default=None)
    questions = sample_questions(split, settings, place.tokenizer, limit)
    if questions.too_long:
        emit(Event("warning", stage, {"message": questions.remark}))
    test, references = questions.rows, questions.references
    own = OwnMetrics(settings, load_training_hooks(place.config).metrics, place.config)
    if references:
        own.check(references)
    if settings.cost and rows_of == "test":
        labels = {split.template.reference(row) for row in dataset.training.first(BASELINE_ROWS).values()}
        own.check_labels(labels.union(references))
    pairs = _token_pairs(questions, place, limit)
    measured: dict[str, list[Measured]] = {}
    if rows_of == "test" and references:
        measured = _baselines(settings.task, dataset.training.first(BASELINE_ROWS), questions)
    performance: dict[str, dict[str, Any]] = {}
    for number, (name, ref) in enumerate(models if len(test) else ()):
        emit(Event("progress", stage, {"done": number, "total": len(models), "unit": "models", "message": name}))
        task = ModelTask(
            name,
            ref,
            device,
            GeneratorOptions(test.template.special, stop_tokens=test.template.stop_tokens),
            questions.prompts,
            pairs,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            context_tokens=context_tokens,
        )
        results = work_apart(task, out / f"{name}.log", emit)
        measured[name] = _measured(results, questions, pairs, settings.task)
        performance[name] = {**asdict(results.performance), "size_bytes": model_bytes(ref)}
        emit(Event("metric", stage, {"model": name, **_main_result(settings.task, measured[name], references)}))
    rows = _rows(questions, measured, place.config.parent.parent)
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


def _baselines(task: str, training: DataSplit, questions: Questions) -> dict[str, list[Measured]]:
    """Return the answers of the baselines, which learn from the training rows, to the questions."""
    rows = training.values()
    inputs = [training.template.input_text(row) for row in rows]
    answers = [training.template.reference(row) for row in rows]
    test_inputs = [questions.rows.template.input_text(row) for row in questions.values]
    return {
        baseline.name: [
            Measured(answer, row_scores(task, answer, reference))
            for answer, reference in zip(baseline.answers, questions.references, strict=True)
        ]
        for baseline in baselines(task, inputs, answers, test_inputs)
    }


def _main_result(task: str, measured: Sequence[Measured], references: Sequence[str]) -> dict[str, float]:
    """Return the main metric of a model; for free text, its perplexity."""
    if not references:
        return {"perplexity": perplexity(measured)}
    return {headline(task): headline_scores(task, [m.answer or "" for m in measured], references).mean}


def _rows(questions: Questions, measured: dict[str, list[Measured]], root: Path) -> list[RowResult]:
    places = [(_shown(Path(where.path), root), where.line) for where in questions.rows.places()]
    prompts: Sequence[str | None] = questions.prompts or [None] * len(places)
    references: Sequence[str | None] = questions.references or [None] * len(places)
    results = [{name: of_model[i] for name, of_model in measured.items()} for i in range(len(places))]
    columns = zip(places, prompts, references, results, strict=True)
    return [RowResult(*place, prompt, reference, models) for place, prompt, reference, models in columns]


def model_bytes(ref: ModelRef) -> int:
    """Return the size of the model's files in bytes; of several adapters next to a graph, only the active one counts."""
    if ref.kind != "onnx" or ref.adapter is None:
        return folder_bytes(ref.path)
    others = [file for file in (ref.path / FOLDER).glob(f"*{SUFFIX}") if file != adapter_file(ref.path, ref.adapter)]
    return folder_bytes(ref.path) - sum(file.stat().st_size for file in others)


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _token_pairs(questions: Questions, place: DataContext, context_tokens: int | None) -> list[TokenPair]:
    """Return the prompt and the completion whose likelihood is measured, of each row.

    The last answer of each row given its prompt, whichever tokens are trained; for free text, the first
    max_seq_len tokens of each row, given the first token.
    """
    test = questions.rows
    settings, template, store = test.settings, test.template, test.store
    if not template.has_prompt:
        limit = min(settings.max_seq_len, context_tokens or settings.max_seq_len)
        rows = (store.row(index)[0][:limit].tolist() for index in test.chosen)
        return [(ids[:1], ids[1:]) for ids in rows]
    encoder = Encoder(place.tokenizer, end_token=settings.add_special_tokens, chat=not template.special)
    pieces = [template.row(row, completion_only=True).pieces for row in questions.values]
    answers = [(row.ids[:context_tokens], slice(*row.runs[-1])) for row in encoder.encode(pieces)]
    return [(ids[: answer.start], ids[answer]) for ids, answer in answers]


def _measured(results: ModelResults, questions: Questions, pairs: Sequence[TokenPair], task: str) -> list[Measured]:
    """Return the results of a model by row."""
    losses = zip(results.losses, pairs, strict=True)
    measured = [Measured(loss=loss, tokens=len(completion)) for loss, (_, completion) in losses]
    if not questions.prompts:
        return measured
    answers = map(questions.rows.template.answer_of, results.answers)
    return [
        replace(m, answer=answer, scores=row_scores(task, answer, reference))
        for m, answer, reference in zip(measured, answers, questions.references, strict=True)
    ]
