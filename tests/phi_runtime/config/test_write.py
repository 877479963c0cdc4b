"""What is written for people reads back as the same value with the same comments."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from phi_runtime.config.reading.comments import Comments, attach
from phi_runtime.config.reading.source import KeyPath, Source, read_source
from phi_runtime.config.reading.write import render
from phi_runtime.core.errors import ConfigError

Form = Literal["json", "yaml"]
FORMS: tuple[Form, Form] = ("json", "yaml")

CONFIG = """{
    "input_model": {
        "type": "HfModel",
        "model_path": "../model-cache/smollm2-135m",
        "load_kwargs": {"trust_remote_code": false}
    },
    "systems": {
        "local_system": {
            "type": "LocalSystem",
            "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]
        }
    },
    "data_configs": [
        {
            "name": "train_data",
            "pre_process_data_config": {
                "text_template": "### Frage: {frage}\\n### Antwort: {äöü}",
                "max_seq_len": 1024
            }
        }
    ],
    "passes": {
        "finetune": {
            "type": "LoRA",
            "lora_dropout": 0.0,
            "target_modules": ["q_proj", "k_proj"],
            "training_args": {
                "seed": 42,
                "learning_rate": 2e-05
            }
        },
        "merge": {"type": "MergeAdapterWeights"}
    },
    "host": "local_system",
    "search_strategy": false
}
"""

CONFIG_YAML = """input_model:
  type: HfModel
  model_path: ../model-cache/smollm2-135m
  load_kwargs:
    trust_remote_code: false
systems:
  local_system:
    type: LocalSystem
    accelerators:
      - device: cpu
        execution_providers:
          - CPUExecutionProvider
data_configs:
  - name: train_data
    pre_process_data_config:
      text_template: "### Frage: {frage}\\n### Antwort: {äöü}"
      max_seq_len: 1024
passes:
  finetune:
    type: LoRA
    lora_dropout: 0.0
    target_modules:
      - q_proj
      - k_proj
    training_args:
      seed: 42
      learning_rate: 2.0e-05
  merge:
    type: MergeAdapterWeights
host: local_system
search_strategy: false
"""


def read(tmp_path: Path, text: str, form: Form) -> Source:
    path = tmp_path / f"c.{form}"
    path.write_text(text, encoding="utf-8")
    return read_source(path)


def test_json_looks_like_the_config_of_a_new_project() -> None:
    assert render(json.loads(CONFIG), {}, "json") == CONFIG


def test_yaml_is_a_document_of_blocks() -> None:
    assert render(json.loads(CONFIG), {}, "yaml") == CONFIG_YAML


def test_lists_of_scalars_stay_on_one_line_up_to_100_columns() -> None:
    for length, lines in ((100 - len('    "a": ["x", ""]'), 3), (101 - len('    "a": ["x", ""]'), 6)):
        assert render({"a": ["x", "y" * length]}, {}, "json").count("\n") == lines
    assert render([[1, 2], [3]], {}, "json") == "[\n    [1, 2],\n    [3]\n]\n"


def test_small_objects_stay_on_one_line_as_items_of_a_list_up_to_80_columns() -> None:
    assert render([{"a": 1, "b": [2]}, {}], {}, "json") == '[\n    {"a": 1, "b": [2]},\n    {}\n]\n'
    assert render([{"a": "x" * 80}, 1], {}, "json").count("\n") == 6
    assert render({"a": {"b": 1, "c": 2}}, {}, "json").count("\n") == 6


def test_comments_stand_before_beside_and_after_what_they_are_about() -> None:
    comments: dict[KeyPath, Comments] = {
        (): Comments(("header", "", "more"), "", ("footer",)),
        ("a",): Comments(("about a",), "inline a"),
        ("b",): Comments((), "inline b"),
        ("b", 0, "x"): Comments(("about x",), "inline x", ("after x",)),
        ("b", 1): Comments((), "inline the item", ("after the item",)),
        ("c",): Comments(("several\nlines",)),
    }
    value = {"a": 1, "b": [{"x": 1}, {"w": 2, "z": 3}], "c": []}
    assert (
        render(value, comments, "json")
        == """// header
