"""A config while it is translated. Every change goes through the Draft, which records it and the source path of each value."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import ValidationError

from phi_runtime.config.diagnostics import Finding, dotted, finding, short, warning
from phi_runtime.config.reading.source import KeyPath, Source
from phi_runtime.core.wire import adapter

MISSING: Any = object()
EMPTY = "it is empty"
OFF = "it is off by default"
NOTHING_LEFT = "it is empty after the changes above"

Rule = Literal["renamed", "restructured", "ignored", "default"]
RULES: tuple[Rule, ...] = get_args(Rule)


def keeps_meaning(finding: Finding) -> bool:
    """Return True for the warning of a translation that keeps the meaning of the file."""
    return finding.rule in RULES and not finding.changes_result


@dataclass
class Translation:
    """One change.

    Attributes:
        old: Key path in the file; None for a default.
        new: Canonical key path; None for an ignored key.
        changes_result: What is trained, exported or measured differs from what Olive does with this file.
    """

    rule: Rule
    old: KeyPath | None
    new: KeyPath | None
    message: str
    changes_result: bool = False


@dataclass
class Draft:
    """A config between its source and its canonical form, which `value` becomes.

    Paths are paths in `value` unless they are called source paths.

    A change keeps the meaning of the file unless it is recorded with `changes_result=True`. Commands report those that do not
    keep it first, one by one, and count all others in one line: the message of such a change names what is done instead.
    """

    source: Source
    value: Any = None
    translations: list[Translation] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)
    notes: list[tuple[KeyPath, Any]] = field(default_factory=list)
    _source_paths: dict[KeyPath, KeyPath] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.value = copy.deepcopy(self.source.value if self.value is None else self.value)

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, path: KeyPath) -> Any:
        """Return the value at `path`, or MISSING."""
        value: Any = self.value
        for key in path:
            exists = key in value if isinstance(value, dict) else isinstance(value, list) and _has_index(value, key)
            if not exists:
                return MISSING
            value = value[key]
        return value

    def has(self, path: KeyPath) -> bool:
        return self.get(path) is not MISSING

    def keys(self, path: KeyPath) -> list[str]:
        """Return the keys of the object at `path`; empty if there is no object."""
        value = self.get(path)
        return list(value) if isinstance(value, dict) else []

    def items(self, path: KeyPath) -> list[Any]:
        """Return the items of the list at `path`; empty if there is no list."""
        value = self.get(path)
        return [*value] if isinstance(value, list) else []

    def source_path(self, path: KeyPath) -> KeyPath:
        """Return the path in the file of the value at `path`."""
        for length in range(len(path), -1, -1):
            if (start := self._source_paths.get(path[:length])) is not None:
                return start + path[length:]
        return path

    def finding(self, path: KeyPath, rule: str, message: str, suggestion: str = "", fix: str = "") -> Finding:
        """Return an error, located in the file, about the value at `path`."""
        return finding(self.source, self.source_path(path), rule, message, suggestion, fix)

    def origin(self, translation: Translation) -> KeyPath:
        """Return the source path that a translation starts from."""
        return translation.old if translation.old is not None else self.source_path(translation.new or ())

    def warnings(self) -> list[Finding]:
        """Return one warning per translation."""
        return [
            warning(self.source, self.origin(t), t.rule, t.message, changes_result=t.changes_result)
            for t in self.translations
        ]

    def is_valid(self, path: KeyPath, form: Any) -> bool:
        """Return True if nothing was refused, and the value at `path` has the type `form`."""
        try:
            adapter(form).validate_python(self.get(path))
        except ValidationError:
            return False
        return not self.refused

    # -- changing ------------------------------------------------------------------------------------------------------

    def take_note(self, path: KeyPath) -> None:
        """Take a note of the author out of the value; `notes` keeps it, by its source path."""
        self.notes.append((self.source_path(path), self._parent(path).pop(path[-1])))

    def rename(self, path: KeyPath, key: str) -> None:
        """Rename the last key of `path`, keeping its position in the object."""
        new = (*path[:-1], key)
        self._record("renamed", path, new, f"`{path[-1]}` renamed to `{key}`")
        if self._is_taken(path, new):
            return
        parent = self.get(path[:-1])
        items = [(key if k == path[-1] else k, v) for k, v in parent.items()]
        parent.clear()
        parent.update(items)
        self._rebase(path, new)

    def move(self, path: KeyPath, new: KeyPath, message: str) -> None:
        """Move the value at `path` to `new`, creating the objects around it."""
        if not self._can_hold(new):
            return
        self._record("restructured", path, new, message)
        if self._is_taken(path, new):
            return
        value = self._parent(path).pop(path[-1])
        self._rebase(path, new)
        self._set(new, value)

    def unnest(self, path: KeyPath) -> None:
        """Replace the object at `path`, if there is one, by its members."""
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
        level = "one level up" if outer else "to the top level"
        self._record("restructured", path, outer, f"keys of `{path[-1]}` moved {level}")
        for key in list(value):
            self._is_taken((*path, key), (*outer, key))
        parent = self.get(outer)
        items = [pair for k, v in parent.items() for pair in (value.items() if k == path[-1] else [(k, v)])]
        parent.clear()
        parent.update(items)
        for key in value:
            self._rebase((*path, key), (*outer, key))

    def drop(self, path: KeyPath, reason: str, *, changes_result: bool = False) -> None:
        """Remove the value at `path`, which has no effect because of `reason`."""
        name: Any = path[-1]
        if isinstance(name, int):  # a member of a list
            name = self.get((*path, "name")) if self.has((*path, "name")) else self.get(path)
        self._record("ignored", path, None, f"`{name}` ignored: {reason}", changes_result)
        self._remove(path)

    def set_default(
        self, path: KeyPath, value: Any, reason: str, cause: KeyPath | None = None, *, changes_result: bool = False
    ) -> None:
        """Set a value that the file does not have; `cause` is the path that it follows from."""
        if not self._can_hold(path):
            return
        shown = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
        message = f"`{dotted(path)}` set to `{shown}`: {reason}"
        self.translations.append(Translation("default", None, path, message, changes_result))
        self._set(path, value)
        self._source_paths[path] = self.source_path(cause if cause is not None else path[:-1])

    def replace(
        self, path: KeyPath, value: Any, message: str, rule: Rule = "restructured", *, changes_result: bool = False
    ) -> None:
        """Replace the value at `path`."""
        self._record(rule, path, path, message, changes_result)
        source_path = self.source_path(path)
        self._set(path, value)
        self._source_paths = {p: w for p, w in self._source_paths.items() if p[: len(path)] != path}
        self._source_paths[path] = source_path

    def reorder(self, path: KeyPath, keys: Sequence[str]) -> None:
        """Put the members of the object at `path` into the order of `keys`, which names all of them."""
        value = self.get(path)
        items = [(key, value[key]) for key in keys]
        value.clear()
        value.update(items)

    def set_source_path(self, path: KeyPath, source_path: KeyPath) -> None:
        """Record the source path of the value at `path` after the value around it was replaced."""
        self._source_paths[path] = source_path

    def refuse(
        self, path: KeyPath, message: str, suggestion: str = "", rule: str = "not-supported", fix: str = ""
    ) -> None:
        """Remove the value at `path` with an error."""
        self.refused.append(self.finding(path, rule, message, suggestion, fix))
        self._remove(path)

    # -- bookkeeping -----------------------------------------------------------------------------------------------------

    def _parent(self, path: KeyPath) -> Any:
        return self.get(path[:-1])

    def _remove(self, path: KeyPath) -> None:
        """Remove the value at `path`; the later members of a list move up."""
        parent, last = self._parent(path), path[-1]
        parent.pop(last)
        if not isinstance(last, int):
            return
        self._source_paths = {p: w for p, w in self._source_paths.items() if p[: len(path)] != path}
        self.translations = [t for t in self.translations if t.new is None or t.new[: len(path)] != path]
        for later in range(last, len(parent)):
            self._rebase((*path[:-1], later + 1), (*path[:-1], later))

    def _can_hold(self, path: KeyPath) -> bool:
        """Return True if a value can be set at `path`; else validation reports what is in the way."""
        around = [(self.get(path[:i]), list if isinstance(key, int) else dict) for i, key in enumerate(path)]
        return all(value is MISSING or isinstance(value, kind) for value, kind in around)

    def _set(self, path: KeyPath, value: Any) -> None:
        for length in range(1, len(path)):
            if self.get(path[:length]) is MISSING:
                self.get(path[: length - 1])[path[length - 1]] = {}
                self._source_paths.setdefault(path[:length], self.source_path(path[: length - 1]))
        self._parent(path)[path[-1]] = value

    def _is_taken(self, path: KeyPath, new: KeyPath) -> bool:
        """Return True if `new` has a value; the one at `path` is removed then, with an error if the two differ."""
        existing = self.get(new)
        if existing is MISSING or new == path[: len(new)]:
            return False
        value = self._parent(path).pop(path[-1])
        if value != existing:
            keys = f"`{dotted(self.source_path(path))}` and `{dotted(self.source_path(new))}`"
            self.refused.append(self.finding(path, "contradiction", f"{keys} differ; remove one of them"))
        return True

    def _rebase(self, path: KeyPath, new: KeyPath) -> None:
        """Update the recorded paths after the value at `path` moved to `new`."""
        size = len(path)
        below = {new + p[size:]: w for p, w in self._source_paths.items() if p[:size] == path}
        below.setdefault(new, self.source_path(path))
        self._source_paths = {p: w for p, w in self._source_paths.items() if p[:size] != path} | below
        for translation in self.translations:
            if translation.new is not None and translation.new[:size] == path:
                translation.new = new + translation.new[size:]

    def _record(
        self, rule: Rule, path: KeyPath, new: KeyPath | None, message: str, changes_result: bool = False
    ) -> None:
        self.translations.append(Translation(rule, self.source_path(path), new, message, changes_result))


def _has_index(value: list[Any], key: int | str) -> bool:
    return isinstance(key, int) and key < len(value)
