"""The types of the passes of a draft."""

from __future__ import annotations

from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.dialects.keys import PASSES
from phi_runtime.config.schema import FinetunePass
from phi_runtime.config.schema.registry import pass_type


def pass_kinds(draft: Draft) -> dict[str, str]:
    """Return the type of each pass by its name; "" if it is no string."""
    kinds = {name: draft.get((*PASSES, name, "type")) for name in draft.keys(PASSES)}
    return {name: kind if isinstance(kind, str) else "" for name, kind in kinds.items()}


def training_passes(draft: Draft) -> list[str]:
    """Return the names of the passes that train."""
    kinds = {name: pass_type(kind) for name, kind in pass_kinds(draft).items()}
    return [name for name, kind in kinds.items() if kind and issubclass(kind, FinetunePass)]
