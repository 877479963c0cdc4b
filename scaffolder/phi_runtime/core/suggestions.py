"""Suggestions for a misspelled word."""

from __future__ import annotations

from collections.abc import Iterable

from phi_runtime.core.errors import UsageError


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


def one_of(flag: str, value: str, choices: Iterable[str]) -> str:
    """Return the choice that `value` of `flag` names, in any case.

    Raises:
        UsageError: No choice matches; the message suggests the nearest.
    """
    choices = list(choices)
    for choice in choices:
        if choice.casefold() == value.casefold():
            return choice
    raise UsageError(
        f"unknown value `{value}` for {flag}{did_you_mean(value, choices)}", fix=f"choose one of {', '.join(choices)}"
    )
