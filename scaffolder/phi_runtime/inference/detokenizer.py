"""Tokens to text, one token at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_CONTEXT = 4  # tokens to keep: more than the bytes of a character without its last one
_REPLACEMENT = "\ufffd"


class Detokenizer:
    """Incremental detokenizer of one answer.

    The texts that `push` returns, and that of `flush`, are together the decoded text of all tokens without special tokens. The
    text so far is therefore always a prefix of the final text: a text that a later token may still change is held back. That
    is an incomplete character of a byte-level tokenizer; with byte fallback, it is a run of byte tokens, which the library
    decodes as one: a single invalid byte makes every byte of its run a replacement character. (tokenizers' own `DecodeStream`
    raises "Invalid prefix encountered" there; seen in 0.23.3.)

    A window of the last tokens is decoded for each new one, so that a token takes constant time.

    Args:
        decode: Returns the text of tokens, without special tokens.
        token_of: Returns the token of an id; None if there is none.
        special_ids: Special tokens.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], token_of: Callable[[int], str | None], special_ids: Collection[int]
    ) -> None:
        self._decode, self._token_of, self._special_ids = decode, token_of, special_ids
        self._window: list[int] = []
        self._returned = 0  # characters of the window's text

    def push(self, token: int) -> str:
        """Add a token, and return the text that is certain now."""
        name = None if token in self._special_ids else self._token_of(token)
        if name is None:
            return ""
        self._window.append(token)
        if _BYTE.fullmatch(name):
            return ""
        text = self._decode(self._window)
        certain = text.removesuffix(_REPLACEMENT)
        new = certain[self._returned :]
        self._returned = max(self._returned, len(certain))
        if len(self._window) > 2 * _CONTEXT:
            self._shorten(text[len(certain) :])
        return new

    def flush(self) -> str:
        """Return the text that was held back, at the end of the answer."""
        new = self._decode(self._window)[self._returned :] if self._window else ""
        self._returned += len(new)
        return new

    def _shorten(self, held: str) -> None:
        """Drop tokens that no longer matter. A decoder may treat the first token of a text differently: its text remains."""
        window = self._window[-_CONTEXT:]
        text = self._decode(window)
        if text.endswith(held) and len(text) > len(held):
            self._window, self._returned = window, len(text) - len(held)


def detokenizer(tokenizer: Any) -> Detokenizer:
    """Return a detokenizer for one answer of a tokenizer of transformers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        decode = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Detokenizer(decode, tokenizer.convert_ids_to_tokens, set(tokenizer.all_special_ids))
    special_ids = {token for token, added in backend.get_added_tokens_decoder().items() if added.special}
    return Detokenizer(partial(backend.decode, skip_special_tokens=True), backend.id_to_token, special_ids)


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of an answer, without special tokens; equal to what `detokenizer` streams."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
