"""One object that renders training rows, evaluation prompts and inference prompts, so that what is asked is what was trained.

It is saved as prompt_template.json with the adapter, the merged and the ONNX model; the generated samples read it from there.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "prompt_template.json"


class TemplateFault(ValueError):
    """A text_template that cannot be split into a prompt and a completion."""


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

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.inputs, self.answer)

    def render_prompt(self, values: Mapping[str, Any]) -> str:
        return self.prompt.format(**{c: values[c] for c in self.inputs})

    def render_completion(self, values: Mapping[str, Any]) -> str:
        return self.completion.format(**{self.answer: values[self.answer]})

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(
            json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n"
        )

    @classmethod
    def load(cls, folder: Path) -> PromptTemplate:
        """Raises FileNotFoundError when the model in `folder` was not made by this runtime."""
        raw = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(raw["prompt"], raw["completion"], tuple(raw["inputs"]), raw["answer"], raw["stop"])


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
