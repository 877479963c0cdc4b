"""Secrets that a text shows by their form, in messages and records: passwords and signatures in URLs, keys in connection strings."""

from __future__ import annotations

import re

SECRET = "<secret>"
NAME = re.compile(
    r"(?i)(?:passw(?:or)?d|secret|credential|api_?key|access_?key|account_?key|connection_?string|(?:^|[._])token)$"
)
"""Names of keys whose values are secrets."""
_VISIBLE = re.compile(
    r"(?i)(?<=://)[^/\s\"'@]+(?=@)"
    r"|(?<=:/)[^/\s\"'@:]+:[^/\s\"'@]+(?=@)"  # a URL that was read as a path
    r"|(?<=[?&]sig=)[^&\s\"'`)]+|(?<=[?&]token=)[^&\s\"'`)]+|(?<=AccountKey=)[^;\s\"'`)]+"
)
_NAMED = re.compile(r'(?<=")(?P<name>[^"\\]+)"\s*:\s*"(?P<value>(?:[^"\\]|\\.)+)')


def without_visible_secrets(text: str) -> str:
    """Return `text` with `<secret>` for each secret that has the form of one."""
    return _VISIBLE.sub(SECRET, text)


def masked(line: str) -> str:
    """Return a line of a config with a `*` for each character of a secret, by its form or by the name of its key."""
    line = _VISIBLE.sub(lambda match: "*" * len(match[0]), line)
    for match in _NAMED.finditer(line):
        if NAME.search(match["name"]):
            start, end = match.span("value")
            line = line[:start] + "*" * (end - start) + line[end:]
    return line
