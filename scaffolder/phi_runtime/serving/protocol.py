"""Request bodies of /v1/chat/completions and /v1/completions: strict about types; a null is a field that is absent.

The fields of the classes here are obeyed; `fields` has all others.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from phi_runtime.inference.generator import Guide, SamplingParams
from phi_runtime.serving.errors import invalid
from phi_runtime.serving.fields import check_depth, check_extra, check_keys
from phi_runtime.serving.messages import Message, check_text

MAX_CHOICES = 8
MAX_STOPS = 4
SEEDS = 2**31
_MIN_TEMPERATURE = 1e-6  # logits that are divided by less overflow


class StreamOptions(BaseModel):
    """The `stream_options` of a request."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # without effect: no padding is ever added


class ApiRequest(BaseModel, ABC):
    """The fields of both bodies. `top_k` and `guided_regex` extend OpenAI's."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str = Field(max_length=500)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    max_tokens: int | None = Field(None, ge=-1)
    max_completion_tokens: int | None = Field(None, ge=-1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    response_format: dict[str, Any] | None = None
    guided_regex: str | None = None

    @property
    def count(self) -> int:
        """Choices per prompt."""
        return self.n or 1

    @property
    def with_usage(self) -> bool:
        """True if a stream ends with its token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        """Return the body without the fields that are null. Raises ApiError for a value that is nested too deep."""
        if not isinstance(body, dict):
            return body
        fields = {name: value for name, value in body.items() if value is not None}
        for name, value in fields.items():
            check_depth(value, name[:60])
        return fields

    def check(self) -> None:
        """Raise ApiError for fields that are not supported."""
        check_extra(self.model_extra or {}, type(self).model_fields)
        if self.stream_options is not None:
            check_keys(self.stream_options.model_extra or {}, StreamOptions.model_fields, "stream_options")
            if not self.stream:
                raise invalid("stream_options needs stream: true", "stream_options")

    @abstractmethod
    def sampling(self, max_tokens: int, temperature: float) -> SamplingParams:
        """Return the sampling of the answers; `max_tokens` and `temperature` are the server's. Raises ApiError."""

    def stops(self) -> tuple[str, ...]:
        """Return the texts that end an answer; an empty one ends none. Raises ApiError."""
        stop = [text for text in ([self.stop] if isinstance(self.stop, str) else self.stop or []) if text]
        if len(stop) > MAX_STOPS:
            raise invalid(f"stop accepts at most {MAX_STOPS} strings", "stop")
        for text in stop:
            check_text(text, "stop")
        return tuple(stop)

    def requested_tokens(self, limit: int) -> int:
        """Return the longest answer in tokens, at most the server's `limit`; -1 is as long as possible. Raises ApiError."""
        for name in ("max_completion_tokens", "max_tokens"):
            if (tokens := getattr(self, name)) is not None:
                if tokens == 0:
                    raise invalid(f"{name} is 0; use 1 or more, or -1 for as many as possible", name)
                return limit if tokens < 0 else min(tokens, limit)
        return limit

    def guide(self) -> Guide | None:
        """Return the constraint on the form of the answer. Raises ApiError."""
        response_format = self.response_format or {"type": "text"}
        check_keys(response_format, ("type", "json_schema"), "response_format")
        if self.guided_regex:
            check_text(self.guided_regex, "guided_regex")
        match response_format.get("type"):
            case "text":
                return Guide("regex", self.guided_regex) if self.guided_regex else None
            case _ if self.guided_regex:
                raise invalid("response_format and guided_regex exclude each other", "guided_regex")
            case "json_object":
                return Guide("json_schema", '{"type":"object"}')
            case "json_schema":
                schema = json.dumps(_schema(response_format), ensure_ascii=False)
                check_text(schema, "response_format.json_schema.schema")
                return Guide("json_schema", schema)
            case other:
                raise invalid(
                    f"response_format.type is {other!r:.60}; use text, json_object or json_schema",
                    "response_format.type",
                )

    def _sampling(self, max_tokens: int, temperature: float, logprobs: int | None) -> SamplingParams:
        if self.temperature is not None:
            temperature = self.temperature
        if self.top_p == 0 or temperature < _MIN_TEMPERATURE:  # the most likely token only
            temperature = 0.0
        if self.count > 1 and temperature == 0:
            raise invalid("n choices would be identical; set temperature and top_p above 0", "n")
        return SamplingParams(
            max_new_tokens=self.requested_tokens(max_tokens),
            temperature=temperature,
            top_p=self.top_p or 1.0,
            top_k=min(max(self.top_k or 0, 0), SEEDS - 1),
            seed=None if self.seed is None else self.seed % SEEDS,
            stop=self.stops(),
            guide=self.guide(),
            logprobs=logprobs,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )


class ChatRequest(ApiRequest):
    """The body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def sampling(self, max_tokens: int, temperature: float) -> SamplingParams:
        """Raises ApiError."""
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
        return self._sampling(max_tokens, temperature, (self.top_logprobs or 0) if self.logprobs else None)


class CompletionRequest(ApiRequest):
    """The body of POST /v1/completions."""

    prompt: str | list[str]
    logprobs: int | None = Field(None, ge=0, le=5)

    def sampling(self, max_tokens: int, temperature: float) -> SamplingParams:
        """Raises ApiError."""
        return self._sampling(max_tokens, temperature, self.logprobs)

    def prompts(self) -> list[str]:
        """Raises ApiError."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if not 0 < len(prompts) <= MAX_CHOICES:
            raise invalid(f"prompt accepts 1 to {MAX_CHOICES} strings", "prompt")
        for prompt in prompts:
            check_text(prompt, "prompt")
        return prompts


def _schema(response_format: dict[str, Any]) -> dict[str, Any]:
    wrapped = response_format.get("json_schema")
    if isinstance(wrapped, dict):
        check_keys(wrapped, ("name", "description", "schema", "strict"), "response_format.json_schema")
    schema = wrapped.get("schema") if isinstance(wrapped, dict) else None
    if not isinstance(schema, dict):
        raise invalid("response_format.json_schema.schema is not a JSON schema", "response_format.json_schema.schema")
    return schema
