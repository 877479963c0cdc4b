"""The gate of an export: load the ONNX model, generate a sample, and compare it with its source model.

Both models read the same tokens (teacher forcing). Their next-token distributions are compared at the trained positions
only: on prompt tokens, which a tuned model never learned to predict, they mean nothing. Measured are the mean KL(source ‖ ONNX)
in nats (Kullback and Leibler 1951), the share of positions with the same most likely token, both perplexities, and the answers
lost: rows that the source model answers as expected, each token being its most likely one, and the ONNX model does not. The means
are over tokens, most of which are certain once an answer has begun; an answer is lost with the first token that decides it.
One model is in memory at a time.

Shapes: P compared positions of a row, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phi_runtime.config.pass_graph import training_of
from phi_runtime.context import PassContext, dataset_behind
from phi_runtime.core.artifacts import read_json
from phi_runtime.core.errors import PhiError, WorkFailed
from phi_runtime.core.events import Event
from phi_runtime.export.gate_limits import GateLimits, better_setting
from phi_runtime.export.gate_tokens import check_tokens, sample_prompts, warn_of_other_apps
from phi_runtime.inference.onnx import open_model, provider_available, runtime
from phi_runtime.inference.stored_tokenizer import open_tokenizer
from phi_runtime.models.onnx_adapters import adapter_file

if TYPE_CHECKING:
    import numpy as np

    from phi_runtime.data.dataset import Dataset
    from phi_runtime.models.reference import ModelRef

_ROW_TOKENS = 256  # of a long row; more rows are more informative than longer ones
_ROWS = 96  # at most: with labels of one token as answers, reading the prompts takes the time
_KEPT_BYTES = 300_000_000  # of the ONNX model's distributions in memory
_SAMPLE_TOKENS = 8
_STEPS = 192  # positions at most where each takes one step of the model
_EXACT = 1e-3  # largest difference of an adapter in float32 from the same adapter in peft

Read = Literal["whole", "token by token"]
Row = tuple[list[int], list[int]]
"""Token ids, and the positions of the tokens whose predictions are compared."""


@dataclass(frozen=True)
class Comparison:
    """Distance of an ONNX model from its source model.

    Attributes:
        positions: Compared positions.
        rows: "validation rows" or "sample text".
        read: How the ONNX model read the rows. With a pruned head it returns logits of the last token only, so each token
            is read separately, which rounds differently.
        kl: Mean KL(source ‖ ONNX), in nats.
        top1: Share of positions with the same most likely token.
        perplexity: Of the ONNX model.
        source_perplexity: Of the source model.
        answers: Rows that the source model answers as expected.
        lost: Those of them that the ONNX model does not.
        gained: Rows that only the ONNX model answers as expected.
        largest_difference: Largest difference of two log-probabilities of the same token.
        source_dtype: Type that the source model computed in.
    """

    positions: int
    rows: str
    read: Read
    kl: float
    top1: float
    perplexity: float
    source_perplexity: float
    answers: int = 0
    lost: int = 0
    gained: int = 0
    largest_difference: float = 0.0
    source_dtype: str = "float32"

    @property
    def perplexity_increase(self) -> float:
        return self.perplexity / self.source_perplexity - 1


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
        model = open_model(context.out)
        if adapter is None:
            warn_of_other_apps(context, runtime(), model, compared)
        logprobs, sample, read = _onnx_logprobs(model, context.out, rows, _comparable(context, rows), adapter)
        del model
    except PhiError:
        raise
    except Exception as e:
        raise WorkFailed(
            f"the ONNX model was built but does not run: {e}", fix=better_setting(context.config, provider)
        ) from e
    gc.collect()
    if context.config.gate is None:
        return {"checked": True, "sample": sample}
    context.info("comparing it with its source model")
    comparison = _compare(context, rows, logprobs, kind, read, adapter)
    figures = {
        name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(comparison).items()
    }
    context.emit(Event("metric", context.name, figures))
    limits = GateLimits.from_pass(context.config)
    violation = limits.violation(comparison)
    exact = adapter and (context.config.precision, comparison.source_dtype) == ("fp32", "float32")
    if exact and not violation and comparison.largest_difference > (expected := max(_EXACT, 10 * rounding)):
        violation = f"a log-probability differs by {comparison.largest_difference:.2g}; rounding explains at most {expected:.2g}"
    if violation:
        what = f"the ONNX model with the adapter `{adapter}`" if adapter else "the ONNX model"
        raise WorkFailed(
            f"{what} is too far from its source model: {violation} ({_summary(comparison)})",
            fix=f"{better_setting(context.config, provider)}; or raise the limits in `gate` of the pass",
        )
    context.info(_summary(comparison))
    return {"checked": True, "sample": sample, "quality": figures, "limits": asdict(limits)}


def compare(source: ModelRef, folder: Path, rows: Sequence[Row], kind: str, device: str = "cpu") -> Comparison:
    """Compare the ONNX model in `folder` with `source`, which runs on the torch `device`, on `rows`."""
    logprobs, _, read = _onnx_logprobs(open_model(folder), folder, rows, len(rows))
    gc.collect()
    return _compare_with_source(source, rows[: len(logprobs)], logprobs, kind, read, device)


def sample_rows(source: ModelRef) -> list[Row]:
    """Return the sample text as rows of `source`'s tokens, compared from the second token on."""
    from phi_runtime.export.gate_text import TEXT
    from phi_runtime.models.load import load_tokenizer

    ids: list[int] = load_tokenizer(source)(TEXT).input_ids
    return [full_row(ids[i : i + _ROW_TOKENS]) for i in range(0, len(ids), _ROW_TOKENS)]


