"""The registry of pass types: built-in passes, and those of installed packages.

Built-in passes are the modules of `phi_runtime.passes`. A package adds its own with an entry point:

    [project.entry-points."phi_scaffold.passes"]
    Prune = "phi_prune:Prune"

The module of a built-in pass is imported when a config names its type. Entry points are read only when a config names a type
that is not built in, and imported only then.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, TypeVar, get_args

from phi_runtime.config.schema.pass_base import Pass
from phi_runtime.core.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUILT_IN = "phi_runtime.passes"
GROUP = "phi_scaffold.passes"

P = TypeVar("P", bound=Pass)

_classes: dict[str, type[Pass]] = {}


def register(cls: type[P]) -> type[P]:
    """Make a pass class available to configs, under its name. Use as a decorator.

    Raises:
        TypeError: The class has no field `type: Literal["<name of the class>"]`, or another class has that name.
    """
    name = cls.__name__
    if get_args(cls.model_fields["type"].annotation) != (name,):
        raise TypeError(f'pass class `{name}` needs a field `type: Literal["{name}"]`')
    known = _classes.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(f"pass type `{name}` of {cls.__module__} is already registered by {known.__module__}")
    _classes[name] = cls
    return cls


def pass_type(name: object) -> type[Pass] | None:
    """Return the class of the pass type `name`; None if no type of that name is built in or loaded.

    A config names two or three types, so only their modules are imported: that of MergeAdapterWeights is merge_adapter_weights,
    for example. A type that is not in such a module is found too, and takes longer.
    """
    if not isinstance(name, str):
        return None
    if name not in _classes and (module := _modules().get(name.casefold())):
        importlib.import_module(module)
    return _classes.get(name) or pass_types().get(name)


def loaded_types() -> dict[str, type[Pass]]:
    """Return the pass classes that were imported so far, by type name."""
    return dict(_classes)


def pass_types() -> dict[str, type[Pass]]:
    """Return all loaded pass classes by type name, the built-in ones first."""
    _load_built_in()
    return dict(sorted(_classes.items(), key=lambda item: (not item[1].__module__.startswith(BUILT_IN), item[0])))


def known_names() -> list[str]:
    """Return the names of all loaded pass types and of those that installed packages offer."""
    return list(dict.fromkeys([*pass_types(), *_offered()]))


def load(name: str) -> None:
    """Load the pass type `name` from an installed package, if one offers it.

    Raises:
        ConfigError: The package cannot be imported, or its entry point is not a pass class of that name.
    """
    if pass_type(name) or (entry := _offered().get(name)) is None:
        return
    try:
        cls = entry.load()
        if not (isinstance(cls, type) and issubclass(cls, Pass) and cls.__name__ == name):
            raise TypeError(f"`{entry.value}` is not a pass class named `{name}`")
        register(cls)
    except Exception as e:  # whatever the package raises at import
        package = entry.dist.name if entry.dist else entry.value
        raise ConfigError(
            f"pass type `{name}` of the package `{package}` cannot be loaded: {type(e).__name__}: {e}",
            fix=f"update or uninstall the package: pip install --upgrade {package}",
        ) from e


def load_all() -> None:
    """Load every pass type that installed packages offer."""
    for name in _offered():
        load(name)


@cache
def _load_built_in() -> None:
    for module in _modules().values():
        importlib.import_module(module)


@cache
def _modules() -> dict[str, str]:
    """Return the modules of the built-in passes by their names without underscores."""
    package = importlib.import_module(BUILT_IN)
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return {name.replace("_", ""): f"{BUILT_IN}.{name}" for name in names}


@cache
def _offered() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # takes longer than the rest of this module

    return {entry.name: entry for entry in entry_points(group=GROUP)}
