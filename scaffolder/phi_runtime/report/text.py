"""Text from data as text of a page: escaped, and without characters that act instead of showing."""

from __future__ import annotations

import html
import unicodedata

_JOINERS = {"\u200c", "\u200d", "\u00ad"}  # format characters that words and emoji need, and that move nothing
# In ems of DejaVu Sans, which is wider than most.
_WIDTHS = (("ijl'|", 0.29), ("fI.,:;()[] ", 0.39), ("rts-–", 0.45), ("mwMW%—", 0.95))
_MARKS_IN_A_ROW = 4  # combining marks on one character; more cover the lines around


def inert(text: str) -> str:
    r"""Return `text` with its control, bidirectional and other invisible characters in a form that shows.

    A control character becomes its picture (`␛`), any other its code (`\u{202e}`). Newlines and tabs stay.
    """
    shown: list[str] = []
    marks = 0
    for char in text:
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks <= _MARKS_IN_A_ROW:
            shown.append(_shown(char, category))
    return "".join(shown)


def _shown(char: str, category: str) -> str:
    if char in "\n\t" or char in _JOINERS:
        return char
    if category == "Cc":
        return chr(0x2400 + ord(char)) if ord(char) < 0x20 else "␡" if char == "\x7f" else f"\\u{{{ord(char):x}}}"
    invisible = category in ("Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return f"\\u{{{ord(char):x}}}" if invisible else char


def escaped(text: str) -> str:
    """Return `text` for an element or a quoted attribute of HTML and SVG."""
    return html.escape(inert(text))


def width_em(text: str) -> float:
    """Return about how wide `text` is in a sans-serif font, in units of the font size."""
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> float:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0.0
    if unicodedata.east_asian_width(char) in ("W", "F"):
        return 1.1
    return next((width for chars, width in _WIDTHS if char in chars), 0.72 if char.isupper() else 0.63)


def fitted(text: str, room_em: float) -> str:
    """Return `text` on one line, cut with an ellipsis where it is wider than `room_em`."""
    text = inert(" ".join(text[:1000].split()))
    if width_em(text) <= room_em:
        return text
    room = room_em - 1  # the ellipsis
    for end, char in enumerate(text):
        room -= _char_width(char)
        if room < 0:
            return f"{text[:end].rstrip()}…"
    return text
