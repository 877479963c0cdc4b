"""Encode rows word by word: most words of a data set repeat, and the tokens of one are looked up in a tenth of the time.

This is exact for byte-level byte-pair encoders with one of the common patterns: none of its alternatives matches a space after
another character, so no token contains a space that follows a visible character, except as its first one.

Shapes: N rows, W words, P pieces, T tokens of a batch.
"""

from __future__ import annotations

import json
import re
import threading
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np

from phi_runtime.core.common_prefix import common_prefix
from phi_runtime.data.template import Piece

Run = tuple[int, int]
"""Start and stop of a run of trained tokens."""

_BORDERS = re.compile(r"(?<=\S)(?= )")  # in front of a space after a visible character
_BLANKS = re.compile(r" (?<=\s )")  # a space after white space; twice as fast as without looking back
_TABLE_BYTES = 1 << 23  # of words, after which they are forgotten
_ENTRY_BYTES = 150  # of a word, besides its characters

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = frozenset(
    {
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
        # Llama 3, Phi-4
        _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES,
        # Qwen 2 and 3
        _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES,
        # Qwen 3.5
        _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES,
        # GPT-4o, Phi-4-mini
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
        # Mistral Nemo and newer
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
        rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
    }
)


class EncodedWords(NamedTuple):
    """Rows as the tokens of their pieces, without empty pieces.

    Attributes:
        tokens: Token ids of all rows, (T,) of uint32.
        ends: End of each piece in `tokens`, (P,).
        learned: True for each piece that is trained, (P,).
        pieces: Number of pieces of each row, (N,).
    """

    tokens: np.ndarray
    ends: np.ndarray
    learned: np.ndarray
    pieces: np.ndarray

    @property
    def row_ends(self) -> np.ndarray:
        """End of each row in `tokens`, (N,); rows are not empty."""
        return self.ends[np.cumsum(self.pieces) - 1]

    def rows(self) -> Iterator[tuple[list[int], list[Run]]]:
        """Yield the token ids of each row and the runs that are trained."""
        ends, learned = self.ends.tolist(), self.learned.tolist()
        begin = at = 0
        for pieces in self.pieces.tolist():
            stops = [end - begin for end in ends[at : at + pieces]]
            runs = [
                run for run, trained in zip(pairwise([0, *stops]), learned[at : at + pieces], strict=True) if trained
            ]
            yield self.tokens[begin : begin + stops[-1]].tolist(), runs
            begin, at = begin + stops[-1], at + pieces


class _Row(NamedTuple):
    """A row by the numbers of its words.

    Attributes:
        words: Their numbers.
        starts: Where each piece starts: the index of a word, and the number of the part of it that belongs to the piece before;
            0 if the piece starts with the word.
        learned: True for each piece that is trained.
    """

    words: list[int]
    starts: list[tuple[int, int]]
    learned: list[bool]


class _Numbers(dict[str, int]):
    """Numbers of words, without the text `before` each of them; a word that is looked up first is added to `table`."""

    def __init__(self, table: WordEncoder, before: str) -> None:
        super().__init__()
        self.table, self.before = table, before

    def __missing__(self, word: str) -> int:
        number = self[word] = self.table.add(self.before + word)
        return number


