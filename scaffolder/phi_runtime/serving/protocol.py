"""What may be asked: the bodies of /v1/chat/completions and /v1/completions, strict about types and open to fields we do not know.

Fields that would change the answer and that we cannot obey are errors; others (user, metadata, store, …) are passed over.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from phi_runtime.inference.generator import Guide, SamplingParams
from phi_runtime.serving.errors import ApiError, invalid

MOST_CHOICES = 8
MOST_STOPS = 4
SEEDS = 2**31

# Fields that change an answer, and the values that leave it as it is.
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
_INSTEAD = {
    "guided_json": "give the schema in response_format",
    "guided_choice": "give guided_regex: (one|other)",
    "tools": "this server calls no tools",
    "logit_bias": "guide the answer with response_format or guided_regex",
}


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class Message(BaseModel):
    model_config = ConfigDict(strict=True)

    role: str
    content: Any = None


class Asked(BaseModel, ABC):
    """The fields that both bodies have. `top_k` and `guided_regex` are ours."""

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
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    response_format: dict[str, Any] | None = None
    guided_regex: str | None = None

    @property
    def count(self) -> int:
        """Choices for each prompt."""
        return self.n or 1

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check(self) -> None:
        """Raises ApiError for what cannot be obeyed."""
        for name, unused in _UNSUPPORTED.items():
            value = (self.model_extra or {}).get(name)
            if not any(type(value) is type(each) and value == each for each in unused):
                instead = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
                raise invalid(f"{name} is not supported{instead}", name, "unsupported_parameter")
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options is for stream: true", "stream_options")

    @abstractmethod
    def sampling(self, most_tokens: int, temperature: float) -> SamplingParams:
        """How the answers are drawn; `most_tokens` and `temperature` are the server's. Raises ApiError."""

    def stops(self) -> tuple[str, ...]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stop) > MOST_STOPS or not all(stop):
            raise invalid(f"stop takes at most {MOST_STOPS} texts, none of them empty", "stop")
        return tuple(stop)

    def guide(self) -> Guide | None:
        """What the answer must look like. Raises ApiError."""
        given = self.response_format or {"type": "text"}
        match given.get("type"):
            case "text":
                return Guide("regex", self.guided_regex) if self.guided_regex else None
            case _ if self.guided_regex:
                raise invalid("response_format and guided_regex exclude each other", "guided_regex")
            case "json_object":
                return Guide("json_schema", '{"type":"object"}')
            case "json_schema":
                return Guide("json_schema", json.dumps(_schema(given)))
            case other:
                raise invalid(
                    f"response_format.type is {other!r:.60}; it can be text, json_object or json_schema",
                    "response_format.type",
                )

    def drawn(self, most_tokens: int, temperature: float, wanted: int | None, logprobs: int | None) -> SamplingParams:
        """How the answers are drawn; `wanted` tokens are asked for."""
        if self.temperature is not None:
            temperature = self.temperature
        if self.count > 1 and temperature == 0:
            raise invalid("n answers at temperature 0 would all be the same: give a temperature above 0", "n")
        return SamplingParams(
            max_new_tokens=min(wanted or most_tokens, most_tokens),
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


class ChatRequest(Asked):
    """POST /v1/chat/completions"""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def sampling(self, most_tokens: int, temperature: float) -> SamplingParams:
        """Raises ApiError."""
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs is for logprobs: true", "top_logprobs")
        wanted = self.max_completion_tokens or self.max_tokens
        return self.drawn(most_tokens, temperature, wanted, (self.top_logprobs or 0) if self.logprobs else None)

    def texts(self) -> list[dict[str, str]]:
        """The messages as a template takes them. Raises ApiError."""
        return [_plain(message, f"messages[{number}]") for number, message in enumerate(self.messages)]


class CompletionRequest(Asked):
    """POST /v1/completions"""

    prompt: str | list[str]
    logprobs: int | None = Field(None, ge=0, le=5)

    def sampling(self, most_tokens: int, temperature: float) -> SamplingParams:
        """Raises ApiError."""
        return self.drawn(most_tokens, temperature, self.max_tokens, self.logprobs)

    def prompts(self) -> list[str]:
        """Raises ApiError."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if not 0 < len(prompts) <= MOST_CHOICES:
            raise invalid(f"prompt takes 1 to {MOST_CHOICES} texts", "prompt")
        for prompt in prompts:
            _check_text(prompt, "prompt")
        return prompts


_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def _plain(message: Message, where: str) -> dict[str, str]:
    if message.role not in _ROLES:
        raise invalid(f"{where}.role is {message.role!r:.60}; it can be system, user or assistant", f"{where}.role")
    content = message.content
    if isinstance(content, list):
        texts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(text, str) for text in texts):
            raise invalid(f"{where}.content holds something other than text", f"{where}.content")
        content = "".join(str(text) for text in texts)
    if not isinstance(content, str):
        raise invalid(f"{where}.content is no text", f"{where}.content")
    _check_text(content, f"{where}.content")
    return {"role": _ROLES[message.role], "content": content}


def _check_text(text: str, where: str) -> None:
    """JSON can spell halves of letters, which no tokenizer takes. Raises ApiError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(f"{where} holds half of a UTF-16 pair, which is no letter", where) from None


def _schema(given: dict[str, Any]) -> dict[str, Any]:
    wrapped = given.get("json_schema")
    schema = wrapped.get("schema") if isinstance(wrapped, dict) else None
    if not isinstance(schema, dict):
        raise invalid("response_format.json_schema.schema is no JSON schema", "response_format.json_schema.schema")
    return schema


def model_not_found(wanted: str, known: list[str], near: str) -> ApiError:
    return ApiError(
        404,
        f"there is no model `{wanted}` here{near}; there are {', '.join(known)}",
        param="model",
        code="model_not_found",
    )