def full_row(ids: list[int]) -> Row:
    """Return a row that is compared at each token but the first."""
    return ids, list(range(1, len(ids)))


# -- the rows --------------------------------------------------------------------------------------------------------------


def _dataset(context: PassContext, adapter: str | None) -> Dataset | None:
    """Return the data of the pass that trained the source or the adapter; None if there is none."""
    training = adapter or training_of(context.workflow.passes, context.name)
    return dataset_behind(context, training, "a fixed text is compared on") if training else None


def _rows(context: PassContext, dataset: Dataset | None) -> tuple[list[Row], str]:
    """Return validation rows, or rows of the sample text if there are none."""
    limit_tokens = context.config.gate.tokens if context.config.gate else _ROW_TOKENS
    rows, kind = _validation_rows(dataset) if dataset else [], "validation rows"
    if not rows:
        rows, kind = sample_rows(context.source), "sample text"
    return _first(rows, limit_tokens), kind


def _validation_rows(dataset: Dataset) -> list[Row]:
    validation = dataset.validation.sample(_ROWS)
    rows = []
    for index in validation.chosen:
        ids, trained = validation.store.row(int(index))
        # The end of a long row has the answer.
        ids, trained = ids[-_ROW_TOKENS:].tolist(), trained[-_ROW_TOKENS:].tolist()
        rows.append((ids, [position for position in range(1, len(ids)) if trained[position]]))
    return [row for row in rows if row[1]]


def _first(rows: Sequence[Row], limit: int) -> list[Row]:
    """Return the first rows with up to `limit` positions together; the last row is cut."""
    first: list[Row] = []
    for ids, positions in rows:
        if limit < 1:
            break
        positions = positions[:limit]
        first.append((ids[: positions[-1] + 1], positions))
        limit -= len(positions)
    return first


def _comparable(context: PassContext, rows: Sequence[Row]) -> int:
    """Return how many of the rows have distributions that fit into `_KEPT_BYTES`, at least one; 0 without a gate."""
    if context.config.gate is None:
        return 0
    vocabulary = read_json(context.out / "genai_config.json")["model"]["vocab_size"]
    room, count = _KEPT_BYTES // (4 * vocabulary), 0
    for _, positions in rows:
        room -= len(positions)
        count += room >= 0 or not count
    return count


# -- the two models --------------------------------------------------------------------------------------------------------


def _onnx_logprobs(
    model: Any, folder: Path, rows: Sequence[Row], count: int, adapter: str | None = None
) -> tuple[list[np.ndarray], str, Read]:
    """Run the ONNX `model` of `folder`, with `adapter` active.

    Returns:
        Log-probabilities (P, V) of each of the first `count` rows, a sample that continues the prompt of the first row, and
        how the rows were read.
    """
    og = runtime()
    adapters = None
    if adapter:
        adapters = og.Adapters(model)
        adapters.load(str(adapter_file(folder, adapter)), adapter)

    def new_generator(max_length: int) -> Any:
        parameters = og.GeneratorParams(model)  # the key-value cache is allocated for the whole max_length at once
        parameters.set_search_options(max_length=max_length, do_sample=False)
        generator = og.Generator(model, parameters)
        if adapters is not None:
            generator.set_active_adapter(adapters, adapter)
        return generator

    sample = _generate(open_tokenizer(folder), new_generator, rows[0])
    read: Read = "whole"
    logprobs = []
    for ids, positions in rows[:count]:
        logits = _logits(new_generator, ids, [len(ids) - 1])
        if len(logits) == len(ids) - 1:
            logprobs.append(_log_softmax(logits[_predicting(positions)]))  # (P, V)
            continue
        read = "token by token"
        logprobs.append(_log_softmax(_logits(new_generator, ids, positions)))
        if sum(map(len, logprobs)) >= _STEPS:
            break
    return logprobs, sample, read


def _predicting(positions: Sequence[int]) -> list[int]:
    """Return the indices of the logits that predict the tokens at `positions`."""
    return [position - 1 for position in positions]


