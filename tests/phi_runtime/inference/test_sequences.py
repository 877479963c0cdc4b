"""Reuse of cached sequences, and stop strings."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from phi_runtime.inference.sequences import MIN_PREFILL, SequenceCache, prefill_chunks, reusable_prefix
from phi_runtime.inference.stop_strings import StopStrings


@dataclass
class Remembered:
    capacity: int = 1000
    adapter: str | None = None
    ids: list[int] = field(default_factory=list)
    prefilled: int = 0
    prompt_length: int = 0
    rope_switch: int | None = None

    def rewind(self, length: int) -> None:
        del self.ids[length:]
        self.prefilled = min(self.prefilled, length)


def talked(prompt: list[int], answer: list[int], **more: object) -> Remembered:
    return Remembered(ids=[*prompt, *answer], prefilled=len(prompt), prompt_length=len(prompt), **more)  # type: ignore[arg-type]


PROMPT, ANSWER = list(range(100, 120)), list(range(200, 210))


def test_a_continued_conversation_reuses_its_answer() -> None:
    assert reusable_prefix(talked(PROMPT, ANSWER), [*PROMPT, *ANSWER, 1, 2, 3]) == 30


def test_a_repeated_prompt_is_computed_as_the_first_time() -> None:
    # All but the last two tokens, which are read together: a single one would be rounded differently.
    assert reusable_prefix(talked(PROMPT, ANSWER), PROMPT) == len(PROMPT) - MIN_PREFILL
    # Tokens that were generated one by one do not count as prefilled.
    later = Remembered(ids=[*PROMPT, *ANSWER, *range(300, 310)], prefilled=20, prompt_length=40)
    assert reusable_prefix(later, [*PROMPT, *ANSWER, 7, 8, 9]) == 20


def test_an_edited_history_reuses_the_part_before_the_edit() -> None:
    assert reusable_prefix(talked(PROMPT, ANSWER), [*PROMPT[:10], 7, *PROMPT[11:]]) == 10
    assert reusable_prefix(talked(PROMPT, ANSWER), [7, *PROMPT]) == 0


def test_tokens_with_other_rotary_factors_are_not_reused() -> None:
    longer = [*PROMPT, *ANSWER, 1, 2, 3]
    assert [reusable_prefix(talked(PROMPT, ANSWER, rope_switch=at), longer) for at in (29, 30, 32, 33)] == [
        30,
        0,
        0,
        30,
    ]
    assert [reusable_prefix(talked(PROMPT, ANSWER, rope_switch=at), PROMPT) for at in (17, 18, 29, 30)] == [
        18,
        0,
        0,
        18,
    ]


def test_each_conversation_has_its_own_sequence_up_to_the_limit() -> None:
    made: list[Remembered] = []

    def create(capacity: int, adapter: str | None) -> Remembered:
        made.append(Remembered(capacity, adapter))
        return made[-1]

    kept = SequenceCache(2, create)  # type: ignore[arg-type]
    for prompt in ([1, *PROMPT], [2, *PROMPT]):
        sequence, length = kept.acquire(prompt, 100, None)
        assert length == 0
        sequence.ids[:] = [*prompt, *ANSWER]
        sequence.prefilled = sequence.prompt_length = len(prompt)
        kept.release(sequence)
    first, length = kept.acquire([1, *PROMPT, *ANSWER, 5, 6], 100, None)
    assert (first, length) == (made[0], 31)
    kept.release(first)
    # A third one replaces the least recently used one; another adapter never reuses this cache.
    third, length = kept.acquire([3, *PROMPT], 100, "style")
    assert (len(made), length, third.adapter) == (3, 0, "style")
    assert kept.idle == [made[0]]
    kept.release(third)
    assert len(kept.idle) == 2


def test_a_sequence_that_is_too_small_or_failed_is_not_reused() -> None:
    kept = SequenceCache(1, lambda room, adapter: Remembered(room, adapter))  # type: ignore[arg-type,return-value]
    small, _ = kept.acquire(PROMPT, 10, None)
    small.ids[:] = PROMPT
    kept.release(small)
    large, length = kept.acquire(PROMPT, 500, None)
    assert (large.capacity, length) == (500, 0)
    kept.release(large, reusable=False)
    assert kept.idle == []
    assert kept.busy == 0


def test_a_sequence_that_cannot_be_rewound_is_dropped_and_its_place_is_free() -> None:
    class Stuck(Remembered):
        def rewind(self, length: int) -> None:
            raise RuntimeError("no")

    kept = SequenceCache(1, lambda room, adapter: Stuck(room, adapter))  # type: ignore[arg-type,return-value]
    sequence, _ = kept.acquire(PROMPT, 100, None)
    kept.release(sequence)
    with pytest.raises(RuntimeError, match="no"):
        kept.acquire(PROMPT, 100, None)
    assert (kept.idle, kept.busy) == ([], 0)


@pytest.mark.parametrize(
    ("count", "parts"), [(1, [1]), (2, [2]), (256, [256]), (257, [257]), (258, [256, 2]), (513, [256, 257])]
)
def test_no_part_of_a_prompt_is_a_single_token(count: int, parts: list[int]) -> None:
    assert [len(part) for part in prefill_chunks(list(range(count)), 256)] == parts


def test_a_stop_string_is_found_across_pieces_and_never_output() -> None:
    stop = StopStrings(("###", "END"))
    output = [stop.push(piece) for piece in ("one #", "two ##", "E", "N", "x", "###", "after")[:6]]
    assert "".join(output) == "one #two ##ENx"
    assert stop.matched
    unmet = StopStrings(("###",))
    assert unmet.push("a ##") == "a "
    assert unmet.flush() == "##"
