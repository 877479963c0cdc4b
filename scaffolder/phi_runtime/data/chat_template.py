"""Chat templates: Jinja over the messages of a conversation, from the model or from the config.

transformers renders them (`render_jinja_template`), so a text is exactly the output of `apply_chat_template`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from phi_runtime.core.artifacts import read_json, write_json
from phi_runtime.core.errors import DataError
from phi_runtime.data.chat import SYSTEM, TOOLS, ChatError, Message, messages_of, text_of, tools_of
from phi_runtime.data.end_tokens import end_tokens, split_ends
from phi_runtime.data.template import FILE, Piece, PromptTemplate, Rendered, RowError

_NO_QUESTION = ("system", "developer", "assistant")


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template that renders training rows and prompts.

    Attributes:
        source: Jinja source.
        column: Column with the messages.
        names: Special tokens that the source may use as variables (bos_token, eos_token, …).
        markers: All tokens of the vocabulary that are not text; one of them ends a turn.
    """

    source: str
    column: str
    names: Mapping[str, str]
    markers: tuple[str, ...]

    @classmethod
    def from_config(cls, tokenizer: Any, setting: str | bool, column: str) -> ChatTemplate:
        """Return the template of the `chat_template` setting: its own source, or with True the tokenizer's.

        Raises:
            DataError: the tokenizer has no chat template.
        """
        source = tokenizer.chat_template if setting is True else setting
        if isinstance(source, dict):  # several, by name
            source = source.get("default")
        if not source:
            raise DataError(
                "the model has no chat template",
                fix="set chat_template to Jinja source, or train on columns with text_template",
            )
        names = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        markers = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()})
        return cls(str(source), column, names, tuple(markers))

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    answer: ClassVar[str] = "assistant"
    stop: ClassVar[str] = ""
    end_token: ClassVar[bool] = True
    stop_tokens: ClassVar[tuple[str, ...]] = ()
    has_prompt: ClassVar[bool] = True
    special: ClassVar[bool] = False  # the source contains them

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise RowError if the row has no conversation, or one that the template rejects."""
        self._read(values)

    def reference(self, values: Mapping[str, Any]) -> str:
        return text_of(self._read(values)[0][-1]).strip()

    def answer_of(self, generated: str) -> str:
        """Return the answer in a generated text."""
        return generated.strip()

    def render_prompt(self, values: Mapping[str, Any]) -> str:
        """Return the prompt of the last answer of the conversation."""
        messages, tools, _ = self._read(values)
        return self.render(messages[:-1], tools, add_generation_prompt=True)

    def prompt_for(self, text: str) -> str:
        """Return the prompt of a conversation that starts with the user's `text`."""
        return self.render([{"role": "user", "content": text}], add_generation_prompt=True)

    def render(
        self, messages: Sequence[Message], tools: list[Any] | None = None, *, add_generation_prompt: bool
    ) -> str:
        """Return the text of `messages`, with `add_generation_prompt` up to the start of the assistant's turn.

        Raises:
            RowError: the template rejects them.
        """
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, _ = render_jinja_template(
                conversations=[list(messages)],
                tools=tools,
                chat_template=self.source,
                add_generation_prompt=add_generation_prompt,
                **self.names,
            )
        except (TemplateError, TypeError, KeyError) as e:
            raise RowError(f"the chat template rejects this conversation: {e}") from None
        return str(texts[0])

    def row(self, values: Mapping[str, Any], *, completion_only: bool) -> Rendered:
        """Return a conversation for training; with `completion_only`, only the assistant's turns with their end tokens.

        A turn starts where the prompt up to it ends, if the full text starts with that prompt. Some templates render an
        earlier turn differently from the last (without its reasoning); such a turn is not trained.

        Raises:
            RowError: the row has no conversation, or the template hides where answers start.
        """
        messages, tools, ends = self._read(values)
        pieces, texts = self._pieces(messages, tools, completion_only), [text_of(message) for message in messages]
        earlier = _earlier_questions(messages)
        return Rendered(pieces, _question(messages[:-1]), texts[-1].strip(), "\n".join(texts), ends, earlier)

    def _pieces(self, messages: list[Message], tools: list[Any] | None, completion_only: bool) -> list[Piece]:
        whole = self.render(messages, tools, add_generation_prompt=False)
        if not completion_only:
            return [(whole, True)]
        pieces: list[Piece] = []
        done = 0
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or i == 0:
                continue
            prompt = self.render(messages[:i], tools, add_generation_prompt=True)
            start = len(prompt) if whole.startswith(prompt) else -1
            if start < done:
                continue
            last = i == len(messages) - 1
            through = whole if last else self.render(messages[: i + 1], tools, add_generation_prompt=False)
            end = self._end_of_turn(whole, start, _shared(whole, through))
            if end <= start or _letters(text_of(message)) not in _letters(whole[start:end]):
                continue
            pieces += [(whole[done:start], False), (whole[start:end], True)]
            done = end
        if not pieces:
            raise RowError("the chat template does not show where the answers of this conversation start")
        return [*pieces, (whole[done:], False)] if done < len(whole) else pieces

    def _end_of_turn(self, whole: str, start: int, shared: int) -> int:
        """Return the end of the last marker between `start` and `shared`, or of the text if there is none."""
        ends = [match.end() for match in self._marker.finditer(whole, start, shared)]
        return ends[-1] if ends else start + len(whole[start:shared].rstrip())

    @cached_property
    def _marker(self) -> re.Pattern[str]:
        longest_first = sorted(self.markers, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        return end_tokens(self.markers, self.names.get("eos_token"))

    def _read(self, values: Mapping[str, Any]) -> tuple[list[Message], list[Any] | None, list[str]]:
        """Return messages, tools, and the end tokens that came off the answers."""
        if self.column not in values:
            raise RowError(f"this row has no column `{self.column}`", f"it has {', '.join(values) or 'none'}")
        try:
            messages, tools = messages_of(values[self.column], values.get(SYSTEM)), tools_of(values.get(TOOLS))
        except ChatError as e:
            raise RowError(f"`{self.column}` {e}") from None
        removed: list[str] = []
        for message in messages:
            if message["role"] == "assistant":
                message["content"], ends = split_ends(text_of(message), self._ends)
                removed += ends
                if ends and not message["content"] and "tool_calls" not in message:
                    raise RowError(f"`{self.column}` has an answer that is only `{ends[-1]}`")
        return messages, tools, removed

    def save(self, folder: Path) -> None:
        content = {"chat_template": self.source, "column": self.column, "names": dict(self.names)}
        write_json(folder / FILE, {"kind": "chat", **content, "markers": self.markers})


def _question(messages: Sequence[Message]) -> str:
    return json.dumps(messages, ensure_ascii=False)


def _earlier_questions(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return what each answer but the last one follows; a system prompt alone is no question."""
    answers = [i for i, message in enumerate(messages[:-1]) if message["role"] == "assistant"]
    return tuple(_question(messages[:i]) for i in answers if any(m["role"] not in _NO_QUESTION for m in messages[:i]))


def _shared(one: str, other: str) -> int:
    """Return the length of the common prefix of two texts."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _letters(text: str) -> str:
    """Return a text without white space, which templates change around reasoning and answer."""
    return "".join(text.split())


Template = PromptTemplate | ChatTemplate


def default_template(tokenizer: Any) -> Template:
    """Return the template of a model that no data describes: the chat template of its tokenizer, or the text alone."""
    if tokenizer.chat_template:
        return ChatTemplate.from_config(tokenizer, True, "messages")
    return PromptTemplate("{text}", "{answer}", ("text",), "answer", "")


def load_template(folder: Path) -> Template:
    """Return the template that the model in `folder` was trained with.

    Raises:
        FileNotFoundError: the folder is not an output of this runtime.
    """
    raw = read_json(folder / FILE)
    if raw.get("kind") == "chat":
        return ChatTemplate(raw["chat_template"], raw["column"], raw["names"], tuple(raw["markers"]))
    # Models of earlier versions do not say if they end with an end token: that is the default.
    end_token, ends = raw.get("end_token", True), tuple(raw.get("ends", ()))
    names = (raw["prompt"], raw["completion"], tuple(raw["inputs"]), raw["answer"], raw["stop"])
    return PromptTemplate(*names, end_token, ends, tuple(raw.get("optional", ())))
