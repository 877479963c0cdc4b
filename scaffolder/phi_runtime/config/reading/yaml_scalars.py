"""Values of YAML scalars without quotes.

Numbers follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): `1e-6` is a number, which it is not in
YAML 1.1, and `1:30` is text. Everything else is read as Olive's `yaml.safe_load` reads it: `yes` and `off` are booleans, `1_000`
is a number.
"""

from __future__ import annotations

import math
import re
from typing import Any

_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **{sign + word: math.inf for sign in ("", "+") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INTEGER = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_BASED_INTEGER = re.compile(r"[-+]?0(?:x[0-9a-fA-F]+|o[0-7]+|b[01]+)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LONGEST_NUMBER = 1000  # characters; Python does not print an int of more than 4,300 digits


def plain_value(text: str) -> Any:
    """Return None, a bool, an int, a float or the text itself. Raises ValueError for a number of thousands of digits."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789" or (not _FLOAT.fullmatch(text) and not _BASED_INTEGER.fullmatch(text)):
        return text
    if len(text) > _LONGEST_NUMBER:
        raise ValueError("this number has too many digits")
    if _INTEGER.fullmatch(text):
        return int(text)
    return int(text, 0) if _BASED_INTEGER.fullmatch(text) else float(text)
