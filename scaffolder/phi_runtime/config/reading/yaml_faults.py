"""PyYAML's complaints in words for people who write a config, and at the place that is to be mended."""

from __future__ import annotations

import re
from typing import Any

from phi_runtime.config.reading.source import Reading
from phi_runtime.core.errors import ConfigError

_INDENT = "indent it like the lines that it belongs to"
_QUOTE = "put the text in quotes"

# What PyYAML 6.0.3 says: what is wrong, what to do. `{0}` is what the pattern's group found.
_AT_PROBLEM = {
    r"found character '\\t' that cannot start": ("a tab stands here", "indent with blanks"),
    r"found character '(.+)' that cannot start": ("`{0}` cannot begin a value", _QUOTE),
    r"mapping values are not allowed": ("a `:` cannot stand here", "check the indentation, or put the text in quotes"),
    r"sequence entries are not allowed": ("a list item cannot begin here", "begin it on a line of its own"),
    r"expected the node content, but found '<stream end>'": ("the file ends in the middle of a value", ""),
    r"expected the node content, but found '(\W)'": ("a value is expected, not `{0}`", _QUOTE),
    r"expected the node content": ("a value is expected here", ""),
    r"expected ',' or '(.)'": ("a `,` or `{0}` is expected here", ""),
    r"expected '<document start>', but found '<stream end>'": ("`%` does not begin a value", _QUOTE),
    r"expected '<document start>'": ("something follows the end of the YAML value", ""),
    r"found undefined tag handle '(.*)'": ("the tag handle `{0}` is unknown", "remove the tag"),
    r"found incompatible YAML document": ("only YAML 1.x is known", "remove the `%YAML` line"),
    r"expected (.+), but found '\\x00'": ("the file ends where {0} is expected", ""),
    r"expected <block end>, but found ':'": ("a key is missing before this `:`", _QUOTE),
    r"chomping or indentation indicators": ("text after `|` or `>` begins on the next line", ""),
    r"special characters are not allowed": ("an invisible character stands here", "remove it"),
}
# `{0}` is the character there.
_AT_CONTEXT = {
    r"expected alphabetic or numeric": ("a name is expected after `{0}`", _QUOTE),
    r"expected ',' or '.', but got '<stream end>'": ("this bracket is never closed", ""),
    r"could not find expected ':'": ("a `:` is expected after this key", ""),
    r"found unexpected (end of stream|document separator)": ("this quote is never closed", ""),
    r"unknown escape character|escape sequence of": ("bad escape in this text", "write `\\\\` for a backslash"),
}


def plain_fault(error: Any, reading: Reading) -> ConfigError:
    """The ConfigError for a yaml.YAMLError."""
    problem: str = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    at: int = mark.index if mark else getattr(error, "position", 0)
    if getattr(error, "context_mark", None):
        for pattern, (message, fix) in _AT_CONTEXT.items():
            if re.search(pattern, problem):
                start = error.context_mark.index
                return reading.fault(message.format(reading.text[start]), start, fix or "mend the YAML there")
    if re.match("expected <block end>, but found '[^:]", problem):
        line = reading.text[reading.text.rfind("\n", 0, at) + 1 : at]
        if line.strip():
            return reading.fault("the value ended before this", at, "put the whole text in quotes")
        return reading.fault("this line does not line up with those above it", at, _INDENT)
    for pattern, (message, fix) in _AT_PROBLEM.items():
        if match := re.search(pattern, problem):
            return reading.fault(message.format(*match.groups()), at, fix or "mend the YAML there")
    return reading.fault(problem.splitlines()[0][:100].replace("'", "`"), at, "mend the YAML there")
