"""Response bodies, as JSON and as SSE events of a stream, whose constant part is encoded once per response."""

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


class BodyWriter(ABC):
    """Writes the response of one of the two routes: `body` as JSON, the other methods as SSE events of a stream.

    Args:
        model, fingerprint: Fields of all bodies.
        count: Number of choices per prompt.
        with_usage: Add `usage: null` to each event, as OpenAI does.
    """

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, model: str, fingerprint: str, *, count: int = 1, with_usage: bool = False) -> None:
        self.count, self.model = count, model
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.fields = {"created": int(time.time()), "model": model, "system_fingerprint": fingerprint}
        opening = dumps({"id": self.id, "object": self.chunk_kind, **self.fields})
        self._open = f'data: {opening[:-1]},"choices":['
        self._close = '],"usage":null}\n\n' if with_usage else "]}\n\n"

    def body(self, choices: Sequence[AnswerChoice]) -> dict[str, Any]:
        entries = [
            self._entry(index, self.message(choice), choice.logprobs, choice.finish)
            for index, choice in enumerate(choices)
        ]
        usage = usage_of(choices, self.count)
        return {"id": self.id, "object": self.kind, **self.fields, "choices": entries, "usage": usage}

    def usage(self, choices: Sequence[AnswerChoice]) -> str:
        return f'{self._open}],"usage":{dumps(usage_of(choices, self.count))}}}\n\n'

    def first(self, index: int) -> str:
        """Return what comes before the first part of a choice."""
        return ""

    def part(self, index: int, text: str, logprobs: Logprobs | None) -> str:
        return self.event(index, self.delta(text), logprobs)

    def call(self, index: int, delta: CallDelta) -> str:
        """Return a part of a tool call, which only chat completions have."""
        raise NotImplementedError

    def end(self, index: int, finish: str) -> str:
        return self.event(index, self.delta(None), finish=finish)

    def event(
        self, index: int, content: dict[str, Any], logprobs: Logprobs | None = None, finish: str | None = None
    ) -> str:
        return f"{self._open}{dumps(self._entry(index, content, logprobs, finish))}{self._close}"

    def _entry(
        self, index: int, content: dict[str, Any], logprobs: Logprobs | None, finish: str | None
    ) -> dict[str, Any]:
        encoded = None if logprobs is None else self.logprobs(index, logprobs)
        return {"index": index, **content, "logprobs": encoded, "finish_reason": finish}

    @abstractmethod
    def message(self, choice: AnswerChoice) -> dict[str, Any]:
        """Return the content of a choice in `body`."""

    @abstractmethod
    def delta(self, text: str | None) -> dict[str, Any]:
        """Return the content of a choice in an event: the next part of its text, or None after it."""

    @abstractmethod
    def logprobs(self, index: int, logprobs: Logprobs) -> dict[str, Any]: ...


class ChatWriter(BodyWriter):
    """Bodies of chat completions."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl"

    def message(self, choice: AnswerChoice) -> dict[str, Any]:
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
        return {"message": message}

    def first(self, index: int) -> str:
        return self.event(index, {"delta": {"role": "assistant", "content": ""}})

    def delta(self, text: str | None) -> dict[str, Any]:
        return {"delta": {} if text is None else {"content": text}}

    def call(self, index: int, delta: CallDelta) -> str:
        """Return a part of a tool call."""
        function = {"arguments": delta.arguments}
        call: dict[str, Any] = {"index": delta.index, "function": function}
        if delta.id is not None:
            function = {"name": delta.name or "", **function}
            call = {"index": delta.index, "id": delta.id, "type": "function", "function": function}
        return self.event(index, {"delta": {"tool_calls": [call]}})

    def logprobs(self, index: int, logprobs: Logprobs) -> dict[str, Any]:
        def entry(token: str, logprob: float) -> dict[str, Any]:
            # a token that is part of a character has no text
            return {"token": token, "logprob": logprob, "bytes": None if "\ufffd" in token else list(token.encode())}

        content = [
            {**entry(token, logprob), "top_logprobs": [entry(*other) for other in top]}
            for token, logprob, top in logprobs
        ]
        return {"content": content, "refusal": None}


class TextWriter(BodyWriter):
    """Bodies of text completions."""

    kind = "text_completion"
    chunk_kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, model: str, fingerprint: str, *, count: int = 1, with_usage: bool = False) -> None:
        super().__init__(model, fingerprint, count=count, with_usage=with_usage)
        self._offsets: dict[int, int] = {}

    def message(self, choice: AnswerChoice) -> dict[str, Any]:
        return {"text": choice.text}

    def delta(self, text: str | None) -> dict[str, Any]:
        return {"text": text or ""}

    def logprobs(self, index: int, logprobs: Logprobs) -> dict[str, Any]:
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
