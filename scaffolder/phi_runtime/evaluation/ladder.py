"""The quality ladder: each model of a run is asked the same held-out rows."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phi_runtime.artefacts import folder_bytes, write_json
from phi_runtime.data.dataset import Dataset, load_dataset
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

    Its form is that of `evaluate --json`; `answers` beside it hold what each rung said to each row.
    """
    dataset = load_dataset(workflow, training, config_path)
    held_out = dataset.held_out[: workflow.evaluation.max_rows]
    results: list[dict[str, Any]] = []
    said: dict[str, list[str]] = {}
    for number, (name, ref) in enumerate(rungs if held_out else ()):
        emit(Event("progress", "evaluate", {"done": number, "total": len(rungs), "unit": "models", "message": name}))
        reset_peak()
        generator = open_generator(ref, device)
        result, said[name] = _measure(generator, ref, dataset, held_out, workflow.evaluation)
        results.append(
            {"name": name, **result, "size_bytes": folder_bytes(ref.path), "peak_rss_bytes": peak_rss_bytes()}
        )
        metric = headline(workflow.evaluation.task)
        emit(Event("metric", "evaluate", {"rung": name, metric: result["metrics"][metric]}))
        del generator
        gc.collect()
    content = {"task": workflow.evaluation.task, "rows": len(held_out), "rungs": results}
    write_json(out / RESULTS, content)
    references = [str(r.values[dataset.template.answer]).strip() for r in held_out]
    prompts = [dataset.template.render_prompt(r.values) for r in held_out]
    rows = [
        {"prompt": p, "reference": r, "answers": {name: said[name][i] for name in said}}
        for i, (p, r) in enumerate(zip(prompts, references, strict=True))
    ]
    write_json(out / "answers.json", rows)
    return content


def _measure(
    generator: Generator, ref: ModelRef, dataset: Dataset, held_out: Sequence[Any], settings: Evaluation
) -> tuple[dict[str, Any], list[str]]:
    template = dataset.template
    references = [str(row.values[template.answer]).strip() for row in held_out]
    prompts = [template.render_prompt(row.values) for row in held_out]
    answers = [
        (answer.split(template.stop.strip())[0] if template.stop.strip() else answer).strip()
        for answer in generator.answers(prompts, settings.max_new_tokens, settings.batch_size)
    ]
    tokenizer = load_tokenizer(ref.path)
    loss, tokens = 0.0, 0
    for row in held_out[:PERPLEXITY_ROWS]:
        example = encode_row(row, template, tokenizer, completion_only=True)
        start = next(i for i, label in enumerate(example["labels"]) if label >= 0)
        loss += generator.completion_loss(example["input_ids"][:start], example["input_ids"][start:])
        tokens += len(example["input_ids"]) - start
    speed = generator.speed(SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS)
    return {
        "metrics": {name: round(value, 4) for name, value in score(settings.task, answers, references).items()},
        "perplexity": round(math.exp(min(loss / tokens, 50)), 4),
        "prefill_tokens_per_s": round(speed.prefill_tokens_per_s, 1),
        "decode_tokens_per_s": round(speed.decode_tokens_per_s, 1),
    }, answers
