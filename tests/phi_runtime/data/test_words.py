"""Rows that are encoded word by word have the tokens of their text, with every pattern that is known to cut in front of spaces."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from phi_runtime.data import words
from phi_runtime.data.words import WordEncoder, splits_at_words

CORPUS = [
    "we won the game and it's ours", "  two  blanks \n\n lines", "12345 a1 b", "Ünïcode 日本 — “quotes” ¿no?", "x = {y: [1]}\r\n",
] * 5  # fmt: skip
SPACES = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u180e\u2003\u2028\u202f\u205f\u3000\ufeff\u200b"
CHARACTERS = [
    *SPACES, " ", " ", " ", *"ab1.!'-_(Ü日é", "e\u0301", "\u0301", "\u200d", "👩", "'s", "'LL", "12", "\x00", "\x7f", "the", "<s>",
]  # fmt: skip
GPT2 = next(pattern for pattern in words._PATTERNS if pattern.startswith("'s"))


def tokenizer_of(
    pattern: str | None = None,
    *,
    normalizer: Any = None,
    added: AddedToken | None = None,
    digits: bool = False,
    dropout: float | None = None,
) -> Tokenizer:
    """A byte-level encoder with a pattern, by default that of GPT-2 which the library knows."""
    tokenizer = Tokenizer(models.BPE(dropout=dropout))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps += [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<s>"], show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if added:
        tokenizer.add_tokens([added])
    return tokenizer


def encoder_of(tokenizer: Tokenizer) -> WordEncoder:
    encoder = WordEncoder.of(tokenizer)
    assert encoder is not None
    return encoder


def ids_of(encoder: WordEncoder, text: str) -> list[int]:
    ((ids, _),) = encoder.encode([[(text, True)]], [False]).rows()
    return ids


def texts(seed: int, count: int, length: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(CHARACTERS, k=length)) for _ in range(count)]


@pytest.mark.parametrize("digits", [False, True])
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()])
@pytest.mark.parametrize("pattern", [None, *sorted(words._PATTERNS)])
@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_text_has_the_tokens_of_its_words(pattern: str | None, normalizer: Any, digits: bool, count: int) -> None:
    tokenizer = tokenizer_of(pattern, normalizer=normalizer, digits=digits)
    written = texts(len(pattern or ""), count, 12)
    found = encoder_of(tokenizer).encode([[(text, True)] for text in written], [False] * count).rows()
    for text, (ids, runs), expected in zip(written, found, tokenizer.encode_batch(written), strict=True):
        assert (ids, runs) == (expected.ids, [(0, len(ids))]), text


@pytest.mark.parametrize("pattern", sorted(words._PATTERNS))
def test_a_split_that_removes_what_is_between_the_words_is_the_same(pattern: str) -> None:
    tokenizer, written = tokenizer_of(pattern), texts(3, 400, 12)
    expected = [encoding.ids for encoding in tokenizer.encode_batch(written)]
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    assert [encoding.ids for encoding in tokenizer.encode_batch(written)] == expected
    encoder = encoder_of(tokenizer)
    assert [ids_of(encoder, text) for text in written] == expected


def test_the_pattern_of_gpt2_is_that_of_the_library() -> None:
    written = texts(0, 2000, 12)
    known, own = tokenizer_of(GPT2), tokenizer_of()
    assert [e.ids for e in known.encode_batch(written)] == [e.ids for e in own.encode_batch(written)]


def test_special_tokens_start_the_rows_that_need_them_alone() -> None:
    tokenizer = tokenizer_of()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    rows = [[("we won", False), (" the game", True)]] * 2
    (with_first, its_runs), (without, runs) = encoder_of(tokenizer).encode(rows, [True, False]).rows()
    assert with_first == [tokenizer.token_to_id("<s>"), *without]
    assert its_runs == [(start + 1, stop + 1) for start, stop in runs]


def test_words_that_are_forgotten_are_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_TABLE_BYTES", 2000)
    tokenizer = tokenizer_of()
    encoder, numbers = encoder_of(tokenizer), set()
    for text in texts(1, 100, 12):
        assert ids_of(encoder, text) == tokenizer.encode(text).ids
        numbers.add(id(encoder.after_space))
        assert encoder.bytes < 5000
    assert len(numbers) > 1


def test_threads_share_the_words() -> None:
    tokenizer = tokenizer_of()
    encoder, written = encoder_of(tokenizer), texts(2, 600, 12)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda text: ids_of(encoder, text), written)
        assert list(found) == [tokenizer.encode(text).ids for text in written]


def test_a_text_of_words_that_are_known_is_not_encoded_again() -> None:
    encoder = encoder_of(tokenizer_of())
    ids_of(encoder, "the game, the won")
    encoder.tokenizer = None
    assert ids_of(encoder, "the game, the game, the won")


def test_an_error_leaves_no_word_without_tokens() -> None:
    encoder = encoder_of(tokenizer_of())
    with pytest.raises(TypeError):
        ids_of(encoder, "the game \ud800")
    assert ids_of(encoder, "the game") == encoder.tokenizer.encode("the game").ids


def edited(change: Callable[[dict[str, Any]], None]) -> Tokenizer:
    state = json.loads(tokenizer_of().to_str())
    change(state)
    return Tokenizer.from_str(json.dumps(state))


@pytest.mark.parametrize(
    "tokenizer",
    [
        pytest.param(lambda: tokenizer_of(r"\S+ \S+|\s+|\S+"), id="a pattern that is not known"),
        pytest.param(lambda: tokenizer_of(normalizer=normalizers.Replace("a", "b ")), id="a normalizer"),
        pytest.param(lambda: tokenizer_of(added=AddedToken("<end>", rstrip=True)), id="a token that takes the space after it"),
        pytest.param(lambda: tokenizer_of(added=AddedToken("<end>", lstrip=True)), id="a token that takes the space before it"),
        pytest.param(lambda: tokenizer_of(added=AddedToken("end", single_word=True)), id="a token that is a word"),
        pytest.param(lambda: tokenizer_of(added=AddedToken("the end")), id="a token with a space"),
        pytest.param(lambda: tokenizer_of(dropout=0.1), id="random merges"),
        pytest.param(lambda: edited(lambda state: state["pre_tokenizer"].update(add_prefix_space=True)), id="a space before a text"),
        pytest.param(lambda: edited(lambda state: state["pre_tokenizer"].update(use_regex=False)), id="no pattern"),
        pytest.param(lambda: edited(lambda state: state.update(pre_tokenizer=None)), id="nothing that splits"),
    ],
)  # fmt: skip
def test_other_tokenizers_do_not_split_at_words(tokenizer: Callable[[], Tokenizer]) -> None:
    assert not splits_at_words(tokenizer())
    assert WordEncoder.of(tokenizer()) is None


def test_special_tokens_after_a_text_are_kept() -> None:
    tokenizer = tokenizer_of()
    tokenizer.post_processor = TemplateProcessing(
        single="$A <s>", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    assert WordEncoder.of(tokenizer) is None
