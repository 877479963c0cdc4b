"""A config on its way into the canonical form: every change is made here, so that each is told and no value forgets where it
was written."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from phi_runtime.config.diagnostics import Finding, dotted, finding, short
from phi_runtime.config.reading.source import KeyPath, Source

MISSING: Any = object()
EMPTY = "an empty value says nothing"

Rule = Literal["older-spelling", "older-form", "left-out", "filled-in"]


@dataclass
class Translation:
    """One change: `old` is the key path as written (None for what was filled in), `new` the canonical one (None for what was
    left out)."""

    rule: Rule
    old: KeyPath | None
    new: KeyPath | None
    message: str


@dataclass
class Draft:
    """`value` is the config as it is by now; paths are those of `value` unless they are called written."""

    source: Source
    value: Any = None
    translations: list[Translation] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)
    _written: dict[KeyPath, KeyPath] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.value = copy.deepcopy(self.source.value)

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, path: KeyPath) -> Any:
        """The value at `path`, MISSING where there is none."""
        value: Any = self.value
        for key in path:
            there = key in value if isinstance(value, dict) else isinstance(value, list) and _index_of(value, key)
            if not there:
                return MISSING
            value = value[key]
        return value

    def has(self, path: KeyPath) -> bool:
        return self.get(path) is not MISSING

    def keys(self, path: KeyPath) -> list[str]:
        """The keys of the object at `path`; none where there is no object."""
        value = self.get(path)
        return list(value) if isinstance(value, dict) else []

    def written(self, path: KeyPath) -> KeyPath:
        """Where the value at `path` stands in the file."""
        for length in range(len(path), -1, -1):
            if (origin := self._written.get(path[:length])) is not None:
                return origin + path[length:]
        return path

    def finding(self, path: KeyPath, rule: str, message: str, suggestion: str = "") -> Finding:
        """An error at the place where `path` was written."""
        return finding(self.source, self.written(path), rule, message, suggestion)

    def origin(self, translation: Translation) -> KeyPath:
        """Where, as written, a translation starts from."""
        return translation.old if translation.old is not None else self.written(translation.new or ())

    # -- changing ------------------------------------------------------------------------------------------------------

    def rename(self, path: KeyPath, key: str, message: str = "", rule: Rule = "older-spelling") -> None:
        """Gives the last key of `path` another name, at the same place among its neighbours."""
        new = (*path[:-1], key)
        self._tell(rule, path, new, message or f"`{path[-1]}` is now `{key}`")
        if self._taken(path, new):
            return
        parent = self.get(path[:-1])
        items = [(key if k == path[-1] else k, v) for k, v in parent.items()]
        parent.clear()
        parent.update(items)
        self._moved(path, new)

    def move(self, path: KeyPath, new: KeyPath, message: str, rule: Rule = "older-form") -> None:
        """Puts the value at `path` to `new`, whose enclosing objects are made where they are missing."""
        if not self._holds(new):
            return
        self._tell(rule, path, new, message)
        if self._taken(path, new):
            return
        value = self._parent(path).pop(path[-1])
        self._moved(path, new)
        self._set(new, value)

    def lift(self, path: KeyPath, message: str = "") -> None:
        """Puts the members of the object at `path` beside it, in its place; nothing where there is none."""
        value = self.get(path)
        if value is MISSING:
            return
        if value is None:
            self.drop(path, EMPTY)
            return
        if not isinstance(value, dict):
            self.refuse(path, f"`{path[-1]}` is {short(value)}; expected an object", rule="wrong-type")
            return
        if path[-1] in value:
            self.refuse((*path, path[-1]), f"unknown key `{path[-1]}`", rule="unknown-key")
        outer = path[:-1]
        place = "beside `type`" if outer else "at the top"
        self._tell("older-form", path, outer, message or f"what `{path[-1]}` holds stands {place} now")
        for key in list(value):
            self._taken((*path, key), (*outer, key))
        parent = self.get(outer)
        items = [pair for k, v in parent.items() for pair in (value.items() if k == path[-1] else [(k, v)])]
        parent.clear()
        parent.update(items)
        for key in value:
            self._moved((*path, key), (*outer, key))

    def drop(self, path: KeyPath, why: str) -> None:
        """Takes the value at `path` out, saying why it has no effect."""
        self._tell("left-out", path, None, f"`{path[-1]}` is left out: {why}")
        self._parent(path).pop(path[-1])

    def put(self, path: KeyPath, value: Any, message: str, because: KeyPath | None = None) -> None:
        """Fills in a value that is not written; `because` is what it follows from."""
        if not self._holds(path):
            return
        self.translations.append(Translation("filled-in", None, path, message))
        self._set(path, value)
        self._written[path] = self.written(because if because is not None else path[:-1])

    def replace(self, path: KeyPath, value: Any, message: str, rule: Rule = "older-form") -> None:
        """Puts another value to the same place."""
        self._tell(rule, path, path, message)
        written = self.written(path)
        self._set(path, value)
        self._written = {p: w for p, w in self._written.items() if p[: len(path)] != path}
        self._written[path] = written

    def arrange(self, path: KeyPath, keys: Sequence[str]) -> None:
        """Puts the members of the object at `path` into this order, which names all of them."""
        value = self.get(path)
        items = [(key, value[key]) for key in keys]
        value.clear()
        value.update(items)

    def place(self, path: KeyPath, written: KeyPath) -> None:
        """Says where the value at `path` was written, when the whole that it is in was replaced."""
        self._written[path] = written

    def refuse(self, path: KeyPath, message: str, suggestion: str = "", rule: str = "not-supported") -> None:
        """Takes the value at `path` out, with an error."""
        self.refused.append(self.finding(path, rule, message, suggestion))
        self._parent(path).pop(path[-1])

    # -- bookkeeping -----------------------------------------------------------------------------------------------------

    def _parent(self, path: KeyPath) -> Any:
        return self.get(path[:-1])

    def _holds(self, path: KeyPath) -> bool:
        """Whether there can be something at `path`: what is no object there is left to the models to complain of."""
        around = [(self.get(path[:i]), list if isinstance(key, int) else dict) for i, key in enumerate(path)]
        return all(value is MISSING or isinstance(value, kind) for value, kind in around)

    def _set(self, path: KeyPath, value: Any) -> None:
        for length in range(1, len(path)):
            if self.get(path[:length]) is MISSING:
                self.get(path[: length - 1])[path[length - 1]] = {}
                self._written.setdefault(path[:length], self.written(path[: length - 1]))
        self._parent(path)[path[-1]] = value

    def _taken(self, path: KeyPath, new: KeyPath) -> bool:
        """Whether something stands at `new` already: the value at `path` goes then, with an error where the two differ."""
        there = self.get(new)
        if there is MISSING or new == path[: len(new)]:
            return False
        value = self._parent(path).pop(path[-1])
        if value != there:
            old, other = dotted(self.written(path)), dotted(self.written(new))
            self.refused.append(self.finding(path, "contradiction", f"`{old}` and `{other}` differ; take one out"))
        return True

    def _moved(self, path: KeyPath, new: KeyPath) -> None:
        size = len(path)
        below = {new + p[size:]: w for p, w in self._written.items() if p[:size] == path}
        below.setdefault(new, self.written(path))
        self._written = {p: w for p, w in self._written.items() if p[:size] != path} | below
        for translation in self.translations:
            if translation.new is not None and translation.new[:size] == path:
                translation.new = new + translation.new[size:]

    def _tell(self, rule: Rule, path: KeyPath, new: KeyPath | None, message: str) -> None:
        self.translations.append(Translation(rule, self.written(path), new, message))


def _index_of(value: list[Any], key: int | str) -> bool:
    return isinstance(key, int) and key < len(value)
