"""Chat templates: Jinja over the messages of a conversation, a model's own or one that the config writes.

transformers renders them (`render_jinja_template`), so that a text is exactly what `apply_chat_template` makes of the messages.
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

from phi_runtime.core.errors import DataError
from phi_runtime.data.chat import SYSTEM, TOOLS, ChatFault, Message, messages_of, text_of, tools_of
from phi_runtime.data.template import FILE, Piece, PromptTemplate, Rendered, RowFault, save


@dataclass(frozen=True)
class ChatTemplate:
    """`source` is the Jinja text, `column` the one that holds the messages. `names` are the special tokens that it may name
    (bos_token, eos_token, …), `markers` all tokens of the vocabulary that stand for no text, one of which ends a turn."""

    source: str
    column: str
    names: Mapping[str, str]
    markers: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: Any, written: str | bool, column: str) -> ChatTemplate:
        """The template that is `written` in the config, or with True the tokenizer's own. Raises DataError when it has none."""
        source = tokenizer.chat_template if written is True else written
        if isinstance(source, dict):  # several, by name
            source = source.get("default")
        if not source:
            raise DataError(
                "the model has no chat template of its own",
                fix="write one as Jinja text into chat_template, or train on columns with text_template",
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
    asks: ClassVar[bool] = True
    special: ClassVar[bool] = False  # the template spells them

    def check(self, values: Mapping[str, Any]) -> None:
        """Raises RowFault when the row holds no conversation, or none that the template takes."""
        self._read(values)

    def reference(self, values: Mapping[str, Any]) -> str:
        return text_of(self._read(values)[0][-1]).strip()

    def render_prompt(self, values: Mapping[str, Any]) -> str:
        """What is asked for the last answer of the conversation."""
        messages, tools = self._read(values)
        return self.render(messages[:-1], tools, ask=True)

    def prompt_for(self, text: str) -> str:
        """What is asked where the user begins with `text`."""
        return self.render([{"role": "user", "content": text}], ask=True)

    def render(self, messages: Sequence[Message], tools: list[Any] | None = None, *, ask: bool) -> str:
        """The text of `messages`; with `ask`, up to where the assistant is to speak. Raises RowFault."""
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, _ = render_jinja_template(
                conversations=[list(messages)],
                tools=tools,
                chat_template=self.source,
                add_generation_prompt=ask,
                **self.names,
            )
        except (TemplateError, TypeError, KeyError) as e:
            raise RowFault(f"the chat template refuses this conversation: {e}") from None
        return str(texts[0])

    def row(self, values: Mapping[str, Any], *, completion_only: bool) -> Rendered:
        """A conversation as it is trained; with `completion_only`, what the assistant says and the token that ends its turn are.

        A turn stands where the conversation up to it, asked, ends, if the whole begins so. Some templates write an earlier turn
        otherwise than the last (they leave out its reasoning): such a turn is not trained. Raises RowFault.
        """
        messages, tools = self._read(values)
        question = json.dumps(messages[:-1], ensure_ascii=False)
        return Rendered(self._pieces(messages, tools, completion_only), question, text_of(messages[-1]).strip())

    def _pieces(self, messages: list[Message], tools: list[Any] | None, completion_only: bool) -> list[Piece]:
        whole = self.render(messages, tools, ask=False)
        if not completion_only:
            return [(whole, True)]
        pieces: list[Piece] = []
        done = 0
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or i == 0:
                continue
            start = len(asked) if whole.startswith(asked := self.render(messages[:i], tools, ask=True)) else -1
            if start < done:
                continue
            through = whole if i == len(messages) - 1 else self.render(messages[: i + 1], tools, ask=False)
            end = self._end_of_turn(whole, start, _shared(whole, through))
            if end <= start or _letters(text_of(message)) not in _letters(whole[start:end]):
                continue
            pieces += [(whole[done:start], False), (whole[start:end], True)]
            done = end
        if not pieces:
            raise RowFault(
                "the chat template writes this conversation so that no answer can be told from what is asked"
            )
        return [*pieces, (whole[done:], False)] if done < len(whole) else pieces

    def _end_of_turn(self, whole: str, start: int, shared: int) -> int:
        """The end of the last marker between `start` and `shared`; without one, of the text."""
        ends = [found.end() for found in self._marker.finditer(whole, start, shared)]
        return ends[-1] if ends else start + len(whole[start:shared].rstrip())

    @cached_property
    def _marker(self) -> re.Pattern[str]:
        longest_first = sorted(self.markers, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def _read(self, values: Mapping[str, Any]) -> tuple[list[Message], list[Any] | None]:
        if self.column not in values:
            raise RowFault(f"this row has no column `{self.column}`", f"it has {', '.join(values) or 'none'}")
        try:
            return messages_of(values[self.column], values.get(SYSTEM)), tools_of(values.get(TOOLS))
        except ChatFault as e:
            raise RowFault(f"`{self.column}` {e}") from None

    def save(self, folder: Path) -> None:
        content = {"chat_template": self.source, "column": self.column, "names": dict(self.names)}
        save(folder, {"kind": "chat", **content, "markers": self.markers})


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _letters(text: str) -> str:
    """A text without its white space, which templates change around reasoning and answer."""
    return "".join(text.split())


Template = PromptTemplate | ChatTemplate


def load_template(folder: Path) -> Template:
    """The template that the model in `folder` was trained with. Raises FileNotFoundError when this runtime did not make it."""
    raw = json.loads((folder / FILE).read_text(encoding="utf-8"))
    if raw.get("kind") == "chat":
        return ChatTemplate(raw["chat_template"], raw["column"], raw["names"], tuple(raw["markers"]))
    return PromptTemplate(raw["prompt"], raw["completion"], tuple(raw["inputs"]), raw["answer"], raw["stop"])
