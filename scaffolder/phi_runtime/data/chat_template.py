"""Chat templates: Jinja over the messages of a conversation, from the model or from the config.

`template_engine` renders them, so that a text is exactly the output of `apply_chat_template`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from phi_runtime.core.artifacts import read_json, write_json
from phi_runtime.core.common_prefix import common_prefix
from phi_runtime.core.errors import ConfigError, DataError, Location
from phi_runtime.data.chat import ChatRow, conversation_of, text_of
from phi_runtime.data.end_tokens import end_tokens, split_ends
from phi_runtime.data.messages import Message
from phi_runtime.data.row import RowError
from phi_runtime.data.template import FILE, Piece, PromptTemplate, Rendered
from phi_runtime.data.template_form import TemplateForm, form_of

_TEMPLATE_FIX = "use a model whose chat template writes them, or set chat_template to Jinja source that does"
_UNSHOWN = "the chat template does not show where the answers of this conversation start"
_SOME_UNSHOWN = "have answers that are not trained: the chat template writes them as context only"

_NO_QUESTION = ("system", "assistant")


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template that renders training rows and prompts.

    Attributes:
        source: Jinja source.
        column: Column with the messages, or several that follow one another; only answers in the last are trained.
        names: Special tokens that the source may use as variables (bos_token, eos_token, …).
        markers: All tokens of the vocabulary that are not text; one of them ends a turn.
        origin: File of the source, for errors; empty: the config.
    """

    source: str
    column: str | tuple[str, ...]
    names: Mapping[str, str]
    markers: tuple[str, ...]
    origin: str = field(default="", compare=False)

    @classmethod
    def from_config(cls, tokenizer: Any, setting: str | bool, column: str | Sequence[str]) -> ChatTemplate:
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
        origin = _origin(Path(tokenizer.name_or_path)) if setting is True else ""
        return cls(str(source), column if isinstance(column, str) else tuple(column), names, tuple(markers), origin)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,) if isinstance(self.column, str) else self.column

    answer: ClassVar[str] = "assistant"
    stop: ClassVar[str] = ""
    closing: ClassVar[str] = ""
    ends_at_closing: ClassVar[bool] = False
    stop_tokens: ClassVar[tuple[str, ...]] = ()
    next_example: ClassVar[str] = ""  # the end of its turn ends an answer
    has_prompt: ClassVar[bool] = True
    special: ClassVar[bool] = False  # the source contains them

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise RowError if the row has no conversation, or one that the template rejects."""
        self._read(values)

    def reference(self, values: Mapping[str, Any]) -> str:
        """Return the expected text of the last answer: a tool call as the template writes it."""
        chat, _ = self._read(values)
        return self._answer(chat)

    def answer_of(self, generated: str) -> str:
        """Return the answer in a generated text."""
        return generated.strip()

    def render_prompt(self, values: Mapping[str, Any]) -> str:
        """Return the prompt of the last answer of the conversation."""
        chat, _ = self._read(values)
        return self.render(chat.messages[:-1], chat.tools, add_generation_prompt=True)

    def completion_of(self, values: Mapping[str, Any], answer: str) -> str:
        """Return the text that `answer` is trained as, after the prompt of a row. Raises RowError."""
        chat, _ = self._read(values)
        messages: list[Message] = [*chat.messages[:-1], {"role": "assistant", "content": answer}]
        whole = self.render(messages, chat.tools, add_generation_prompt=False)
        last = [False] * (len(messages) - 1) + [True]
        spans = self._spans(replace(chat, messages=messages), whole, last)
        if not spans:
            raise RowError(_UNSHOWN)
        return whole[slice(*spans[0])]

    def few_shot_prompt(self, examples: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> str:
        """Return the prompt of a row with `examples` as earlier turns, behind its system message. Raises RowError."""
        chat, _ = self._read(values)
        turns = [message for row in examples for message in self._read(row)[0].messages if message["role"] != "system"]
        start = next((i for i, message in enumerate(chat.messages) if message["role"] != "system"), 0)
        messages = [*chat.messages[:start], *turns, *chat.messages[start:-1]]
        return self.render(messages, chat.tools, add_generation_prompt=True)

    def input_text(self, values: Mapping[str, Any]) -> str:
        """Return the question of a row: the prompt, since only the template separates turns."""
        return self.render_prompt(values)

    def row_of(self, messages: list[Message]) -> dict[str, Any]:
        """Return the row of a data file that holds `messages`."""
        *before, last = self.columns
        if not before:
            return {last: messages}
        return {column: messages[:-1] if column == before[0] else [] for column in before} | {last: messages[-1:]}

    def render(
        self, messages: Sequence[Message], tools: list[Any] | None = None, *, add_generation_prompt: bool
    ) -> str:
        """Return the text of `messages`, with `add_generation_prompt` up to the start of the assistant's turn.

        Raises:
            RowError: the template rejects them.
        """
        if tools or any(message.get("tool_calls") for message in messages):
            messages, tools = self.form.apply(messages, tools)
        return self._render(messages, tools, add_generation_prompt=add_generation_prompt)

    @cached_property
    def form(self) -> TemplateForm:
        """The parts of messages that the template writes."""
        return form_of(lambda messages, tools: self._render(messages, tools, add_generation_prompt=False), self.markers)

    def _render(self, messages: Sequence[Message], tools: list[Any] | None, *, add_generation_prompt: bool) -> str:
        from phi_runtime.data.template_engine import TemplateFault, compiled

        try:
            return compiled(self.source).render(
                messages, tools, add_generation_prompt=add_generation_prompt, names=self.names
            )
        except TemplateFault as e:
            raise self._fault(e.what, e.line) from None
        except MemoryError:
            raise
        except Exception as e:  # whatever a program from elsewhere raises
            raise RowError(f"the chat template rejects this conversation: {e}") from None

    def _fault(self, what: str, line: int) -> ConfigError:
        """Return the error of a template that no conversation can use."""
        fix = "set chat_template to shorter Jinja source, or use another model"
        if self.origin.endswith(".jinja"):
            return ConfigError(f"the chat template {what}", where=Location(self.origin, line), fix=fix)
        place = f" (line {line})" if line else ""
        return ConfigError(f"the chat template {what}{place}", where=Location(self.origin or "chat_template"), fix=fix)

    def row(self, values: Mapping[str, Any], *, completion_only: bool) -> Rendered:
        """Return a conversation for training; with `completion_only`, only the assistant's turns with their end tokens.

        A turn starts where the prompt up to it ends, if the full text starts with that prompt. Some templates render an
        earlier turn differently from the last (without its reasoning); such a turn is not trained.

        Raises:
            RowError: the row has no conversation, or the template hides where answers start.
        """
        chat, ends = self._read(values)
        messages = chat.messages
        whole = self.render(messages, chat.tools, add_generation_prompt=False)
        remarks = {*chat.remarks, *self._unwritten(chat, whole)}
        if completion_only:
            spans = self._spans(chat, whole, chat.trained)
            if not spans:
                raise RowError(_UNSHOWN)
            if len(spans) < sum(chat.trained):
                remarks.add(_SOME_UNSHOWN)
            pieces = _pieces(whole, spans, inside=True)
        else:
            spans = self._spans(chat, whole, chat.masked) if any(chat.masked) else []
            if len(spans) < sum(chat.masked):
                raise RowError(_UNSHOWN)
            pieces = _pieces(whole, spans, inside=False)
        text = "\n".join(map(text_of, messages))
        question, earlier = _question(messages[:-1]), _earlier_questions(messages)
        return Rendered(pieces, question, self._answer(chat, whole), text, ends, earlier, sorted(remarks))

    def _answer(self, chat: ChatRow, whole: str | None = None) -> str:
        """Return the text of the last answer, with its tool calls as the template writes them."""
        last = chat.messages[-1]
        if not last.get("tool_calls"):
            return text_of(last).strip()
        if whole is None:
            whole = self.render(chat.messages, chat.tools, add_generation_prompt=False)
        spans = self._spans(chat, whole, [message is last for message in chat.messages])
        return split_ends(whole[slice(*spans[0])], self._ends)[0].strip() if spans else ""

    def _spans(self, chat: ChatRow, whole: str, chosen: Sequence[bool]) -> list[tuple[int, int]]:
        """Return start and end in `whole` of the `chosen` messages, all of the assistant, as far as the template shows them."""
        messages, tools = chat.messages, chat.tools
        spans: list[tuple[int, int]] = []
        for i, message in enumerate(messages):
            if not chosen[i] or i == 0:
                continue
            prompt = self.render(messages[:i], tools, add_generation_prompt=True)
            start = len(prompt) if whole.startswith(prompt) else -1
            if start < (spans[-1][1] if spans else 0):
                continue
            last = i == len(messages) - 1
            through = whole if last else self.render(messages[: i + 1], tools, add_generation_prompt=False)
            end = self._end_of_turn(whole, start, common_prefix(whole, through))
            if end > start and _is_written(message, whole[start:end]):
                spans.append((start, end))
        return spans

    def _unwritten(self, chat: ChatRow, whole: str) -> Iterator[str]:
        """Yield the parts of a conversation that the template does not write."""
        messages, letters = chat.messages, _letters(whole)
        for role in ("system", "user"):
            if any(m["role"] == role and _letters(text_of(m)) not in letters for m in messages):
                yield f"have a message of the {role} that the chat template does not write"
        if chat.tools and not self.form.tools:
            yield "have `tools` that the chat template does not write"
        if any(m["role"] == "tool" for m in messages) and not self.form.results:
            yield "have results of tools that the chat template does not write"
        if any("reasoning_content" in m for m in messages) and not self.form.reasoning:
            yield "have reasoning that the chat template does not write"
        if any("name" in m and m["role"] != "tool" for m in messages) and not self.form.names:
            yield "have names of speakers that the chat template does not write"

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

    def _read(self, values: Mapping[str, Any]) -> tuple[ChatRow, list[str]]:
        """Return the conversation, and the end tokens that came off its answers."""
        chat = conversation_of(values, self.columns)
        if any("tool_calls" in message for message in chat.messages) and not self.form.calls:
            raise RowError("this row has tool calls, which the chat template does not write", _TEMPLATE_FIX)
        removed: list[str] = []
        for message in chat.messages:
            if message["role"] == "assistant":
                message["content"], ends = split_ends(text_of(message), self._ends)
                removed += ends
                if ends and not message["content"] and "tool_calls" not in message:
                    raise RowError(f"`{self.columns[-1]}` has an answer that is only `{ends[-1]}`")
        return chat, removed

    def save(self, folder: Path) -> None:
        content = {"chat_template": self.source, "column": self.column, "names": dict(self.names)}
        write_json(folder / FILE, {"kind": "chat", **content, "markers": self.markers})


def _question(messages: Sequence[Message]) -> str:
    return json.dumps(messages, ensure_ascii=False)


def _earlier_questions(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return what each answer but the last one follows; a system prompt alone is no question."""
    answers = [i for i, message in enumerate(messages[:-1]) if message["role"] == "assistant"]
    return tuple(_question(messages[:i]) for i in answers if any(m["role"] not in _NO_QUESTION for m in messages[:i]))


