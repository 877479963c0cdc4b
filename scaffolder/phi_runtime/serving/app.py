"""The routes of the API."""

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
from phi_runtime.data.chat import Message
from phi_runtime.hardware.process_memory import resident_bytes
from phi_runtime.inference.generator import SamplingParams
from phi_runtime.serving import errors
from phi_runtime.serving.answering import AdmissionQueue, ErrorFields, Reply
from phi_runtime.serving.bodies import BodyWriter, ChatWriter, ResponseHead, TextWriter
from phi_runtime.serving.engine import Engine
from phi_runtime.serving.errors import ApiError, invalid
from phi_runtime.serving.guard import Guard
from phi_runtime.serving.messages import template_messages
from phi_runtime.serving.metrics import prometheus_text
from phi_runtime.serving.protocol import SEEDS, ApiRequest, ChatRequest, CompletionRequest, model_not_found
from phi_runtime.serving.tools import Tools, read_tools
from phi_runtime.serving.wire import GenerationRequest, ServedModel


@dataclass(frozen=True)
class ServingLimits:
    """Limits and defaults of requests.

    Attributes:
        max_tokens: Most tokens of one answer, and the default.
        temperature: Default temperature.
        parallel: Answers generated at the same time.
        queue: Requests that may wait in addition to those.
        timeout_s: Seconds for a request, from its body to its last token.
        stop_s: Seconds that running answers get at a graceful shutdown.
    """

    max_tokens: int = 1024
    temperature: float = 0.0
    parallel: int = 4
    queue: int = 32
    timeout_s: float = 600.0
    stop_s: float = 30.0


def build_app(
    engine: Engine, queue: AdmissionQueue, limits: ServingLimits, key: str | None, origins: Sequence[str]
) -> FastAPI:
    """Return the ASGI app.

    Args:
        engine: The models.
        queue: Admits requests.
        limits: Limits and defaults of requests.
        key: The API key that clients need; None for a server without one.
        origins: Origins that CORS allows.
    """
    handler = RequestHandler(engine, queue, limits)
    app = FastAPI(title="phi-scaffold", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, key=key)
    if origins:  # outermost: a preflight request has no key
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    app.add_exception_handler(ApiError, errors.on_api_error)
    app.add_exception_handler(HTTPException, errors.on_http_error)
    app.add_exception_handler(RequestValidationError, errors.on_invalid_body)
    app.add_exception_handler(Exception, errors.on_fault)

    @app.post("/v1/chat/completions")
    async def chat(request: ChatRequest) -> Response:
        return handler.chat(request)

    @app.post("/v1/completions")
    async def completions(request: CompletionRequest) -> Response:
        return handler.complete(request)

    @app.get("/v1/models")
    @app.get("/v1/models/")
    async def models() -> dict[str, Any]:
        queue.check_ready()
        return {"object": "list", "data": [_model_entry(model) for model in engine.models.values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model_entry(handler.find(name))

    @app.get("/health")
    @app.head("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": engine.state}, 200 if engine.state == "ready" else 503)

    @app.get("/metrics")
    async def counts() -> PlainTextResponse:
        gauges: dict[str, tuple[str, float]] = {"requests_active": ("Requests running or waiting.", queue.active)}
        for name, pid in {"server": os.getpid(), "models": engine.pid}.items():
            if (resident := resident_bytes(pid)) is not None:
                gauges[f"{name}_resident_bytes"] = (f"Resident memory of the process of the {name}.", resident)
        return PlainTextResponse(prometheus_text(queue.counts, gauges), media_type="text/plain; version=0.0.4")

    return app


@dataclass(frozen=True)
class Input:
    """The input of an answer: a conversation, or a prompt as it is."""

    messages: list[Message] | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class RequestHandler:
    """Turns the body of a request into its response."""

    engine: Engine
    queue: AdmissionQueue
    limits: ServingLimits

    def chat(self, request: ChatRequest) -> Reply:
        """Return the response of /v1/chat/completions. Raises ApiError for fields that are not valid."""
        request.check()
        model = self.find(request.model)
        tools = read_tools(request.tools, request.tool_choice, request.parallel_tool_calls, model)
        messages = template_messages(request.messages, with_calls=model.tools is not None)
        return self._reply(request, model, "messages", ChatWriter, [Input(messages=messages)], tools)

    def complete(self, request: CompletionRequest) -> Reply:
        """Return the response of /v1/completions. Raises ApiError for fields that are not valid."""
        request.check()
        inputs = [Input(prompt=prompt) for prompt in request.prompts()]
        return self._reply(request, self.find(request.model), "prompt", TextWriter, inputs)

    def _reply(
        self,
        request: ApiRequest,
        model: ServedModel,
        text_field: str,
        writer: type[BodyWriter],
        inputs: list[Input],
        tools: Tools | None = None,
    ) -> Reply:
        """Return the response to `request`: `request.count` answers of `model` to each input.

        `text_field` is the field that holds the input, for errors about it. Raises ApiError.
        """
        sampling = request.sampling(self.limits.max_tokens, self.limits.temperature)
        guide_field = "guided_regex" if request.guided_regex else "response_format"
        if sampling.guide and not model.guides:
            raise invalid(
                f"`{model.id}` does not support guided answers; ONNX models do", guide_field, "unsupported_parameter"
            )
        if tools:
            if sampling.guide:
                raise invalid(f"{guide_field} and tools exclude each other", guide_field)
            sampling, guide_field = replace(sampling, guide=tools.guide()), "tools"
        stream = bool(request.stream)
        builders = [
            partial(
                GenerationRequest,
                model=model.model,
                adapter=model.adapter,
                messages=entry.messages,
                prompt=entry.prompt,
                sampling=choice_sampling,
                stream=stream,
                tools=tools.definitions if tools else None,
            )
            for entry in inputs
            for choice_sampling in _sampling_of_choices(sampling, request.count)
        ]
        check_guide = None
        if sampling.guide:
            check_guide = partial(self.engine.guides.failure, model.path, sampling.guide)
        head = ResponseHead(request.model, model.fingerprint)
        return Reply(
            self.queue,
            writer(head, count=request.count, with_usage=request.with_usage),
            builders,
            ErrorFields(text_field, guide_field),
            stream=stream,
            with_usage=request.with_usage,
            tools=tools,
            check_guide=check_guide,
        )

    def find(self, name: str) -> ServedModel:
        """Return the model that `name` (`onnx`, `onnx:style`) refers to. Raises ApiError."""
        self.queue.check_ready()
        known = self.engine.models
        if name not in known:
            raise model_not_found(name, list(known), did_you_mean(name, known))
        return known[name]


def _sampling_of_choices(sampling: SamplingParams, count: int) -> list[SamplingParams]:
    """Return the sampling of each choice; a seed is counted up, so that choices differ."""
    if sampling.seed is None:
        return [sampling] * count
    return [replace(sampling, seed=(sampling.seed + number) % SEEDS) for number in range(count)]


def _model_entry(model: ServedModel) -> dict[str, Any]:
    extra = {
        "context_length": model.context_length,
        "converses": model.converses,
        "inputs": model.inputs,
        "tools": model.tools is not None,
    }
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": "phi-scaffold", **extra}
