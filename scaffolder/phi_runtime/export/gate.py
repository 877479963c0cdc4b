"""The gate behind an export: the ONNX model is loaded, generates, and is compared with the model that it was made of.

Both read the same tokens, which are given (teacher forcing), and their distributions over the next token are compared where the
model was trained to say one: on a prompt that it never learned to say, a narrowly tuned model says nothing that matters. Counted are
the mean Kullback-Leibler divergence KL(source ‖ ONNX) in nats (Kullback and Leibler 1951), the share of places where the likeliest
token is the same, and the perplexities of both. One model is in memory at a time.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phi_runtime.config.pass_graph import training_of
from phi_runtime.context import PassContext, dataset_behind
from phi_runtime.core.errors import PhiError, WorkFailed
from phi_runtime.core.events import Event
from phi_runtime.export.gate_limits import limits_of, next_better
from phi_runtime.inference.onnx import open_model, provider_available, runtime
from phi_runtime.models.onnx_adapters import adapter_file

if TYPE_CHECKING:
    import numpy as np

    from phi_runtime.models.reference import ModelRef

_ROW_TOKENS = 256  # of a long row; more of them says more than a longer one
_ROWS = 96  # at most: where answers are labels of one token, reading their prompts is the work
_KEPT_BYTES = 300_000_000  # for the distributions of the ONNX model
_SAMPLE_TOKENS = 8
_STEPS = 192  # places to compare at most where each is a step of the model
_EXACT = 1e-3  # between an adapter in float32 beside the graph and the same on its base in peft

Read = Literal["whole", "token by token"]
Row = tuple[list[int], list[int]]
"""Token ids, and the places of those that are compared: what each model says at the token before."""


@dataclass(frozen=True)
class Comparison:
    """How far an ONNX model is from its source.

    `positions` were compared, on `rows` ("held-out" or "sample text"). `read` says how the ONNX model read them: one with a pruned
    head gives the logits of a prompt's last token alone, and a token that is read by itself is rounded otherwise than one of several.
    `largest_difference` is that of two log-probabilities of the same token, where the source computed in `source_dtype`.
    """

    positions: int
    rows: str
    read: Read
    kl: float
    top1: float
    perplexity: float
    source_perplexity: float
    largest_difference: float = 0.0
    source_dtype: str = "float32"

    @property
    def perplexity_increase(self) -> float:
        return self.perplexity / self.source_perplexity - 1


def check(context: PassContext, adapter: str | None = None, rounding: float = 0.0) -> dict[str, Any]:
    """Facts about the model in `context.out`: `checked`, whether it ran here; a `sample` of what it says; and the `quality`. With the
    name of an `adapter` of the pass, which then is active, those about the two together; `rounding` is the largest difference of the
    model without it.

    Raises WorkFailed when it does not run, or is further from its source than the pass allows.
    """
    provider = context.workflow.execution_provider
    if not provider_available(provider):
        context.warn(
            f"{provider} cannot run on this machine, so the model was built and not tried: try it where it is to run"
        )
        return {"checked": False}
    rows, kind = _rows(context, adapter)
    context.info(f"trying the adapter `{adapter}`" if adapter else "trying the model")
    try:
        said, sample, read = _ask(context.out, rows, _kept(context, rows), adapter)
    except PhiError:
        raise
    except Exception as e:
        raise WorkFailed(
            f"the ONNX model was built but does not run: {e}", fix=next_better(context.config, provider)
        ) from e
    gc.collect()
    if context.config.gate is None:
        return {"checked": True, "sample": sample}
    context.info("comparing it with its source")
    found = _compare(context, rows, said, kind, read, adapter)
    figures = {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(found).items()}
    context.emit(Event("metric", context.name, figures))
    limits = limits_of(context.config)
    fault = limits.broken_by(found.kl, found.top1, found.perplexity_increase)
    exact = adapter and (context.config.precision, found.source_dtype) == ("fp32", "float32")
    if exact and not fault and found.largest_difference > (explained := max(_EXACT, 10 * rounding)):
        fault = f"a log-probability differs by {found.largest_difference:.2g}, where rounding explains {explained:.2g}"
    if fault:
        what = f"the ONNX model with the adapter `{adapter}`" if adapter else "the ONNX model"
        raise WorkFailed(
            f"{what} is too far from its source: {fault} ({_in_words(found)})",
            fix=f"{next_better(context.config, provider)}; or let more pass with `gate` of the pass",
        )
    context.info(_in_words(found))
    return {"checked": True, "sample": sample, "quality": figures, "limits": asdict(limits)}


def compare(source: ModelRef, folder: Path, rows: Sequence[Row], kind: str, device: str = "cpu") -> Comparison:
    """The ONNX model in `folder` against `source`, which reads on the torch `device`, on these rows."""
    said, _, read = _ask(folder, rows, len(rows))
    gc.collect()
    return _against(source, rows[: len(said)], said, kind, read, device)


def sample_rows(source: ModelRef) -> list[Row]:
    """The fixed text as tokens of `source`, in rows, compared from the second token on."""
    from phi_runtime.export.gate_text import TEXT
    from phi_runtime.models.load import load_tokenizer

    ids: list[int] = load_tokenizer(source)(TEXT).input_ids
    return [whole(ids[i : i + _ROW_TOKENS]) for i in range(0, len(ids), _ROW_TOKENS)]


def whole(ids: list[int]) -> Row:
    """A row that is compared at each token but the first."""
    return ids, list(range(1, len(ids)))


# -- what is read ----------------------------------------------------------------------------------------------------------


def _rows(context: PassContext, adapter: str | None) -> tuple[list[Row], str]:
    """Some held-out rows of the pass that trained the source or the adapter, or else of the fixed text."""
    wanted = context.config.gate.tokens if context.config.gate else _ROW_TOKENS
    rows, kind = _held_out(context, adapter), "held-out"
    if not rows:
        rows, kind = sample_rows(context.source), "sample text"
    return _first(rows, wanted), kind


def _held_out(context: PassContext, adapter: str | None) -> list[Row]:
    training = adapter or training_of(context.workflow.passes, context.name)
    if training is None:
        return []
    dataset = dataset_behind(context, training, "a fixed text is compared on")
    if dataset is None:
        return []
    held_out = dataset.held_out
    rows = []
    for index in held_out.chosen[:_ROWS]:
        ids, trained = held_out.store.row(int(index))
        # Of a long row its end: there is the answer.
        ids, trained = ids[-_ROW_TOKENS:].tolist(), trained[-_ROW_TOKENS:].tolist()
        rows.append((ids, [place for place in range(1, len(ids)) if trained[place]]))
    return [row for row in rows if row[1]]


def _first(rows: Sequence[Row], wanted: int) -> list[Row]:
    """As many rows as have `wanted` places, the last one cut."""
    found: list[Row] = []
    for ids, places in rows:
        if wanted < 1:
            break
        places = places[:wanted]
        found.append((ids[: places[-1] + 1], places))
        wanted -= len(places)
    return found


def _kept(context: PassContext, rows: Sequence[Row]) -> int:
    """How many of the rows the ONNX model's distributions are kept of: none without a gate."""
    if context.config.gate is None:
        return 0
    vocabulary = json.loads((context.out / "genai_config.json").read_text(encoding="utf-8"))["model"]["vocab_size"]
    room, kept = _KEPT_BYTES // (4 * vocabulary), 0
    for _, places in rows:
        room -= len(places)
        kept += room >= 0 or not kept
    return kept


# -- the two models --------------------------------------------------------------------------------------------------------


def _ask(
    folder: Path, rows: Sequence[Row], kept: int, adapter: str | None = None
) -> tuple[list[np.ndarray], str, Read]:
    """The log-probabilities (places, V) at the places of the first `kept` rows, an answer to the beginning of the first row, and how
    the rows were read. `adapter` is active."""
    og, model = runtime(), open_model(folder)
    loaded = None
    if adapter:
        loaded = og.Adapters(model)
        loaded.load(str(adapter_file(folder, adapter)), adapter)

    def start(length: int) -> Any:
        parameters = og.GeneratorParams(model)  # the key-value cache is allocated for the whole max_length at once
        parameters.set_search_options(max_length=length, do_sample=False)
        generator = og.Generator(model, parameters)
        if loaded is not None:
            generator.set_active_adapter(loaded, adapter)
        return generator

    sample = _generate(og.Tokenizer(model), start, rows[0])
    read: Read = "whole"
    said = []
    for ids, places in rows[:kept]:
        logits = _last_logits(start, ids, [len(ids) - 1])
        if len(logits) == len(ids) - 1:
            said.append(_log_softmax(logits[_before(places)]))
            continue
        read = "token by token"
        said.append(_log_softmax(_last_logits(start, ids, places)))
        if sum(map(len, said)) >= _STEPS:
            break
    return said, sample, read


