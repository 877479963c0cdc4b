"""The gate of an export: load the ONNX model, generate a sample, and compare it with its source model.

Both models read the same rows; `gate_comparison` says what is measured on them, `gate_limits` what is allowed. One model is in memory
at a time.

Shapes: P compared positions of a row, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.config.pass_graph import training_of
from phi_runtime.context import PassContext, dataset_behind
from phi_runtime.core.artifacts import read_json
from phi_runtime.core.errors import MissingDependency, PhiError, WorkFailed
from phi_runtime.core.events import Event
from phi_runtime.core.grouping import grouped
from phi_runtime.export.gate_comparison import GateComparison, Predictions, Read, compare_predictions
from phi_runtime.export.gate_limits import GateLimits, LimitViolation, better_setting
from phi_runtime.export.gate_rows import ROW_TOKENS, GateRow, first_rows, sample_rows, validation_rows
from phi_runtime.export.gate_tokens import check_tokens, sample_prompts, warn_of_other_apps
from phi_runtime.inference.generator import PromptTask
from phi_runtime.inference.onnx import OnnxGenerator
from phi_runtime.inference.onnx_folder import provider_available

if TYPE_CHECKING:
    import numpy as np

    from phi_runtime.data.dataset import Dataset
    from phi_runtime.models.reference import ModelRef

_KEPT_BYTES = 300_000_000  # of the ONNX model's distributions in memory
_BATCH_TOKENS = 512  # that the source model reads at once
_SAMPLE_TOKENS = 8
_EXACT = 1e-3  # largest difference of an adapter in float32 from the same adapter in peft


def run_gate(context: PassContext, adapter: str | None = None, rounding: float = 0.0) -> dict[str, Any]:
    """Run the gate on the model in `context.out`.

    Args:
        context: The export pass.
        adapter: Adapter of the pass to activate; None compares the model without adapters.
        rounding: Largest difference of the model without adapters, which an adapter may have too.

    Returns:
        Facts: `checked` (False if the provider is not available here), `sample`, `quality` and `limits`.

    Raises:
        WorkFailed: The tokenizer reads other ids than in training, or the model does not run or exceeds a limit.
    """
    provider, source = context.workflow.execution_provider, context.adapters[adapter] if adapter else context.source
    dataset = _dataset(context, adapter)
    special = dataset is None or dataset.validation.template.special
    compared = check_tokens(source, context.out, sample_prompts(dataset), special=special)
    if not provider_available(provider):
        context.warn(f"{provider} is not available on this machine: the model was built but not tested")
        return {"checked": False}
    rows, kind = _rows(context, dataset)
    context.info(f"testing the adapter `{adapter}`" if adapter else "testing the model")
    try:
        generator = OnnxGenerator(context.out, adapter=adapter)
        if adapter is None:
            warn_of_other_apps(context, generator.og, generator.model, compared)
        predictions, sample, read = _onnx_predictions(generator, rows, _comparable(context, rows))
        del generator
    except MissingDependency:
        raise
    except Exception as e:  # with a fix for answers, such as a shorter prompt, which does not help an export
        raise WorkFailed(f"the ONNX model was built but does not run: {e}", fix=_advice(context)) from e
    gc.collect()
    if context.config.gate is None:
        return {"checked": True, "sample": sample}
    context.info("comparing it with its source model")
    comparison = _compare(source, rows, predictions, kind, read, _device(context))
    context.emit(Event("metric", context.name, comparison.figures))
    limits = GateLimits.from_pass(context.config)
    violation = limits.violation(comparison)
    exact = adapter and (context.config.precision, comparison.source_dtype) == ("fp32", "float32")
    if exact and not violation and comparison.largest_difference > (expected := max(_EXACT, 10 * rounding)):
        difference = comparison.largest_difference
        violation = LimitViolation(
            f"a log-probability differs by {difference:.2g}; rounding explains at most {expected:.2g}"
        )
    if violation:
        what = f"the ONNX model with the adapter `{adapter}`" if adapter else "the ONNX model"
        relaxed = violation.relaxed_setting
        raise WorkFailed(
            f"{what} is too far from its source model: {violation.text} ({comparison.summary})",
            fix=_advice(context) + (f"; or accept it: {relaxed}" if relaxed else ""),
        )
    context.info(comparison.summary)
    if doubt := limits.doubt(comparison):
        context.warn(doubt)
    return {"checked": True, "sample": sample, "quality": comparison.figures, "limits": asdict(limits)}


def _advice(context: PassContext) -> str:
    has_rows = training_of(context.workflow.passes, context.name) is not None
    return better_setting(context.config, context.workflow.execution_provider, has_rows=has_rows)


def compare(source: ModelRef, folder: Path, rows: Sequence[GateRow], kind: str, device: str = "cpu") -> GateComparison:
    """Compare the ONNX model in `folder` with `source`, which runs on the torch `device`, on `rows`."""
    predictions, _, read = _onnx_predictions(OnnxGenerator(folder), rows, len(rows))
    gc.collect()
    return _compare(source, rows, predictions, kind, read, device)


# -- the rows --------------------------------------------------------------------------------------------------------------


def _dataset(context: PassContext, adapter: str | None) -> Dataset | None:
    """Return the data of the pass that trained the source or the adapter; None if there is none."""
    training = adapter or training_of(context.workflow.passes, context.name)
    return dataset_behind(context, training, "a fixed text is compared on") if training else None


def _rows(context: PassContext, dataset: Dataset | None) -> tuple[list[GateRow], str]:
    """Return validation rows, or rows of the sample text if there are none."""
    limit_tokens = context.config.gate.tokens if context.config.gate else ROW_TOKENS
    rows, kind = validation_rows(dataset, context.source) if dataset else [], "validation rows"
    if not rows:
        rows, kind = sample_rows(context.source), "sample text"
    return first_rows(rows, limit_tokens), kind


def _comparable(context: PassContext, rows: Sequence[GateRow]) -> int:
    """Return how many of the rows have distributions that fit into `_KEPT_BYTES`, at least one; 0 without a gate."""
    if context.config.gate is None:
        return 0
    vocabulary = read_json(context.out / "genai_config.json")["model"]["vocab_size"]
    room, count = _KEPT_BYTES // (4 * vocabulary), 0
    for row in rows:
        room -= sum(row.decisions)
        count += room >= 0 or not count
    return count


# -- the two models --------------------------------------------------------------------------------------------------------


def _onnx_predictions(
    generator: OnnxGenerator, rows: Sequence[GateRow], count: int
) -> tuple[list[Predictions], str, Read]:
    """Run an ONNX model.

    Returns:
        Predictions for the first `count` rows, a sample that continues the prompt of the first row, and how the rows were read.
    """
    prompt = rows[0].ids[: max(1, rows[0].positions[0])]
    [sample] = generator.run_prompts([PromptTask(prompt, max_new_tokens=_SAMPLE_TOKENS)], 1)
    read: Read = "whole"
    predictions = []
    for row in rows[:count]:
        if read == "whole":
            logits = _logits(generator, row.ids, [len(row.ids) - 1])
            if len(logits) < len(row.ids) - 1:
                read = "token by token"
            else:
                logits = logits[row.predicting]
        if read == "token by token":
            logits = _logits(generator, row.ids, row.positions)
        predictions.append(Predictions.from_logits(logits, row))
    return predictions, sample.answer, read


def _logits(generator: OnnxGenerator, ids: Sequence[int], ends: Sequence[int]) -> np.ndarray:
    """Return the logits of `ids`, read in chunks that end before `ends`.

    They are (T, V); a graph with a pruned head returns one row per chunk, that of its last token.
    """
    import numpy as np

    sequence = generator.create_sequence(len(ids), generator.adapter)
    chunks = []
    for start, end in pairwise([0, *ends]):
        sequence.prefill(ids[start:end])
        logits = np.asarray(sequence.generator.get_output("logits"), dtype=np.float32)  # (1, T, V)
        chunks.append(logits.reshape(-1, logits.shape[-1]))
    return np.concatenate(chunks)


def _device(context: PassContext) -> str:
    from phi_runtime.hardware.device import pick_device

    try:
        return pick_device(context.workflow.host_device)
    except PhiError:  # this machine lacks the host's GPU
        return "cpu"


def _compare(
    source: ModelRef, rows: Sequence[GateRow], predictions: Sequence[Predictions], kind: str, read: Read, device: str
) -> GateComparison:
    """Compare `predictions` for the first of `rows` with those of `source`."""
    from phi_runtime.models.load import load_reference

    model = load_reference(source, _dtype(source), device).eval()
    by_length = sorted(range(len(predictions)), key=lambda i: len(rows[i].ids))
    compared, others = [rows[i] for i in by_length], [predictions[i] for i in by_length]
    dtype = str(model.dtype).removeprefix("torch.")
    comparison = compare_predictions(compared, source_predictions(model, compared), others, kind, read, dtype)
    del model
    gc.collect()
    return comparison


def source_predictions(model: Any, rows: Sequence[GateRow]) -> Iterator[Predictions]:
    """Yield the predictions of a model of transformers for each row; neighbors of up to `_BATCH_TOKENS` are computed together.

    Their padding is on the right, where no token sees it.
    """
    import torch

    with torch.inference_mode():
        for batch in grouped(rows, _fits):
            longest = max(len(row.ids) for row in batch) - 1
            tokens = [row.ids[:-1] + [0] * (longest + 1 - len(row.ids)) for row in batch]  # (B, T)
            kept = sorted({position for row in batch for position in row.predicting})  # K
            keep = torch.tensor(kept, device=model.device)
            inputs = torch.tensor(tokens, device=model.device)
            logits = model(input_ids=inputs, use_cache=False, logits_to_keep=keep).logits  # (B, K, V)
            place = {position: i for i, position in enumerate(kept)}
            for row, of_row in zip(batch, logits, strict=True):
                chosen = of_row[[place[position] for position in row.predicting]].float()  # (P, V)
                yield Predictions.from_logits(chosen.cpu().numpy(), row)


def _fits(batch: Sequence[GateRow], row: GateRow) -> bool:
    return (len(batch) + 1) * max(len(each.ids) for each in (*batch, row)) <= _BATCH_TOKENS


def _dtype(source: ModelRef) -> str | torch.dtype:  # type: ignore[name-defined]  # noqa: F821
    """Return float32 if the model fits into memory that way; otherwise "auto", the type of its stored weights."""
    import torch

    from phi_runtime.hardware.machine import available_bytes
    from phi_runtime.models.shape import shape_of

    shape = shape_of(source.full.path)
    return torch.float32 if shape and 5 * shape.parameters < available_bytes() else "auto"
