"""Which modules of a model can carry an adapter."""

from __future__ import annotations

from typing import Any

from phi_runtime.errors import ConfigError


def linear_names(model: Any) -> dict[str, list[str]]:
    """The last name of every linear module, with the full names that end in it; the output head is left out."""
    import torch
    from transformers.pytorch_utils import Conv1D

    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not model.get_output_embeddings():
            found.setdefault(name.rpartition(".")[2], []).append(name)
    return found


def target_modules(model: Any, wanted: list[str] | None) -> list[str]:
    """The modules that get an adapter: `wanted`, or those of the attention.

    Raises ConfigError, naming the modules that the model has, when one of `wanted` is not among them.
    """
    names = linear_names(model)
    if wanted is None:
        return sorted(n for n, full in names.items() if any("attn" in f or "attention" in f for f in full)) or sorted(
            names
        )
    for name in wanted:
        if name.rpartition(".")[2] not in names:
            raise ConfigError(
                f"the model has no linear module `{name}`; it has {', '.join(sorted(names))}", fix="mend target_modules"
            )
    return list(wanted)
