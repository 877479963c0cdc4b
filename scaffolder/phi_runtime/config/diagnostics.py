"""Findings about a config, located in its file."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Tag
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from phi_runtime.config.olive_names import known_to_olive
from phi_runtime.config.reading.source import KeyPath, Source
from phi_runtime.config.schema.pass_base import Pass
from phi_runtime.config.schema.registry import known_names, pass_type
from phi_runtime.core.errors import ConfigError, Location
from phi_runtime.core.secrets import without_visible_secrets
from phi_runtime.core.suggestions import nearest


@dataclass(frozen=True)
class Finding:
    """One error or warning.

    Attributes:
        rule: Its kind.
        key: The dotted path of the key as it is written.
        suggestion: A valid value.
        fix: What to do, where neither the message nor the suggestion says it.
        changes_result: A warning that what is trained, exported or measured differs from what Olive does with this file.
    """

    severity: Literal["error", "warning"]
    where: Location
    rule: str
    key: str
    message: str
    suggestion: str = ""
    fix: str = ""
    changes_result: bool = False

    def __post_init__(self) -> None:
        for name in ("message", "suggestion", "fix"):
            object.__setattr__(self, name, without_visible_secrets(getattr(self, name)))

    @property
    def text(self) -> str:
        """The message with its suggestion and rule."""
        mark = "changes the result: " if self.changes_result else ""
        hint = f" - did you mean `{self.suggestion}`?" if self.suggestion else ""
        return f"{mark}{self.message}{hint} ({self.rule})"

    def __str__(self) -> str:
        return f"{self.where}: {self.severity}: {self.text}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "severity": self.severity,
            "path": str(self.where.path),
            "line": self.where.line,
            "column": self.where.column,
            "rule": self.rule,
            "key": self.key,
            "message": self.message,
            "suggestion": self.suggestion or None,
            "fix": self.fix,
            "changes_result": self.changes_result,
        }


def findings_as_dict(findings: Sequence[Finding], path: Path) -> dict[str, Any]:
    """Return the output of `validate --json`."""
    return {
        "path": str(path),
        "valid": not any(f.severity == "error" for f in findings),
        "findings": [f.as_dict() for f in findings],
    }


def dotted(key_path: KeyPath) -> str:
    """Return a key path as text: `passes.lora.r`, `data_configs.0.name`."""
    return ".".join(str(k) for k in key_path)


def finding(source: Source, key_path: KeyPath, rule: str, message: str, suggestion: str = "", fix: str = "") -> Finding:
    """Return an error at `key_path`, a path in the file."""
    return Finding("error", source.locate(key_path), rule, dotted(key_path), message, suggestion, fix)


def warning(
    source: Source, key_path: KeyPath, rule: str, message: str, fix: str = "", *, changes_result: bool = False
) -> Finding:
    """Return a finding of severity warning."""
    where = source.locate(key_path)
    return Finding("warning", where, rule, dotted(key_path), message, fix=fix, changes_result=changes_result)


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings by their position in the file."""
    return sorted(findings, key=lambda f: (f.where.line, f.where.column))


def raise_if_any(source: Source, findings: Sequence[Finding], fix: str = "") -> None:
    """Raise ConfigError for the first error, if there is one; it carries all errors. `fix` replaces the fix of the first."""
    errors = [f for f in findings if f.severity == "error"]
    if errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        see_all = f"list all with `phi-scaffold validate {source.path}`" if more else ""
        fix = fix or first.fix or (f"write `{first.suggestion}`" if first.suggestion else see_all)
        raise ConfigError(f"{first.message}{more}", where=first.where, fix=fix, findings=tuple(errors))


# -- pydantic's errors, reworded ------------------------------------------------------------------------------------------

_TYPES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "finite_number": "a finite number",
}


def from_pydantic(
    source: Source,
    errors: Sequence[ErrorDetails],
    model: type[BaseModel],
    value: Any,
    source_path: Callable[[KeyPath], KeyPath],
) -> list[Finding]:
    """Convert pydantic's errors on `value` to findings, one per key, in the order of the file.

    `source_path` maps a path of `value` to a path in the file.
    """
    findings: dict[KeyPath, Finding] = {}
    for error in errors:
        # pydantic puts the tag of a union's member into the path (passes, lora, LoRA, r); the file knows no such key.
        path = key_path_of(value, error)
        findings.setdefault(path, _convert(source, error, model, path, source_path))
    suggested = {f.suggestion: p[:-1] for p, f in findings.items() if f.rule == "unknown-key" and f.suggestion}
    # A missing key that a misspelled one was meant to be needs no error.
    remaining = [
        f for p, f in findings.items() if not (f.rule == "missing-key" and p and suggested.get(str(p[-1])) == p[:-1])
    ]
    return in_order(remaining)


