"""Fields of requests: each is obeyed, accepted because it changes nothing, or refused."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.serving import fields
from phi_runtime.serving.protocol import ChatRequest, CompletionRequest
from tests.phi_runtime.serving.conftest import Server

HELLO = [{"role": "user", "content": "hello"}]
DOCS = Path(__file__).parents[3] / "docs" / "serving.md"


def completed(server: Server, **body: Any) -> dict[str, Any]:
    answer = server.post(json={"model": "talker", "messages": HELLO, "max_tokens": 6, **body})
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def test_what_changes_nothing_is_accepted(server: Server) -> None:
    plain = completed(server)
    assert completed(server, **{name: {"a": [1]} for name in fields.NO_EFFECT}) == plain
    neutral = {name: values[0] for name, (values, _) in fields.UNSUPPORTED.items() if values}
    neutral |= {"stream": False, "response_format": {"type": "text"}, "n": 1, "top_k": -1, "messages": HELLO}
    assert completed(server, **neutral) == plain
    everything = (*ChatRequest.model_fields, *CompletionRequest.model_fields, *fields.UNSUPPORTED, "unknown")
    absent = dict.fromkeys(everything) | {"model": "talker", "messages": HELLO, "max_tokens": 6}
    assert completed(server, **absent) == plain


def test_values_that_openai_or_its_clients_send_are_accepted(server: Server) -> None:
    plain = completed(server)
    for stop in ("", [], [""], None, ["", "never"]):
        assert completed(server, stop=stop) == plain
    assert completed(server, top_p=0, temperature=1.5) == plain  # greedy
    assert completed(server, max_tokens=None, max_completion_tokens=6) == plain
    assert completed(server, max_tokens=3, max_completion_tokens=6) == plain
    assert completed(server, temperature=1e-300) == plain
    assert completed(server, top_k=10**30, seed=-(10**30)) == plain


def test_a_length_of_minus_one_is_as_long_as_possible(server: Server) -> None:
    body = {"guided_regex": "[a-z]{200}"}
    for none in ({"max_tokens": -1}, {"max_tokens": None}, {"max_tokens": 5, "max_completion_tokens": -1}):
        answer = completed(server, **body, **none)
        assert (len(answer["message"]["content"]), answer["finish_reason"]) == (200, "stop")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"role": "developer", "content": "Hi"}, {"role": "system", "content": "Hi"}),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
        ({"role": "assistant"}, {"role": "assistant", "content": ""}),
        ({"role": "assistant", "content": None, "refusal": "No"}, {"role": "assistant", "content": "No"}),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}, {"type": "text", "text": "."}]},
            {"role": "assistant", "content": "No."},
        ),
        (
            {"role": "assistant", "content": "a", "audio": None, "function_call": None, "annotations": [], "id": "x"},
            {"role": "assistant", "content": "a"},
        ),
        ({"role": "user", "content": [{"type": "text", "text": "a"}] * 2}, {"role": "user", "content": "aa"}),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
    ],
)
def test_forms_of_messages(server: Server, written: dict[str, Any], read: dict[str, Any]) -> None:
    answers = [server.post(json={"model": "talker", "messages": [message, *HELLO]}) for message in (written, read)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    first, second = (answer.json() for answer in answers)
    assert first["choices"] == second["choices"]
    assert first["usage"]["prompt_tokens"] == second["usage"]["prompt_tokens"]


def test_an_empty_prompt_is_not_too_long(server: Server) -> None:
    for prompt in ("", ["a", ""]):
        error = server.post("/completions", json={"model": "onnx", "prompt": prompt}).json()["error"]
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "prompt", None)
        assert error["message"].startswith("the prompt is empty")


def test_unknown_fields_are_refused_with_the_nearest_name(server: Server) -> None:
    near = {
        "temperature_": "temperature",
        "max_token": "max_tokens",
        "top-p": "top_p",
        "repeat_penalti": "repeat_penalty",
    }
    for name, meant in near.items():
        error = server.post(json={"model": "onnx", "messages": HELLO, name: 1}).json()["error"]
        assert error == {
            "message": f"unknown field `{name}`; did you mean `{meant}`?",
            "type": "invalid_request_error",
            "param": name,
            "code": "unknown_parameter",
        }
    for part, param in (({"stream_options": {"usage": True}, "stream": True}, "stream_options.usage"),):
        error = server.post(json={"model": "onnx", "messages": HELLO, **part}).json()["error"]
        assert (error["param"], error["code"]) == (param, "unknown_parameter")


def test_models_are_found_by_any_writing_of_their_path(server: Server) -> None:
    assert server.get("/v1/models/").json() == server.get("/v1/models").json()
    for path in ("base:finetune", "base%3Afinetune"):
        assert server.get(f"/v1/models/{path}").json()["id"] == "base:finetune"
    for path in ("a/b", "%2Fa%2Fb", "/a/b"):
        assert server.get(f"/v1/models/{path}").json()["error"]["message"].startswith("unknown model `")
    assert server.get("/v1/models/a/b").json()["error"]["code"] == "model_not_found"


def test_the_documentation_lists_every_field() -> None:
    listed = set(re.findall(r"`([a-z_]+)[:`]", DOCS.read_text(encoding="utf-8")))
    own = {*ChatRequest.model_fields, *CompletionRequest.model_fields}
    assert {*fields.NO_EFFECT, *fields.UNSUPPORTED, *own} - listed <= {"model", "messages", "prompt"}


ANY: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    10**30,
    0.5,
    1e300,
    float("nan"),
    "",
    "a",
    "\ud800",
    [],
    ["a"],
    [[]],
    {},
    {"a": 1},
]
VALUES: dict[str, list[Any]] = {
    "temperature": [0, 1, 2, 5e-324, 1e-300, 2.1],
    "top_p": [0, 5e-324, 1e-9, 0.5, 1],
    "top_k": [0, -1, 1, 10**9],
    "n": [1, 2, 8],
    "stop": ["a", [""], ["\x00", " "], ["a"] * 5],
    "seed": [0, -5, 2**64],
    "logprobs": [0, 5, True],
    "top_logprobs": [0, 20],
    "presence_penalty": [-2, 2],
    "frequency_penalty": [-2.0, 2.0],
    "stream": [True, False],
    "stream_options": [{"include_usage": True}, {"include_usage": None}],
    "response_format": [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [1]}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/x"}}},
        {"type": "json_schema", "json_schema": {"schema": {"const": "\ud800"}}},
    ],
    "guided_regex": ["[a-c]{2}", "(", "\\p{Greek}"],
    "messages": [
        [{"role": role, "content": content}]
        for role in ("user", "assistant", "system", "tool", "wizard")
        for content in ("", "\x00\ufffe\U0010ffff", None, [{"type": "text", "text": "x"}], [1], {})
    ],
    "prompt": ["", "x", ["x"] * 9, [1, 2], [[1]], "<|im_end|>"],
    "tools": [
        [{"type": "function", "function": {"name": "f", **more}}]
        for more in (
            {},
            {"parameters": {"type": "object", "properties": {"a": {"enum": [1, "\u2028"]}}}},
            {"parameters": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}},
            {"parameters": {"properties": {"\ud800": {"const": "\x00"}}}, "strict": True},
            {"parameters": {"properties": 7}},
            {"description": '"}} %json', "strict": True},
        )
    ],
    "tool_choice": ["none", "auto", "required", {"type": "function", "function": {"name": "f"}}],
    "parallel_tool_calls": [True, False],
    "model": ["onnx", "caller", "special", "talker", "base", "styled:old", "styled", "onnx:", "x"],
    "max_tokens": [1, 2, 3],
}


def random_bodies(count: int) -> list[tuple[str, dict[str, Any]]]:
    """Valid bodies of which a few fields are changed, mostly to values that are likely to be right."""
    random_number = random.Random(7)
    names = [*VALUES, *sorted(fields.NO_EFFECT)[:3], *sorted(fields.UNSUPPORTED), "unknown"]
    bodies = []
    for _ in range(count):
        chat = random_number.random() < 0.6
        body: dict[str, Any] = {"model": "onnx", "max_tokens": 2}
        body |= {"messages": HELLO} if chat else {"prompt": "hello"}
        for name in random_number.sample(names if random_number.random() < 0.3 else list(VALUES), 3):
            values = VALUES.get(name, ANY) if random_number.random() < 0.7 else ANY
            body[name] = random_number.choice(values)
        bodies.append(("/chat/completions" if chat else "/completions", body))
    return bodies


def test_no_body_makes_the_server_fail(server: Server) -> None:
    statuses = set()
    for path, body in random_bodies(150):
        answer = server.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 400, 404), f"{body}\n{answer.text}"
        if answer.status_code == 200:
            assert "internal_error" not in answer.text, (body, answer.text)
        else:
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
        statuses.add(answer.status_code)
    assert statuses == {200, 400, 404}
