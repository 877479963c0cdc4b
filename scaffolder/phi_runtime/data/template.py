"""One object that renders training rows, evaluation prompts and inference prompts, so that what is asked is what was trained.

It is saved as prompt_template.json with the adapter, the merged and the ONNX model; the generated samples read it from there.
Here are the templates over columns, Olive's `text_template`; those over conversations are in chat_template.py.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

FILE = "prompt_template.json"

Piece = tuple[str, bool]
"""A stretch of a row's text, and whether it is trained."""


class Rendered(NamedTuple):
    """The text of a row in pieces; its `question`, which tells it from others: two rows of one question never stand on both
    sides of a split; and the `answer` that is wanted."""

    pieces: list[Piece]
    question: str
    answer: str


class TemplateFault(ValueError):
    """A text_template that cannot be split into a prompt and a completion."""


class RowFault(ValueError):
    """A row that a template cannot render. `empty`: it says nothing, which is no fault but leaves nothing to train on."""

    def __init__(self, what: str, fix: str = "mend or remove that row", *, empty: bool = False) -> None:
        super().__init__(what)
        self.fix, self.empty = fix, empty


@dataclass(frozen=True)
class PromptTemplate:
    """`prompt` and `completion` are str.format patterns over column names; `inputs` are the prompt's columns, `answer` the
    completion's. `stop` is the text that follows the answer in training, up to which an answer is read. Free text, which asks
    nothing, has no `inputs`."""

    prompt: str
    completion: str
    inputs: tuple[str, ...]
    answer: str
    stop: str

    @classmethod
    def from_text(cls, text_template: str) -> PromptTemplate:
        """Splits Olive's `text_template` before its last column.

        "### Text: {phrase}\\n### The tone is:\\n{tone}" → prompt "### Text: {phrase}\\n### The tone is:\\n", completion "{tone}".
        One column alone is free text: "{text}" → prompt "", completion "{text}". `{{` and `}}` are literal braces. Raises
        TemplateFault when there is no column or a brace has no partner.
        """
        try:
            parts = list(string.Formatter().parse(text_template))
        except ValueError as e:
            raise TemplateFault(f"{e} (write a literal brace as {{{{ or }}}})") from None
        columns = [name for _, name, _, _ in parts if name is not None]
        for name in columns:
            if not name or not all(c.isalnum() or c in "_- " for c in name):
                raise TemplateFault(f"`{{{name}}}` is not a column name (write a literal brace as {{{{ or }}}})")
        if any(spec or conversion for _, _, spec, conversion in parts):
            raise TemplateFault("a column takes no format after `:` or `!`")
        if not columns:
            raise TemplateFault("names no column: write {column} where its value stands")
        last = max(i for i, part in enumerate(parts) if part[1] is not None)
        if columns[-1] in columns[:-1]:
            raise TemplateFault(f"the answer `{{{columns[-1]}}}` also stands in the prompt")
        pieces = (_literal(text) + (f"{{{name}}}" if name is not None else "") for text, name, _, _ in parts[:last])
        prompt = "".join(pieces) + _literal(parts[last][0])
        stop = "".join(text for text, _, _, _ in parts[last + 1 :])
        return cls(
            prompt=prompt,
            completion=f"{{{columns[-1]}}}{_literal(stop)}",
            inputs=tuple(dict.fromkeys(columns[:-1])),
            answer=columns[-1],
            stop=stop,
        )

    special: ClassVar[bool] = True
    """Whether the tokenizer's own special tokens (BOS, end of text) are put around the text."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.inputs, self.answer)

    @property
    def asks(self) -> bool:
        """Whether a row has a question, which free text has not."""
        return bool(self.inputs)

    def check(self, values: Mapping[str, Any]) -> None:
        """Raises RowFault when a column is absent, or holds no text or number, or there is no answer."""
        for name in self.columns:
            if name not in values:
                raise RowFault(f"this row has no column `{name}`", f"it has {', '.join(values) or 'none'}")
            value = values[name]
            if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
                raise RowFault(f"`{name}` holds {value!r:.40} where text is expected")
        if not str(values[self.answer]).strip():
            raise RowFault(f"`{self.answer}` is empty in this row", "fill or remove that row", empty=True)
        if self.inputs and not any(str(values[name]).strip() for name in self.inputs):
            raise RowFault(f"`{'`, `'.join(self.inputs)}` is empty in this row", "fill or remove that row", empty=True)

    def reference(self, values: Mapping[str, Any]) -> str:
        """The answer that is wanted."""
        return str(values[self.answer]).strip()

    def row(self, values: Mapping[str, Any], *, completion_only: bool) -> Rendered:
        """A row as it is trained. With `completion_only` what the prompt says is not. Raises RowFault as `check` does."""
        self.check(values)
        prompt, completion = self.render_prompt(values), self.render_completion(values)
        apart = completion_only and prompt
        pieces = [(prompt, False), (completion, True)] if apart else [(prompt + completion, True)]
        return Rendered(pieces, prompt if self.inputs else completion, self.reference(values))

    def prompt_for(self, text: str) -> str:
        """The prompt with `text` in each of its columns."""
        return self.render_prompt(dict.fromkeys(self.inputs, text))

    def render_prompt(self, values: Mapping[str, Any]) -> str:
        return self.prompt.format(**{c: values[c] for c in self.inputs})

    def render_completion(self, values: Mapping[str, Any]) -> str:
        return self.completion.format(**{self.answer: values[self.answer]})

    def save(self, folder: Path) -> None:
        save(folder, {"kind": "text", **asdict(self)})


def save(folder: Path, content: dict[str, Any]) -> None:
    """Writes `content` as the template of the model in `folder`."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8", newline="\n")


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
