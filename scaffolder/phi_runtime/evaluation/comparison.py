"""The comparison: measure several models on the same test rows."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.schema import Evaluation, Workflow
from phi_runtime.core.artifacts import folder_bytes, write_json
from phi_runtime.core.events import Emit, Event
from phi_runtime.data.dataset import DataContext, DataSplit, load_dataset
from phi_runtime.data.hooks import load_training_hooks
from phi_runtime.data.tokenize import Encoder
from phi_runtime.evaluation.metrics import headline, score
from phi_runtime.evaluation.questions import Questions, sample_questions
from phi_runtime.hardware.process_memory import peak_rss_bytes, reset_peak
from phi_runtime.inference.generator import Generator, GeneratorOptions, short_answers
from phi_runtime.inference.loading import context_length, open_generator
from phi_runtime.models.onnx_adapters import FOLDER, SUFFIX, adapter_file
from phi_runtime.models.reference import ModelRef

RESULTS, ANSWERS = "evaluation.json", "answers.json"
SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS = 128, 32
PERPLEXITY_ROWS = 64
_MAX_LOG_PERPLEXITY = 50  # keeps exp() finite

NamedModel = tuple[str, ModelRef]
TokenPair = tuple[list[int], list[int]]
"""The tokens of a prompt, and those of the completion whose likelihood is measured."""


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
) -> dict[str, Any]:
    """Measure `models` on rows of the pass `training`.

    Writes evaluation.json, and answers.json with the answer of each model to each row, into `out`.
    Metrics of the user (hooks.py) are added to those of the task. Free text has no questions: its
    models have a perplexity only, and no answers.

    Args:
        models: The models by their names in the comparison.
        place: The data and the tokenizer to read the rows with.
        device: torch device for the models that are not ONNX.
        stage: The stage in whose name events are emitted.
        rows_of: Side to measure on. For the test rows of a pass without any, its validation rows are used.

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
    test, prompts, references = questions.rows, questions.prompts, questions.references
    user_metrics = load_training_hooks(place.config).metrics
    pairs = _token_pairs(questions, place, limit)
    results: list[dict[str, Any]] = []
    answers: dict[str, list[str]] = {}
    for number, (name, ref) in enumerate(models if len(test) else ()):
        emit(Event("progress", stage, {"done": number, "total": len(models), "unit": "models", "message": name}))
        reset_peak()
        generator = open_generator(
            ref, device, GeneratorOptions(test.template.special, stop_tokens=test.template.stop_tokens)
        )
        result, answers[name] = _measure(generator, test, prompts, references, pairs, settings)
        if user_metrics and prompts:
            scores = user_metrics(answers[name], references)
            result["metrics"] |= {metric: round(value, 4) for metric, value in scores.items()}
        results.append({"name": name, **result, "size_bytes": model_bytes(ref), "peak_rss_bytes": peak_rss_bytes()})
        metric = headline(settings.task)
        main = {metric: result["metrics"][metric]} if result["metrics"] else {"perplexity": result["perplexity"]}
        emit(Event("metric", stage, {"model": name, **main}))
        del generator
        gc.collect()
    content = {
        "task": settings.task,
        "rows": len(test),
        "rows_of": side,
        "total_rows": len(split),
        "too_long": questions.too_long,
        "models": results,
    }
    write_json(out / RESULTS, content)
    rows = [
        {"prompt": prompt, "reference": reference, "answers": {name: answers[name][i] for name in answers}}
        for i, (prompt, reference) in enumerate(zip(prompts, references, strict=True))
    ]
    write_json(out / ANSWERS, rows)
    return content


def model_bytes(ref: ModelRef) -> int:
    """Return the size of the model's files in bytes; of several adapters next to a graph, only the active one counts."""
    if ref.kind != "onnx" or ref.adapter is None:
        return folder_bytes(ref.path)
    others = [file for file in (ref.path / FOLDER).glob(f"*{SUFFIX}") if file != adapter_file(ref.path, ref.adapter)]
    return folder_bytes(ref.path) - sum(file.stat().st_size for file in others)


def _token_pairs(questions: Questions, place: DataContext, context_tokens: int | None) -> list[TokenPair]:
    """Return what the perplexity is computed on.

    The last answer of each row given its prompt, whichever tokens are trained; for free text, the first
    max_seq_len tokens of each row, given the first token.
    """
    test = questions.rows
    settings, template, store = test.settings, test.template, test.store
    places = test.sampled(PERPLEXITY_ROWS)
    if not template.has_prompt:
        limit = min(settings.max_seq_len, context_tokens or settings.max_seq_len)
        rows = (store.row(index)[0][:limit].tolist() for index in test.chosen[places])
        return [(ids[:1], ids[1:]) for ids in rows]
    encoder = Encoder(place.tokenizer, end_token=settings.add_special_tokens, chat=not template.special)
    pieces = [template.row(questions.values[i], completion_only=True).pieces for i in places]
    answers = [(row.ids[:context_tokens], slice(*row.runs[-1])) for row in encoder.encode(pieces)]
    return [(ids[: answer.start], ids[answer]) for ids, answer in answers]


def _measure(
    generator: Generator,
    test: DataSplit,
    prompts: list[str],
    references: list[str],
    pairs: Sequence[TokenPair],
    settings: Evaluation,
) -> tuple[dict[str, Any], list[str]]:
    answers = short_answers(generator, prompts, test.template, settings.max_new_tokens, settings.batch_size)
    metrics = score(settings.task, answers, references) if answers else {}
    return {
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
        "perplexity": round(_perplexity(generator, pairs), 4),
        **measure_speed(generator),
    }, answers


def measure_speed(generator: Generator) -> dict[str, float]:
    """Return the tokens per second of reading a prompt and of writing an answer."""
    speed = generator.speed(SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS)
    return {name: round(value, 1) for name, value in asdict(speed).items()}


def _perplexity(generator: Generator, pairs: Sequence[TokenPair]) -> float:
    """Return the perplexity per completion token over all pairs."""
    loss = sum(generator.completion_loss(prompt, completion) for prompt, completion in pairs)
    tokens = sum(len(completion) for _, completion in pairs)
    return math.exp(min(loss / max(tokens, 1), _MAX_LOG_PERPLEXITY))