def _convert(
    source: Source,
    error: ErrorDetails,
    model: type[BaseModel],
    path: KeyPath,
    source_path: Callable[[KeyPath], KeyPath],
) -> Finding:
    place = source_path(path)
    kind, context, name = error["type"], error.get("ctx", {}), dotted(place)
    if kind == "extra_forbidden":
        _, part = _at(model, error["loc"][:-1])
        known = list(part.model_fields) if _is_model(part) else []
        return finding(source, place, "unknown-key", f"unknown key `{place[-1]}`", nearest(str(place[-1]), known))
    example = _example(model, error["loc"])
    hint = f", such as {example}" if example else ""
    if kind == "missing":
        return finding(source, place, "missing-key", f"the key `{name}` is missing{hint}")
    if kind == "union_tag_not_found":
        return finding(source, place, "missing-key", f"the key `{name}.type` is missing")
    if entry := known_to_olive(_name_in(error)):
        at = source_path((*path, "type")) if kind == "union_tag_invalid" else place
        return finding(source, at, "not-supported", f"`{_name_in(error)}` {entry.reason}", fix=entry.fix)
    if kind == "union_tag_invalid":
        actual = str(context.get("tag"))
        what = {"passes": "pass", "systems": "system"}.get(str(path[0]) if path else "", "")
        tags = str(context.get("expected_tags", "")).replace("'", "").split(", ")
        tags = known_names() if what == "pass" else tags
        message = f"unknown {what} type `{actual}`; known are {', '.join(tags)}".replace("  ", " ")
        return finding(source, source_path((*path, "type")), "unknown-value", message, nearest(actual, tags))
    if kind == "literal_error":
        named = [a.strip("' ") for a in str(context.get("expected", "")).replace(" or ", ", ").split(", ")]
        allowed = [{"True": "true", "False": "false"}.get(a, a) for a in named]
        actual = error["input"]
        choice = " or ".join(allowed) if len(allowed) < 3 else "one of " + ", ".join(allowed)
        message = f"`{name}` is {short(actual)}; expected {choice}"
        rule = "unknown-value" if isinstance(actual, str) else "wrong-type"
        return finding(source, place, rule, message, _unquoted(kind, actual) or nearest(str(actual), allowed))
    rule = "wrong-type" if kind in _TYPES else "out-of-range"
    message = f"`{name}` is {short(error['input'])}; expected {_expected(kind, context, error)}{hint}"
    return finding(source, place, rule, message, _unquoted(kind, error["input"]))


def _unquoted(kind: str, value: object) -> str:
    """Return the value that a string was meant to be, without its quotes; "" if it resembles none."""
    word = value.strip().casefold() if isinstance(value, str) else ""
    if word in ("none", "null"):
        return "null"
    if kind == "bool_type":
        return word if word in ("true", "false") else ""
    return word if kind in ("int_type", "float_type") and re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", word) else ""


def _name_in(error: ErrorDetails) -> object:
    """Return the name that an error is about, if it is an error about a name."""
    return {"union_tag_invalid": error.get("ctx", {}).get("tag"), "literal_error": error["input"]}.get(error["type"])


def _expected(kind: str, context: dict[str, Any], error: ErrorDetails) -> str:
    if kind in _TYPES:
        return _TYPES[kind]
    bounds = {
        "greater_than": "a number above {gt}",
        "greater_than_equal": "a number of at least {ge}",
        "less_than": "a number below {lt}",
        "less_than_equal": "a number of at most {le}",
        "too_short": "at least {min_length} items",
        "too_long": "at most {max_length} items",
        "string_too_short": "a non-empty string",
        "string_pattern_mismatch": "a string that matches {pattern}",
    }
    if kind in bounds:
        return bounds[kind].format(**context)
    return error["msg"][:1].lower() + error["msg"][1:]


def short(value: object) -> str:
    """Return a value for a message, shortened."""
    text = repr(value)
    text = {"True": "true", "False": "false", "None": "null"}.get(text, text)
    return text if len(text) <= 60 else text[:57] + "…"


def key_path_of(value: Any, error: ErrorDetails) -> KeyPath:
    """Return the keys of `value` in the path of pydantic's error, which also contains union tags."""
    path: list[str | int] = []
    for step in error["loc"]:
        if step in (value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()):
            path.append(step)
            value = value[step]
    return (*path, error["loc"][-1]) if error["type"] == "missing" else tuple(path)


def _example(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """Return an example value of the field at `loc`, as JSON."""
    import json

    field, _ = _at(model, loc)
    if field is None:
        return ""
    value = field.examples[0] if field.examples else None if field.is_required() else field.default
    return (
        json.dumps(value, ensure_ascii=False)
        if value is not None and isinstance(value, str | int | float | list)
        else ""
    )


def _at(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[FieldInfo | None, Any]:
    """Return the field at `loc` and its type, following dictionaries, lists and tagged unions."""
    current: Any = model
    field = None
    for step in loc:
        if _is_model(current):
            field = current.model_fields.get(step)
            current = field.annotation if field else current
        elif typing.get_origin(current) in (dict, list):
            field, current = None, typing.get_args(current)[-1]
        current = _member(current, step)
    return field, current


def _member(annotation: Any, step: int | str) -> Any:
    """Unwrap `annotation`; of a union return the member that `step` names, or the only one except None."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if annotation is Pass:
        return pass_type(step) or Pass
    if not isinstance(annotation, types.UnionType) and typing.get_origin(annotation) is not typing.Union:
        return annotation
    members = [m for m in typing.get_args(annotation) if m is not type(None)]
    for member in members:
        bare, *tags = typing.get_args(member) if typing.get_origin(member) is typing.Annotated else (member,)
        if step in [t.tag for t in tags if isinstance(t, Tag)] or (_is_model(bare) and _type_tag(bare) == step):
            return bare
    return _member(members[0], step) if len(members) == 1 else annotation


def _type_tag(model: type[BaseModel]) -> str:
    field = model.model_fields.get("type")
    tags = typing.get_args(field.annotation) if field else ()
    return tags[0] if tags else model.__name__


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
