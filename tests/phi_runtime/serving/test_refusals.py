"""Errors have OpenAI's format, and the server keeps running."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.phi_runtime.serving.conftest import Server, Start

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}


def still_answers(server: Server) -> bool:
    given: dict[str, Any] = {"model": "onnx", "messages": HELLO, "max_tokens": 2}
    return bool(server.client.chat.completions.create(**given).id)


def of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


@pytest.mark.parametrize(
    ("changed", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", None),
        ({"temperature": 3}, "temperature", None),
        ({"model": "x" * 1_000_000}, "model", None),
        ({"top_p": -0.1}, "top_p", None),
        ({"max_tokens": 0}, "max_tokens", None),
        ({"max_tokens": True}, "max_tokens", None),
        ({"max_tokens": 2.5}, "max_tokens", None),
        ({"n": 9, "temperature": 1}, "n", None),
        ({"n": 2}, "n", None),
        ({"stream": "yes"}, "stream", None),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"stop": 5}, "stop", None),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", None),
        ({"seed": "x"}, "seed", None),
        ({"logprobs": 3}, "logprobs", None),
        ({"top_logprobs": 3}, "top_logprobs", None),
        ({"presence_penalty": 5}, "presence_penalty", None),
        ({"messages": []}, "messages", None),
        ({"messages": "hello"}, "messages", None),
        ({"messages": [7]}, "messages[0]", None),
        ({"max_tokens": -2}, "max_tokens", None),
        ({"max_completion_tokens": 0}, "max_completion_tokens", None),
        ({"messages": None}, "messages", None),
        ({"messages": [{"role": "user"}]}, "messages[0].content", None),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", None),
        ({"messages": [{"role": "User", "content": "x"}]}, "messages[0].role", None),
        ({"messages": [{**HELLO[0], "contents": "x"}]}, "messages[0].contents", "unknown_parameter"),
        ({"messages": [{**HELLO[0], "content": [{"text": "x"}]}]}, "messages[0].content", None),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", None),
        (
            {"messages": [*HELLO, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[1].content",
            None,
        ),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages", None),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", None),
        ({"messages": [{"role": "user", "content": "fire " * 600}]}, "messages", "context_length_exceeded"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"stop_token_ids": [5]}, "stop_token_ids", "unsupported_parameter"),
        ({"min_tokens": 4}, "min_tokens", "unsupported_parameter"),
        ({"ignore_eos": True}, "ignore_eos", "unsupported_parameter"),
        ({"grammar": "root ::= [a-z]"}, "grammar", "unsupported_parameter"),
        ({"repeat_penalty": 1.3}, "repeat_penalty", "unsupported_parameter"),
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"best_of": True}, "best_of", "unsupported_parameter"),
        ({"guided_json": {"type": "object"}}, "guided_json", "unsupported_parameter"),
        ({"prompt": "x"}, "prompt", "unsupported_parameter"),
        ({"temperature_": 0.5}, "temperature_", "unknown_parameter"),
        ({"nonsense": 1}, "nonsense", "unknown_parameter"),
        ({"x" * 1000: 1}, "x" * 60 + "…", "unknown_parameter"),
        ({"stop": "\ud800"}, "stop", None),
        ({"response_format": {"type": "xml"}}, "response_format.type", None),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", None),
        ({"response_format": SCHEMA}, "response_format", "invalid_schema"),
        ({"response_format": of({"type": "array", "maxItems": 20_000_000})}, "response_format", "invalid_schema"),
        ({"response_format": of({"type": "array", "minItems": 1e8})}, "response_format", "invalid_schema"),
        ({"response_format": of({"enum": ["\ud800"]})}, "response_format.json_schema.schema", None),
        (
            {
                "response_format": of(
                    {"anyOf": [{"type": "object", "properties": {f"p{i}": {"enum": [i]}}} for i in range(3000)]}
                )
            },
            "response_format",
            "invalid_schema",
        ),
        ({"response_format": of({"enum": ["x" * 300_000]})}, "response_format", "invalid_schema"),
        ({"guided_regex": "(("}, "guided_regex", "invalid_schema"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex", None),
        ({"guided_regex": "a", "model": "base"}, "guided_regex", "unsupported_parameter"),
    ],
)
def test_a_wrong_field_is_named(server: Server, changed: dict[str, Any], param: str, code: str | None) -> None:
    body = json.dumps({"model": "onnx", "messages": HELLO, "max_tokens": 4, **changed})
    answer = server.post(content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert len(error["message"]) > 10
    assert still_answers(server)


@pytest.mark.parametrize("model", ["gpt-4", "onnx:nobody", "base:none:x", "styled", ""])
def test_unknown_models_and_adapters_are_not_found(server: Server, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.chat.completions.create(model=model, messages=HELLO)  # type: ignore[arg-type]
    assert caught.value.code == "model_not_found"
    assert "available: onnx, base, base:finetune, adapter, talker, styled:" in str(caught.value)


def test_a_near_miss_is_suggested(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean `base:finetune`"):
        server.client.completions.create(model="base:finetun", prompt="x")
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("nobody")


def test_the_errors_of_the_client_are_those_of_openai(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.completions.create(model="onnx", prompt="fire " * 600)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.BadRequestError, match="suffix is not supported"):
        server.client.completions.create(model="onnx", prompt="x", suffix="y")
    with pytest.raises(openai.BadRequestError):
        server.client.completions.create(model="onnx", prompt=[1, 2, 3])


@pytest.mark.parametrize(
    "body",
    [b"", b"{bad", b"[1, 2]", b'"text"', b"null", b"\xff\xfe\x00", b"[" * 100_000, b'{"model": "onnx"', b"{}", b"NaN"],
)
def test_a_body_that_is_no_json_object_of_ours(server: Server, body: bytes) -> None:
    answer = server.post(content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_page_cannot_post_a_form(server: Server) -> None:
    body = json.dumps({"model": "onnx", "messages": HELLO}).encode()
    answer = server.post(content=body, headers={"Content-Type": "text/plain"})
    assert (answer.status_code, "Content-Type" in answer.text) == (400, True)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_10_mb_is_too_large(server: Server, chunked: bool) -> None:
    body = json.dumps({"model": "onnx", "messages": [{"role": "user", "content": "x" * 10_000_000}]}).encode()
    parts = iter([body[:5_000_000], body[5_000_000:]]) if chunked else body
    answer = server.post(content=parts, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert still_answers(server)


def test_a_body_with_two_lengths_is_refused(server: Server) -> None:
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX"
        )
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_health_answers_a_head_request(server: Server) -> None:
    assert httpx.head(server.url.removesuffix("/v1") + "/health").status_code == 200


def test_unknown_paths_and_methods(server: Server) -> None:
    for path, status in {"/nothing": 404, "/chat": 404, "/chat/completions": 405, "/completions": 405}.items():
        answer = server.get("/v1" + path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    for path, hint in {"/v1/responses": "/v1/chat/completions", "/chat/completions": "ends with /v1"}.items():
        answer = httpx.post(server.url.removesuffix("/v1") + path, json={})
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
        assert hint in answer.json()["error"]["message"].partition("; ")[2]
    with pytest.raises(openai.NotFoundError, match="embedding model"):
        server.client.embeddings.create(model="onnx", input="x")
    assert server.post("/models", json={}).status_code == 405


def test_without_a_key_only_this_machine_is_served_by_its_own_names(server: Server) -> None:
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example"):
        assert server.get("/v1/models", headers={"Host": host}).status_code == 403
    for host in ("localhost", "localhost:8080", "127.0.0.1", "[::1]:8080"):
        assert server.get("/v1/models", headers={"Host": host}).status_code == 200


def test_who_has_not_the_key_is_refused_and_the_key_is_in_no_log(start: Start) -> None:
    guarded = start("--cors-origin", "https://page.example", PHI_SCAFFOLD_API_KEY="open-sesame")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic open-sesame"}):
        answer = guarded.get("/v1/models", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert guarded.get("/metrics", headers=headers).status_code == 401
    with pytest.raises(openai.AuthenticationError):
        guarded.client.models.list()
    known = guarded.client.with_options(api_key="open-sesame")
    assert known.chat.completions.create(model="onnx", messages=HELLO, max_tokens=2).id  # type: ignore[arg-type]
    assert guarded.get("/health").json() == {"status": "ready"}

    preflight = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    preflight["Access-Control-Request-Headers"] = "authorization,content-type"
    allowed = httpx.options(guarded.url + "/chat/completions", headers=preflight)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://page.example")
    other = httpx.options(guarded.url + "/chat/completions", headers={**preflight, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers

    assert "open-sesame" not in guarded.log.read_text()
    assert "open-sesame" not in Path(f"/proc/{guarded.worker()}/environ").read_text()
