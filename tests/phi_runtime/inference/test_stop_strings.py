"""The end of an answer: its end token, the text of the template after it, and the stop strings of a request."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

import pytest

from phi_runtime.data.template import PromptTemplate
from phi_runtime.inference.detokenizer import Detokenizer
from phi_runtime.inference.generator import Generator, Guide, SamplingParams
from phi_runtime.inference.stop_strings import Suffix
from phi_runtime.inference.streaming import StreamedAnswer
from phi_runtime.pipeline.session import Session

END = 0


class Script:
    """A sequence that writes characters one by one, then the end token."""

    def __init__(self, text: str) -> None:
        self.tokens = [*map(ord, text), END]
        self.prompt_length = 0

    ids: tuple[int, ...] = ()
    rope_switch = None

    def prefill(self, ids: Any) -> None: ...

    def step(self, logits: Any = None) -> int:
        return self.tokens.pop(0)


def streamed(text: str, sampling: SamplingParams) -> tuple[list[str], str | None]:
    acquire: Any = lambda: (Script(text), 0)  # noqa: E731
    stream = Detokenizer(lambda ids: "".join(map(chr, ids)), chr, ())
    answer = StreamedAnswer([1, 2], sampling, {END}, stream, chr, acquire, lambda *_: None)
    return [piece.text for piece in answer], answer.finish


def session(template: PromptTemplate) -> Session:
    return Session("onnx", Path(), cast(Generator, None), template)


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        ("{q}{a}.", "It is 5 p.m. now.", "It is 5 p.m. now"),
        ('{q}"{a}"', 'say "no" twice"', 'say "no" twice'),
        ("{q}{a}.\n", "3.5.\n", "3.5"),
        ("{q}{a}\n### End", "one ### Eve\n### End", "one ### Eve"),
        ("{q}{a}\n", "one\ntwo", "one\ntwo"),
    ],
)
def test_the_end_token_ends_an_answer_and_the_stop_text_comes_off_its_end(
    template: str, text: str, expected: str
) -> None:
    pieces, finish = streamed(text, session(PromptTemplate.from_text(template)).with_stop_text(SamplingParams()))
    assert ("".join(pieces), finish) == (expected, "stop")


def test_without_an_end_token_in_training_the_first_stop_text_ends_an_answer() -> None:
    sampling = session(PromptTemplate.from_text("{q}{a}\n###", end_token=False)).with_stop_text(SamplingParams())
    pieces, finish = streamed("one\n### two\n### three", sampling)
    assert ("".join(pieces).strip(), finish) == ("one", "stop")


def test_the_stop_strings_of_a_request_keep_their_meaning() -> None:
    sampling = session(PromptTemplate.from_text("{q}{a}.")).with_stop_text(SamplingParams(stop=("two",)))
    pieces, finish = streamed("a. b. two c.", sampling)
    assert ("".join(pieces), finish) == ("a. b", "stop")


def test_only_what_may_be_the_stop_text_is_held_back() -> None:
    suffix = Suffix("\n### End")
    assert [suffix.push(piece) for piece in ("one", " two", " ##", "x", "\n", "### ", "End", "!")] == [
        "one", " two", "", " ##x", "", "", "", "\n### End!",
    ]  # fmt: skip
    assert suffix.flush() == ""


def test_a_stream_ends_as_the_whole_answer_does() -> None:
    chance = random.Random(0)
    for _ in range(3000):
        stop = "".join(chance.choices("ab. \n", k=chance.randint(0, 4)))
        text = "".join(chance.choices("ab. \n", k=chance.randint(0, 12))) + stop * chance.randint(0, 2)
        template = PromptTemplate.from_text("{q}{a}" + stop)
        pieces, _ = streamed(text, session(template).with_stop_text(SamplingParams()))
        assert "".join(pieces).strip() == template.answer_of(text), (stop, text)
        assert text.startswith("".join(pieces))


def test_a_guide_defines_the_whole_answer() -> None:
    guided = SamplingParams(guide=Guide("json_schema", "{}"))
    for end_token in (True, False):
        assert session(PromptTemplate.from_text("{q}{{{a}}}", end_token=end_token)).with_stop_text(guided) == guided
