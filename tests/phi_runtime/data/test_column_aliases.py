"""Columns whose names cannot be in a template get others, which are different from all names."""

from __future__ import annotations

import pytest

from phi_runtime.data.column_aliases import aliases_of
from phi_runtime.data.template import PromptTemplate

LONG = "What did you like the most about our service during the last month?"


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("How do you feel today?", "how_do_you_feel_today"),
        ("Mood (one word)", "mood_one_word"),
        ("review.text", "review_text"),
        ("0", "column_0"),
        ("١", "column_١"),
        ("50 %", "column_50"),
        ("???", "column"),
        ("", "column"),
        ("a[0]", "a_0"),
        ("a:b", "a_b"),
        ("{x}", "x"),
        ('say "hi"', "say_hi"),
        ("a, b", "a_b"),
        (" label", "label"),
        ("Wie geht's, Jörg?", "wie_geht_s_jörg"),
        ("你好吗？", "你好吗"),
        (LONG, "what_did_you_like_the_most_about_our"),
        ("x" * 64 + "?", "x" * 40),
    ],
)
def test_a_name_that_cannot_be_in_a_template_gets_another(name: str, alias: str) -> None:
    assert aliases_of([name]) == {name: alias}
    template = PromptTemplate.from_text(f"{{{alias}}}\n{{answer}}")
    assert template.render_prompt({alias: "x"}) == "x\n"
    assert f"{{{alias}}}".format(**{alias: "x"}) == "x"  # as Olive renders it


def test_names_that_can_be_in_a_template_stay() -> None:
    assert aliases_of(["text", "two words", "größe", "問題", "a-b", "2nd", "x_1"]) == {}


def test_another_name_is_that_of_no_other_column() -> None:
    names = ["a b", "a_b", "a?b", "a.b", "A B!"]
    assert aliases_of(names) == {"a?b": "a_b_2", "a.b": "a_b_3", "A B!": "a_b_4"}
