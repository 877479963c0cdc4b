"""Syntax errors of JSON, worded by the text that is found in place of JSON, with what to write instead."""

from __future__ import annotations

import json
import math
import re

from phi_runtime.core.suggestions import nearest

FIX = "fix the JSON at this position"
Fault = tuple[str, str]  # message, fix

# Pattern of the text → (message, fix). `{0}` is the match, `{1}` its first group.
_ANYWHERE = {
    r"<{7}|={7}|>{7}": ("a merge conflict is not resolved", "keep one side and remove the lines with `{0}`"),
    r"#": ("`#` does not begin a comment in JSON", "write `//`"),
    r"'((?:[^'\\\n]|\\.)*)'": ("a string needs double quotes", 'write `"{1}"`'),
    r"[“”„‟«»‘’]": ("`{0}` does not delimit a string", 'write straight double quotes: `"`'),
    r"\.\.\.|…": ("`{0}` is not JSON", "replace it with the settings that it abbreviates, or remove it"),
    r"\{\{|\$\{|<[A-Za-z]": ("`{0}` begins a placeholder", "replace the placeholder with a value"),
    r"[^\s\"']*;": ("`;` does not separate values", "write `,`"),
}
_FILES = {
    r"<!?[A-Za-z]": ("the file is a web page, not a config", "download the raw file"),
    r"version https://git-lfs": ("the file is a pointer of Git LFS", "download the content: git lfs pull"),
    r"---|[A-Za-z_]\w*[ \t]*:": ("the file is YAML, but its name says JSON", "rename it to .yaml"),
}
_TRAILING = {
    r"[}\]]": ("`{0}` has no opening bracket", "remove it, or the bracket that closes the value too early"),
    r",": ("unexpected `,` after the end of the JSON value", "remove it"),
    r"[{\[]": ("unexpected text after the end of the JSON value", "write one config per file"),
}
_SEPARATORS = {r"=>?": ("`{0}` does not follow a key", "write `:`")}
_KEYS = {
    r",": ("a key is expected, not `,`", "remove this `,`"),
    r"\]": ("`]` does not close a `{{`", "write `}}` before it"),
    r"[{\[]": ("a key is expected, not `{0}`", "write a key and `:` before it"),
    r"[\d.]+": ("a key is expected, not `{0}`", "write a number without `,`, and a key in double quotes"),
    r"([A-Za-z_$][\w$.-]*)": ("a key needs double quotes", 'write `"{1}"`'),
}
_VALUES = {
    r"[,}\]]": ("a value is expected, not `{0}`", "write a value before it, or remove what comes before"),
    r"\(": ("a value is expected, not `(`", "write a list in brackets: `[`"),
}
_WORDS = {
    **dict.fromkeys(("true", "yes", "on"), "true"),
    **dict.fromkeys(("false", "no", "off"), "false"),
    **dict.fromkeys(("none", "null", "nil", "undefined", "~"), "null"),
}


def file_fault(text: str, at: int) -> Fault | None:
    """Return the error of a file whose first text, at `at`, is that of another kind of file."""
    return _match(_FILES, text, at)


def value_fault(text: str, at: int) -> Fault:
    """Return the error of text that is no value."""
    if at == len(text):
        return "the file ends in the middle of a value", FIX
    if fault := _match(_ANYWHERE | _VALUES, text, at):
        return fault
    match = re.compile(r"[^\s,\[\]{}\"]+").match(text, at)
    word = match.group().rstrip(":") if match else ""
    if not word:
        return f"a value is expected, not `{text[at]}`", FIX
    return f"`{word[:40]}` is not a JSON value", _meant(word)


def key_fault(text: str, at: int) -> Fault:
    """Return the error of text that is no key."""
    return _match(_ANYWHERE | _KEYS, text, at) or ("a key in double quotes is expected", FIX)


def colon_fault(text: str, at: int, key: str) -> Fault:
    """Return the error of text that does not separate a key from its value."""
    fault = _match(_ANYWHERE | _SEPARATORS, text, at)
    return fault or (f"a `:` is expected after the key `{key[:40]}`", "add a `:` and a value here")


def separator_fault(text: str, end: int, at: int, opening: int) -> tuple[Fault, int]:
    """Return the error of text at `at`, after a value that ends at `end` in the brackets opened at `opening`; and its position."""
    closing = {"{": "}", "[": "]"}[text[opening]]
    if text[end - 1] == '"' and end == at and text[at] not in "}]:=":
        return ("this string ends before its text does", 'write `\\"` for a quote within a string'), end - 1
    if fault := _match(_ANYWHERE, text, at):
        return fault, at
    if text[at] in "}]":
        line = text.count("\n", 0, opening) + 1
        return (f"a `,` or `{closing}` is expected here", f"close the `{text[opening]}` of line {line} first"), at
    if text[opening] == "[" or text[at] == '"':
        return ("a `,` is missing after this value", "add a `,` here"), end
    return (f"a `,` or `{closing}` is expected here", FIX), at


def trailing_fault(text: str, at: int) -> Fault:
    """Return the error of text after the end of the config."""
    fault = _match(_ANYWHERE | _TRAILING, text, at)
    return fault or ("unexpected text after the end of the JSON value", "remove it, or put it into a `//` comment")


def string_fault(text: str, at: int) -> Fault:
    """Return the error of a string without an end, or with a character that must be escaped."""
    line = text[at : len(text) if (end := text.find("\n", at)) < 0 else end]
    closed = re.match(r'"(?:[^"\\]|\\.)*"', line)
    control = re.search(r"[\x00-\x1f]", closed.group()) if closed else None
    if control:
        name = "tab" if control.group() == "\t" else "control character"
        return f"this string contains a {name}", f"write `{json.dumps(control.group())[1:-1]}`"
    return "this string does not end on its line", 'add the closing `"`, and write `\\n` for a line break'


def escape_fault(reason: str) -> Fault:
    """Return the error of a string with an unknown escape."""
    return f"bad escape in this string ({reason})", "write `\\\\` for a backslash, or `/` in a path"


def _meant(word: str) -> str:
    """Return the fix for a word that is no value."""
    known = _WORDS.get(word.casefold()) or nearest(word, ("true", "false", "null"))
    if known:
        return f"write `{known}`"
    try:
        number = float(word.replace("_", ""))
    except ValueError:
        try:
            number = int(word, 0)
        except ValueError:
            return "write a number" if word[0] in "+-.0123456789" else f'put text in double quotes: `"{word[:40]}"`'
    if not math.isfinite(number):
        return "write a finite number"
    return f"write `{int(number) if number == int(number) and '.' not in word else number}`"


def _match(table: dict[str, Fault], text: str, at: int) -> Fault | None:
    for pattern, (message, fix) in table.items():
        if match := re.compile(pattern).match(text, at):
            found = (match.group(), *match.groups())
            return message.format(*found), fix.format(*found)
    return None
