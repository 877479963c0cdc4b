"""The quality ladder: each model of a run is asked the same held-out rows."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phi_runtime.artefacts import folder_bytes, write_json
from phi_runtime.data.dataset import Place, Side, load_dataset
from phi_runtime.evaluation.memory import peak_rss_bytes, reset_peak
from phi_runtime.evaluation.metrics import headline, score
from phi_runtime.events import Emit, Event
from phi_runtime.inference.by_kind import open_generator
from phi_runtime.inference.generator import Generator
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
    place: Place,
    out: Path,
    device: str,
    emit: Emit,
) -> dict[str, Any]:
    """Measures every rung on the held-out rows, writes evaluation.json into `out` and returns its content.

    Its form is that of `evaluate --json`; `answers` beside it hold what each rung said to each row. Free text asks nothing: it
    has perplexity alone, and no answers.
    """
    held_out = load_dataset(workflow, training, place, emit, "evaluate").held_out.first(workflow.evaluation.max_rows)
    prompts, references = _questions(held_out)
    results: list[dict[str, Any]] = []
    said: dict[str, list[str]] = {}
    for number, (name, ref) in enumerate(rungs if len(held_out) else ()):
        emit(Event("progress", "evaluate", {"done": number, "total": len(rungs), "unit": "models", "message": name}))
        reset_peak()
        generator = open_generator(ref, device, special=held_out.template.special)
        result, said[name] = _measure(generator, held_out, prompts, references, workflow.evaluation)
        results.append(
            {"name": name, **result, "size_bytes": folder_bytes(ref.path), "peak_rss_bytes": peak_rss_bytes()}
        )
        metric = headline(workflow.evaluation.task)
        main = {metric: result["metrics"][metric]} if result["metrics"] else {"perplexity": result["perplexity"]}
        emit(Event("metric", "evaluate", {"rung": name, **main}))
        del generator
        gc.collect()
    content = {"task": workflow.evaluation.task, "rows": len(held_out), "rungs": results}
    write_json(out / RESULTS, content)
    rows = [
        {"prompt": p, "reference": r, "answers": {name: said[name][i] for name in said}}
        for i, (p, r) in enumerate(zip(prompts, references, strict=True))
    ]
    write_json(out / "answers.json", rows)
    return content


def _questions(held_out: Side) -> tuple[list[str], list[str]]:
    """Prompts and the answers wanted; none of free text."""
    template = held_out.template
    rows = held_out.values() if template.asks else []
    return [template.render_prompt(values) for values in rows], [template.reference(values) for values in rows]


def _measure(
    generator: Generator, held_out: Side, prompts: list[str], references: list[str], settings: Evaluation
) -> tuple[dict[str, Any], list[str]]:
    stop = held_out.template.stop.strip()
    answers = [
        (answer.split(stop)[0] if stop else answer).strip()
        for answer in generator.answers(prompts, settings.max_new_tokens, settings.batch_size)
    ]
    metrics = score(settings.task, answers, references) if answers else {}
    speed = generator.speed(SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS)
    return {
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
        "perplexity": round(_perplexity(generator, held_out), 4),
        "prefill_tokens_per_s": round(speed.prefill_tokens_per_s, 1),
        "decode_tokens_per_s": round(speed.decode_tokens_per_s, 1),
    }, answers


def _perplexity(generator: Generator, held_out: Side) -> float:
    """By token of the last answers; of free text, by token from the second on, the first max_seq_len of each row."""
    loss, tokens = 0.0, 0
    for row in held_out.chosen[:PERPLEXITY_ROWS]:
        ids, trained = held_out.store.row(row)
        if not held_out.template.asks:
            ids, start = ids[: held_out.settings.max_seq_len], 1
        else:
            stop = int(trained.nonzero()[0][-1]) + 1
            ids, start = ids[:stop], _last_answer(trained[:stop])
        loss += generator.completion_loss(ids[:start].tolist(), ids[start:].tolist())
        tokens += len(ids) - start
    return math.exp(min(loss / max(tokens, 1), 50))


def _last_answer(trained: np.ndarray) -> int:
    """Where the stretch of trained tokens starts that ends (T,) `trained`."""
    asked = (~trained).nonzero()[0]
    return int(asked[-1]) + 1 if len(asked) else 1