def _generate(tokenizer: Any, new_generator: Callable[[int], Any], row: Row) -> str:
    import numpy as np

    prompt = row[0][: max(1, row[1][0])]
    generator = new_generator(len(prompt) + _SAMPLE_TOKENS)
    generator.append_tokens(np.asarray(prompt, dtype=np.int32))
    ids: list[int] = []
    while not generator.is_done() and len(ids) < _SAMPLE_TOKENS:
        generator.generate_next_token()
        ids.append(int(generator.get_next_tokens()[0]))
    return str(tokenizer.decode(ids))


def _logits(new_generator: Callable[[int], Any], ids: Sequence[int], ends: Sequence[int]) -> np.ndarray:
    """Return the logits of `ids`, read in chunks that end before `ends`.

    They are (T, V); a graph with a pruned head returns one row per chunk, that of its last token.
    """
    import numpy as np

    generator = new_generator(len(ids))
    chunks = []
    for start, end in pairwise([0, *ends]):
        generator.append_tokens(np.asarray(ids[start:end], dtype=np.int32))
        logits = np.asarray(generator.get_output("logits"), dtype=np.float32)  # (1, T, V)
        chunks.append(logits.reshape(-1, logits.shape[-1]))
    return np.concatenate(chunks)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    logits = logits - logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


def _compare(
    context: PassContext,
    rows: Sequence[Row],
    logprobs: Sequence[np.ndarray],
    kind: str,
    read: Read,
    adapter: str | None,
) -> Comparison:
    from phi_runtime.hardware.device import pick_device

    try:
        device = pick_device(context.workflow.host_device)
    except PhiError:  # this machine lacks the host's GPU
        device = "cpu"
    source = context.adapters[adapter] if adapter else context.source
    return _compare_with_source(source, rows[: len(logprobs)], logprobs, kind, read, device)


def _compare_with_source(
    source: ModelRef, rows: Sequence[Row], logprobs: Sequence[np.ndarray], kind: str, read: Read, device: str
) -> Comparison:
    import numpy as np
    import torch

    from phi_runtime.models.load import load_reference

    model = load_reference(source, _dtype(source), device).eval()
    divergence = same = loss = own_loss = positions = largest = 0.0
    answers = lost = gained = 0
    with torch.inference_mode():
        for (ids, row_positions), other in zip(rows, logprobs, strict=True):
            tokens = torch.tensor([ids[:-1]], device=device)
            logits = model(input_ids=tokens, use_cache=False).logits[0, _predicting(row_positions)].float()  # (P, V)
            size = min(logits.shape[-1], other.shape[-1])  # the vocabulary of either may be padded
            exact = torch.log_softmax(logits[:, :size], dim=-1).cpu().numpy()
            other = other[:, :size]
            largest = max(largest, float(np.abs(exact - other).max()))
            divergence += float((np.exp(exact) * (exact - other)).sum(dtype=np.float64))
            same += int((exact.argmax(-1) == other.argmax(-1)).sum())
            order, following = np.arange(len(other)), np.asarray(ids)[row_positions]
            answered, answered_by_other = ((predicted.argmax(-1) == following).all() for predicted in (exact, other))
            answers += int(answered)
            lost += int(answered and not answered_by_other)
            gained += int(answered_by_other and not answered)
            loss -= float(other[order, following].sum(dtype=np.float64))
            own_loss -= float(exact[order, following].sum(dtype=np.float64))
            positions += len(other)
    dtype = str(model.dtype).removeprefix("torch.")
    del model
    gc.collect()
    return Comparison(
        int(positions),
        kind,
        read,
        divergence / positions,
        same / positions,
        _perplexity(loss / positions),
        _perplexity(own_loss / positions),
        answers,
        lost,
        gained,
        largest,
        dtype,
    )


def _dtype(source: ModelRef) -> str | torch.dtype:  # type: ignore[name-defined]  # noqa: F821
    """Return float32 if the model fits into memory that way; otherwise "auto", the type of its stored weights."""
    import torch

    from phi_runtime.hardware.machine import available_bytes
    from phi_runtime.models.shape import shape_of

    shape = shape_of((source.base or source).path if source.kind == "adapter" else source.path)
    return torch.float32 if shape and 5 * shape.parameters < available_bytes() else "auto"


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 50)) if math.isfinite(loss) else math.inf


def _summary(comparison: Comparison) -> str:
    text = (
        f"KL {comparison.kl:.3f} nats, same most likely token in {100 * comparison.top1:.0f} %, perplexity "
        f"{comparison.source_perplexity:.2f} → {comparison.perplexity:.2f}, over {comparison.positions} tokens"
    )
    if not comparison.answers:
        return text
    return f"{text}; {comparison.lost} of {comparison.answers} answers lost, {comparison.gained} gained"