class WordEncoder:
    """Encodes rows with a table of the tokens of words, which threads share."""

    @classmethod
    def of(cls, tokenizer: Any) -> WordEncoder | None:
        """Return the encoder for a tokenizer of the tokenizers library; None if its rows cannot be encoded word by word."""
        first, text = (tokenizer.encode(t, add_special_tokens=True).ids for t in ("", "joy"))
        alone = tokenizer.encode("joy", add_special_tokens=False).ids
        return cls(tokenizer, first) if splits_at_words(tokenizer) and text == first + alone else None

    def __init__(self, tokenizer: Any, first: list[int]) -> None:
        self.tokenizer, self.first = tokenizer, first
        self.lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self.after_space, self.without_space = _Numbers(self, " "), _Numbers(self, "")
        self.new: list[str] = []
        self.bytes = 0
        self.tokens = array("I", self.first)  # of all words, and first of "word" 0
        self.borders = array("q", [0, len(self.first)])
        self.shared: dict[tuple[int, int], tuple[int, bool]] = {}

    @contextmanager
    def _complete(self) -> Iterator[None]:
        """Forget the words if they take too much memory, and if an error leaves some of them without tokens."""
        if self.bytes > _TABLE_BYTES:
            self._forget()
        try:
            yield
        except BaseException:
            self._forget()
            raise

    def add(self, word: str) -> int:
        """Return the number of a new word."""
        self.new.append(word)
        self.bytes += len(word) + _ENTRY_BYTES
        return len(self.borders) + len(self.new) - 2

    def encode(self, rows: Sequence[Sequence[Piece]], special: Sequence[bool]) -> EncodedWords:
        """Encode rows, in front of those in `special` the special tokens with which the tokenizer starts a text.

        The text before a trained piece gets the tokens that it has alone: if they differ, the pieces are encoded separately.
        """
        with self.lock, self._complete():
            numbered = [self._numbered(pieces, first) for pieces, first in zip(rows, special, strict=True)]
            self._encode_new()
            borders = [self._borders(row) for row in numbered]
            for i, found in enumerate(borders):
                if found is None:
                    numbered[i] = self._numbered(rows[i], special[i], apart=True)
                    borders[i] = [(at, 0) for at, _ in numbered[i].starts[1:]]
            self._encode_new()
            return self._encoded(numbered, [found or [] for found in borders])

    def _numbered(self, pieces: Sequence[Piece], first: bool, *, apart: bool = False) -> _Row:
        after_space, without_space = self.after_space, self.without_space
        numbers = [0] if first else []
        starts: list[tuple[int, int]] = []
        learned: list[bool] = []
        last, last_spaced = "", False
        for text, trained in pieces:
            if not text:
                continue
            spaced, words = _split(text)
            visible = last and not last[-1].isspace()
            if apart or not starts or (spaced and visible):
                starts.append((len(numbers), 0))
            else:
                starts.append((len(numbers) - 1, numbers.pop()))
                words[0] = f"{last} {words[0]}" if spaced else last + words[0]
                spaced = last_spaced
            numbers.append(after_space[words[0]] if spaced else without_space[words[0]])
            numbers += map(after_space.__getitem__, words[1:])
            learned.append(trained)
            last, last_spaced = words[-1], spaced or len(words) > 1
        return _Row(numbers, starts, learned)

    def _encode_new(self) -> None:
        words, self.new = self.new, []
        if not words:
            return
        for encoding in self.tokenizer.encode_batch_fast(words, add_special_tokens=False):
            self.tokens.extend(encoding.ids)
            self.borders.append(len(self.tokens))

    def _borders(self, row: _Row) -> list[tuple[int, int]] | None:
        """Return where each piece but the first starts: the index of a word, and of a token in it.

        None if what is before a trained piece has other tokens alone.
        """
        borders = []
        for (at, part), trained in zip(row.starts[1:], row.learned, strict=False):
            if part:
                shared, complete = self.shared.get((part, row.words[at])) or self._shared(part, row.words[at])
                if not (complete or trained):
                    return None
                borders.append((at, shared))
            else:
                borders.append((at, 0))
        return borders

    def _shared(self, part: int, word: int) -> tuple[int, bool]:
        """Return how many tokens a part of a word and the word have in common at their start, and if these are all of the part."""
        one, other = (self.tokens[self.borders[n] : self.borders[n + 1]] for n in (part, word))
        count = common_prefix(one, other)
        known = self.shared[part, word] = count, count == len(one)
        return known

    def _encoded(self, rows: Sequence[_Row], starts: Sequence[list[tuple[int, int]]]) -> EncodedWords:
        words = np.fromiter(chain.from_iterable(row.words for row in rows), dtype=np.int64)
        of_table, in_table = np.frombuffer(self.tokens, dtype=np.uint32), np.frombuffer(self.borders, dtype=np.int64)
        sizes = in_table[words + 1] - in_table[words]
        stops = np.cumsum(sizes)
        tokens = of_table[np.repeat(in_table[words + 1] - stops, sizes) + np.arange(sizes.sum())]
        at: list[int] = []
        within: list[int] = []
        begin = 0
        for row, borders in zip(rows, starts, strict=True):
            for word, token in borders:
                at.append(begin + word)
                within.append(token)
            begin += len(row.words)
            at.append(begin)
            within.append(0)
        learned = np.fromiter(chain.from_iterable(row.learned for row in rows), dtype=np.bool_)
        ends = np.concatenate([[0], stops])[at] + within
        return EncodedWords(tokens, ends, learned, np.array([len(row.learned) for row in rows]))


def _split(text: str) -> tuple[bool, list[str]]:
    """Split a text in front of each space after a visible character, and drop these spaces.

    Returns:
        True if the first word followed a space, too; the words.
    """
    if text[0] != " " and not _BLANKS.search(text):
        return False, text.split(" ")
    return text[0] == " ", [word.removeprefix(" ") for word in _BORDERS.split(text)]


def splits_at_words(tokenizer: Any) -> bool:
    """Return True if the tokens of a text are those of its words, each with the space in front of it."""
    model = tokenizer.model
    return (
        type(model).__name__ == "BPE"
        and not (model.dropout or model.end_of_word_suffix or model.continuing_subword_prefix)
        and _state(tokenizer.normalizer) in (None, {"type": "NFC"})  # a space is never composed with what is before it
        and all(map(_is_alone, tokenizer.get_added_tokens_decoder().values()))
        and _splits_by_pattern(_state(tokenizer.pre_tokenizer))
    )


def _state(step: Any) -> Any:
    """Return the settings of a normalizer or pre-tokenizer, as in tokenizer.json; None if there is none."""
    return None if step is None else json.loads(step.__getstate__())


def _is_alone(added: Any) -> bool:
    """Return True if what is around an added token does not matter, and it contains no space."""
    around = added.lstrip or added.rstrip or added.single_word
    return not around and not any(map(str.isspace, added.content))


def _splits_by_pattern(split: Mapping[str, Any] | None) -> bool:
    """Return True for steps that all split in front of a space after a visible character, or ignore spaces."""
    known = False
    for step in (split or {}).get("pretokenizers", [split]):
        match step:
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": by_words}:
                known |= by_words
            # A pattern matches every character: keeping what is between its matches, or removing it, is the same.
            case {"type": "Split", "behavior": behavior, "invert": inverted, "pattern": {"Regex": pattern}}:
                if pattern not in _PATTERNS or (behavior, inverted) not in (("Isolated", False), ("Removed", True)):
                    return False
                known = True
            case {"type": "Digits"}:
                pass
            case _:
                return False
    return known
