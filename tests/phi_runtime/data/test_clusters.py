"""Rows that give each other away belong together, and nothing else does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from phi_runtime.data.leakage import find_leaks
from phi_runtime.data.split import Sides, split_rows
from phi_runtime.data.store import TRAINED, Store
from phi_runtime.data.template import Rendered
from tests.phi_runtime.data.stores import marked, store_of
from tests.phi_runtime.data.test_chat_template import PLAIN, chat, template
from tests.phi_runtime.data.test_leakage import changed, ids, letters, store


def conversations(*said: Sequence[str], system: str = "") -> Store:
    """A store of conversations, each the turns of user and assistant in turn."""
    first = [{"role": "system", "content": system}] if system else []
    rows = [template(PLAIN).row({"messages": first + chat(*turns)["messages"]}, completion_only=True) for turns in said]
    return store_of([marked([*ids(row.question), 1], [*[False] * len(ids(row.question)), True]) for row in rows], rows)


def together(store: Store) -> set[frozenset[int]]:
    """The clusters of several rows."""
    names = store.clusters.tolist()
    found = {frozenset(i for i, name in enumerate(names) if name == own) for own in names if own != TRAINED}
    return {cluster for cluster in found if len(cluster) > 1}


def split(store: Store, size: float, seed: int = 0, test_size: float = 0) -> Sides:
    return split_rows(store.rows, store.clusters, (size, test_size), seed)


def dialog(name: int, turns: int) -> list[str]:
    """A conversation that is the beginning of every longer one with this name."""
    return [text for t in range(turns) for text in (f"question {name}.{t}", f"answer {name}.{t}")]


def trained_answers(sides: Sides, said: Sequence[Sequence[str]]) -> list[int]:
    """Validation rows whose last answer, after the very same turns, is an answer of a training conversation."""
    trained = {tuple(said[i][: t + 2]) for i in sides.training for t in range(0, len(said[i]), 2)}
    return [int(i) for i in sides.validation if tuple(said[i]) in trained]


# -- conversations ------------------------------------------------------------------------------------------------------------


def test_conversations_that_begin_alike_are_one_cluster_however_they_go_on() -> None:
    said = [dialog(1, 1), dialog(2, 2), dialog(1, 3), [*dialog(1, 1), "something else", "indeed"], dialog(3, 1)]
    assert together(conversations(*said)) == {frozenset({0, 2, 3})}


def test_the_same_question_with_another_answer_is_the_same_cluster() -> None:
    assert together(conversations(["Who?", "I"], ["Who?", "You", "Why?", "So"], ["What?", "I"])) == {frozenset({0, 1})}


@pytest.mark.parametrize("seed", range(5))
def test_no_answer_is_measured_that_an_earlier_turn_of_another_conversation_trains(seed: int) -> None:
    said = [dialog(name, turns) for name in range(10) for turns in (1, 2, 3, 4)]
    random.Random(seed).shuffle(said)
    store = conversations(*said)
    sides = split(store, 0.2, seed)
    assert (len(sides.training), len(sides.validation)) == (32, 8)
    assert trained_answers(sides, said) == []
    assert find_leaks(store, sides.training, store, sides.validation).same == 0


def test_a_system_prompt_that_all_conversations_share_joins_none_of_them() -> None:
    assert together(conversations(*(dialog(i, 2) for i in range(30)), system="Be brief.")) == set()
    greeted = ([{"role": "system", "content": "Be brief."}, *chat("", "Hello!")["messages"][1:]], dialog)
    rows = [
        template(PLAIN).row({"messages": greeted[0] + chat(*dialog(i, 1))["messages"]}, completion_only=True)
        for i in range(10)
    ]
    assert together(store_of([marked([i, i], [False, True]) for i in range(10)], rows)) == set()


@pytest.mark.parametrize("greeted", [30, 100])
def test_a_greeting_that_many_conversations_share_does_not_join_them_but_what_follows_does(greeted: int) -> None:
    said = [["Hi", "Hello!", *dialog(i // 2, 1 + i % 2)] for i in range(greeted)]
    said += [["Hi", "Hello!"], *(dialog(1000 + i, 1) for i in range(100 - greeted))]
    store = conversations(*said)
    assert together(store) == {frozenset({i, i + 1}) for i in range(0, greeted, 2)}
    assert store.clusters[greeted] == TRAINED
    assert store.survey.openings == greeted + 1
    for seed in range(5):
        sides = split(store, 0.2, seed)
        assert len(sides.validation) == 20
        assert greeted in sides.training  # the greeting alone is trained anyway
        assert trained_answers(sides, said) == []


def test_leaks_are_found_in_earlier_turns_of_training_conversations_and_common_beginnings_are_counted() -> None:
    training = conversations(dialog(1, 3), dialog(2, 1), dialog(4, 2))
    validation = conversations(dialog(1, 2), dialog(2, 2), dialog(3, 2), dialog(4, 2))
    leaks = find_leaks(training, np.arange(3), validation, np.arange(4))
    assert (leaks.same, leaks.near, leaks.begun) == (2, 0, 1)
    assert leaks.examples == ((0, 0), (2, 3), (1, 1))


# -- near duplicates ----------------------------------------------------------------------------------------------------------


def test_rows_in_almost_the_same_words_are_one_cluster_also_through_a_third() -> None:
    texts = letters(100)
    chain = [changed(texts[7], range(3 * i, 3 * i + 3)) for i in (1, 2)]
    shouted = texts[9].upper().replace(" ", ", ") + "!"
    found = store([*texts, *chain, shouted])
    assert together(found) == {frozenset({7, 100, 101}), frozenset({9, 102})}


@pytest.mark.parametrize(
    ("one", "other"),
    [("3 - 5", "3 + 5"), ("1.5", "15"), ("3 5", "35"), ("2+2?", "22"), ("x*y", "x/y"), ("😀", "🎉"), ("?", "!!")],
)
def test_numbers_and_symbols_make_other_questions(one: str, other: str) -> None:
    assert together(store([one, other, *letters(2)])) == set()


@pytest.mark.parametrize(
    ("one", "other"),
    [("Hi there!", "hi, there"), ("你好。", "你好"), ("Who is it?", "WHO IS IT"), ("Go at 10:30.", "go at 10:30")],
)
def test_case_and_punctuation_make_no_other_questions(one: str, other: str) -> None:
    assert together(store([one, other, *letters(2)])) == {frozenset({0, 1})}


def test_near_duplicates_that_most_rows_are_stay_apart_and_are_counted() -> None:
    words = letters(1, words=200)[0].split()
    windows = [" ".join(words[i : i + 40]) for i in range(0, 80, 2)]  # each like the next, the first unlike the last
    found = store([*windows, *letters(40, 2)])
    assert found.survey.crowded == 40
    assert together(found) == set()
    shorter = store([*windows[:20], *letters(40, 2)])
    assert (shorter.survey.crowded, together(shorter)) == (0, {frozenset(range(20))})


def test_clusters_do_not_depend_on_the_order_of_the_rows() -> None:
    texts = letters(100)
    rows = [*texts, *(changed(text, [4, 5]) for text in texts[:20]), *(text.title() for text in texts[10:15])]
    shuffled = list(range(len(rows)))
    random.Random(1).shuffle(shuffled)
    one, other = store(rows), store([rows[i] for i in shuffled])
    assert [one.clusters[i] for i in shuffled] == other.clusters.tolist()
    sides, others = split(one, 0.2), split(other, 0.2)
    assert sides.validation.tolist() == [shuffled[i] for i in others.validation]


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_are_on_one_side_and_the_side_is_as_large_as_requested(seed: int) -> None:
    texts = letters(100)
    rows = [*texts, *(changed(text, [4, 5]) for text in texts[:50]), *(changed(text, [30]) for text in texts[:25])]
    found = store(rows)
    sides = split(found, 35, seed, test_size=17)
    assert (len(sides.training), len(sides.validation), len(sides.test)) == (123, 35, 17)
    for side in (sides.validation, sides.test):
        assert find_leaks(found, sides.training, found, side).near == 0
    assert find_leaks(found, sides.validation, found, sides.test).near == 0


def test_where_no_question_repeats_nothing_belongs_together() -> None:
    found = store(letters(50))
    assert (found.clusters == found.rows["question"][:, 0]).all()


def test_free_texts_belong_together_by_all_of_their_tokens() -> None:
    texts = [*letters(40), changed(letters(40)[3], [20])]
    found = store_of([marked(ids(text), [True] * 40) for text in texts], [Rendered([], text, text) for text in texts])
    assert together(found) == {frozenset({3, 40})}


def test_an_empty_store_has_no_clusters() -> None:
    nothing: list[Any] = []
    assert store_of(nothing, nothing).clusters.tolist() == []
