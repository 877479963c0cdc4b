"""Report keys that Olive has and that have no effect here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from phi_runtime.config.diagnostics import Finding, dotted, in_order, warning
from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import Workflow
from phi_runtime.config.schema.common import has_effect


def check_effect(draft: Draft, workflow: Workflow) -> list[Finding]:
    """Return one warning that lists all keys without effect that the file sets to another value than their default."""
    paths = [draft.source_path(path) for path in keys_without_effect(workflow)]
    findings = in_order([warning(draft.source, path, "no-effect", f"`{dotted(path)}`") for path in paths])
    if not findings:
        return []
    count = f"{len(findings)} keys have" if len(findings) > 1 else "1 key has"
    message = f"{count} no effect here: {', '.join(f.message for f in findings)}"
    first = findings[0]
    return [Finding("warning", first.where, first.rule, first.key, message)]


def keys_without_effect(value: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the paths of the keys in `value` that are set to another value than their default and have no effect."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            if name in value.model_fields_set:
                inner = getattr(value, name)
                if has_effect(field):
                    yield from keys_without_effect(inner, (*at, name))
                elif inner != field.default:
                    yield (*at, name)
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from keys_without_effect(inner, (*at, key))
