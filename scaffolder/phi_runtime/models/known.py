"""Ids of the models that this version knows: those of the catalog, which ships as `catalog.toml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

CATALOG = Path(__file__).with_name("catalog.toml")


def known_id(name: str) -> str | None:
    """Return the id in the catalog that `name` is, in any case and with or without its owner."""
    return _ids_by_alias().get(name.casefold())


def nearest_id(name: str) -> str:
    """Return the id in the catalog most like the last part of `name`, a path or an id; "" if none is close."""
    from phi_runtime.core.suggestions import nearest

    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return _ids_by_alias().get(nearest(last, _ids_by_alias()), "")


def known_architecture(name: str) -> str | None:
    """Return the architecture of the model that `known_id` finds."""
    id_ = known_id(name)
    return _architectures()[id_] if id_ else None


@cache
def _architectures() -> dict[str, str]:
    import tomllib

    models = tomllib.loads(CATALOG.read_text(encoding="utf-8"))["model"]
    return {model["id"]: model["architecture"] for model in models}


@cache
def _ids_by_alias() -> dict[str, str]:
    return {alias.casefold(): id_ for id_ in _architectures() for alias in (id_, id_.rpartition("/")[2])}
