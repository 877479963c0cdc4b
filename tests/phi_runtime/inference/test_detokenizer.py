"""Streamed text: always a prefix of the decoded text, and in the end equal to it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from phi_runtime.inference.detokenizer import decode, detokenizer
from phi_runtime.inference.stop_strings import StopStrings
from tests.tokenizer_kinds import KINDS, tokenizer_of

TEXTS = ["é", "你", "🎉", "👍🏽", "a", " we", "  ", "\n", "<|end|>", "<tool>", "ß", "won"]


def streamed(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, and last what remains at the end."""
    stream = detokenizer(tokenizer)
    return [*(stream.push(token) for token in ids), stream.flush()]


def random_ids(tokenizer: Any, seed: int) -> list[int]:
    """Ids of any kind, of bytes above all, or of a text that continues with any."""
    rng = random.Random(seed)
    size, bytes_ = len(tokenizer) + 5, range(3, 259)  # five ids that have no token
    ids = [
        rng.choice(bytes_) if rng.random() < seed % 3 / 2 else rng.randrange(size) for _ in range(rng.randint(1, 60))
    ]
    if seed % 4:
        return ids
    text = "".join(rng.choices(TEXTS, k=30))
    return [*tokenizer(text, add_special_tokens=False).input_ids, *ids[:3]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_of_any_ids_is_a_prefix_of_their_text_and_ends_as_it(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    for seed in range(60):
        ids = random_ids(tokenizer, seed)
        text, so_far = decode(tokenizer, ids), ""
        for piece in streamed(tokenizer, ids):
            so_far += piece
            assert text.startswith(so_far), ids
        assert so_far == text, ids


def tokens(tokenizer: Any, *names: str) -> list[int]:
    return [int(tokenizer.convert_tokens_to_ids(name)) for name in names]


def test_byte_tokens_wait_for_the_end_of_their_run() -> None:
    tokenizer = tokenizer_of("byte fallback, first")
    a_character = ["<0xE4>", "<0xBD>", "<0xA0>"]
    assert streamed(tokenizer, tokens(tokenizer, *a_character, "w")) == ["", "", "", "你w", ""]
    assert streamed(tokenizer, tokens(tokenizer, *a_character)) == ["", "", "", "你"]
    assert streamed(tokenizer, tokens(tokenizer, *a_character, "<0xFF>", "w")) == [
        "",
        "",
        "",
        "",
        "\ufffd" * 4 + "w",
        "",
    ]
    # A special token in the run is skipped before the bytes are decoded.
    assert streamed(tokenizer, tokens(tokenizer, "<0xC3>", "<|end|>", "<0xA9>", "w")) == ["", "", "", "éw", ""]


def test_an_incomplete_character_of_a_byte_level_tokenizer_is_held_back_alone() -> None:
    tokenizer = tokenizer_of("byte-level")
    first, second = tokens(tokenizer, "Ã", "©")  # the bytes C3 and A9 in the alphabet of byte-level tokenizers
    assert streamed(tokenizer, [first, second]) == ["", "é", ""]
    assert streamed(tokenizer, [first, first, second]) == ["", "\ufffd", "é", ""]
    assert streamed(tokenizer, [first]) == ["", "\ufffd"]


def test_spaces_remain_where_a_decoder_strips_the_first() -> None:
    tokenizer = tokenizer_of("byte fallback, first", bos=False)
    ids = tokens(tokenizer, "▁", "▁", "w", *["▁"] * 12, "w")
    assert "".join(streamed(tokenizer, ids)) == " w" + 12 * " " + "w"


def test_a_token_takes_constant_time() -> None:
    tokenizer = tokenizer_of("byte-level")
    stream = detokenizer(tokenizer)
    lengths: list[int] = []
    stream._decode = lambda ids: lengths.append(len(ids)) or "x" * len(ids)  # type: ignore[method-assign, func-returns-value, assignment]
    for token in tokens(tokenizer, "w") * 2000:
        stream.push(token)
    assert max(lengths) <= 9


def test_what_is_held_back_can_complete_a_stop_string() -> None:
    stop = StopStrings(("é",))
    stream = detokenizer(tokenizer := tokenizer_of("byte fallback, first"))
    text = "".join(stop.push(stream.push(token)) for token in tokens(tokenizer, "w", "<0xC3>", "<0xA9>"))
    assert (text + stop.push(stream.flush()), stop.matched) == ("w", True)
