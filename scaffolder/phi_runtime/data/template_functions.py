"""Rules that count filters and methods before they run, where their result or time is larger than their arguments."""

# ruff: noqa: ARG001 (the parameters are those of the filters)
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2.exceptions import SecurityError

from phi_runtime.data.template_meter import MAX_SLOW, Meter, TooMuchWork

READING_TESTS = (
    *("in", "eq", "==", "equalto", "ne", "!=", "lt", "<", "lessthan", "le", "<=", "gt", ">", "greaterthan", "ge", ">="),
    *("lower", "upper"),
)
"""Tests that read their arguments from start to end."""

INSTANT_FILTERS = ("abs", "count", "d", "default", "items", "length")
"""Filters that take the same time for each value."""

_SLOW = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")
_SLOW_METHODS = ("striptags", "unescape")
_WIDTHS = ("center", "ljust", "rjust", "zfill", "expandtabs", "to_bytes", "hex")
_SPLITS = ("split", "rsplit", "splitlines")
_NESTED_WIDTH = re.compile(r":[^{}]*\{")


def filter_rules(meter: Meter) -> dict[str, Callable[..., Any]]:
    """Return a function for each such filter. It gets the filter's arguments, and returns the value to filter."""

    def width(value: Any, *args: Any, **kwargs: Any) -> Any:
        meter.numbers(*args, *kwargs.values())
        return value

    def indent(value: Any, width: Any = 4, *args: Any, **kwargs: Any) -> Any:
        meter.numbers(width)
        lines = str(value).count("\n") + 1
        meter.text(lines * (len(width) if isinstance(width, str) else int(width)))
        return value

    def replace(value: Any, old: Any, new: Any, *args: Any, **kwargs: Any) -> Any:
        meter.substitute(str(value), str(old), str(new))
        return value

    def join(value: Any, d: Any = "", *args: Any, **kwargs: Any) -> Any:
        return meter.joined(d, value)

    def groups(value: Any, count: Any, fill_with: Any = None) -> Any:
        meter.numbers(count)
        meter.repeat(fill_with, int(count))
        return value

    def format_(value: Any, *args: Any, **kwargs: Any) -> Any:
        meter.percent(str(value), kwargs or args)
        return value

    def to_json(value: Any, ensure_ascii: Any = False, indent: Any = None, separators: Any = None, **_: Any) -> Any:
        if len(str(separators)) > 100 or len(str(indent)) > 100:
            raise TooMuchWork
        if indent is not None:
            spaces = len(indent) if isinstance(indent, str) else abs(int(indent))
            meter.numbers(spaces)
            meter.spend(meter.weight(value) * (1 + spaces))
        return value

    def total(value: Any, attribute: Any = None, start: Any = 0) -> Any:
        if not isinstance(start, (int, float)):
            raise SecurityError("`sum` adds numbers only")
        return value

    def slow(value: Any, *args: Any, **kwargs: Any) -> Any:
        if sum(map(meter.weight, (value, *args, *kwargs.values()))) > MAX_SLOW // 8:
            raise TooMuchWork
        return value

    def characters(value: Any) -> Any:
        meter.spend(len(value) if isinstance(value, (str, bytes)) else 0)
        return value

    rules: dict[str, Callable[..., Any]] = dict.fromkeys(("center", "truncate", "round"), width)
    rules |= dict.fromkeys(("batch", "slice"), groups) | dict.fromkeys(_SLOW, slow)
    rules |= {"indent": indent, "replace": replace, "join": join, "format": format_, "tojson": to_json}
    return rules | {"sum": total, "list": characters}


def count_call(meter: Meter, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Count a call of a function or a method of a value before it runs, and return its arguments."""
    name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    if name in ("format", "format_map") and hasattr(function, "__wrapped__"):
        pattern = str(function.__wrapped__.__self__)
        if _NESTED_WIDTH.search(pattern):  # the width is a value
            raise TooMuchWork
        meter.fill(pattern, "{", *args, *kwargs.values())
    elif name in _WIDTHS and isinstance(owner, (str, bytes, int)):
        meter.numbers(*args, *kwargs.values())
        meter.text(
            (1 + str(owner).count("\t")) * max((n for n in (*args, *kwargs.values()) if isinstance(n, int)), default=8)
        )
    elif isinstance(owner, (str, bytes)):
        return _count_text_method(meter, name, owner, args, kwargs)
    elif isinstance(owner, (list, tuple)):
        meter.spend(meter.weight(owner))
    return args


def _count_text_method(
    meter: Meter, name: str, owner: str | bytes, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    meter.text(len(owner))
    if name in ("replace", "join", "translate"):
        if kwargs:
            raise SecurityError(f"`{name}` has no arguments with names")
        if name == "replace":
            meter.substitute(owner, *args[:2])
        elif name == "join":
            return (meter.joined(owner, args[0]), *args[1:]) if args else args
        elif args and isinstance(args[0], dict):
            meter.repeat(list(args[0].values()), len(owner))
    elif name in _SPLITS:
        meter.spend(len(owner) // 4)
    elif name in _SLOW_METHODS and len(owner) > MAX_SLOW:
        raise TooMuchWork
    else:
        meter.pairs(owner, args)
    return args
