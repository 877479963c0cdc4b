"""Answers of the tiny ONNX model, taken in turn."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.wire import from_json, to_json
from phi_runtime.inference.generator import GeneratorOptions, Guide, SamplingParams
from phi_runtime.inference.onnx import OnnxGenerator
from phi_runtime.serving import scheduler
from phi_runtime.serving.scheduler import Scheduler
from phi_runtime.serving.wire import GenerationRequest

LONG = SamplingParams(400, guide=Guide("regex", "[a-z]{200}"))
SHORT = SamplingParams(3, guide=Guide("regex", "[a-z]{200}"))

Make = Callable[[int], tuple[Scheduler, list[dict[str, Any]]]]


@pytest.fixture
def make(project: ProjectFolder) -> Make:
    generator = OnnxGenerator(project.gen_model / "onnx", GeneratorOptions(conversations=2))

    def made(parallel: int) -> tuple[Scheduler, list[dict[str, Any]]]:
        parts: list[dict[str, Any]] = []
        return Scheduler(
            {"onnx": generator}, lambda request: (request.prompt or "", request.sampling), parts.append, parallel
        ), parts

    return made


def ask(number: int, sampling: SamplingParams, *, stream: bool = False) -> dict[str, Any]:
    request = GenerationRequest(number, "onnx", None, None, f"sunny song {number}", sampling, stream)
    assert from_json(GenerationRequest, to_json(request)) == request
    return {"generate": to_json(request)}


def work(at: Scheduler) -> None:
    while at.busy:
        at.turn()


def ends(parts: list[dict[str, Any]]) -> list[int]:
    return [part["id"] for part in parts if "finish" in part]


def test_a_short_answer_does_not_wait_for_a_long_one(make: Make) -> None:
    at, parts = make(2)
    at.handle(ask(1, LONG))
    at.turn()
    at.handle(ask(2, SHORT))
    work(at)
    assert ends(parts) == [2, 1]


def test_those_that_wait_come_in_their_order(make: Make) -> None:
    at, parts = make(1)
    for number in (1, 2, 3):
        at.handle(ask(number, LONG if number == 1 else SHORT))
    at.handle({"cancel": 2})
    at.turn()
    assert (len(at.active), len(at.waiting)) == (1, 1)
    work(at)
    assert ends(parts) == [1, 3]


def test_what_is_cancelled_is_closed_and_not_told_of(make: Make) -> None:
    at, parts = make(2)
    at.handle(ask(1, LONG, stream=True))
    at.handle(ask(2, SHORT))
    at.turn()
    answer = at.active[0].answer
    at.handle({"cancel": 1})
    assert next(answer, None) is None
    work(at)
    assert ends(parts) == [2]


def test_parts_that_come_fast_are_told_together(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: clock[0])
    at, parts = make(1)
    at.handle(ask(1, LONG, stream=True))
    while not parts:
        at.turn()
    first = parts[0]["text"]
    assert 0 < len(first) < 20  # the first token at once
    for _ in range(5):
        at.turn()
    assert len(parts) == 1
    clock[0] += scheduler.FLUSH_S
    at.turn()
    assert len(parts) == 2
    clock[0] += 1
    work(at)
    text = "".join(part["text"] for part in parts)
    assert len(text) == 200
    whole, whole_parts = make(1)
    whole.handle(ask(1, LONG))
    work(whole)
    assert [part["text"] for part in whole_parts] == [text]


def test_a_fault_ends_one_answer_and_no_other(make: Make) -> None:
    at, parts = make(4)
    at.handle(ask(1, SHORT))
    at.handle(ask(2, SamplingParams(3, guide=Guide("regex", "(("))))
    at.handle({"generate": {**ask(3, SHORT)["generate"], "prompt": "fire " * 900}})
    at.handle({"generate": {**ask(4, SHORT)["generate"], "model": "gone"}})
    work(at)
    assert ends(parts) == [1]
    assert {part["id"]: part["failure"]["kind"] for part in parts if "failure" in part} == {
        2: "InvalidGuide",
        3: "PromptTooLong",
        4: "",
    }


def test_a_value_error_of_the_runtime_is_not_the_clients(capsys: pytest.CaptureFixture[str]) -> None:
    def render(_: GenerationRequest) -> tuple[str, SamplingParams]:
        raise ValueError("axes do not match")

    parts: list[dict[str, Any]] = []
    at = Scheduler({"onnx": None}, render, parts.append, 1)  # type: ignore[dict-item]
    at.handle(ask(1, SHORT))
    work(at)
    assert [part["failure"]["kind"] for part in parts] == [""]
    assert "axes do not match" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_answers(make: Make) -> None:
    at, parts = make(4)
    rng = random.Random(0)
    memory_mb: list[float] = []

    def answer_some(first: int) -> None:
        """Answer 100 requests: with new guides, drawn, of several lengths; cancel some while they wait or are active."""
        for number in range(first, first + 100):
            schema = {"type": "object", "properties": {f"k{number}": {"type": "integer"}}}
            guide = Guide("json_schema", json.dumps(schema)) if number % 3 == 0 else None
            sampling = SamplingParams(rng.choice([2, 8]), temperature=rng.choice([0, 1]), guide=guide)
            prompt = " ".join(rng.choices("abcdefgh", k=rng.choice([2, 20, 200])))
            request = GenerationRequest(number, "onnx", None, None, prompt, sampling, number % 2 == 0)
            at.handle({"generate": to_json(request)})
            at.turn()
            if number % 4 == 0:
                at.handle({"cancel": number - rng.randrange(3)})
        work(at)
        parts.clear()
        memory_mb.append(psutil.Process().memory_info().rss / 1e6)

    for first in range(0, 1500, 100):
        answer_some(first)
    assert memory_mb[-1] - memory_mb[4] < 3  # guided sequences that stayed would hold about 60 MB
