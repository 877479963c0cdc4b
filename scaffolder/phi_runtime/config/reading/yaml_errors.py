"""Errors of the YAML parser, reworded for people who write configs and located at the cause."""

from __future__ import annotations

import re
from typing import Any

from phi_runtime.config.reading.source import Reading
from phi_runtime.core.errors import ConfigError

_INDENT = "indent it like the other lines of its block"
_QUOTE = "put the text in quotes"

FIX = "fix the YAML at this position"
# Message of ruamel.yaml 0.19 → (message, fix). `{0}` is the group of the pattern.
_AT_PROBLEM = {
    r"found character '\\t' that cannot start": ("a tab is not allowed here", "indent with spaces"),
    r"found character '(.+)' that cannot start": ("`{0}` cannot begin a value", _QUOTE),
    r"mapping values are not allowed": (
        "a `:` is not allowed here",
        "check the indentation, or put the text in quotes",
    ),
    r"sequence entries are not allowed": ("a list item cannot begin here", "begin it on a new line"),
    r"expected the node content, but found '<stream end>'": ("the file ends in the middle of a value", ""),
    r"expected the node content, but found '(\W)'": ("a value is expected, not `{0}`", _QUOTE),
    r"expected the node content": ("a value is expected here", ""),
    r"expected ',' or '(.)'": ("a `,` or `{0}` is expected here", ""),
    r"expected '<document start>', but found '<stream end>'": ("`%` does not begin a value", _QUOTE),
    r"expected '<document start>'": ("unexpected text after the end of the YAML value", ""),
    r"found undefined tag handle '(.*)'": ("unknown tag handle `{0}`", "remove the tag"),
    r"found incompatible YAML document": ("only YAML 1.x is supported", "remove the `%YAML` line"),
    r"expected (.+), but found '\\x00'": ("the file ends where {0} is expected", ""),
    r"expected <block end>, but found ':'": ("a key is missing before this `:`", _QUOTE),
    r"chomping or indentation indicators": ("text after `|` or `>` must begin on the next line", ""),
    r"special characters are not allowed": ("control characters are not allowed", "remove it"),
}
# The same for errors located at their context; `{0}` is the character there.
_AT_CONTEXT = {
    r"expected alphabetic or numeric": ("a name is expected after `{0}`", _QUOTE),
    r"expected ',' or '.', but got '<stream end>'": ("this bracket is never closed", ""),
    r"could not find expected ':'": ("a `:` is expected after this key", ""),
    r"found unexpected (end of stream|document separator)": ("this quote is never closed", ""),
    r"unknown escape character|escape sequence of": ("bad escape in this string", "write `\\\\` for a backslash"),
}

_SLASHES = re.compile(r"[ \t]*(//|/\*)")


def _comment_line(text: str, at: int) -> int:
    """Return the start of the line at `at`, or of the line above if that is a comment with slashes."""
    line = text.rfind("\n", 0, at) + 1
    above = text.rfind("\n", 0, max(line - 1, 0)) + 1
    return above if line and _SLASHES.match(text, above) else line


def plain_error(error: Any, reading: Reading) -> ConfigError:
    """Return the ConfigError for a YAMLError."""
    problem: str = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    at: int = mark.index if mark else getattr(error, "position", 0)
    if match := _SLASHES.match(reading.text, _comment_line(reading.text, at)):
        return reading.error(
            "a comment begins with `#` in YAML", match.start(1), f"write `#` instead of `{match.group(1)}`"
        )
    if getattr(error, "context_mark", None):
        for pattern, (message, fix) in _AT_CONTEXT.items():
            if re.search(pattern, problem):
                start = error.context_mark.index
                return reading.error(message.format(reading.text[start]), start, fix or FIX)
    if re.match("expected <block end>, but found '[^:]", problem):
        line = reading.text[reading.text.rfind("\n", 0, at) + 1 : at]
        if line.strip():
            return reading.error("unexpected text after the value", at, "put the whole text in quotes")
        return reading.error("inconsistent indentation", at, _INDENT)
    for pattern, (message, fix) in _AT_PROBLEM.items():
        if match := re.search(pattern, problem):
            return reading.error(message.format(*match.groups()), at, fix or FIX)
    return reading.error(problem.splitlines()[0][:100].replace("'", "`"), at, FIX)
