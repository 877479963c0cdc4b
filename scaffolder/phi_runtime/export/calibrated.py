"""Calibrate the int4 weights of a model on training rows, before the builder rounds them.

Layer by layer, each weight gets the values that `gptq` chooses for the inputs that it has once everything before it is rounded. The
copy of the model with these values is what the builder exports; it rounds them to themselves. Only one layer and the inputs of the
next one are in float32, and the Hessian of one input at a time is in memory.

Shapes: B rows, T tokens, H hidden size, K inputs of a module.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch

from phi_runtime.config.pass_graph import training_of
from phi_runtime.context import PassContext
from phi_runtime.core.errors import WorkFailed
from phi_runtime.core.events import Event
from phi_runtime.data.dataset import data_context, load_dataset
from phi_runtime.export.gptq import Gptq
from phi_runtime.models.load import load_model
from phi_runtime.training.rounding import rounded_modules

if TYPE_CHECKING:
    from pathlib import Path

    from phi_runtime.config.schema.export import ExportPass
    from phi_runtime.data.dataset import DataSplit
    from phi_runtime.export.build import BuildRequest

_ROW_TOKENS, _BATCH_TOKENS = 512, 2048
_PART_ROWS = 8192  # of a weight that are rounded at once


@contextmanager
def calibrated(context: PassContext[ExportPass], request: BuildRequest) -> Iterator[BuildRequest]:
    """Round the model of `request`, and yield the request to build the copy, which is removed at the end.

    Raises:
        DataError: A training row cannot be used.
        WorkFailed: The model has no layers that an int4 export rounds.
    """
    folder = context.work / "calibrated"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        round_source(context, folder)
        yield replace(request, source=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def round_source(context: PassContext[ExportPass], out: Path) -> None:
    """Write the source of `context` with calibrated weights to `out`, as the pass is configured. Raises as `calibrated` does."""
    limit_tokens = context.config.calibration.tokens
    context.info(f"calibrating the weights on up to {limit_tokens:,} tokens of training rows")
    batches = _batches(_training_rows(context), limit_tokens)
    model = load_model(context.source, "auto")

    def report(done: int, total: int) -> None:
        context.emit(Event("progress", context.name, {"done": done, "total": total, "unit": "layers"}))

    round_model(model, batches, context.config, report)
    weights = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
    shutil.copytree(context.source.path, out, ignore=shutil.ignore_patterns(*weights))
    model.save_pretrained(out)
    del model
    gc.collect()


def _training_rows(context: PassContext[ExportPass]) -> DataSplit:
    """Return the training rows of the pass that trained the source."""
    passes = context.workflow.passes
    rows = passes[training_of(passes, context.name) or ""].rows
    assert rows is not None  # the config was checked
    place = data_context(context.project, context.source.base or context.source, context.overrides)
    return load_dataset(context.workflow, rows, place, context.emit, context.name).training


def _batches(split: DataSplit, limit_tokens: int) -> list[torch.Tensor]:
    """Return training rows of about `limit_tokens` together, evenly over labels, as batches (B, T) of equal lengths."""
    rows: list[list[int]] = []
    sample = split.sample(max(1, limit_tokens // 8))
    for index in sample.chosen:
        rows.append(split.store.row(int(index))[0][-_ROW_TOKENS:].tolist())
        limit_tokens -= len(rows[-1])
        if limit_tokens <= 0:
            break
    return batches_of(rows)


def batches_of(rows: Sequence[list[int]]) -> list[torch.Tensor]:
    """Return `rows` as batches (B, T) of rows with the same length, which need no padding."""
    batches = []
    for length, alike in groupby(sorted(rows, key=len), key=len):
        batches += list(torch.tensor(list(alike)).split(max(1, _BATCH_TOKENS // length)))
    return batches


@torch.no_grad()
def round_model(
    model: Any, batches: Sequence[torch.Tensor], step: ExportPass, report: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Round the weights of `model` that the export `step` has in 4 bits, for the tokens in `batches`.

    Args:
        model: Model of transformers on the CPU, in any number type.
        batches: (B, T) each.
        step: Export pass with the bits, blocks and damping.
        report: Receives the number of finished layers, and of all.

    Raises:
        WorkFailed: The model has no layers that an int4 export rounds.
    """
    model.eval()
    names = {name for name, _, bits in rounded_modules(model, step.int4_rounding) if bits == 4}
    if not names:
        raise WorkFailed("the model has no linear layers to calibrate", fix='set "int4_algo_config": "default"')
    layers = model.get_submodule(next(iter(names)).partition(".layers.")[0] + ".layers")
    settings = (step.int4_rounding.block_size, step.calibration.damp_percent)
    walk = _Walk(model, layers, batches)
    head, is_tied = model.get_output_embeddings(), bool(model.config.get_text_config().tie_word_embeddings)
    if step.rounds_head and is_tied:  # the first layer reads its values, so that it is rounded for exact layers
        for i in range(len(layers)):
            walk.advance(i)
        _round([head], Gptq(walk.head_hessian(head), *settings))
    walk.start()
    for i, layer in enumerate(layers):
        with _in_float32(layer):
            for group in walk.groups(i, [module for name, module in model.named_modules() if name in names]):
                _round(group, Gptq(walk.hessian(i, group[0]), *settings))
        walk.advance(i)
        report(i + 1, len(layers))
    if step.rounds_head and not is_tied:
        _round([head], Gptq(walk.head_hessian(head), *settings))


