"""What is wrong with a config, said where it stands."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from phi_runtime.errors import ConfigError, Location
from phi_runtime.suggest import nearest
from phi_runtime.workflow.source import KeyPath, Source


@dataclass(frozen=True)
class Finding:
    """One fault of a config. `rule` names its kind, `key` is the dotted path, `suggestion` a value that would do."""

    severity: Literal["error", "warning"]
    where: Location
    rule: str
    key: str
    message: str
    suggestion: str = ""

    def __str__(self) -> str:
        hint = f" - did you mean `{self.suggestion}`?" if self.suggestion else ""
        return f"{self.where}: {self.severity}: {self.message}{hint} ({self.rule})"

    def as_dict(self) -> dict[str, Any]:
        return {
            "severity": self.severity,
            "line": self.where.line,
            "column": self.where.column,
            "rule": self.rule,
            "key": self.key,
            "message": self.message,
            "suggestion": self.suggestion or None,
        }


def dotted(key_path: KeyPath) -> str:
    return ".".join(str(k) for k in key_path)


def finding(source: Source, key_path: KeyPath, rule: str, message: str, suggestion: str = "") -> Finding:
    return Finding("error", source.locate(key_path), rule, dotted(key_path), message, suggestion)


def from_pydantic(source: Source, errors: list[ErrorDetails], model: type[BaseModel]) -> list[Finding]:
    """pydantic's errors as findings, in the order of the file."""
    findings = [_translate(source, error, model) for error in errors]
    return sorted(findings, key=lambda f: (f.where.line, f.where.column))


def raise_if_any(source: Source, findings: list[Finding]) -> None:
    """Raises ConfigError for the first finding, carrying them all."""
    errors = [f for f in findings if f.severity == "error"]
    if errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ConfigError(
            f"{first.message}{more}",
            where=first.where,
            fix=f"write `{first.suggestion}`"
            if first.suggestion
            else f"see all with `phi-scaffold validate {source.path}`",
            findings=tuple(findings),
        )


def _translate(source: Source, error: ErrorDetails, model: type[BaseModel]) -> Finding:
    # pydantic puts the tag of a union's member into the path (passes, lora, LoRA, r); the file knows no such key.
    key_path = _without_tags(source.value, error["loc"])
    kind, context, name = error["type"], error.get("ctx", {}), dotted(key_path)
    if kind == "extra_forbidden":
        known = _fields_at(model, error["loc"][:-1])
        return finding(
            source, key_path, "unknown-key", f"unknown key `{key_path[-1]}`", nearest(str(key_path[-1]), known)
        )
    if kind == "missing":
        return finding(source, key_path, "missing-key", f"the key `{name}` is missing")
    if kind == "union_tag_not_found":
        return finding(source, key_path, "missing-key", f"the key `{name}.type` is missing")
    if kind == "union_tag_invalid":
        tags = str(context.get("expected_tags", "")).replace("'", "").split(", ")
        given = str(context.get("tag"))
        message = f"unknown pass type `{given}`; known are {', '.join(tags)}"
        return finding(source, (*key_path, "type"), "unknown-value", message, nearest(given, tags))
    if kind == "literal_error":
        allowed = [a.strip("' ") for a in str(context.get("expected", "")).replace(" or ", ", ").split(", ")]
        given = error["input"]
        message = f"`{name}` is {given!r}; expected {' or '.join(allowed) if len(allowed) < 3 else 'one of ' + ', '.join(allowed)}"
        return finding(source, key_path, "unknown-value", message, nearest(str(given), allowed))
    rule = "wrong-type" if kind.endswith(("_type", "_parsing", "from_float")) else "out-of-range"
    message = error["msg"][:1].lower() + error["msg"][1:]
    return finding(source, key_path, rule, f"`{name}` is {_short(error['input'])}: {message}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _without_tags(value: Any, loc: tuple[int | str, ...]) -> KeyPath:
    path: list[str | int] = []
    for position, step in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(value, dict) and isinstance(step, str):
            if step in value or last:
                path.append(step)
                value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            path.append(step)
            value = value[step]
    return tuple(path)


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The field names of the model that stands at `loc`, following dictionaries, lists and tagged unions."""
    current: Any = model
    for step in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            if isinstance(step, str) and step in current.model_fields:
                current = _bare(current.model_fields[step].annotation)
            # else: the tag of the union that was just resolved
        elif typing.get_origin(current) in (dict, list):
            current = _bare(typing.get_args(current)[-1])
        elif isinstance(current, types.UnionType):
            current = next(m for m in typing.get_args(current) if m.__name__ == step)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _bare(annotation: Any) -> Any:
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation
