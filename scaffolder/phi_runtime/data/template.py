"""Text templates over columns (Olive's `text_template`): one object renders training rows and prompts, so that they agree.

It is saved as prompt_template.json with the adapter, the merged and the ONNX model; the generated samples read it from
there. Templates over conversations are in chat_template.py.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from phi_runtime.core.artifacts import write_json
from phi_runtime.data.end_tokens import split_ends
from phi_runtime.data.row import RowError

FILE = "prompt_template.json"

_BETWEEN_EXAMPLES = "\n\n"

Piece = tuple[str, bool]
"""A segment of a row's text, and True if it is trained."""


class Rendered(NamedTuple):
    """The text of a row in pieces, with its question and the expected answer.

    Rows with a question in common, also an earlier one, stay on one side of a split.
    """

    pieces: list[Piece]
    question: str
    answer: str
    text: str = ""
    """The row's own text, without that of the template."""
    ends: Sequence[str] = ()
    """End tokens that the row writes at the end of its answers."""
    earlier: tuple[str, ...] = ()
    """Questions of a conversation before the last one."""
    remarks: Sequence[str] = ()
    """What the row has and is not trained, as predicates of "rows"."""


class TemplateError(ValueError):
    """A text_template that cannot be split into a prompt and a completion."""


@dataclass(frozen=True)
class PromptTemplate:
    """A text template.

    Attributes:
        prompt, completion: str.format patterns over column names.
        inputs: Columns of the prompt; empty for free text.
        answer: Column of the completion.
        stop: Text after the answer in training.
        end_token: Training ends each row with an end token, which ends an answer.
        ends: Special tokens that end an answer where the data or the template writes them.
        optional: Columns of the prompt that may be empty; then the text before them, back to the previous column, is omitted,
            and a prompt with such columns has no line breaks at its start.
    """

    prompt: str
    completion: str
    inputs: tuple[str, ...]
    answer: str
    stop: str
    end_token: bool = True
    ends: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @classmethod
    def from_text(
        cls, text_template: str, *, optional: Iterable[str] = (), end_token: bool = True, ends: Iterable[str] = ()
    ) -> PromptTemplate:
        r"""Split Olive's `text_template` before its last column.

        "### Text: {phrase}\n### The tone is:\n{tone}" → prompt "### Text: {phrase}\n### The tone is:\n", completion "{tone}".
        A single column is free text: "{text}" → prompt "", completion "{text}". `{{` and `}}` are literal braces.

        Args:
            text_template: The template.
            optional: Columns of the prompt that may be empty.

        Raises:
            TemplateError: there is no column, a brace is unbalanced, or an optional column is not in the prompt.
        """
        try:
            parts = list(string.Formatter().parse(text_template))
        except ValueError as e:
            raise TemplateError(f"{e} (write a literal brace as {{{{ or }}}})") from None
        columns = [name for _, name, _, _ in parts if name is not None]
        for name in columns:
            if not is_placeholder(name):
                raise TemplateError(f"`{{{name}}}` is not a column name (write a literal brace as {{{{ or }}}})")
        if any(spec or conversion for _, _, spec, conversion in parts):
            raise TemplateError("has a format after `:` or `!`, which is not supported")
        if not columns:
            raise TemplateError("has no column: write {column} in place of its value")
        last = max(i for i, part in enumerate(parts) if part[1] is not None)
        if columns[-1] in columns[:-1]:
            raise TemplateError(f"has the answer `{{{columns[-1]}}}` in the prompt, too")
        pieces = (_literal(text) + (f"{{{name}}}" if name is not None else "") for text, name, _, _ in parts[:last])
        prompt = "".join(pieces) + _literal(parts[last][0])
        stop = "".join(text for text, _, _, _ in parts[last + 1 :])
        if unknown := [name for name in optional if name not in columns[:-1]]:
            raise TemplateError(f"has no column `{unknown[0]}` before the answer, which is optional")
        return cls(
            prompt=prompt,
            completion=f"{{{columns[-1]}}}{_literal(stop)}",
            inputs=tuple(dict.fromkeys(columns[:-1])),
            answer=columns[-1],
            stop=stop,
            end_token=end_token,
            ends=tuple(ends),
            optional=tuple(optional),
        )

    special: ClassVar[bool] = True
    """True if the tokenizer's special tokens (BOS, end of text) are added around the text."""

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return (*self.inputs, self.answer)

    @property
    def has_prompt(self) -> bool:
        """True if a row has a question; false for free text."""
        return bool(self.inputs)

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise RowError if a column is missing, is no text, number or Boolean, or the question or answer is empty."""
        self._checked(values)

    def _checked(self, values: Mapping[str, Any]) -> tuple[str, list[str]]:
        """Return the answer of a row and the end tokens that it writes. Raises RowError as `check` does."""
        for name in self.columns:
            value = values.get(name)
            if type(value) is str or (value is None and name in self.optional):
                continue
            if name not in values:
                raise RowError(f"this row has no column `{name}`", f"it has {', '.join(values) or 'none'}")
            if not isinstance(value, str | int | float) or (isinstance(value, float) and not isfinite(value)):
                raise RowError(f"`{name}` is {value!r:.40}; expected text")
        answer, ends = split_ends(text_of(values[self.answer]), self._ends)
        if not answer.strip():
            raise RowError(f"`{self.answer}` is empty in this row", "fill or remove that row", empty=True)
        if self.inputs and all(map(is_empty, map(values.get, self.inputs))):
            raise RowError(f"`{'`, `'.join(self.inputs)}` is empty in this row", "fill or remove that row", empty=True)
        return answer, ends

    def reference(self, values: Mapping[str, Any]) -> str:
        """Return the expected answer, without the end tokens that the row writes."""
        return split_ends(text_of(values[self.answer]), self._ends)[0].strip()

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        """End tokens that come off an answer; free text is trained as it is."""
        return self.ends if self.has_prompt else ()

    def row(self, values: Mapping[str, Any], *, completion_only: bool) -> Rendered:
        """Return a row for training; with `completion_only` the prompt is not trained. Raises RowError as `check` does."""
        answer, ends = self._checked(values)
        prompt, completion = self.render_prompt(values), self.render_completion(values)
        masked = completion_only and prompt
        pieces = [(prompt, False), (completion, True)] if masked else [(prompt + completion, True)]
        text = "\n".join([self.input_text(values), answer]) if self.inputs else answer
        return Rendered(pieces, prompt if self.inputs else completion, answer.strip(), text, ends)

    def input_text(self, values: Mapping[str, Any]) -> str:
        """Return the question of a row without the text of the template."""
        return "\n".join([text_of(values[column]) for column in self.inputs if not is_empty(values.get(column))])

    @cached_property
    def _prompt_parts(self) -> list[tuple[str, str | None]]:
        """Text of the prompt before each column, and the column; None after the last one."""
        return [(before, column) for before, column, _, _ in string.Formatter().parse(self.prompt)]

    def render_prompt(self, values: Mapping[str, Any]) -> str:
        prompt = ""
        for before, column in self._prompt_parts:
            if column is None:
                prompt += before
            elif column not in self.optional or not is_empty(values.get(column)):
                prompt += before + text_of(values[column])
        return prompt.lstrip("\n") if self.optional else prompt

    def render_completion(self, values: Mapping[str, Any]) -> str:
        answer = text_of(values[self.answer])
        if self.end_token:  # training adds the end; without it, the row's own end is the only one
            answer = split_ends(answer, self._ends)[0]
        return self.completion.format(**{self.answer: answer})

    def completion_of(self, values: Mapping[str, Any], answer: str) -> str:
        """Return the text that `answer` to the question of a row is trained as."""
        return self.render_completion({**values, self.answer: answer})

    def few_shot_prompt(self, examples: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> str:
        """Return the prompt of a row after answered `examples`."""
        answered = [self.render_prompt(row) + self.render_completion(row) for row in examples]
        return _BETWEEN_EXAMPLES.join([*answered, self.render_prompt(values)])

    @property
    def next_example(self) -> str:
        """Text with which a model that continues a few-shot prompt begins another example."""
        return (_BETWEEN_EXAMPLES + self._prompt_parts[0][0]).rstrip(" ")

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        """End tokens in `stop`: they end an answer, as the added one does."""
        return tuple(end for end in self.ends if end in self.stop)

    @property
    def closing(self) -> str:
        """Text of `stop` that a generated answer shows at its end: what is before an end token."""
        return min((self.stop.partition(end)[0] for end in self.stop_tokens), key=len, default=self.stop).strip()

    @property
    def ends_at_closing(self) -> bool:
        """True if no end token ends an answer, so that the first `closing` does."""
        return bool(self.closing) and not (self.end_token or self.stop_tokens)

    def answer_of(self, generated: str) -> str:
        """Return the answer in a generated text: without `closing` at its end, or up to the first one if that ends it."""
        text = generated.strip()
        return (text.split(self.closing)[0] if self.ends_at_closing else text.removesuffix(self.closing)).rstrip()

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, {"kind": "text", **asdict(self)})


def text_of(value: Any) -> str:
    """Return the text of a cell: a number as Python writes it, a Boolean as JSON does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def is_placeholder(name: str) -> bool:
    """Return True if `{name}` in a template is the column `name`, for `str.format` and for Olive."""
    return bool(name) and not name.isdecimal() and all(c.isalnum() or c in "_- " for c in name)


def is_empty(value: Any) -> bool:
    """Return True for a cell without a value, or with white space only."""
    return value is None or (isinstance(value, str) and not value.strip())


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
