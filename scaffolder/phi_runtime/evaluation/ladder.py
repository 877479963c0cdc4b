"""The quality ladder: each model of a run is asked the same held-out rows."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from phi_runtime.artefacts import folder_bytes, write_json
from phi_runtime.data.dataset import Side, load_dataset
from phi_runtime.data.tokenize import encode_row
from phi_runtime.evaluation.memory import peak_rss_bytes, reset_peak
from phi_runtime.evaluation.metrics import headline, score
from phi_runtime.events import Emit, Event
from phi_runtime.inference.by_kind import open_generator
from phi_runtime.inference.generator import Generator
from phi_runtime.models.load import load_tokenizer
from phi_runtime.models.reference import ModelRef
from phi_runtime.workflow.schema import Evaluation, FinetunePass, Workflow

RESULTS = "evaluation.json"
SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS = 128, 32
PERPLEXITY_ROWS = 64

Rung = tuple[str, ModelRef]


def evaluate(
    workflow: Workflow,
    training: FinetunePass,
    rungs: Sequence[Rung],
    config_path: Path,
    out: Path,
    device: str,
    emit: Emit,
) -> dict[str, Any]:
    """Measures every rung on the held-out rows, writes evaluation.json into `out` and returns its content.

    Its form is that of `evaluate --json`; `answers` beside it hold what each rung said to each row. Free text asks nothing: it
    has perplexity alone, and no answers.
    """
    held_out = load_dataset(workflow, training, config_path).held_out
    held_out = replace(held_out, rows=held_out.rows[: workflow.evaluation.max_rows])
    results: list[dict[str, Any]] = []
    said: dict[str, list[str]] = {}
    for number, (name, ref) in enumerate(rungs if held_out.rows else ()):
        emit(Event("progress", "evaluate", {"done": number, "total": len(rungs), "unit": "models", "message": name}))
        reset_peak()
        generator = open_generator(ref, device)
        result, said[name] = _measure(generator, ref, held_out, workflow.evaluation)
        results.append(
            {"name": name, **result, "size_bytes": folder_bytes(ref.path), "peak_rss_bytes": peak_rss_bytes()}
        )
        metric = headline(workflow.evaluation.task)
        main = {metric: result["metrics"][metric]} if result["metrics"] else {"perplexity": result["perplexity"]}
        emit(Event("metric", "evaluate", {"rung": name, **main}))
        del generator
        gc.collect()
    content = {"task": workflow.evaluation.task, "rows": len(held_out.rows), "rungs": results}
    write_json(out / RESULTS, content)
    prompts, references = _questions(held_out)
    rows = [
        {"prompt": p, "reference": r, "answers": {name: said[name][i] for name in said}}
        for i, (p, r) in enumerate(zip(prompts, references, strict=True))
    ]
    write_json(out / "answers.json", rows)
    return content


def _questions(held_out: Side) -> tuple[list[str], list[str]]:
    """Prompts and the answers wanted; none of free text."""
    template, rows = held_out.template, held_out.rows if held_out.template.inputs else []
    references = [str(row.values[template.answer]).strip() for row in rows]
    return [template.render_prompt(row.values) for row in rows], references


def _measure(
    generator: Generator, ref: ModelRef, held_out: Side, settings: Evaluation
) -> tuple[dict[str, Any], list[str]]:
    stop = held_out.template.stop.strip()
    prompts, references = _questions(held_out)
    answers = [
        (answer.split(stop)[0] if stop else answer).strip()
        for answer in generator.answers(prompts, settings.max_new_tokens, settings.batch_size)
    ]
    metrics = score(settings.task, answers, references) if answers else {}
    speed = generator.speed(SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS)
    return {
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
        "perplexity": round(_perplexity(generator, load_tokenizer(ref), held_out), 4),
        "prefill_tokens_per_s": round(speed.prefill_tokens_per_s, 1),
        "decode_tokens_per_s": round(speed.decode_tokens_per_s, 1),
    }, answers


def _perplexity(generator: Generator, tokenizer: Any, held_out: Side) -> float:
    """By token of the completions; of free text, by token from the second on, the first max_seq_len of each row."""
    template, settings = held_out.template, held_out.settings
    free = not template.inputs
    loss, tokens = 0.0, 0
    for row in held_out.rows[:PERPLEXITY_ROWS]:
        example = encode_row(row, template, tokenizer, completion_only=not free, end_token=settings.add_special_tokens)
        ids = example["input_ids"][: settings.max_seq_len] if free else example["input_ids"]
        start = 1 if free else next(i for i, label in enumerate(example["labels"]) if label >= 0)
        loss += generator.completion_loss(ids[:start], ids[start:])
        tokens += len(ids) - start
    return math.exp(min(loss / max(tokens, 1), 50))
