"""Rewrite an older config in the canonical form, keeping its comments."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from phi_runtime.config.diagnostics import dotted, raise_if_any
from phi_runtime.config.dialects.draft import Draft, Translation
from phi_runtime.config.parse import SWEEP, parse_file
from phi_runtime.config.reading.comments import Comments, attach
from phi_runtime.config.reading.source import KeyPath, Source, is_yaml, parse_source, read_source
from phi_runtime.config.reading.write import render
from phi_runtime.config.schema import Workflow
from phi_runtime.core.artifacts import free_name, write_text
from phi_runtime.core.errors import Conflict, Location, WorkFailed


@dataclass(frozen=True)
class Change:
    """One translation: the old key (None for a default) and the new key (None for an ignored key), with their locations."""

    rule: str
    message: str
    changes_result: bool
    old_key: str | None
    old: Location | None
    new_key: str | None
    new: Location | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "message": self.message,
            "changes_result": self.changes_result,
            "old": _location(self.old_key, self.old),
            "new": _location(self.new_key, self.new),
        }

    def __str__(self) -> str:
        old = f"{self.old}: {self.old_key}" if self.old else "(default)"
        place = f" ({self.new.line}:{self.new.column})" if self.new else ""
        new = f"{self.new_key or 'top level'}{place}" if self.new_key is not None else "(removed)"
        mark = "changes the result: " if self.changes_result else ""
        return f"{old} → {new}: {mark}{self.message}"


@dataclass(frozen=True)
class Migration:
    """The result of `migrate`: `files` maps paths to new texts, the config first; empty if it is canonical already."""

    changes: list[Change]
    files: Mapping[Path, str]
    backup: Path | None = None


def migrate(path: Path, output: Path | None = None, *, write: bool = True) -> Migration:
    """Rewrite the config at `path` in the canonical form.

    Args:
        path: The config, or a sweep file.
        output: File to write, by default `path`; an existing file is kept as *.bak. A search in the config is written to
            sweep.yaml next to it; of several `pass_flows` each gets its own file, NAME-1, NAME-2 and so on.
        write: False only computes the result.

    Raises:
        ConfigError: The file itself has errors: nothing is written, since a key that is not understood would be lost. Errors
            that only a look at other files and keys finds do not prevent it: the new file is to be checked.
        Conflict: There is a sweep.yaml, or a config of a flow, already.
    """
    source = read_source(path)
    flows = source.value.get("pass_flows") if isinstance(source.value, dict) else None
    if isinstance(flows, list) and len(flows) > 1:
        return _one_per_flow(source, flows, output or path, write=write)
    return _migrate(source, output or path, write=write)


def _one_per_flow(source: Source, flows: list[Any], target: Path, *, write: bool) -> Migration:
    changes: list[Change] = []
    files: dict[Path, str] = {}
    for i, flow in enumerate(flows, start=1):
        part = replace(source, value={**source.value, "pass_flows": [flow]})
        migration = _migrate(part, target.with_name(f"{target.stem}-{i}{target.suffix}"), write=False)
        changes += [change for change in migration.changes if change not in changes]
        files |= migration.files
    if existing := next((file for file in files if file.exists()), None):
        raise Conflict(
            f"{existing} is in the way of a config for one of the `pass_flows`", fix=f"move {existing.name} away"
        )
    for file, text in files.items() if write else ():
        write_text(file, text)
    return Migration(changes, files)


def _migrate(source: Source, target: Path, *, write: bool) -> Migration:
    path = source.path
    parsed = parse_file(source)
    raise_if_any(source, parsed.errors, "nothing was written: correct the file, then migrate it again")
    if not parsed.draft.translations and target == path:
        return Migration([], {})
    value = _canonical(parsed.draft)
    files = canonical_files(parsed.draft, target)
    sweep = target.parent / SWEEP
    if sweep in files and sweep.exists():
        raise Conflict(f"{sweep} is in the way of the search in {path.name}", fix=f"move {SWEEP} away")
    source_written = _read_back(target, files[target], value)
    draft = parsed.draft
    by_place = attrgetter("line", "column")
    ordered = sorted(draft.translations, key=lambda t: by_place(draft.source.locate(draft.origin(t))))
    changes = [_change(draft, t, source_written) for t in ordered]
    backup = None
    if write:
        if target.is_file():
            backup = free_name(target)
            shutil.copy2(target, backup)
        for file, text in files.items():
            write_text(file, text)
    return Migration(changes, files, backup)


def canonical_files(draft: Draft, target: Path) -> dict[Path, str]:
    """Return the texts of the translated config for `target`, and of sweep.yaml next to it if the config holds a search."""
    files = {target: canonical_text(draft, target)}
    if "sweep" in draft.value:
        files[target.parent / SWEEP] = render(draft.value["sweep"], {}, "yaml")
    return files


def canonical_text(draft: Draft, target: Path) -> str:
    """Return the text of the translated config for `target`, in JSON or YAML by its suffix, with the source's comments."""
    value = _canonical(draft)
    return render(value, _comments(draft, value), "yaml" if is_yaml(target) else "json")


