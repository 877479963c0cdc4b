"""Suggestions for a misspelled word."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word most like `word`, ignoring case; "" if none is close."""
    import difflib

    by_folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` to end a message with, or ""."""
    near = nearest(word, known)
    return f"; did you mean `{near}`?" if near else ""
