"""Special tokens that data writes out: ends of answers, and control tokens inside the text of a row.

One rule for training, reference and answer: an end token of the model at the end of an answer is the end. It comes off the
answer; training adds the end once, and a generated answer ends before it. An end token of another model is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# The end tokens of the common model families, and the tokens that start or separate their turns.
ENDS = (
    "<|im_end|>", "<|endoftext|>", "</s>", "<|end|>", "<|eot_id|>", "<|eot|>", "<|eom_id|>", "<|end_of_text|>",
    "<end_of_turn>", "<turn|>", "<eos>", "<|eos|>", "<|end_of_turn|>", "<|return|>", "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>", "[|endofturn|]",
)  # fmt: skip
_STARTS = (
    "<|im_start|>", "<|im_sep|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>",
    "<|turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|start|>", "<|message|>", "<|channel|>", "[INST]", "[/INST]",
    "<<SYS>>", "<</SYS>>", "<｜User｜>", "<｜Assistant｜>", "<|START_OF_TURN_TOKEN|>",
)  # fmt: skip


def special_tokens(tokenizer: Any) -> set[str]:
    """Return the special tokens of a tokenizer: they are read as one token anywhere in a text, and not shown in an answer."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}


def end_tokens(special: Iterable[str], eos: str | None) -> tuple[str, ...]:
    """Return the tokens among the `special` ones of a tokenizer that end an answer."""
    return tuple(sorted({*({eos} if eos else ()), *set(special).intersection(ENDS)}))


def split_ends(text: str, ends: tuple[str, ...]) -> tuple[str, list[str]]:
    """Split the `ends` off a text, in reading order; a text without one is returned unchanged."""
    removed: list[str] = []
    while ends and (rest := text.rstrip()).endswith(ends):
        removed.insert(0, next(end for end in ends if rest.endswith(end)))
        text = rest.removesuffix(removed[0]).rstrip()
    return text, removed


@dataclass(frozen=True)
class SpecialTokens:
    """Finds special tokens in text: the `own` ones of a tokenizer, and common ones of others, which it reads as text."""

    own: frozenset[str]

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens:
        return cls(frozenset(special_tokens(tokenizer)))

    def find(self, text: str) -> set[str]:
        """Return the distinct special tokens in a text."""
        tokens: set[str] = set()
        for character in self._first_characters:
            if character in text:
                break
        else:  # most texts; ten times as fast as the regular expression
            return tokens
        at = 0
        while begin := self._begin.search(text, at):  # 256 tokens as alternatives would take ten times as long
            at = begin.start()
            tokens |= {token for token in self._by_begin[begin[0]] if text.startswith(token, at)}
            at += 1  # two beginnings may overlap, as in `<</s>`
        return tokens

    @cached_property
    def _by_begin(self) -> dict[str, list[str]]:
        """All known tokens by their first two characters; those of one character are also among the others."""
        tokens = {*self.own, *ENDS, *_STARTS} - {""}
        return {begin: [token for token in tokens if begin.startswith(token[:2])] for begin in {t[:2] for t in tokens}}

    @cached_property
    def _first_characters(self) -> list[str]:
        return sorted({begin[0] for begin in self._by_begin})

    @cached_property
    def _begin(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self._by_begin, key=len, reverse=True))))
