"""The prompt template: inference prompts equal trained prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.data.chat_template import load_template
from phi_runtime.data.hooks import import_file
from phi_runtime.data.row import RowError
from phi_runtime.data.template import PromptTemplate, TemplateError


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
    template = PromptTemplate.from_text("A {{story}}: {text}\nThe end.")
    assert (template.render_prompt({}), template.completion, template.stop) == (
        "A {story}: ",
        "{text}\nThe end.",
        "\nThe end.",
    )


def test_a_prompt_column_may_be_used_twice() -> None:
    template = PromptTemplate.from_text("{q} {q}? {a}")
    assert template.inputs == ("q",)
    assert template.render_prompt({"q": "x"}) == "x x? "


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("just text", "has no column"),
        ("{q} {a", "brace"),
        ("{} {a}", "not a column name"),
        ("{q!r} {a}", "has a format"),
        ("{q[0]} {a}", "not a column name"),
        ("{a} {b} {a}", "in the prompt, too"),
    ],
)
def test_a_template_that_cannot_be_split_says_why(text: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        PromptTemplate.from_text(text)


def test_a_saved_template_comes_back_equal(tmp_path: Path) -> None:
    template = PromptTemplate.from_text("Frage: {q}\n→ {a}<|end|>")
    template.save(tmp_path)
    assert load_template(tmp_path) == template


def test_the_text_of_a_row_is_its_prompt_which_is_not_trained_and_its_completion_which_is() -> None:
    template = PromptTemplate.from_text("Q: {q}\nA: {a}.")
    row = {"q": "x", "a": " y "}
    assert template.row(row, completion_only=True).pieces == [("Q: x\nA: ", False), (" y .", True)]
    assert template.row(row, completion_only=False).pieces == [("Q: x\nA:  y .", True)]
    assert (
        template.row(row, completion_only=True).question,
        template.reference(row),
        template.render_prompt({"q": "z"}),
    ) == (
        "Q: x\nA: ",
        "y",
        "Q: z\nA: ",
    )
    assert template.has_prompt


def test_free_text_is_trained_whole_also_where_it_has_a_heading() -> None:
    plain, headed = PromptTemplate.from_text("{text}"), PromptTemplate.from_text("Story: {text}")
    assert plain.row({"text": "x"}, completion_only=True).pieces == [("x", True)]
    assert headed.row({"text": "x"}, completion_only=True).pieces == [("Story: ", False), ("x", True)]
    assert headed.row({"text": "x"}, completion_only=False).pieces == [("Story: x", True)]
    assert (headed.row({"text": "x"}, completion_only=True).question, headed.has_prompt) == ("x", False)


@pytest.mark.parametrize(
    ("row", "says", "empty"),
    [
        ({"q": "x", "b": 1}, "this row has no column `a`", False),
        ({"q": "x", "a": None}, "`a` is None; expected text", False),
        ({"q": "x", "a": ["y"]}, r"`a` is \['y'\]; expected text", False),
        ({"q": "x", "a": float("nan")}, "`a` is nan", False),
        ({"q": float("nan"), "a": "y"}, "`q` is nan", False),
        ({"q": "x", "a": float("-inf")}, "`a` is -inf", False),
        ({"q": "x", "a": " \n"}, "`a` is empty", True),
        ({"q": "", "a": "y"}, "`q` is empty", True),
    ],
)
def test_a_row_without_a_text_in_each_column_is_at_fault_and_one_that_says_nothing_is_empty(
    row: dict[str, Any], says: str, empty: bool
) -> None:
    with pytest.raises(RowError, match=says) as caught:
        PromptTemplate.from_text("{q}\n{a}").check(row)
    assert caught.value.empty is empty
    assert caught.value.fix


def test_numbers_are_text_and_one_of_several_inputs_is_enough() -> None:
    template = PromptTemplate.from_text("{q} {context}\n{a}")
    row = {"q": "how many", "context": "", "a": 3.5}
    template.check(row)
    assert template.row(row, completion_only=False).pieces == [("how many \n3.5", True)]


def test_a_boolean_is_written_as_in_json() -> None:
    template = PromptTemplate.from_text("Q: {q}\nA:{a}")
    row = template.row({"q": True, "a": False}, completion_only=True)
    assert row.pieces == [("Q: true\nA:", False), ("false", True)]
    assert template.reference({"q": True, "a": False}) == "false"
    assert row.answer == "false"


ALPACA = "{system}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n{output}"
FORMS = [
    (
        {"system": "", "instruction": "Add.", "input": "1, 2", "output": "3"},
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n",
    ),
    ({"instruction": "Add.", "input": " \n", "output": "3"}, "### Instruction:\nAdd.\n\n### Response:\n"),
    (
        {"system": "Be brief.", "instruction": "\nAdd {x}.", "input": None, "output": "3"},
        "Be brief.\n\n### Instruction:\n\nAdd {x}.\n\n### Response:\n",
    ),
    (
        {"system": "Be brief.", "instruction": True, "input": 0, "output": "3"},
        "Be brief.\n\n### Instruction:\ntrue\n\n### Input:\n0\n\n### Response:\n",
    ),
]


@pytest.mark.parametrize(("row", "prompt"), FORMS)
def test_an_empty_optional_column_is_omitted_with_the_text_before_it(row: dict[str, Any], prompt: str) -> None:
    template = PromptTemplate.from_text(ALPACA, optional=["system", "input"])
    assert template.row(row, completion_only=True).pieces == [(prompt, False), ("3", True)]
    assert PromptTemplate.from_text(ALPACA).render_prompt({"system": "", "input": "", "instruction": "a"}) == (
        "\n\n### Instruction:\na\n\n### Input:\n\n\n### Response:\n"
    )


@pytest.mark.parametrize(("row", "prompt"), FORMS)
def test_the_samples_of_a_project_omit_it_as_training_does(tmp_path: Path, row: dict[str, Any], prompt: str) -> None:
    PromptTemplate.from_text(ALPACA, optional=["system", "input"]).save(tmp_path)
    sample = import_file(Path(__file__).parents[3] / "template" / "inferences" / "chat_onnx.py").Template(tmp_path)
    assert sample.fill({name: value for name, value in row.items() if name != "output"}) == prompt
    typed = json.dumps({name: value for name, value in row.items() if name != "output"})
    assert sample.fill(sample.question(typed)) == prompt
    assert sample.question("Add.") == {"instruction": "Add."}
    assert load_template(tmp_path).optional == ("system", "input")


def test_an_optional_column_is_in_the_prompt_and_the_others_are_required() -> None:
    for optional in ("output", "reply"):
        with pytest.raises(TemplateError, match=f"`{optional}` before the answer"):
            PromptTemplate.from_text(ALPACA, optional=[optional])
    template = PromptTemplate.from_text(ALPACA, optional=["system", "input"])
    with pytest.raises(RowError, match="no column `instruction`"):
        template.check({"input": "x", "output": "y"})
    with pytest.raises(RowError, match="is empty") as caught:
        template.check({"instruction": "", "output": "y"})
    assert caught.value.empty
