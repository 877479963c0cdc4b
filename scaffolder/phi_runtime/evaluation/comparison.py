"""The quality ladder: each model of a run is asked the same held-out rows."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import Evaluation, Workflow
from phi_runtime.config.stage_names import EVALUATE
from phi_runtime.core.artifacts import folder_bytes, write_json
from phi_runtime.core.events import Emit, Event
from phi_runtime.data.dataset import Place, Side, load_dataset
from phi_runtime.data.hooks import Values, load_training_hooks
from phi_runtime.data.tokenize import Encoder
from phi_runtime.evaluation.metrics import headline, score
from phi_runtime.hardware.process_memory import peak_rss_bytes, reset_peak
from phi_runtime.inference.by_kind import open_generator
from phi_runtime.inference.generator import Generator, short_answers
from phi_runtime.models.onnx_adapters import FOLDER, SUFFIX, adapter_file
from phi_runtime.models.reference import ModelRef

RESULTS = "evaluation.json"
SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS = 128, 32
PERPLEXITY_ROWS = 64

Rung = tuple[str, ModelRef]
Scored = tuple[list[int], list[int]]
"""Tokens that are given, and tokens that are to be said after them."""


def evaluate(
    workflow: Workflow,
    training: str,
    rungs: Sequence[Rung],
    place: Place,
    out: Path,
    device: str,
    emit: Emit,
    stage: str = EVALUATE,
) -> dict[str, Any]:
    """Measures every rung on the held-out rows of the pass `training`, writes evaluation.json into `out` and returns its content.

    Its form is that of `evaluate --json`; `answers` beside it hold what each rung said to each row. The user's own metrics (hooks.py)
    stand among the others. Free text asks nothing: it has perplexity alone, and no answers.
    """
    settings = workflow.evaluation.of(training)
    held_out = load_dataset(workflow, workflow.trainings[training], place, emit, stage).held_out.first(
        settings.max_rows
    )
    own = load_training_hooks(place.config).metrics
    values = held_out.values() if held_out.template.asks else []  # free text asks nothing
    prompts = [held_out.template.render_prompt(row) for row in values]
    references = [held_out.template.reference(row) for row in values]
    scored = _scored(held_out, values[:PERPLEXITY_ROWS], place)
    results: list[dict[str, Any]] = []
    said: dict[str, list[str]] = {}
    for number, (name, ref) in enumerate(rungs if len(held_out) else ()):
        emit(Event("progress", stage, {"done": number, "total": len(rungs), "unit": "models", "message": name}))
        reset_peak()
        generator = open_generator(ref, device, special=held_out.template.special)
        result, said[name] = _measure(generator, held_out, prompts, references, scored, settings)
        if own and prompts:
            result["metrics"] |= {metric: round(value, 4) for metric, value in own(said[name], references).items()}
        results.append({"name": name, **result, "size_bytes": model_bytes(ref), "peak_rss_bytes": peak_rss_bytes()})
        metric = headline(settings.task)
        main = {metric: result["metrics"][metric]} if result["metrics"] else {"perplexity": result["perplexity"]}
        emit(Event("metric", stage, {"rung": name, **main}))
        del generator
        gc.collect()
    content = {"task": settings.task, "rows": len(held_out), "rungs": results}
    write_json(out / RESULTS, content)
    rows = [
        {"prompt": p, "reference": r, "answers": {name: said[name][i] for name in said}}
        for i, (p, r) in enumerate(zip(prompts, references, strict=True))
    ]
    write_json(out / "answers.json", rows)
    return content


def model_bytes(ref: ModelRef) -> int:
    """Size of the model's files in bytes; of the adapters beside an ONNX model, only that of the active one."""
    if ref.kind != "onnx" or ref.adapter is None:
        return folder_bytes(ref.path)
    others = [file for file in (ref.path / FOLDER).glob(f"*{SUFFIX}") if file != adapter_file(ref.path, ref.adapter)]
    return folder_bytes(ref.path) - sum(file.stat().st_size for file in others)


def _scored(held_out: Side, values: Sequence[Values], place: Place) -> list[Scored]:
    """What the perplexity is taken of: the last answer of each row, whatever is trained of it; of free text, the first max_seq_len
    tokens of each row from the second on."""
    settings, template, store = held_out.settings, held_out.template, held_out.store
    if not template.asks:
        rows = (store.row(index)[0][: settings.max_seq_len].tolist() for index in held_out.chosen[:PERPLEXITY_ROWS])
        return [(ids[:1], ids[1:]) for ids in rows]
    encoder = Encoder(place.tokenizer, end_token=settings.add_special_tokens, chat=not template.special)
    encoded = encoder.encode([template.row(row, completion_only=True).pieces for row in values])
    return [(row.ids[: row.runs[-1][0]], row.ids[slice(*row.runs[-1])]) for row in encoded]


def _measure(
    generator: Generator,
    held_out: Side,
    prompts: list[str],
    references: list[str],
    scored: Sequence[Scored],
    settings: Evaluation,
) -> tuple[dict[str, Any], list[str]]:
    answers = short_answers(generator, prompts, held_out.template.stop, settings.max_new_tokens, settings.batch_size)
    metrics = score(settings.task, answers, references) if answers else {}
    speed = generator.speed(SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS)
    return {
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
        "perplexity": round(_perplexity(generator, scored), 4),
        "prefill_tokens_per_s": round(speed.prefill_tokens_per_s, 1),
        "decode_tokens_per_s": round(speed.decode_tokens_per_s, 1),
    }, answers


def _perplexity(generator: Generator, scored: Sequence[Scored]) -> float:
    """By token."""
    loss = sum(generator.completion_loss(asked, answered) for asked, answered in scored)
    return math.exp(min(loss / max(sum(len(answered) for _, answered in scored), 1), 50))
