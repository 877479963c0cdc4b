"""Held-out rows that training has as good as seen are found, and rows that are only alike in their template are not."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

import numpy as np
import pytest

from phi_runtime.data.leakage import Leaks, find_leaks
from phi_runtime.data.store import Store
from tests.phi_runtime.data.stores import marked, store_of

TEMPLATE = (
    "Read this letter and say in one word what its writer feels , joy or fear or anger : ",
    " The feeling is : ",
)


def ids(text: str) -> list[int]:
    return [zlib.crc32(word.encode()) for word in text.split()]


def store(questions: Sequence[str], *, template: tuple[str, str] = ("", ""), answer: str = "joy") -> Store:
    """A store in which each word is a token."""
    rows = []
    for question in questions:
        prompt, answer_ids = ids(f"{template[0]}{question}{template[1]}"), ids(answer)
        rows.append(marked(prompt + answer_ids, [False] * len(prompt) + [True] * len(answer_ids)))
    return store_of(rows, [(f"{template[0]}{q}{template[1]}", answer) for q in questions])


def letters(count: int, seed: int = 0, words: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(3000)}" for _ in range(words)) for _ in range(count)]


def everything(of: Store) -> np.ndarray:
    return np.arange(len(of))


def found(training: Store, held_out: Store) -> Leaks:
    return find_leaks(training, everything(training), held_out, everything(held_out))


def changed(text: str, at: Sequence[int]) -> str:
    words = text.split()
    return " ".join(f"other{i}" if i in at else word for i, word in enumerate(words))


@pytest.mark.parametrize("template", [("", ""), TEMPLATE])
def test_unrelated_rows_share_nothing(template: tuple[str, str]) -> None:
    training, held_out = store(letters(300, 1), template=template), store(letters(50, 2), template=template)
    assert found(training, held_out) == Leaks(0, 0)


def test_the_very_same_question_is_found_whatever_its_answer() -> None:
    texts = letters(100)
    held_out = store([texts[7], *letters(5, 2), texts[3]], answer="fear")
    assert found(store(texts), held_out) == Leaks(2, 0, ((7, 0), (3, 6)))


def test_the_same_words_in_other_case_and_punctuation_are_found_as_near() -> None:
    texts = letters(100)
    held_out = store([texts[7].upper().replace(" ", " ; "), *letters(5, 2)])
    assert found(store(texts), held_out) == Leaks(0, 1, ((7, 0),))


@pytest.mark.parametrize("template", [("", ""), TEMPLATE])
@pytest.mark.parametrize("at", [(), (20,), (3, 4, 5), (0, 39)])
def test_a_question_in_almost_the_same_words_is_found_as_near(template: tuple[str, str], at: tuple[int, ...]) -> None:
    texts = letters(200)
    near = [changed(f"{text} ps", at) for text in texts[:40]]
    result = found(store(texts, template=template), store([*letters(30, 2), *near], template=template))
    assert result.same == 0
    assert result.near >= 38
    assert set(result.examples) <= {(i, 30 + i) for i in range(40)}


def test_near_duplicates_among_the_held_out_rows_are_all_found() -> None:
    texts = letters(100)
    held_out = store([changed(texts[5], [at]) for at in range(0, 40, 2)])
    assert found(store(texts), held_out).near == 20


def test_half_of_the_words_is_not_near() -> None:
    texts = letters(100)
    assert found(store(texts), store([changed(text, range(0, 40, 2)) for text in texts])) == Leaks(0, 0)


def test_short_questions_in_a_long_template_are_told_apart_by_their_own_words() -> None:
    training, held_out = ([f"he lost number {i}" for i in some] for some in (range(200), range(200, 240)))
    assert found(store(training, template=TEMPLATE), store(held_out, template=TEMPLATE)) == Leaks(0, 0)


def test_free_text_is_compared_by_all_of_it() -> None:
    texts = letters(60)

    def free(some: list[str]) -> Store:
        return store_of([marked(ids(text), [True] * len(ids(text))) for text in some], [(text, text) for text in some])

    assert found(free(texts), free([changed(texts[9], [20]), *letters(5, 2)])).examples == ((9, 0),)


def test_only_the_rows_that_are_chosen_count_and_are_named_by_their_places() -> None:
    whole = store([*letters(20), *letters(3)])
    assert find_leaks(whole, np.arange(5, 20), whole, np.arange(20, 23)) == Leaks(0, 0)
    assert find_leaks(whole, np.arange(19, -1, -1), whole, np.array([22, 20])) == Leaks(2, 0, ((2, 22), (0, 20)))
    assert find_leaks(whole, np.arange(19), whole, np.array([22, 19, 20])).repeated == {0, 2}


def test_no_more_examples_are_named_than_can_be_looked_at() -> None:
    texts = letters(50)
    result = found(store(texts), store(texts))
    assert (result.same, result.near, len(result.examples)) == (50, 0, 20)


def test_an_empty_side_leaks_nothing() -> None:
    some, none = store(letters(3)), np.arange(0)
    assert (
        find_leaks(some, none, some, everything(some)) == find_leaks(some, everything(some), some, none) == Leaks(0, 0)
    )


def test_rows_of_one_token_have_no_pairs_and_are_alike_only_when_they_are_the_same() -> None:
    assert found(store(["yes", "no"]), store(["perhaps", "no"])) == Leaks(1, 0, ((1, 1),))