//
// more
{
    // about a
    "a": 1, // inline a
    "b": [ // inline b
        {
            // about x
            "x": 1 // inline x
            // after x
        },
        {"w": 2, "z": 3} // inline the item
        // after the item
    ],
    // several
    // lines
    "c": []
}
// footer
"""
    )
    assert (
        render(value, comments, "yaml")
        == """# header
#
# more

# about a
a: 1 # inline a
b: # inline b
  -
    # about x
    x: 1 # inline x
    # after x
  - # inline the item
    w: 2
    z: 3
  # after the item
# several
# lines
c: []

# footer
"""
    )


def test_a_comment_about_a_key_that_is_gone_goes_before_the_nearest_enclosing_one() -> None:
    comments: dict[KeyPath, Comments] = {
        ("a", "gone", "x"): Comments(("one",), "two", ("three",)),
        ("b", 1): Comments(("four",)),
        ("c", "d"): Comments(trailing="five"),
    }
    text = render({"a": {"kept": 1}, "b": [0], "c": "text"}, comments, "yaml")
    assert text == "# one\n# two\n# three\na:\n  kept: 1\n# four\nb:\n  - 0\n# five\nc: text\n"


def test_a_comment_of_several_lines_cannot_stand_beside() -> None:
    assert render({"a": 1}, {("a",): Comments(trailing="one\ntwo")}, "yaml") == "# one\n# two\na: 1\n"


@pytest.mark.parametrize("form", FORMS)
def test_a_comment_cannot_break_out_of_its_line(tmp_path: Path, form: Form) -> None:
    evil = "a\r\nb\x85c\u2028d\x0ce\x00f\x07"
    source = read(tmp_path, render({"k": 1}, {("k",): Comments((evil,), evil)}, form), form)
    assert source.value == {"k": 1}
    assert attach(source)[("k",)].before[:5] == ("a", "b", "c", "d", "e\ufffdf\ufffd")


TEXTS_BY_BARS = """
|1e-6|2E5|12|012|0x1F|0o7|1_000|1:30|2024-05-01|.5|.inf|.nan|-.inf|+1|-|--|---|--- a|...|=|<<|~|?|? a|- x|a: b|a:|:a
|yes|No|ON|off|y|N|true|FALSE|null|Null|None|a #b|a#b|# a| a|a |a  b|a, b|[a]|{a}|a]|*a|&a|!a|!!str a|%a|@a|`a`|'a'|"a"
|>|||\\|a\\b|a\\nb|http://x/y?z=1#t|a::b|last_matmul:int8,mixed:int8|../x|./x|.x|..|../..|C:\\x|~/x|q_proj|4bit|v1.0|a:b:c
|été|日本|😀|١٢|a\tb|{frage}|$x|(a)|a;b|a=b|=a|a|x: |- |e|.e5|0.|1.|1.5.2|1e|0b1|+.inf|_1|_1_0|inf|nan|Infinity
"""
TEXTS = TEXTS_BY_BARS.replace("\n", "").split("|")
TEXTS += [
    "a\nb",
    "\n",
    "\r\n",
    "a\rb",
    "a\n\n b",
    "\x00\x07\x1b\x7f\x85\x9f\xa0",
    "\ufeff",
    "\u2028\u2029",
    "\ufffe",
    "|",
]
TEXTS += ["x" * 2000, "a b " * 500]


@pytest.mark.parametrize("form", FORMS)
def test_text_stays_text_whatever_it_looks_like(tmp_path: Path, form: Form) -> None:
    value = {"list": TEXTS, "keys": dict.fromkeys(TEXTS, 1), "nested": {text: {text: [text]} for text in TEXTS}}
    text = render(value, {}, form)
    assert read(tmp_path, text, form).value == value
    assert (yaml.safe_load if form == "yaml" else json.loads)(text) == value


def test_plain_text_needs_no_quotes_in_yaml() -> None:
    plain = ["LoRA", "q_proj", "HuggingFaceTB/SmolLM2-135M", "../datasets/train.jsonl", "last_matmul:int8,mixed:int8"]
    assert render(plain, {}, "yaml") == "".join(f"- {text}\n" for text in plain)


NUMBERS = [0, -1, 10**30, 0.0, -0.0, 1e-6, 2e-05, 1e16, 1e22, 1.5, -2.5e-300, 5e-324, math.inf, -math.inf]


@pytest.mark.parametrize("form", FORMS)
def test_numbers_stay_what_they_are(tmp_path: Path, form: Form) -> None:
    text = render(NUMBERS, {}, form)
    for back in (read(tmp_path, text, form).value, (yaml.safe_load if form == "yaml" else json.loads)(text)):
        assert [repr(n) for n in back] == [repr(n) for n in NUMBERS]


def test_what_is_not_a_number_has_no_form_in_json() -> None:
    assert render(math.nan, {}, "yaml") == ".nan\n"
    with pytest.raises(ConfigError, match=r"`a\.0` is not a number"):
        render({"a": [math.nan]}, {}, "json")


def random_value(chooser: random.Random, depth: int = 0) -> Any:
    kind = chooser.choice(["atom", "text", "list", "dict", "dict"] if depth < 4 else ["atom", "text"])
    if kind == "atom":
        return chooser.choice([None, True, False, 0, -3, 1.5, 2e-7, 10**20, {}, []])
    if kind == "text":
        return random_text(chooser)
    if kind == "list":
        return [random_value(chooser, depth + 1) for _ in range(chooser.randint(0, 4))]
    return {random_text(chooser): random_value(chooser, depth + 1) for _ in range(chooser.randint(0, 4))}


def random_text(chooser: random.Random) -> str:
    alphabet = "ab1 .-:#\"'\\/{}[],&*!?|>%@=~é\n\t\x7f\x85\u2028😀"
    return "".join(chooser.choice(alphabet) for _ in range(chooser.randint(0, 8)))


def entries(value: Any, key_path: KeyPath = (), is_last: bool = True) -> Iterator[tuple[KeyPath, bool, bool]]:
    """Every key path of a value, whether it is the last of its group, and whether it has entries of its own."""
    inner: list[tuple[Any, Any]] = list(value.items()) if isinstance(value, dict) else []
    inner = list(enumerate(value)) if isinstance(value, list) else inner
    yield key_path, is_last, bool(inner)
    for i, (key, one) in enumerate(inner):
        yield from entries(one, (*key_path, key), i == len(inner) - 1)


def random_comments(chooser: random.Random, value: Any) -> dict[KeyPath, Comments]:
    """Comments where a file shows unmistakably what they are about: none after a key that another one follows."""

    def texts() -> tuple[str, ...]:
        return tuple(chooser.choice(["", "a", "about: it", "# //", '"', "é 😀"]) for _ in range(chooser.randint(0, 2)))

    found = {}
    for key_path, is_last, is_filled in entries(value):
        inline = chooser.choice(["", "", "b", "# // b"]) if key_path or not is_filled else ""
        comments = Comments(texts(), inline, texts() if is_last else ())
        if chooser.random() < 0.4 and comments != Comments():
            found[key_path] = comments
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_value_reads_back(tmp_path: Path, form: Form) -> None:
    chooser = random.Random(0)
    for _ in range(400):
        value = random_value(chooser)
        text = render(value, {}, form)
        assert read(tmp_path, text, form).value == value
        assert (yaml.safe_load if form == "yaml" else json.loads)(text) == value


@pytest.mark.parametrize("form", FORMS)
def test_every_value_reads_back_with_its_comments(tmp_path: Path, form: Form) -> None:
    chooser = random.Random(1)
    for _ in range(400):
        value = random_value(chooser)
        comments = random_comments(chooser, value)
        source = read(tmp_path, render(value, comments, form), form)
        assert source.value == value
        assert attach(source) == comments


def test_a_file_moves_from_json_to_yaml_and_back_without_a_loss(tmp_path: Path) -> None:
    chooser = random.Random(2)
    for _ in range(200):
        value = random_value(chooser)
        comments = random_comments(chooser, value)
        text = render(value, comments, "json")
        there = read(tmp_path, text, "json")
        back = read(tmp_path, render(there.value, attach(there), "yaml"), "yaml")
        assert render(back.value, attach(back), "json") == text
