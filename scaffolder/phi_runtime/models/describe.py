"""Modules of a loaded model: those that can have an adapter, and tied embeddings."""

from __future__ import annotations

from typing import Any

from phi_runtime.core.errors import ConfigError
from phi_runtime.models.modules import adapted, last_names, unknown_module


def linear_names(model: Any) -> list[str]:
    """Return the full names of all linear modules but the output head."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = torch.nn.Linear | Conv1D
    return [name for name, module in model.named_modules() if isinstance(module, linear) and module is not head]


def target_modules(model: Any, setting: list[str] | str | None, *, all_linear: bool) -> list[str]:
    """Return the modules of the loaded base `model` that get an adapter, as `adapted` does: ends of names, or full names.

    Raises:
        ConfigError: the model lacks one of them; the message lists those it has.
    """
    if isinstance(setting, list) and setting != ["all-linear"]:
        refuse_unknown("target_modules", model, setting)
        return setting
    chosen = adapted(linear_names(model), setting, all_linear=all_linear)
    if isinstance(setting, str) and not chosen:
        raise ConfigError(f"no linear module of the model matches `{setting}`", fix="fix target_modules")
    return sorted(chosen) if isinstance(setting, str) else last_names(chosen)


def saved_modules(model: Any, setting: list[str] | None) -> list[str] | None:
    """Return the modules that are trained fully. Raises ConfigError as `target_modules` does."""
    if setting is not None:
        _refuse_unknown("modules_to_save", "module", setting, [n for n, _ in model.named_modules() if n])
    return setting


def refuse_unknown(key: str, model: Any, names: list[str]) -> None:
    """Raise ConfigError for the first of `names`, the value of `key`, that is not a linear module of the model."""
    _refuse_unknown(key, "linear module", names, linear_names(model))


def ties_embeddings(model: Any) -> bool:
    """Return True if the input embedding is also the output head."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def embeddings_among(model: Any, names: list[str] | None) -> list[str]:
    """Return those of `names` (ends of module names) that are the input embedding or the output head."""
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    full = [name for name, module in model.named_modules() if module in both]
    return [end for end in names or () if not unknown_module("module", end, full)]


def _refuse_unknown(key: str, kind: str, names: list[str], full_names: list[str]) -> None:
    for name in names:
        if error := unknown_module(kind, name, full_names):
            raise ConfigError(error, fix=f"fix {key}")