def _before(places: Sequence[int]) -> list[int]:
    """Where the logits of the tokens at `places` are."""
    return [place - 1 for place in places]


def _generate(tokenizer: Any, new_generator: Callable[[int], Any], row: Row) -> str:
    import numpy as np

    start = row[0][: max(1, row[1][0])]
    generator = new_generator(len(start) + _SAMPLE_TOKENS)
    generator.append_tokens(np.asarray(start, dtype=np.int32))
    said: list[int] = []
    while not generator.is_done() and len(said) < _SAMPLE_TOKENS:
        generator.generate_next_token()
        said.append(int(generator.get_next_tokens()[0]))
    return str(tokenizer.decode(np.asarray(said, dtype=np.int32)))


def _last_logits(new_generator: Callable[[int], Any], ids: Sequence[int], ends: Sequence[int]) -> np.ndarray:
    """The logits that the graph gives when it reads `ids` in parts that end before `ends`: after each token of a part (T, V), or
    after its last alone."""
    import numpy as np

    generator = new_generator(len(ids))
    found = []
    for start, end in pairwise([0, *ends]):
        generator.append_tokens(np.asarray(ids[start:end], dtype=np.int32))
        logits = np.asarray(generator.get_output("logits"), dtype=np.float32)  # (1, T, V)
        found.append(logits.reshape(-1, logits.shape[-1]))
    return np.concatenate(found)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    logits = logits - logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


def _compare(
    context: PassContext,
    rows: Sequence[Row],
    said: Sequence[np.ndarray],
    kind: str,
    read: Read,
    adapter: str | None,
) -> Comparison:
    from phi_runtime.hardware.device import pick_device

    try:
        device = pick_device(context.workflow.host_device)
    except PhiError:  # exported on a machine without the host's GPU
        device = "cpu"
    source = context.adapters[adapter] if adapter else context.source
    return _against(source, rows[: len(said)], said, kind, read, device)


def _against(
    source: ModelRef, rows: Sequence[Row], said: Sequence[np.ndarray], kind: str, read: Read, device: str
) -> Comparison:
    import numpy as np
    import torch

    from phi_runtime.models.load import load_reference

    model = load_reference(source, _dtype(source), device).eval()
    divergence = same = loss = own_loss = positions = largest = 0.0
    with torch.inference_mode():
        for (ids, places), other in zip(rows, said, strict=True):
            tokens = torch.tensor([ids[:-1]], device=device)
            logits = model(input_ids=tokens, use_cache=False).logits[0, _before(places)].float()  # (places, V)
            size = min(logits.shape[-1], other.shape[-1])  # either may be padded
            exact = torch.log_softmax(logits[:, :size], dim=-1).cpu().numpy()
            other = other[:, :size]
            largest = max(largest, float(np.abs(exact - other).max()))
            divergence += float((np.exp(exact) * (exact - other)).sum(dtype=np.float64))
            same += int((exact.argmax(-1) == other.argmax(-1)).sum())
            order, following = np.arange(len(other)), np.asarray(ids)[places]
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
        largest,
        dtype,
    )


def _dtype(source: ModelRef) -> str | torch.dtype:  # type: ignore[name-defined]  # noqa: F821
    """float32, in which nothing is rounded, where there is room for it; else the type that the weights are stored in."""
    import torch

    from phi_runtime.hardware.machine import available_bytes
    from phi_runtime.models.shape import shape_of

    shape = shape_of((source.base or source).path if source.kind == "adapter" else source.path)
    return torch.float32 if shape and 5 * shape.parameters < available_bytes() else "auto"


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 50)) if math.isfinite(loss) else math.inf


def _in_words(found: Comparison) -> str:
    return (
        f"KL {found.kl:.3f} nats, the same likeliest token in {100 * found.top1:.0f} %, perplexity {found.perplexity:.2f} after "
        f"{found.source_perplexity:.2f}, over {found.positions} tokens"
    )