def _round(modules: Iterable[torch.nn.Linear], gptq: Gptq) -> None:
    """Round the weights of `modules`; a large one, such as that of the head, in parts."""
    for module in modules:
        for part in module.weight.split(_PART_ROWS):
            part.copy_(gptq.rounded(part))


class _Walk:
    """The batches on their way through the layers of a model: the inputs of the next layer.

    Attributes:
        hidden: (B, T, H) for each batch, in float32.
    """

    def __init__(self, model: Any, layers: torch.nn.ModuleList, batches: Sequence[torch.Tensor]) -> None:
        self._model, self._layers, self._batches = model, layers, batches
        self.hidden: list[torch.Tensor] = []
        self._arguments: list[list[dict[str, Any]]] = []  # of each layer, by batch: masks and position embeddings
        self.start()

    def start(self) -> None:
        """Put the embedded tokens before the first layer."""
        self.hidden, self._arguments = [], [[] for _ in self._layers]
        for batch in self._batches:
            with ExitStack() as stack:
                for i, layer in enumerate(self._layers):
                    stack.enter_context(_replaced_forward(layer, partial(self._record, i)))
                self._run_model(batch)

    def advance(self, i: int) -> None:
        """Run layer `i` on all batches."""
        with _in_float32(self._layers[i]):
            for k, hidden in enumerate(self.hidden):
                self.hidden[k] = self._layers[i](hidden, **self._arguments[i][k])

    def groups(self, i: int, modules: Sequence[torch.nn.Linear]) -> list[list[torch.nn.Linear]]:
        """Return those of `modules` that layer `i` uses, in the order of use; those with the same input together."""
        calls: list[tuple[torch.Tensor, torch.nn.Linear]] = []
        with ExitStack() as stack:
            for module in modules:
                stack.enter_context(_hook(module, lambda module, inputs: calls.append((inputs[0], module))))
            self._layers[i](self.hidden[0], **self._arguments[i][0])
        return [[module for _, module in alike] for _, alike in groupby(calls, key=lambda call: id(call[0]))]

    def hessian(self, i: int, module: torch.nn.Linear) -> torch.Tensor:
        """Return the Hessian (K, K) of the inputs of `module` in layer `i`."""
        runs = (partial(self._layers[i], hidden, **self._arguments[i][k]) for k, hidden in enumerate(self.hidden))
        return self._hessian(module, runs)

    def head_hessian(self, head: torch.nn.Linear) -> torch.Tensor:
        """Return the Hessian (H, H) of the inputs of the output head, after the last layer."""

        def runs() -> Iterator[Callable[[], Any]]:
            for batch, hidden in zip(self._batches, self.hidden, strict=True):
                with ExitStack() as stack:
                    for layer in self._layers:
                        stack.enter_context(_replaced_forward(layer, lambda *_, _hidden=hidden, **__: _hidden))
                    yield partial(self._model, input_ids=batch, use_cache=False)

        return self._hessian(head, runs())

    def _hessian(self, module: torch.nn.Linear, runs: Iterable[Callable[[], Any]]) -> torch.Tensor:
        """Return the mean of x·xᵀ over the inputs x of `module` in `runs`, which end there."""
        total = torch.zeros(module.in_features, module.in_features)
        count = 0

        def add(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            nonlocal count
            x = inputs[0].flatten(0, -2).float()  # (B · T, K)
            total.addmm_(x.T, x)
            count += len(x)
            raise _InputReached

        with _hook(module, add):
            for run in runs:
                with suppress(_InputReached):
                    run()
        return total / max(1, count)

    def _run_model(self, batch: torch.Tensor) -> None:
        """Run the model on `batch` up to its output head, with its embedding in float32."""
        embedding = self._model.get_input_embeddings()
        handle = embedding.register_forward_hook(lambda *call: call[-1].float())

        def stop(*_: Any) -> None:
            raise _InputReached

        try:
            with _hook(self._model.get_output_embeddings(), stop), suppress(_InputReached):
                self._model(input_ids=batch, use_cache=False)
        finally:
            handle.remove()

    def _record(self, i: int, hidden_states: torch.Tensor, **arguments: Any) -> torch.Tensor:
        if i == 0:
            self.hidden.append(hidden_states)
        self._arguments[i].append(arguments)
        return hidden_states


class _InputReached(Exception):
    """Ends a forward pass at the module whose input is read."""


@contextmanager
def _hook(module: torch.nn.Module, function: Callable[..., None]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(function)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _replaced_forward(layer: torch.nn.Module, forward: Callable[..., torch.Tensor]) -> Iterator[None]:
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


@contextmanager
def _in_float32(layer: torch.nn.Module) -> Iterator[None]:
    """Compute in float32, whatever the type of the stored weights."""
    stored = next(layer.parameters()).dtype
    layer.float()
    try:
        yield
    finally:
        layer.to(stored)
