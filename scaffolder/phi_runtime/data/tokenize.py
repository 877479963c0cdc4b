"""Encode text into token ids with a training mask: exactly what the model reads, and what it is trained to output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from phi_runtime.core.common_prefix import common_prefix
from phi_runtime.data.template import Piece
from phi_runtime.data.words import EncodedWords, Run, WordEncoder

if TYPE_CHECKING:
    from phi_runtime.config.schema import PreProcess
    from phi_runtime.data.chat_template import Template

_LONGEST_WORD = 200


class Encoded(NamedTuple):
    """Token ids of one row, and the `runs` that are trained. `endless`: the row does not end with an end token."""

    ids: list[int]
    runs: list[Run]
    endless: bool = False


class EncodedBatch(NamedTuple):
    """Rows as columns.

    Attributes:
        tokens: Token ids of all rows, (T,) of uint32.
        trained: Training mask, (T,).
        sizes: Number of tokens of each row, (N,).
        endless: Mask of the rows that do not end with an end token, (N,).
    """

    tokens: np.ndarray
    trained: np.ndarray
    sizes: np.ndarray
    endless: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Encoded]) -> EncodedBatch:
        sizes: np.ndarray = np.array([len(row.ids) for row in rows], dtype=np.int64)
        tokens = np.fromiter(chain.from_iterable(row.ids for row in rows), dtype=np.uint32, count=int(sizes.sum()))
        trained: np.ndarray = np.zeros(len(tokens), dtype=np.bool_)
        at = 0
        for row in rows:
            for start, stop in row.runs:
                trained[at + start : at + stop] = True
            at += len(row.ids)
        return cls(tokens, trained, sizes, np.array([row.endless for row in rows], dtype=np.bool_))


def prompt_ids(tokenizer: Any, prompt: str, *, special: bool = True) -> list[int]:
    """Return the ids of a prompt for inference, with the tokenizer's BOS exactly once, even if the prompt contains it.

    `special` is false for the text of a chat template, which contains its special tokens.
    """
    spelled = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    return list(tokenizer(prompt, add_special_tokens=special and not spelled).input_ids)


def pad_id(tokenizer: Any) -> int:
    """Return the token to pad with; padding is masked, so any token will do."""
    token: int = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return token


def _beginning(pieces: Sequence[Piece], length: int) -> str:
    """Return at least the first `length` characters of a row."""
    first = pieces[0][0] if pieces else ""
    return first if len(first) >= length else "".join(text for text, _ in pieces)


class Encoder:
    """Encode rows in batches on all cores (the tokenizers library has its own threads).

    A row is encoded in one piece. If a token would cross the border between prompt and completion, the two are encoded
    separately: the model must learn to continue the prompt that it will get.
    """

    def __init__(self, tokenizer: Any, *, end_token: bool = True, chat: bool = False) -> None:
        """Create an encoder.

        Args:
            tokenizer: A tokenizer of transformers.
            end_token: Append the end-of-text token to rows that do not end with it.
            chat: The text comes from a chat template, which contains its special tokens and ends its turns.
        """
        self.tokenizer, self.end_token, self.chat = tokenizer, end_token, chat
        self.bos, self.end = tokenizer.bos_token, tokenizer.eos_token_id
        self.ends = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        self.backend: Any = None
        self.exact = False
        self.words: WordEncoder | None = None
        if backend := getattr(tokenizer, "backend_tokenizer", None):
            from tokenizers import Tokenizer

            written = backend.to_str()
            # Merges of a byte-pair encoding never cross a border between two tokens, so the text before one is encoded as it
            # would be alone (but see `_same_alone`); for other models that has to be tried.
            self.exact = '"model":{"type":"BPE"' in written and not re.search(r'"end_of_word_suffix":"[^"]', written)
            self.looks_ahead = "(?!" in written or '"use_regex":true' in written
            self.alone = lru_cache(4096)(lambda text: self.backend.encode(text, add_special_tokens=False).ids)
            # Trimmed offsets hide the leading space of a token, and with it that the token crosses a border.
            self.backend = Tokenizer.from_str(written.replace('"trim_offsets":true', '"trim_offsets":false'))
            self.backend.no_padding()
            self.backend.no_truncation()
            self.words = WordEncoder.of(self.backend)

    @classmethod
    def of(cls, tokenizer: Any, settings: PreProcess, template: Template) -> Encoder:
        """Return the encoder of the rows that `template` renders."""
        return cls(tokenizer, end_token=settings.add_special_tokens, chat=not template.special)

    def encode(self, rows: Sequence[Sequence[Piece]]) -> list[Encoded]:
        """Encode rows, each a sequence of pieces."""
        if self.backend is None:
            return [self._finished(*self._by_trial(pieces)) for pieces in rows]
        if self.words:
            return [self._finished(*row) for row in self._by_words(rows).rows()]
        texts = ["".join(text for text, _ in pieces) for pieces in rows]
        plain = all(trained for pieces in rows for _, trained in pieces)
        encodings = self._batch(texts, offsets=not plain)
        masked = [self._by_offsets(encoding, pieces) for encoding, pieces in zip(encodings, rows, strict=True)]
        return [self._finished(*(row or self._by_trial(pieces))) for row, pieces in zip(masked, rows, strict=True)]

    def encode_batch(self, rows: Sequence[Sequence[Piece]]) -> EncodedBatch:
        """Encode rows, as `encode` does, into columns."""
        if not rows or self.chat or not self.words:
            return EncodedBatch.of(self.encode(rows))
        encoded = self._by_words(rows)
        tokens, sizes = encoded.tokens, np.diff(encoded.row_ends, prepend=0)
        trained: np.ndarray = np.repeat(encoded.learned, np.diff(encoded.ends, prepend=0))
        if self.end_token and self.end is not None:
            stops = np.cumsum(sizes)
            missing = tokens[stops - 1] != self.end
            tokens = np.insert(tokens, stops[missing], self.end)
            trained = np.insert(trained, stops[missing], True)
            sizes += missing
        last = tokens[np.cumsum(sizes) - 1]
        return EncodedBatch(tokens, trained, sizes, ~np.isin(last, list(self.ends)))

    def _by_words(self, rows: Sequence[Sequence[Piece]]) -> EncodedWords:
        assert self.words
        return self.words.encode(rows, [self._special(_beginning(pieces, len(self.bos or ""))) for pieces in rows])

    def _batch(self, texts: Sequence[str], *, offsets: bool) -> list[Any]:
        """Encode `texts`, each with the special tokens that it needs; `offsets` cost a third more time."""
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        needed = [self._special(text) for text in texts]
        if len(set(needed)) == 1:
            batch: list[Any] = encode(texts, add_special_tokens=needed[0])
            return batch
        result: list[Any] = [None] * len(texts)
        for special in (True, False):
            indices = [i for i, needs in enumerate(needed) if needs is special]
            encodings = encode([texts[i] for i in indices], add_special_tokens=special) if indices else []
            for i, encoding in zip(indices, encodings, strict=True):
                result[i] = encoding
        return result

    def _special(self, text: str) -> bool:
        return not self.chat and not (self.bos and text.startswith(self.bos))

    def _by_offsets(self, encoding: Any, pieces: Sequence[Piece]) -> tuple[list[int], list[Run]] | None:
        """Find the trained runs by the offsets of the tokens in the text; None if that is ambiguous."""
        ids: list[int] = encoding.ids
        if len(pieces) == 1 and pieces[0][1]:
            return ids, [(0, len(ids))]
        if not self.exact:
            return None
        runs: list[Run] = []
        at = start = 0
        for i, (text, learned) in enumerate(pieces):
            at += len(text)
            end = encoding.char_to_token(at) if i < len(pieces) - 1 else len(ids)
            if end is None:
                return None
            if not learned and i < len(pieces) - 1:
                prefix = text if i == 0 else "".join(t for t, _ in pieces[: i + 1])
                if encoding.token_to_chars(end)[0] != at or not self._same_alone(encoding, prefix, end):
                    return None
            if learned:
                runs.append((start, end))
            start = end
        return ids, runs

    def _same_alone(self, encoding: Any, prefix: str, end: int) -> bool:
        r"""Return True if `prefix`, the text before the token `end`, has the same last tokens when nothing follows it.

        Common pre-tokenizers look one character ahead in white space, `\s+(?!\S)`: of two spaces or line breaks the second
        goes to the next word, and without one they are a single token. Their word and the one before it decide.
        """
        if not self.looks_ahead or len(prefix) < 2 or not prefix[-2:].isspace():
            return True
        first = end
        while first and (place := encoding.token_to_chars(first - 1)) and prefix[place[0] :].isspace():
            first -= 1
        word = encoding.token_to_word(first - 1) if first else None
        while word is not None and first and encoding.token_to_word(first - 1) == word:
            first -= 1
        start = encoding.token_to_chars(first)[0]
        known: list[int] = encoding.ids[first:end]
        return len(prefix) - start < _LONGEST_WORD and self.alone(prefix[start:]) == known

    def _by_trial(self, pieces: Sequence[Piece]) -> tuple[list[int], list[Run]]:
        """Find the trained runs by encoding prefixes; encode the pieces separately if a prefix has other tokens alone."""
        text = "".join(t for t, _ in pieces)
        special = self._special(text)
        whole = self._ids(text, special)
        if all(learned for _, learned in pieces):
            return whole, [(0, len(whole))]
        runs: list[Run] = []
        so_far, start = "", 0
        for i, (piece, learned) in enumerate(pieces):
            so_far += piece
            head = self._ids(so_far, special) if i < len(pieces) - 1 else whole
            same = common_prefix(whole, head)
            if same < len(head) and not learned:
                return self._separately(pieces, special)
            if learned:
                runs.append((start, same))
            start = same
        return whole, runs

    def _separately(self, pieces: Sequence[Piece], special: bool) -> tuple[list[int], list[Run]]:
        ids: list[int] = []
        runs: list[Run] = []
        for i, (piece, learned) in enumerate(pieces):
            start = len(ids)
            ids += self._ids(piece, special and i == 0)
            if learned:
                runs.append((start, len(ids)))
        return ids, runs

    def _ids(self, text: str, special: bool) -> list[int]:
        if self.backend is not None:
            ids: list[int] = self.backend.encode(text, add_special_tokens=special).ids
            return ids
        return list(self.tokenizer(text, add_special_tokens=special).input_ids)

    def _finished(self, ids: list[int], runs: list[Run]) -> Encoded:
        """Return the row with its end token. A conversation ends with the marker of its last turn, if its template has one."""
        runs = [(start, stop) for start, stop in runs if stop > start]
        start, last = runs[-1] if runs else (len(ids), len(ids))
        if self.chat:
            ended = self._ends(ids[max(start, last - 3) : last])
            if not ended and self.end_token and self.end is not None:
                ids, runs, ended = [*ids[:last], self.end], [*runs[:-1], (start, last + 1)], True
        else:
            if self.end_token and self.end is not None and (not runs or ids[-1] != self.end):
                ids, runs = [*ids, self.end], [*runs[:-1], (start, len(ids) + 1)]
            ended = bool(ids) and ids[-1] in self.ends
        return Encoded(ids, runs, not ended)

    def _ends(self, last: list[int]) -> bool:
        """Return True if the `last` trained tokens are a marker, followed by white space at most."""
        after = next((i for i, token in enumerate(reversed(last)) if token in self.ends), None)
        return after is not None and not (after and self.tokenizer.decode(last[-after:]).strip())
