"""Scores, against values counted by hand from the definitions in the papers that metrics.py names."""

from __future__ import annotations

import random

import pytest

from phi_runtime.config.tasks import TASKS
from phi_runtime.evaluation.metrics import (
    exact_match,
    field_values,
    first_object,
    headline,
    normalized_match,
    rouge_1,
    rouge_2,
    rouge_l,
    token_f1,
)
from phi_runtime.evaluation.row_statistics import score


@pytest.mark.parametrize(
    ("task", "main", "others"),
    [
        ("classification", "accuracy", {"balanced_accuracy", "macro_f1", "weighted_f1"}),
        ("chat", "token_f1", {"rouge_l", "bleu", "chrf"}),
        ("question-answering", "token_f1", {"exact_match"}),
        ("summarization", "rouge_l", {"rouge_1", "rouge_2", "bleu", "chrf"}),
        ("extraction", "field_f1", {"exact_match", "valid_json", "field_precision", "field_recall"}),
        ("generation", "token_f1", {"exact_match", "rouge_l", "bleu", "chrf"}),
    ],
)
def test_each_task_has_its_metrics_and_one_that_stands_for_it(task: str, main: str, others: set[str]) -> None:
    assert headline(task) == main
    assert score(task, ['{"a": 1}', "no"], ['{"a": 1}', '{"b": 2}']).keys() == {main, *others}


def test_the_tasks_are_those_of_the_table() -> None:
    assert set(TASKS) == {
        "classification",
        "chat",
        "question-answering",
        "summarization",
        "extraction",
        "generation",
    }


@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_answer_scores_one_and_a_wholly_wrong_one_zero(task: str) -> None:
    expected = ['{"name": "Ann"}', '{"name": "Bo"}']
    assert list(score(task, expected, expected).values()) == pytest.approx([1.0] * len(score(task, expected, expected)))
    assert set(score(task, ["zzz", "qqq"], expected).values()) == {0.0}


@pytest.mark.parametrize("task", TASKS)
def test_as_many_answers_as_references_are_needed(task: str) -> None:
    with pytest.raises(ValueError, match="argument 2"):
        score(task, ["a"], ["a", "b"])


def test_accuracy_counts_rows_and_macro_f1_labels() -> None:
    answers, references = ["joy", "joy", "fear", "no label"], ["joy", "fear", "fear", "joy"]
    found = score("classification", answers, references)
    assert found["accuracy"] == 2 / 4
    # joy: 1 right, 2 given, 2 expected; fear: 1 right, 1 given, 2 expected
    assert found["macro_f1"] == pytest.approx((2 / 4 + 2 / 3) / 2)


def test_an_answer_that_only_begins_with_a_label_is_no_label() -> None:
    assert set(score("classification", ["joy\0", "joy ", "joyful"], ["joy"] * 3).values()) == {0.0}


def test_exact_match_of_generated_text_is_to_the_letter() -> None:
    assert exact_match("Dear Ann", "Dear Ann") == 1
    assert exact_match("Dear Ann.", "Dear Ann") == 0


@pytest.mark.parametrize(
    ("answer", "reference", "matches"),
    [
        ("The Eiffel Tower!", "eiffel tower", True),
        ("in  an\narmy", "In army", True),
        ("1,000", "1000", True),
        ("U.S.", "us", True),
        ("Eiffel Tower", "Eiffel Towers", False),
        ("another day", "other day", False),
        ("tower Eiffel", "Eiffel tower", False),
    ],
)
def test_an_answer_to_a_question_matches_without_case_punctuation_and_articles(
    answer: str, reference: str, matches: bool
) -> None:
    assert normalized_match(answer, reference) == matches


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("The Eiffel Tower!", "Eiffel Tower, Paris", 2 * 2 / (2 + 3)),
        ("the cat", "a cat", 1),
        ("yes yes yes", "yes", 2 * 1 / (3 + 1)),
        ("tower Eiffel", "Eiffel tower", 1),
        ("Rome", "Paris", 0),
        ("", "Paris", 0),
        ("The", "a", 1),
    ],
)
def test_token_f1_counts_the_words_that_both_have(answer: str, reference: str, expected: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "common"),
    [("police kill the gunman", 3), ("the gunman kill police", 2), ("the gunman police killed", 2)],
)
def test_rouge_l_is_that_of_the_example_in_its_paper(answer: str, common: int) -> None:
    assert rouge_l(answer, "police killed the gunman") == common / 4


@pytest.mark.parametrize(
    ("answer", "reference", "l_measure", "one_measure"),
    [
        ("the cat sat on the mat", "the cat is on the mat", 5 / 6, 5 / 6),
        ("on the mat the cat sat", "the cat is on the mat", 3 / 6, 5 / 6),
        ("cat", "the cat is on the mat", 2 / 7, 2 / 7),
        ("The CAT, it's a snake_case.", "the cat it s a snake case", 1, 1),
        ("dogs", "dog", 0, 0),
        ("", "dog", 0, 0),
        ("Größe zählt", "größe", 2 / 3, 2 / 3),
    ],
)
def test_rouge_counts_lower_cased_words_of_letters_and_digits(
    answer: str, reference: str, l_measure: float, one_measure: float
) -> None:
    assert rouge_l(answer, reference) == rouge_l(reference, answer) == pytest.approx(l_measure)
    assert rouge_1(answer, reference) == rouge_1(reference, answer) == pytest.approx(one_measure)


