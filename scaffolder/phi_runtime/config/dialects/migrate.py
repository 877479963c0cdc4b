"""An older config written anew in the canonical form, its comments kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.diagnostics import dotted, raise_if_any
from phi_runtime.config.dialects.draft import Draft, Translation
from phi_runtime.config.reading.comments import Comments, attach
from phi_runtime.config.reading.source import KeyPath, Source, parse_source, read_source
from phi_runtime.config.reading.write import render
from phi_runtime.config.schema import Workflow
from phi_runtime.core.artifacts import free_name, write_text
from phi_runtime.core.errors import Conflict, Location, WorkFailed
from phi_runtime.pipeline.load import SWEEP, form_of


@dataclass(frozen=True)
class Change:
    """One translation: where the old key stands (None for what is filled in), and the new one (None for what is left out)."""

    rule: str
    message: str
    old_key: str | None
    old: Location | None
    new_key: str | None
    new: Location | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "message": self.message,
            "old": _place(self.old_key, self.old),
            "new": _place(self.new_key, self.new),
        }

    def __str__(self) -> str:
        old = f"{self.old}: {self.old_key}" if self.old else "(not written)"
        place = f" ({self.new.line}:{self.new.column})" if self.new else ""
        new = f"{self.new_key or 'the top'}{place}" if self.new_key is not None else "(left out)"
        return f"{old} → {new}: {self.message}"


@dataclass(frozen=True)
class Migration:
    """What `migrate` did, or would do: `files` are the new texts, the config's first; empty when it is canonical already."""

    changes: list[Change]
    files: Mapping[Path, str]
    backup: Path | None = None


def migrate(path: Path, output: Path | None = None, *, write: bool = True) -> Migration:
    """Writes the canonical form of the config at `path` to `output`, by default in its place with the original kept as *.bak.

    A search in the config goes into sweep.yaml beside it. A config that is canonical already is left alone. Raises ConfigError
    for one whose form is wrong (what cannot be read is not rewritten), and Conflict when a sweep.yaml is in the way.
    """
    source = read_source(path)
    form = form_of(source)
    raise_if_any(source, form.errors)
    target = output or path
    if not form.draft.translations and target == path:
        return Migration([], {})
    value = _canonical(form.draft)
    files = {target: canonical_text(form.draft, target)}
    if "sweep" in form.value:
        sweep = target.parent / SWEEP
        if sweep.exists():
            raise Conflict(f"{sweep} is in the way of the search that {path.name} describes", fix=f"move {SWEEP} away")
        files[sweep] = render(form.value["sweep"], {}, "yaml")
    written = _read_back(target, files[target], value)
    draft = form.draft
    told = sorted(draft.translations, key=lambda t: _line_and_column(draft, t))
    changes = [_change(draft, t, written) for t in told]
    backup = None
    if write:
        if target == path:
            backup = free_name(path)
            shutil.copy2(path, backup)
        for file, text in files.items():
            write_text(file, text)
    return Migration(changes, files, backup)


def canonical_text(draft: Draft, target: Path) -> str:
    """The config that `draft` has become, with the comments of the file it was read from, as it is to be written to `target`."""
    value = _canonical(draft)
    return render(value, _comments(draft, value), _form(target))


def _canonical(draft: Draft) -> dict[str, Any]:
    return _ordered({k: v for k, v in draft.value.items() if k != "sweep"})


def _form(path: Path) -> Literal["json", "yaml"]:
    return "yaml" if path.suffix.lower() in (".yaml", ".yml") else "json"


def _ordered(value: dict[str, Any]) -> dict[str, Any]:
    """The parts in the order in which they are described; inside, the author's order stays."""
    return {key: value[key] for key in (*Workflow.model_fields, *value) if key in value}


def _comments(draft: Draft, value: Any) -> dict[KeyPath, Comments]:
    """The comments of the source by the key path that theirs has become."""
    filled_in = {t.new for t in draft.translations if t.old is None}
    became: dict[KeyPath, KeyPath] = {}
    for path in _paths(value):
        if path not in filled_in:
            became.setdefault(draft.written(path), path)
    found: dict[KeyPath, Comments] = {}
    for key_path, comments in attach(draft.source).items():
        kept = key_path
        while kept not in became:
            kept = kept[:-1]
        if kept != key_path:  # its key is gone: what is said of it stands before what is around it
            beside = (comments.beside,) if comments.beside else ()
            comments = Comments(before=(*comments.before, *beside, *comments.after))
        new = became[kept]
        there = found.get(new, Comments())
        found[new] = Comments(
            there.before + comments.before, comments.beside or there.beside, there.after + comments.after
        )
    return found


def _paths(value: Any, at: KeyPath = ()) -> list[KeyPath]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, member in inner for path in _paths(member, (*at, key)))]


def _read_back(target: Path, text: str, value: Any) -> Source:
    """The new text as it will be read. A text that says anything else than `value` is never written."""
    source = parse_source(target, text)
    if source.value != value or form_of(source).draft.translations:
        raise WorkFailed(
            f"the canonical form of {target.name} does not read back", fix="please report this with the config"
        )
    return source


def _change(draft: Draft, translation: Translation, written: Source) -> Change:
    old, new = translation.old, translation.new
    place = written.locate(new) if new is not None and new[:1] != ("sweep",) else None
    return Change(
        translation.rule,
        translation.message,
        dotted(old) if old is not None else None,
        draft.source.locate(old) if old is not None else None,
        dotted(new) if new is not None else None,
        place,
    )


def _line_and_column(draft: Draft, translation: Translation) -> tuple[int, int]:
    place = draft.source.locate(draft.origin(translation))
    return place.line, place.column


def _place(key: str | None, where: Location | None) -> dict[str, Any] | None:
    if key is None:
        return None
    return {"key": key, "line": where.line if where else None, "column": where.column if where else None}
