"""Layers below the first adapted one: frozen, computed once for each row, and skipped from then on.

The hidden states that enter the first adapted layer depend on the tokens of a row and on frozen weights alone. Each row is
computed by itself, without padding, so that its states have the same bits whenever and with whatever rows it is trained: kept
or computed again, losses and weights are equal, also after a resume. Without the cache, rows are computed in their batch, which
differs in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phi_runtime.core.artifacts import digest, versions
from phi_runtime.data.sequences import IGNORED
from phi_runtime.training.activation_store import ActivationStore, remove_older
from phi_runtime.training.batches import pad_batch, row_borders
from phi_runtime.training.decoder import decoder_of
from phi_runtime.training.loss import model_inputs
from phi_runtime.training.module_state import are_equal, evaluation_mode, forward_replaced, probe_rows

if TYPE_CHECKING:
    from phi_runtime.training.rounding import AlternatingBase

_FORMAT = 1  # increment if the states of the same row change


class FrozenLayers:
    """The decoder layers of a model below the first that is trained.

    Attributes:
        first: Index of the first trained layer; 0 if something below it is trained, or the layers are not known.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._decoder, self._name, self._layers = decoder_of(model)
        self.first = _first_trained(model, self._layers)

    @property
    def below(self) -> list[Any]:
        """The frozen layers."""
        return list(self._layers)[: self.first]

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the states (T, H) that enter the first trained layer, of the row `ids` (T,) by itself."""
        captured: list[Any] = []
        hook = self._layers[self.first - 1].register_forward_hook(lambda _, __, output: captured.append(output))
        setattr(self._decoder, self._name, torch.nn.ModuleList(self.below))
        try:
            with torch.no_grad():
                self._decoder(input_ids=ids[None], use_cache=False)
        finally:
            setattr(self._decoder, self._name, self._layers)
            hook.remove()
        output = captured[0]
        if not isinstance(output, torch.Tensor):
            raise TypeError("a layer returns more than hidden states")
        return output[0]

    @contextmanager
    def skipped(self, states: torch.Tensor) -> Iterator[None]:
        """Let the model continue from `states` (B, T, H) at the first trained layer within the context."""
        with ExitStack() as stack:
            for layer in self.below:
                stack.enter_context(forward_replaced(layer, lambda *_, **__: states))
            yield

    def why_not_skipped(self) -> str:
        """Return why the model cannot continue from states of single rows; "" if it computes the same as from tokens."""
        batch = pad_batch([{"input_ids": row, "labels": row} for row in probe_rows(self._model, (9, 6))], 0)
        batch = {name: values.to(self._model.device) for name, values in batch.items()}
        try:
            with evaluation_mode(self._model):
                expected = self._model(**model_inputs(batch), use_cache=False).logits.float()  # (B, T, V)
                with self.skipped(assembled(batch, self.states)):
                    logits = self._model(**model_inputs(batch), use_cache=False).logits.float()
        except (TypeError, RuntimeError, IndexError, AttributeError) as e:
            return f"this model cannot start at a layer ({e})"
        real = batch["attention_mask"].bool()
        return "" if are_equal(logits[real], expected[real]) else "this model needs its lower layers"

    def digest(self, *, is_rounded: bool = False) -> str:
        """Return a digest of everything that the states depend on but the tokens: weights, types, config, library versions.

        Args:
            is_rounded: The weights are rounded where they are used, as by `RoundedLinear`.
        """
        others = [module for name, module in self._decoder.named_children() if name != self._name]
        content = blake2b(digest_size=16)
        for module in chain(others, self.below):
            for name, value in sorted(module.state_dict().items()):
                content.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
                content.update(value.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
        kind = self._model.device.type
        facts = {
            "format": _FORMAT,
            "layer": self.first,
            "config": self._model.config.to_diff_dict(),
            "attention": self._model.config._attn_implementation,
            "device": kind,
            "autocast": str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "",
            "libraries": versions(("torch", "transformers", "peft", "bitsandbytes")),
            "weights": content.hexdigest(),
            **({"rounded": True} if is_rounded else {}),
        }
        return digest(facts)[:24]


class ActivationCache:
    """The states of rows at the first trained layer: read if they are there, else computed and kept.

    With an int4-aware base there are two of each, over the exact and the rounded weights.

    Attributes:
        computed: Rows whose states were computed.
    """

    def __init__(
        self,
        frozen: FrozenLayers,
        rows: Callable[[], Iterable[np.ndarray]],
        root: Path,
        limit_bytes: int,
        *,
        int4_base: AlternatingBase | None = None,
        opened: Callable[[ActivationStore], None] = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare the cache; nothing is computed or written before the first batch.

        Args:
            frozen: The layers to skip.
            rows: Returns the token ids of all rows, (T,) each.
            root: Folder of the stores.
            limit_bytes: Largest size of all stores.
            int4_base: Base weights that alternate with rounded ones.
            opened: Hears of each store that is opened.
            warn: Shows a message to the user.
        """
        self._frozen, self._rows, self._root, self._limit_bytes = frozen, rows, root, limit_bytes
        self._int4_base, self._opened, self._warn = int4_base, opened, warn
        self._stores: dict[bool, ActivationStore] = {}  # by rounded
        self._keeps = True
        self.computed = 0

    @contextmanager
    def supplied(self, batch: dict[str, torch.Tensor]) -> Iterator[None]:
        """Let the model start at its first trained layer for `batch` within the context."""
        with self._frozen.skipped(assembled(batch, self._states)):
            yield

    def _states(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the states (T, H) of the row `ids` (T,)."""
        row, kept = ids.cpu().numpy(), None
        store = self._stores.get(self._rounded)
        if self._keeps and store:
            with self._until_an_error():
                kept = store.read(row)
        if kept:
            return torch.frombuffer(bytearray(kept), dtype=self._dtype).view(len(row), -1).to(ids.device)
        states = self._frozen.states(ids)  # (T, H)
        self.computed += 1
        if self._keeps:
            with self._until_an_error():
                store = store or self._open(states)
                store.write(row, states.contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes())
        return states

    @contextmanager
    def _until_an_error(self) -> Iterator[None]:
        """Switch the cache off at an error of the disk: it is full, or another training removed the store to make space."""
        try:
            yield
        except OSError as e:
            self._keeps = False
            self._warn(f"activations are not kept ({e.strerror}): the lower layers are computed in every epoch")

    @property
    def _rounded(self) -> bool:
        return bool(self._int4_base and self._int4_base.is_rounded)

    def _open(self, states: torch.Tensor) -> ActivationStore:
        """Open the store for `states` (T, H) of the present weights, and make space for it."""
        self._dtype = states.dtype
        limit_bytes = self._limit_bytes // (2 if self._int4_base else 1)
        token_bytes = states.shape[1] * states.element_size()
        store = ActivationStore(
            self._root / self._frozen.digest(is_rounded=self._rounded), self._rows(), token_bytes, limit_bytes
        )
        self._stores[self._rounded] = store
        remove_older(self._root, self._limit_bytes)
        self._opened(store)
        return store


def assembled(batch: dict[str, torch.Tensor], states_of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return the states (B, T, H) of a padded or packed batch from those of its rows; zeros where nothing is trained."""
    ids = batch["input_ids"]  # (B, T)
    states: torch.Tensor | None = None
    for line, start, stop in row_borders(batch):
        if states is None or (batch["labels"][line, start:stop] != IGNORED).any():
            row = states_of(ids[line, start:stop])  # (stop - start, H)
            states = row.new_zeros(*ids.shape, row.shape[-1]) if states is None else states
            states[line, start:stop] = row
    assert states is not None
    return states


def _first_trained(model: Any, layers: Any) -> int:
    """Return the index of the first of `layers` with a trained weight; 0 if a weight outside of them is trained, or none."""
    indices = {id(weight): i for i, layer in enumerate(layers or ()) for weight in layer.parameters()}
    head = model.get_output_embeddings()
    after = {id(weight) for weight in head.parameters()} if head is not None else set()
    after -= {id(weight) for weight in model.get_input_embeddings().parameters()}  # tied
    trained = [id(weight) for weight in model.parameters() if weight.requires_grad and id(weight) not in after]
    return min((indices.get(weight, 0) for weight in trained), default=0)
