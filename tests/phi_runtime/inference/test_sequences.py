"""Which remembered sequence a prompt goes on from, and where answers end."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from phi_runtime.inference.sequences import AT_ONCE, Conversations, chunks, known
from phi_runtime.inference.stop_texts import StopTexts


@dataclass
class Remembered:
    room: int = 1000
    adapter: str | None = None
    ids: list[int] = field(default_factory=list)
    read: int = 0
    prompt: int = 0

    def rewind(self, length: int) -> None:
        del self.ids[length:]
        self.read = min(self.read, length)


def talked(prompt: list[int], answer: list[int], **more: object) -> Remembered:
    return Remembered(ids=[*prompt, *answer], read=len(prompt), prompt=len(prompt), **more)  # type: ignore[arg-type]


PROMPT, ANSWER = list(range(100, 120)), list(range(200, 210))


def test_a_conversation_that_goes_on_keeps_its_answer() -> None:
    assert known(talked(PROMPT, ANSWER), [*PROMPT, *ANSWER, 1, 2, 3]) == 30


def test_the_same_prompt_again_is_read_as_it_was_the_first_time() -> None:
    # All but the last two tokens, which are read together: a single one would be rounded otherwise.
    assert known(talked(PROMPT, ANSWER), PROMPT) == len(PROMPT) - AT_ONCE
    # What was written one by one in between is not taken for read.
    later = Remembered(ids=[*PROMPT, *ANSWER, *range(300, 310)], read=20, prompt=40)
    assert known(later, [*PROMPT, *ANSWER, 7, 8, 9]) == 20


def test_an_edited_history_keeps_what_stands_before_the_edit() -> None:
    assert known(talked(PROMPT, ANSWER), [*PROMPT[:10], 7, *PROMPT[11:]]) == 10
    assert known(talked(PROMPT, ANSWER), [7, *PROMPT]) == 0


def test_each_conversation_has_its_own_sequence_while_there_is_room() -> None:
    made: list[Remembered] = []

    def make(room: int, adapter: str | None) -> Remembered:
        made.append(Remembered(room, adapter))
        return made[-1]

    kept = Conversations(2, make)  # type: ignore[arg-type]
    for prompt in ([1, *PROMPT], [2, *PROMPT]):
        sequence, length = kept.take(prompt, 100, None)
        assert length == 0
        sequence.ids[:] = [*prompt, *ANSWER]
        sequence.read = sequence.prompt = len(prompt)
        kept.give_back(sequence)
    first, length = kept.take([1, *PROMPT, *ANSWER, 5, 6], 100, None)
    assert (first, length) == (made[0], 31)
    kept.give_back(first)
    # A third one takes the place of the one that was unused longest; another adapter never goes on from this cache.
    third, length = kept.take([3, *PROMPT], 100, "style")
    assert (len(made), length, third.adapter) == (3, 0, "style")
    assert kept.idle == [made[0]]
    kept.give_back(third)
    assert len(kept.idle) == 2


def test_a_sequence_without_enough_room_or_that_failed_is_not_taken() -> None:
    kept = Conversations(1, lambda room, adapter: Remembered(room, adapter))  # type: ignore[arg-type,return-value]
    small, _ = kept.take(PROMPT, 10, None)
    small.ids[:] = PROMPT
    kept.give_back(small)
    large, length = kept.take(PROMPT, 500, None)
    assert (large.room, length) == (500, 0)
    kept.give_back(large, sound=False)
    assert kept.idle == []
    assert kept.busy == 0


@pytest.mark.parametrize(
    ("count", "parts"), [(1, [1]), (2, [2]), (256, [256]), (257, [257]), (258, [256, 2]), (513, [256, 257])]
)
def test_no_part_of_a_prompt_is_a_single_token(count: int, parts: list[int]) -> None:
    assert [len(part) for part in chunks(list(range(count)), 256)] == parts


def test_a_stop_text_is_found_across_pieces_and_nothing_of_it_is_told() -> None:
    stop = StopTexts(("###", "END"))
    told = [stop.push(piece) for piece in ("one #", "two ##", "E", "N", "x", "###", "after")[:6]]
    assert "".join(told) == "one #two ##ENx"
    assert stop.met
    unmet = StopTexts(("###",))
    assert unmet.push("a ##") == "a "
    assert unmet.rest() == "##"
