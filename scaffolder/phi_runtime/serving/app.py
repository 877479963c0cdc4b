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
from phi_runtime.serving.answering import AdmissionQueue, Reply
from phi_runtime.serving.bodies import BodyWriter, ChatWriter, TextWriter
from phi_runtime.serving.errors import ApiError, invalid
from phi_runtime.serving.guard import Guard
from phi_runtime.serving.messages import template_messages
from phi_runtime.serving.metrics import prometheus_text
from phi_runtime.serving.protocol import SEEDS, ApiRequest, ChatRequest, CompletionRequest
from phi_runtime.serving.tools import Tools, read_tools
from phi_runtime.serving.wire import GenerationRequest, ServedModel


@dataclass(frozen=True)
class ServingLimits:
    """Limits and defaults of requests.

    Attributes:
        max_tokens: Most tokens of one answer, and the default.
        temperature: Default temperature.
        queue: Requests that may wait in addition to those that are answered.
        timeout_s: Seconds for a request, from its body to its last token.
    """

    max_tokens: int = 1024
    temperature: float = 0.0
    queue: int = 32
    timeout_s: float = 600.0


def build_app(queue: AdmissionQueue, limits: ServingLimits, key: str | None, origins: Sequence[str]) -> FastAPI:
    """Return the ASGI app.

    Args:
        queue: Admits requests to the models.
        limits: Limits and defaults of requests.
        key: The API key that clients need; None for a server without one.
        origins: Origins that CORS allows.
    """
    handler = RequestHandler(queue, limits)
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
        return {"object": "list", "data": [_model_entry(model) for model in queue.engine.models.values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model_entry(handler.find(name))

    @app.get("/health")
    @app.head("/health")
    async def health() -> JSONResponse:
        state = queue.engine.state
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    @app.get("/metrics")
    async def counts() -> PlainTextResponse:
        gauges: dict[str, tuple[str, float]] = {"requests_active": ("Requests running or waiting.", queue.active)}
        for name, pid in {"server": os.getpid(), "models": queue.engine.pid}.items():
            if (resident := resident_bytes(pid)) is not None:
                gauges[f"{name}_resident_bytes"] = (f"Resident memory of the process of the {name}.", resident)
        return PlainTextResponse(prometheus_text(queue.counts, gauges), media_type="text/plain; version=0.0.4")

    return app


@dataclass(frozen=True)
class RequestHandler:
    """Turns the body of a request into its response."""

    queue: AdmissionQueue
    limits: ServingLimits

    def chat(self, request: ChatRequest) -> Reply:
        """Return the response of /v1/chat/completions. Raises ApiError for fields that are not valid."""
        request.check()
        model = self.find(request.model)
        tools = read_tools(request.tools, request.tool_choice, request.parallel_tool_calls, model)
        messages = template_messages(request.messages, with_calls=model.tools is not None)
        return self._reply(request, model, "messages", ChatWriter, messages=messages, tools=tools)

    def complete(self, request: CompletionRequest) -> Reply:
        """Return the response of /v1/completions. Raises ApiError for fields that are not valid."""
        request.check()
        prompts = request.prompts()
        return self._reply(request, self.find(request.model), "prompt", TextWriter, prompts=prompts)

    def _reply(
        self,
        request: ApiRequest,
        model: ServedModel,
        text_field: str,
        writer: type[BodyWriter],
        *,
        messages: list[Message] | None = None,
        prompts: Sequence[str | None] = (None,),
        tools: Tools | None = None,
    ) -> Reply:
        """Return the response to `request`: `request.count` answers of `model` to `messages` or to each of `prompts`.

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
        definitions = tools.definitions if tools else None
        requests = [
            GenerationRequest(0, model.model, model.adapter, messages, prompt, of_choice, stream, definitions)
            for prompt in prompts
            for of_choice in _sampling_of_choices(sampling, request.count)
        ]
        check_guide = None
        if sampling.guide:
            check_guide = partial(self.queue.engine.guides.failure, model.path, sampling.guide)
        return Reply(
            self.queue,
            writer(request.model, model.fingerprint, count=request.count, with_usage=request.with_usage),
            requests,
            (text_field, guide_field),
            stream=stream,
            with_usage=request.with_usage,
            tools=tools,
            check_guide=check_guide,
        )

    def find(self, name: str) -> ServedModel:
        """Return the model that `name` (`onnx`, `onnx:style`) refers to. Raises ApiError."""
        self.queue.check_ready()
        known = self.queue.engine.models
        if name not in known:
            message = f"unknown model `{name}`{did_you_mean(name, known)}; available: {', '.join(known)}"
            raise ApiError(404, message, param="model", code="model_not_found")
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
