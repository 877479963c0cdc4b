"""The prompt template: what is asked is what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi_runtime.data.template import PromptTemplate, TemplateFault


def test_the_last_column_is_the_completion_and_all_before_it_the_prompt() -> None:
    template = PromptTemplate.from_text("### Text: {phrase}\n### The tone is:\n{tone}")
    row = {"phrase": "Hi {there}", "tone": "joy", "other": 1}
    assert template.render_prompt(row) == "### Text: Hi {there}\n### The tone is:\n"
    assert template.render_completion(row) == "joy"
    assert template.columns == ("phrase", "tone")


def test_text_after_the_answer_is_trained_and_known_as_the_stop() -> None:
    template = PromptTemplate.from_text("<|user|>\n{q}<|end|>\n<|assistant|>\n{a}<|end|>")
    assert template.render_completion({"a": "yes"}) == "yes<|end|>"
    assert template.stop == "<|end|>"


def test_doubled_braces_are_literal_on_both_sides() -> None:
    template = PromptTemplate.from_text('{{"q": "{q}"}} → {{{a}}}')
    assert template.render_prompt({"q": "x"}) == '{"q": "x"} → {'
    assert template.render_completion({"a": "y"}) == "y}"


def test_one_column_alone_is_free_text_with_nothing_asked() -> None:
    template = PromptTemplate.from_text("{text}")
    assert (template.inputs, template.columns) == ((), ("text",))
    assert (template.render_prompt({}), template.render_completion({"text": "x"})) == ("", "x")
    told = PromptTemplate.from_text("A {{story}}: {text}\nThe end.")
    assert (told.render_prompt({}), told.completion, told.stop) == ("A {story}: ", "{text}\nThe end.", "\nThe end.")


def test_a_prompt_column_may_be_used_twice() -> None:
    template = PromptTemplate.from_text("{q} {q}? {a}")
    assert template.inputs == ("q",)
    assert template.render_prompt({"q": "x"}) == "x x? "


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("just text", "names no column"),
        ("{q} {a", "brace"),
        ("{} {a}", "not a column name"),
        ("{q!r} {a}", "no format"),
        ("{q[0]} {a}", "not a column name"),
        ("{a} {b} {a}", "also stands in the prompt"),
    ],
)
def test_a_template_that_cannot_be_split_says_why(text: str, says: str) -> None:
    with pytest.raises(TemplateFault, match=says):
        PromptTemplate.from_text(text)


def test_a_saved_template_comes_back_equal(tmp_path: Path) -> None:
    template = PromptTemplate.from_text("Frage: {q}\n→ {a}<|end|>")
    template.save(tmp_path)
    assert PromptTemplate.load(tmp_path) == template