def _canonical(draft: Draft) -> dict[str, Any]:
    value = _ordered({k: v for k, v in draft.value.items() if k != "sweep"})
    if not draft.notes:
        return value
    value = copy.deepcopy(value)
    new_paths = _new_paths(draft, value)
    for path, note in draft.notes:
        holder: Any = value
        for key in _nearest(path[:-1], new_paths):
            holder = holder[key]
        (holder if isinstance(holder, dict) else value)[str(path[-1])] = note
    return value


def _ordered(value: dict[str, Any]) -> dict[str, Any]:
    """Order the top-level keys as in the schema; nested keys keep the author's order."""
    return {key: value[key] for key in (*Workflow.model_fields, *value) if key in value}


def _comments(draft: Draft, value: Any) -> dict[KeyPath, Comments]:
    """Return the comments of the source by the new path of their key."""
    new_paths = _new_paths(draft, value)
    result: dict[KeyPath, Comments] = {}
    for key_path, comments in attach(draft.source).items():
        new = _nearest(key_path, new_paths)
        if key_path not in new_paths:  # its key was removed: put its comments before the enclosing one
            trailing = (comments.trailing,) if comments.trailing else ()
            comments = Comments(before=(*comments.before, *trailing, *comments.after))
        existing = result.get(new, Comments())
        result[new] = Comments(
            existing.before + comments.before, comments.trailing or existing.trailing, existing.after + comments.after
        )
    return result


def _new_paths(draft: Draft, value: Any) -> dict[KeyPath, KeyPath]:
    """Return the path in `value` of each key of the source that is still there."""
    defaults = {t.new for t in draft.translations if t.old is None}
    new_paths: dict[KeyPath, KeyPath] = {}
    for path in _paths(value):
        if path not in defaults:
            new_paths.setdefault(draft.source_path(path), path)
    return new_paths


def _nearest(source_path: KeyPath, new_paths: dict[KeyPath, KeyPath]) -> KeyPath:
    """Return the new path of a key of the source, or of the innermost value around it that is still there."""
    while source_path not in new_paths:
        source_path = source_path[:-1]
    return new_paths[source_path]


def _paths(value: Any, at: KeyPath = ()) -> list[KeyPath]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, member in inner for path in _paths(member, (*at, key)))]


def _read_back(target: Path, text: str, value: Any) -> Source:
    """Parse the new text again; text that does not read back as `value` is never written."""
    source = parse_source(target, text)
    if source.value != value or parse_file(source).draft.translations:
        raise WorkFailed(
            f"the canonical form of {target.name} does not read back", fix="report this as a bug, with the config"
        )
    return source


def _change(draft: Draft, translation: Translation, new_source: Source) -> Change:
    old, new = translation.old, translation.new
    location = new_source.locate(new) if new is not None and new[:1] != ("sweep",) else None
    return Change(
        translation.rule,
        translation.message,
        translation.changes_result,
        dotted(old) if old is not None else None,
        draft.source.locate(old) if old is not None else None,
        dotted(new) if new is not None else None,
        location,
    )


def _location(key: str | None, where: Location | None) -> dict[str, Any] | None:
    if key is None:
        return None
    return {"key": key, "line": where.line if where else None, "column": where.column if where else None}
