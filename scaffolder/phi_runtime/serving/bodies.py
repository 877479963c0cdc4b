"""Response bodies. The events of a stream are formatted as text, with the constant part encoded once per response."""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from phi_runtime.serving.tool_calls import CallDelta, Delta, ToolCallParser

Logprobs = list[Any]  # a [token, logprob, [[token, logprob], …]] for each token, as the worker sends them

dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass
class AnswerChoice:
    """One answer, as far as it was received. `parser` finds its tool calls, each with `id`, `name` and `arguments`."""

    parser: ToolCallParser | None = None
    text: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)
    logprobs: Logprobs | None = None
    finish: str | None = None
    usage: dict[str, int] = field(default_factory=dict)

    def add(self, deltas: Sequence[Delta]) -> None:
        """Append text and parts of calls."""
        for delta in deltas:
            if isinstance(delta, str):
                self.text += delta
            elif delta.id is not None:
                self.calls.append({"id": delta.id, "name": delta.name or "", "arguments": delta.arguments})
            else:
                self.calls[delta.index]["arguments"] += delta.arguments


@dataclass(frozen=True)
class ResponseHead:
    """The fields that all bodies of one response have."""

    model: str
    fingerprint: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))


class BodyWriter(ABC):
    """Writes the response of one of the two routes: `body` as JSON, the other methods as SSE events of a stream.

    Args:
        head: Fields of all bodies.
        count: Number of choices per prompt.
        with_usage: Add `usage: null` to each event, as OpenAI does.
    """

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, head: ResponseHead, *, count: int = 1, with_usage: bool = False) -> None:
        self.count, self.model = count, head.model
        self.id = f"{self.prefix}-{head.id}"
        self.fields = {"created": head.created, "model": head.model, "system_fingerprint": head.fingerprint}
        opening = dumps({"id": self.id, "object": self.chunk_kind, **self.fields})
        self._open = f'data: {opening[:-1]},"choices":['
        self._close = '],"usage":null}\n\n' if with_usage else "]}\n\n"

    def body(self, choices: Sequence[AnswerChoice]) -> dict[str, Any]:
        entries = [
            {"index": index, **self.entry(index, choice), "finish_reason": choice.finish}
            for index, choice in enumerate(choices)
        ]
        usage = usage_of(choices, self.count)
        return {"id": self.id, "object": self.kind, **self.fields, "choices": entries, "usage": usage}

    def usage(self, choices: Sequence[AnswerChoice]) -> str:
        return f'{self._open}],"usage":{dumps(usage_of(choices, self.count))}}}\n\n'

    @abstractmethod
    def entry(self, index: int, choice: AnswerChoice) -> dict[str, Any]:
        """Return the text and the logprobs of a choice in `body`."""

    @abstractmethod
    def first(self, index: int) -> str: ...

    @abstractmethod
    def part(self, index: int, text: str, logprobs: Logprobs | None) -> str: ...

    def call(self, index: int, delta: CallDelta) -> str:
        """Return a part of a tool call, which only chat completions have."""
        raise NotImplementedError

    @abstractmethod
    def end(self, index: int, finish: str) -> str: ...


class ChatWriter(BodyWriter):
    """Bodies of chat completions."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl"

    def entry(self, index: int, choice: AnswerChoice) -> dict[str, Any]:
        logprobs = None if choice.logprobs is None else _chat_logprobs(choice.logprobs)
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message["content"] = choice.text or None
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in choice.calls
            ]
        return {"message": message, "logprobs": logprobs}

    def first(self, index: int) -> str:
        return self._delta(index, '{"role":"assistant","content":""}', "null", "null")

    def part(self, index: int, text: str, logprobs: Logprobs | None) -> str:
        encoded = "null" if logprobs is None else dumps(_chat_logprobs(logprobs))
        return self._delta(index, f'{{"content":{dumps(text)}}}', encoded, "null")

    def end(self, index: int, finish: str) -> str:
        return self._delta(index, "{}", "null", f'"{finish}"')

    def call(self, index: int, delta: CallDelta) -> str:
        """Return a part of a tool call."""
        function = {"arguments": delta.arguments}
        call: dict[str, Any] = {"index": delta.index, "function": function}
        if delta.id is not None:
            function = {"name": delta.name or "", **function}
            call = {"index": delta.index, "id": delta.id, "type": "function", "function": function}
        return self._delta(index, dumps({"tool_calls": [call]}), "null", "null")

    def _delta(self, index: int, delta: str, logprobs: str, finish: str) -> str:
        return f'{self._open}{{"index":{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{finish}}}{self._close}'


class TextWriter(BodyWriter):
    """Bodies of text completions."""

    kind = "text_completion"
    chunk_kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, head: ResponseHead, *, count: int = 1, with_usage: bool = False) -> None:
        super().__init__(head, count=count, with_usage=with_usage)
        self._offsets: dict[int, int] = {}

    def entry(self, index: int, choice: AnswerChoice) -> dict[str, Any]:
        return {"text": choice.text, "logprobs": self._logprobs(index, choice.logprobs)}

    def first(self, index: int) -> str:
        return ""

    def part(self, index: int, text: str, logprobs: Logprobs | None) -> str:
        return self._choice(index, text, dumps(self._logprobs(index, logprobs)), "null")

    def end(self, index: int, finish: str) -> str:
        return self._choice(index, "", "null", f'"{finish}"')

    def _choice(self, index: int, text: str, logprobs: str, finish: str) -> str:
        return f'{self._open}{{"index":{index},"text":{dumps(text)},"logprobs":{logprobs},"finish_reason":{finish}}}{self._close}'

    def _logprobs(self, index: int, logprobs: Logprobs | None) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        offsets = []
        for token, _, _ in logprobs:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token)
        return {
            "tokens": [token for token, _, _ in logprobs],
            "token_logprobs": [logprob for _, logprob, _ in logprobs],
            "top_logprobs": [dict(top) for _, _, top in logprobs],
            "text_offset": offsets,
        }


def usage_of(choices: Sequence[AnswerChoice], count: int) -> dict[str, Any]:
    """Return the token counts of all choices; a prompt that `count` choices share counts once."""
    prompt = sum(choice.usage["prompt_tokens"] for choice in choices[::count])
    cached = sum(choice.usage["cached_tokens"] for choice in choices[::count])
    completion = sum(choice.usage["completion_tokens"] for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def error_event(body: dict[str, Any]) -> str:
    """Return an error as an event of a stream."""
    return f"data: {dumps(body)}\n\n"


def _chat_logprobs(logprobs: Logprobs) -> dict[str, Any]:
    def entry(token: str, logprob: float) -> dict[str, Any]:
        # a token that is part of a character has no text
        return {"token": token, "logprob": logprob, "bytes": None if "\ufffd" in token else list(token.encode())}

    content = [
        {**entry(token, logprob), "top_logprobs": [entry(*other) for other in top]} for token, logprob, top in logprobs
    ]
    return {"content": content, "refusal": None}
