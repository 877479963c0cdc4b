"""Request bodies of /v1/chat/completions and /v1/completions: strict about types, open to unknown fields.

Unsupported fields that would change the answer are errors; others (user, metadata, store, …) are ignored.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from phi_runtime.inference.generator import Guide, SamplingParams
from phi_runtime.serving.errors import ApiError, invalid

MAX_CHOICES = 8
MAX_STOPS = 4
SEEDS = 2**31

# Unsupported fields, with the values that have no effect and are therefore accepted.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "logit_bias": (None, {}),
    "audio": (None,),
    "modalities": (None, ["text"]),
    "web_search_options": (None,),
    "min_p": (None, 0, 0.0),
    "repetition_penalty": (None, 1, 1.0),
    "guided_json": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "structured_outputs": (None,),
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
}
_ALTERNATIVES = {
    "guided_json": "pass the schema in response_format",
    "guided_choice": "use guided_regex: (one|other)",
    "tools": "this server does not call tools",
    "logit_bias": "guide the answer with response_format or guided_regex",
}


class StreamOptions(BaseModel):
    """The `stream_options` of a request."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True)

    role: str
    content: Any = None


class ApiRequest(BaseModel, ABC):
    """The fields of both bodies. `top_k` and `guided_regex` extend OpenAI's."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str = Field(max_length=500)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    max_tokens: int | None = Field(None, ge=1)
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

    def check(self) -> None:
        """Raise ApiError for fields that are not supported."""
        for name, unused in _UNSUPPORTED.items():
            value = (self.model_extra or {}).get(name)
            if not any(type(value) is type(default) and value == default for default in unused):
                alternative = f": {_ALTERNATIVES[name]}" if name in _ALTERNATIVES else ""
                raise invalid(f"{name} is not supported{alternative}", name, "unsupported_parameter")
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options needs stream: true", "stream_options")

    @abstractmethod
    def sampling(self, max_tokens: int, temperature: float) -> SamplingParams:
        """Return the sampling of the answers; `max_tokens` and `temperature` are the server's. Raises ApiError."""

    def stops(self) -> tuple[str, ...]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stop) > MAX_STOPS or not all(stop):
            raise invalid(f"stop accepts at most {MAX_STOPS} strings, none of them empty", "stop")
        return tuple(stop)

    def guide(self) -> Guide | None:
        """Return the constraint on the form of the answer. Raises ApiError."""
        response_format = self.response_format or {"type": "text"}
        match response_format.get("type"):
            case "text":
                return Guide("regex", self.guided_regex) if self.guided_regex else None
            case _ if self.guided_regex:
                raise invalid("response_format and guided_regex exclude each other", "guided_regex")
            case "json_object":
                return Guide("json_schema", '{"type":"object"}')
            case "json_schema":
                return Guide("json_schema", json.dumps(_schema(response_format)))
            case other:
                raise invalid(
                    f"response_format.type is {other!r:.60}; use text, json_object or json_schema",
                    "response_format.type",
                )

    def _sampling(
        self, max_tokens: int, temperature: float, requested_tokens: int | None, logprobs: int | None
    ) -> SamplingParams:
        if self.temperature is not None:
            temperature = self.temperature
        if self.count > 1 and temperature == 0:
            raise invalid("n choices at temperature 0 would be identical; set a temperature above 0", "n")
        return SamplingParams(
            max_new_tokens=min(requested_tokens or max_tokens, max_tokens),
            temperature=temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
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
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def sampling(self, max_tokens: int, temperature: float) -> SamplingParams:
        """Raises ApiError."""
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
        requested = self.max_completion_tokens or self.max_tokens
        return self._sampling(max_tokens, temperature, requested, (self.top_logprobs or 0) if self.logprobs else None)

    def text_messages(self) -> list[dict[str, str]]:
        """Return the messages with their content as text, for a chat template. Raises ApiError."""
        return [_text_message(message, f"messages[{number}]") for number, message in enumerate(self.messages)]


class CompletionRequest(ApiRequest):
    """The body of POST /v1/completions."""

    prompt: str | list[str]
    logprobs: int | None = Field(None, ge=0, le=5)

    def sampling(self, max_tokens: int, temperature: float) -> SamplingParams:
        """Raises ApiError."""
        return self._sampling(max_tokens, temperature, self.max_tokens, self.logprobs)

    def prompts(self) -> list[str]:
        """Raises ApiError."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if not 0 < len(prompts) <= MAX_CHOICES:
            raise invalid(f"prompt accepts 1 to {MAX_CHOICES} strings", "prompt")
        for prompt in prompts:
            _check_text(prompt, "prompt")
        return prompts


_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def _text_message(message: Message, where: str) -> dict[str, str]:
    if message.role not in _ROLES:
        raise invalid(f"{where}.role is {message.role!r:.60}; use system, user or assistant", f"{where}.role")
    content = message.content
    if isinstance(content, list):
        texts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(text, str) for text in texts):
            raise invalid(f"{where}.content holds something other than text", f"{where}.content")
        content = "".join(str(text) for text in texts)
    if not isinstance(content, str):
        raise invalid(f"{where}.content is not a string", f"{where}.content")
    _check_text(content, f"{where}.content")
    return {"role": _ROLES[message.role], "content": content}


def _check_text(text: str, where: str) -> None:
    """Raise ApiError for a lone UTF-16 surrogate, which JSON can express and no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(f"{where} contains a lone UTF-16 surrogate", where) from None


def _schema(response_format: dict[str, Any]) -> dict[str, Any]:
    wrapped = response_format.get("json_schema")
    schema = wrapped.get("schema") if isinstance(wrapped, dict) else None
    if not isinstance(schema, dict):
        raise invalid("response_format.json_schema.schema is not a JSON schema", "response_format.json_schema.schema")
    return schema


def model_not_found(name: str, known: list[str], suggestion: str) -> ApiError:
    """Return the 404 error for the model `name`, with the models that exist."""
    return ApiError(
        404,
        f"unknown model `{name}`{suggestion}; available: {', '.join(known)}",
        param="model",
        code="model_not_found",
    )