def test_rouge_l_is_that_of_the_plain_table() -> None:
    chance = random.Random(0)
    for _ in range(200):
        have, want = (chance.choices("abcd", k=chance.randint(1, 80)) for _ in range(2))
        table = [0] * (len(want) + 1)
        for word in have:
            row = [0]
            for place, other in enumerate(want):
                row.append(table[place] + 1 if word == other else max(table[place + 1], row[-1]))
            table = row
        assert rouge_l(" ".join(have), " ".join(want)) == pytest.approx(2 * table[-1] / (len(have) + len(want)))


def test_scores_of_texts_are_averaged_over_the_rows() -> None:
    found = score("summarization", ["police kill the gunman", "no"], ["police killed the gunman"] * 2)
    # Pairs: "the gunman" of three.
    assert {name: found[name] for name in ("rouge_l", "rouge_1", "rouge_2")} == pytest.approx(
        {"rouge_l": 0.75 / 2, "rouge_1": 0.75 / 2, "rouge_2": 1 / 3 / 2}
    )
    found = score("question-answering", ["The tower", "a red door"], ["tower", "red"])
    assert found == {"exact_match": 1 / 2, "token_f1": pytest.approx((1 + 2 / 3) / 2)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Here it is:\n```json\n{"a": {"b": [1, 2]}}\n```\nDone {"c": 3}.', {"a": {"b": [1, 2]}}),
        ('The form is {name}, so: { "name": "Ann" }', {"name": "Ann"}),
        ('[{"a": 1}, {"b": 2}]', {"a": 1}),
        ("{}", {}),
        ('{"a": {"b": 1}, "c": ', None),  # cut off: the whole object inside is not the answer
        ("{'a': 1}", None),
        ('{"a": NaN}', None),
        ('"a": 1', None),
        ("", None),
        ('{"a":' * 100_000, None),
    ],
)
def test_the_first_json_object_of_an_answer_is_taken(text: str, found: dict[str, object] | None) -> None:
    assert first_object(text) == found


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": " Ann "}, {"a": "ANN"}, True),
        ({"a": 2}, {"a": 2.0}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": {"b": {"c": "x"}}}, {"a": {"b": {"c": "X"}}}, True),
        ({"a": "2"}, {"a": 2}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": "null"}, {"a": None}, False),
        ({"a": []}, {"a": {}}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"A": 1}, {"a": 1}, False),
    ],
)
def test_fields_compare_as_values_of_json_with_strings_trimmed_and_casefolded(
    one: dict[str, object], other: dict[str, object], same: bool
) -> None:
    assert (field_values(one) == field_values(other)) is same


def test_nested_fields_have_dotted_keys() -> None:
    found = field_values({"buyer": {"name": "Ann", "tags": []}, "prices": [2, 3.5]})
    assert found.keys() == {"buyer.name", "buyer.tags", "prices.0", "prices.1"}


def test_field_f1_counts_the_fields_of_all_rows_together() -> None:
    answers = ['{"name": " ann ", "age": 31, "city": "Rome"}', "I do not know", 'Sure: {"name": "Cy"}']
    references = ['{"name": "Ann", "age": 30}', '{"name": "Bo"}', '{"name": "Cy"}']
    assert score("extraction", answers, references) == {
        "field_f1": 2 * 2 / (3 + 0 + 1 + 2 + 1 + 1),  # right: two names; given: 3, 0 and 1; expected: 2, 1 and 1
        "field_precision": 2 / 4,
        "field_recall": 2 / 4,
        "exact_match": pytest.approx(1 / 3),
        "valid_json": pytest.approx(2 / 3),
    }


def test_where_nothing_is_to_extract_an_empty_object_is_right() -> None:
    assert score("extraction", ["{}", "nothing"], ["{}", "{}"]) == {
        "field_f1": 0.5,
        "field_precision": 0.5,
        "field_recall": 0.5,
        "exact_match": 0.5,
        "valid_json": 0.5,
    }


def test_metrics_of_labels_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import balanced_accuracy_score, f1_score

    chance = random.Random(1)
    references = chance.choices(["a", "b", "c"], weights=[6, 3, 1], k=200)
    answers = [chance.choice([reference, "a", "none"]) for reference in references]
    found, labels = score("classification", answers, references), ["a", "b", "c"]
    of = {average: f1_score(references, answers, labels=labels, average=average) for average in ("macro", "weighted")}
    assert found["macro_f1"] == pytest.approx(of["macro"])
    assert found["weighted_f1"] == pytest.approx(of["weighted"])
    known = [answer if answer in labels else "a" for answer in answers]
    assert score("classification", known, references)["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(references, known)
    )


def test_rouge_2_counts_pairs_of_adjacent_words() -> None:
    # "the cat", "on the", "the mat" of five pairs each
    assert rouge_2("the cat sat on the mat", "the cat is on the mat") == pytest.approx(3 / 5)
    assert (rouge_2("cat", "dog"), rouge_2("cat", "cat"), rouge_2("", "")) == (0, 1, 1)


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    import sacrebleu

    answers = ["the cat is on the mat today", "there is a dog in the yard"]
    references = ["the cat sat on the mat today", "a dog is in the yard"]
    found = score("summarization", answers, references)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score / 100, abs=1e-9)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(answers, [references]).score / 100, abs=1e-9)
    assert score("summarization", ["yes"], ["yes"])["bleu"] == pytest.approx(1)