def _pieces(whole: str, spans: Sequence[tuple[int, int]], *, inside: bool) -> list[Piece]:
    """Split a text into the `spans`, trained if `inside`, and the text between them, trained if not."""
    pieces: list[Piece] = []
    done = 0
    for start, end in spans:
        pieces += [(whole[done:start], not inside), (whole[start:end], inside)]
        done = end
    return [*pieces, (whole[done:], not inside)] if done < len(whole) else pieces


def _is_written(message: Message, turn: str) -> bool:
    """Return True if the text of a turn has all of a message: its text and its calls."""
    names = (call["function"]["name"] for call in message.get("tool_calls", ()))
    return _letters(text_of(message)) in _letters(turn) and all(name in turn for name in names)


def _letters(text: str) -> str:
    """Return a text without white space, which templates change around reasoning and answer."""
    return "".join(text.split())


Template = PromptTemplate | ChatTemplate


def _origin(folder: Path) -> str:
    """Return the file in the folder of a model that holds its chat template."""
    names = ("chat_template.jinja", FILE, "tokenizer_config.json")
    return next((str(folder / name) for name in names if (folder / name).is_file()), "")


def default_template(tokenizer: Any) -> Template:
    """Return the template of a model that no data describes: the chat template of its tokenizer, or the text alone."""
    with suppress(DataError):  # none, or several by name without a default
        return ChatTemplate.from_config(tokenizer, True, "messages")
    return PromptTemplate("{text}", "{answer}", ("text",), "answer", "")


def load_template(folder: Path) -> Template:
    """Return the template that the model in `folder` was trained with.

    Raises:
        FileNotFoundError: the folder is not an output of this runtime.
    """
    raw = read_json(folder / FILE)
    if raw.get("kind") == "chat":
        column = raw["column"] if isinstance(raw["column"], str) else tuple(raw["column"])
        return ChatTemplate(raw["chat_template"], column, raw["names"], tuple(raw["markers"]), _origin(folder))
    # Models of earlier versions do not say if they end with an end token: that is the default.
    end_token, ends = raw.get("end_token", True), tuple(raw.get("ends", ()))
    names = (raw["prompt"], raw["completion"], tuple(raw["inputs"]), raw["answer"], raw["stop"])
    return PromptTemplate(*names, end_token, ends, tuple(raw.get("optional", ())))
