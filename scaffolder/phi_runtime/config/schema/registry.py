"""The registry of pass types: built-in passes, and those of installed packages.

Built-in passes are the modules of `phi_runtime.passes`. A package adds its own with an entry point:

    [project.entry-points."phi_scaffold.passes"]
    Distill = "my_package.distill:Distill"

Its module is imported only when a config names the type, so `validate` stays fast.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeVar, get_args

from phi_runtime.config.schema.pass_base import Pass
from phi_runtime.core.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

BUILT_IN = "phi_runtime.passes"
GROUP = "phi_scaffold.passes"

P = TypeVar("P", bound=type[Pass])

_classes: dict[str, type[Pass]] = {}
_models: list[type[BaseModel]] = []


def register(cls: P) -> P:
    """Make a pass class available to configs, under the value of its `type` field. Use as a decorator."""
    _classes[type_name(cls)] = cls
    return cls


def type_name(cls: type[Pass]) -> str:
    """Return the value of `type` that selects a pass class: `LoRA` for `type: Literal["LoRA"]`."""
    names = get_args(cls.model_fields["type"].annotation)
    if len(names) != 1:
        raise TypeError(f'{cls.__name__} needs a field `type: Literal["{cls.__name__}"]`')
    return str(names[0])


def pass_types() -> dict[str, type[Pass]]:
    """Return all loaded pass classes by type name, the built-in ones first."""
    _load_built_in()
    return dict(sorted(_classes.items(), key=lambda item: (not item[1].__module__.startswith(BUILT_IN), item[0])))


def known_names() -> list[str]:
    """Return the type names of all loaded passes and of all that installed packages offer."""
    return list(dict.fromkeys([*pass_types(), *_offered()]))


def load(name: str) -> None:
    """Load the pass type `name` from an installed package, if one offers it.

    Raises:
        ConfigError: the package that offers it cannot be imported, or offers something else than a pass.
    """
    entry = _offered().get(name)
    if name in pass_types() or entry is None:
        return
    try:
        cls = entry.load()
        if not (isinstance(cls, type) and issubclass(cls, Pass) and type_name(cls) == name):
            raise TypeError(f"{entry.value} is not a pass class of type {name}")
    except Exception as e:
        package = entry.dist.name if entry.dist else entry.value
        raise ConfigError(
            f"pass type `{name}` of the package {package} cannot be loaded: {type(e).__name__}: {e}",
            fix=f"update or uninstall it: pip install --upgrade {package}",
        ) from e
    register(cls)
    for model in _models:
        model.model_rebuild(force=True)


def load_all() -> None:
    """Load every pass type that installed packages offer."""
    for name in _offered():
        load(name)


def rebuild_on_load(model: type[BaseModel]) -> None:
    """Rebuild `model`, which contains passes, whenever a further pass type is loaded."""
    _models.append(model)


@cache
def _load_built_in() -> None:
    package = importlib.import_module(BUILT_IN)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{BUILT_IN}.{module.name}")


@cache
def _offered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
