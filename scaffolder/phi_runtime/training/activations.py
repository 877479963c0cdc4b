"""The activation cache of a training pass: on, off with a reason, or refused, by its settings and its model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from phi_runtime.core.errors import ConfigError, Location
from phi_runtime.core.events import Event
from phi_runtime.training.pass_bases import LayeredAdapter
from phi_runtime.training.rows import FinetuneContext, TrainingData

if TYPE_CHECKING:
    import numpy as np

    from phi_runtime.training.activation_store import ActivationStore
    from phi_runtime.training.frozen_layers import ActivationCache
    from phi_runtime.training.rounding import AlternatingBase

KEY = "activation_cache_gb"
_FREE_DISK_SHARE = 0.1


def activation_cache(
    context: FinetuneContext, model: Any, data: TrainingData, *, own_loss: bool, int4_base: AlternatingBase | None
) -> ActivationCache | None:
    """Return the cache of the activations below the first adapted layer; None if it is off or would not pay.

    Raises:
        ConfigError: The config sets a size, and this training cannot have a cache.
    """
    from phi_runtime.training.frozen_layers import ActivationCache, FrozenLayers

    step = context.config
    if not isinstance(step, LayeredAdapter) or not step.keeps_activations(
        context.workflow.host_device, _epochs(step, len(data.training))
    ):
        return None
    frozen = FrozenLayers(model)
    reason = "no layer is below the first adapted one: set `layers`" if frozen.first == 0 else ""
    reason = reason or _why_not(context, model, own_loss=own_loss) or frozen.why_not_skipped()
    if reason and step.activation_cache_gb is not None:
        raise ConfigError(
            f"activations cannot be kept: {reason}", where=Location(context.project.config), fix=f"remove {KEY}"
        )
    if reason:
        if frozen.first:
            context.info(f"activations are not kept: {reason}")
        return None
    root = context.project.activation_cache
    root.mkdir(parents=True, exist_ok=True)
    limit_bytes = min(step.activation_limit_bytes, int(_FREE_DISK_SHARE * shutil.disk_usage(root).free))

    def rows() -> Iterator[np.ndarray]:
        for sequences in (data.training, data.validation):
            for start, stop, _ in sequences.spans:
                yield sequences.tokens[start:stop]

    def opened(store: ActivationStore) -> None:
        facts = {"activation_cache_bytes": store.size_bytes, "activation_cache_rows": store.rows}
        context.emit(Event("metric", context.name, facts))
        size = f"{store.size_bytes / 1e6:,.0f} MB on disk for {store.rows} rows"
        context.info(f"the layers below {frozen.first} are computed once for each row: {size}")

    return ActivationCache(frozen, rows, root, limit_bytes, int4_base=int4_base, opened=opened, warn=context.warn)


def _epochs(step: LayeredAdapter, sequences: int) -> float:
    settings = step.training_args
    rows = settings.max_steps * settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    return rows / sequences if settings.max_steps > 0 else settings.num_train_epochs


def _why_not(context: FinetuneContext, model: Any, *, own_loss: bool) -> str:
    """Return why the activations of a row are not the same in every epoch, or cannot be supplied; "" if they can."""
    settings = context.config.training_args
    for key in ("neftune_noise_alpha", "torch_compile", "fsdp", "deepspeed"):
        if getattr(settings, key):
            return f"training_args.{key} is set"
    if own_loss:
        return "the loss of hooks.py may read all hidden states"
    config = model.config.get_text_config().to_dict()
    for key, value in config.items():
        if ("dropout" in key or "pdrop" in key) and isinstance(value, int | float) and value > 0:
            return f"the model has dropout in its frozen layers (`{key}` is {value})"
    return ""
