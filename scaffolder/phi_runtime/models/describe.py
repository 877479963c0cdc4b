"""Which modules of a model can carry an adapter, and which are one and the same."""

from __future__ import annotations

from typing import Any

from phi_runtime.core.errors import ConfigError
from phi_runtime.models.modules import unknown_module


def linear_names(model: Any) -> dict[str, list[str]]:
    """The last name of every linear module, with the full names that end in it; the output head is left out."""
    import torch
    from transformers.pytorch_utils import Conv1D

    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not model.get_output_embeddings():
            found.setdefault(name.rpartition(".")[2], []).append(name)
    return found


def target_modules(model: Any, wanted: list[str] | None, *, all_linear: bool) -> list[str]:
    """The modules that get an adapter: `wanted`, or else all linear ones or those of the attention.

    Raises ConfigError, naming the modules that the model has, when one of `wanted` is not among them.
    """
    names = linear_names(model)
    attention = sorted(n for n, full in names.items() if any("attn" in f or "attention" in f for f in full))
    if wanted == ["all-linear"] or (wanted is None and (all_linear or not attention)):
        return sorted(names)
    if wanted is None:
        return attention
    refuse_unknown("target_modules", model, wanted)
    return list(wanted)


def saved_modules(model: Any, wanted: list[str] | None) -> list[str] | None:
    """The modules that are trained whole. Raises ConfigError as `target_modules` does."""
    if wanted is not None:
        _refuse_unknown("modules_to_save", "module", wanted, [n for n, _ in model.named_modules() if n])
    return wanted


def refuse_unknown(key: str, model: Any, wanted: list[str]) -> None:
    """Raises ConfigError for the first of `wanted`, which `key` of the config holds, that is no linear module of the model."""
    _refuse_unknown(key, "linear module", wanted, [f for full in linear_names(model).values() for f in full])


def ties_embeddings(model: Any) -> bool:
    """Whether the input embedding is the output head too."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def embeddings_among(model: Any, wanted: list[str] | None) -> list[str]:
    """Those of `wanted`, ends of modules' names, that name the input embedding or the output head."""
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    full = [name for name, module in model.named_modules() if module in both]
    return [end for end in wanted or () if not unknown_module("module", end, full)]


def _refuse_unknown(key: str, what: str, wanted: list[str], full_names: list[str]) -> None:
    for name in wanted:
        if fault := unknown_module(what, name, full_names):
            raise ConfigError(fault, fix=f"mend {key}")
