"""The routes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.hardware.process_memory import resident_bytes
from phi_runtime.inference.generator import SamplingParams
from phi_runtime.serving import errors
from phi_runtime.serving.answering import Desk, Fields, Reply
from phi_runtime.serving.bodies import ChatForm, Head, TextForm
from phi_runtime.serving.engine import Engine
from phi_runtime.serving.errors import ApiError, invalid
from phi_runtime.serving.guard import Guard
from phi_runtime.serving.protocol import SEEDS, Asked, ChatRequest, CompletionRequest, model_not_found
from phi_runtime.serving.wire import Ask, ServedModel


@dataclass(frozen=True)
class Limits:
    """`max_tokens`: of one answer, also where the request names none. `temperature`: where the request names none. `queue`: requests
    that may wait beside the `parallel` that are answered. `timeout_s`: for a request from its body to its last token."""

    max_tokens: int = 1024
    temperature: float = 0.0
    parallel: int = 4
    queue: int = 32
    timeout_s: float = 600.0
    stop_s: float = 30.0


def make_app(engine: Engine, desk: Desk, limits: Limits, key: str | None, origins: Sequence[str]) -> FastAPI:
    """The ASGI app. `key` is the one that clients must have, `origins` those whose pages a browser lets ask."""
    orders = Orders(engine, desk, limits)
    app = FastAPI(title="phi-scaffold", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, key=key)
    if origins:  # outermost: a browser asks first without a key
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    app.add_exception_handler(ApiError, errors.on_api_error)
    app.add_exception_handler(HTTPException, errors.on_http_error)
    app.add_exception_handler(RequestValidationError, errors.on_invalid_body)
    app.add_exception_handler(Exception, errors.on_fault)

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest) -> Response:
        return orders.reply(asked, "messages", ChatForm, [Wanted(messages=asked.texts())])

    @app.post("/v1/completions")
    async def complete(asked: CompletionRequest) -> Response:
        return orders.reply(asked, "prompt", TextForm, [Wanted(prompt=prompt) for prompt in asked.prompts()])

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        desk.check_ready()
        return {"object": "list", "data": [_entry(each) for each in engine.models.values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _entry(orders.find(name))

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": engine.state}, 200 if engine.state == "ready" else 503)

    @app.get("/metrics")
    async def counts() -> PlainTextResponse:
        gauges: dict[str, tuple[str, float]] = {"requests_active": ("Requests that are answered or wait.", desk.taken)}
        for name, pid in {"server": os.getpid(), "models": engine.pid}.items():
            if (resident := resident_bytes(pid)) is not None:
                gauges[f"{name}_resident_bytes"] = (f"Memory of the process of the {name}.", resident)
        return PlainTextResponse(desk.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    return app


@dataclass(frozen=True)
class Wanted:
    """What is to be answered: a conversation, or a text as it stands."""

    messages: list[dict[str, str]] | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Orders:
    """From the body of a request to its reply."""

    engine: Engine
    desk: Desk
    limits: Limits

    def reply(self, asked: Asked, text_field: str, form: type[ChatForm | TextForm], wanted: list[Wanted]) -> Reply:
        """Raises ApiError."""
        asked.check()
        sampling = asked.sampling(self.limits.max_tokens, self.limits.temperature)
        model = self.find(asked.model)
        guide_field = "guided_regex" if asked.guided_regex else "response_format"
        if sampling.guide and not model.guides:
            raise invalid(f"{model.id} cannot guide its answers; ONNX models can", guide_field, "unsupported_parameter")
        stream = bool(asked.stream)
        asks = [
            partial(
                Ask,
                model=model.model,
                adapter=model.adapter,
                messages=each.messages,
                prompt=each.prompt,
                sampling=drawn,
                stream=stream,
            )
            for each in wanted
            for drawn in _drawn(sampling, asked.count)
        ]
        head = Head(asked.model, model.fingerprint)
        written = form(head, count=asked.count, with_usage=asked.with_usage)
        return Reply(
            self.desk, written, asks, Fields(text_field, guide_field), stream=stream, with_usage=asked.with_usage
        )

    def find(self, name: str) -> ServedModel:
        """What `name` (`onnx`, or `onnx:style`) means. Raises ApiError."""
        self.desk.check_ready()
        known = self.engine.models
        if name not in known:
            raise model_not_found(name, list(known), did_you_mean(name, known))
        return known[name]


def _drawn(sampling: SamplingParams, count: int) -> list[SamplingParams]:
    """One for each choice: with a seed, each has its own."""
    if sampling.seed is None:
        return [sampling] * count
    return [replace(sampling, seed=(sampling.seed + number) % SEEDS) for number in range(count)]


def _entry(model: ServedModel) -> dict[str, Any]:
    about = {"context_length": model.context_length, "converses": model.converses, "inputs": model.inputs}
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": "phi-scaffold", **about}
