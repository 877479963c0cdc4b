"""Modules of a loaded model: those that can have an adapter, and tied embeddings."""

from __future__ import annotations

import re
from typing import Any

from phi_runtime.core.errors import ConfigError
from phi_runtime.models.modules import unknown_module


def linear_names(model: Any) -> dict[str, list[str]]:
    """Return the full names of all linear modules but the output head, by their last part."""
    import torch
    from transformers.pytorch_utils import Conv1D

    names: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not model.get_output_embeddings():
            names.setdefault(name.rpartition(".")[2], []).append(name)
    return names


def target_modules(model: Any, setting: list[str] | str | None, *, all_linear: bool) -> list[str]:
    """Return the modules that get an adapter.

    Args:
        model: The loaded base model.
        setting: `target_modules` of the config; a string is a regular expression for full names, as in peft.
        all_linear: With None as setting, use all linear modules, not only those of the attention.

    Raises:
        ConfigError: the model lacks one of them; the message lists those it has.
    """
    names = linear_names(model)
    if isinstance(setting, str):
        matches = sorted(full for group in names.values() for full in group if re.fullmatch(setting, full))
        if not matches:
            raise ConfigError(f"no linear module of the model matches `{setting}`", fix="fix target_modules")
        return matches
    attention = sorted(n for n, full in names.items() if any("attn" in f or "attention" in f for f in full))
    if setting == ["all-linear"] or (setting is None and (all_linear or not attention)):
        return sorted(names)
    if setting is None:
        return attention
    refuse_unknown("target_modules", model, setting)
    return list(setting)


def saved_modules(model: Any, setting: list[str] | None) -> list[str] | None:
    """Return the modules that are trained fully. Raises ConfigError as `target_modules` does."""
    if setting is not None:
        _refuse_unknown("modules_to_save", "module", setting, [n for n, _ in model.named_modules() if n])
    return setting


def refuse_unknown(key: str, model: Any, names: list[str]) -> None:
    """Raise ConfigError for the first of `names`, the value of `key`, that is not a linear module of the model."""
    _refuse_unknown(key, "linear module", names, [f for full in linear_names(model).values() for f in full])


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
