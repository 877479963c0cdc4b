"""A model without weights for tests of the chat: its tokens are words, and it answers with what it reads.

`python -m tests.phi_scaffold.echo_model FLAGS` chats with it, as the command does; ECHO_TEMPLATE is a text template for it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi_runtime.data.chat_template import ChatTemplate, Template
from phi_runtime.data.template import PromptTemplate
from phi_runtime.inference.generator import Piece, SamplingParams, Usage
from phi_runtime.inference.streaming import check_context_length
from phi_runtime.pipeline.session import Session

SOURCE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
CHAT = ChatTemplate(SOURCE, "messages", {}, ())
WITHOUT_SYSTEM = ChatTemplate(
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}> {{ m.content }} {% endfor %}<assistant>",
    "messages",
    {},
    (),
)


@dataclass
class EchoAnswer:
    """The words of an answer, one a step: many of them for `long` and, with a pause before each, for `slow`; none for `empty`."""

    words: list[str]
    limit: int
    usage: Usage
    slow: bool = False
    finish: Any = None
    closed: bool = False

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        if self.closed or self.finish:
            raise StopIteration
        if not self.words or self.usage.completion_tokens == self.limit:
            self.finish = "length" if self.words else "stop"
            raise StopIteration
        if self.slow:
            time.sleep(0.05)
        self.usage.completion_tokens += 1
        return Piece(self.words.pop(0))

    def close(self) -> None:
        self.closed = True


@dataclass
class EchoGenerator:
    """Answers with the number of words that it read and the last message; keeps the prompts."""

    context_length: int = 40
    adapters: tuple[str, ...] = ()
    adapter: str | None = None
    guides: bool = False
    prompts: list[str] = field(default_factory=list)

    def count(self, text: str, adapter: str | None = None) -> int:
        return len(text.split())

    def answer(self, prompt: str, sampling: SamplingParams, adapter: str | None = None) -> EchoAnswer:
        check_context_length(self.count(prompt), sampling, self.context_length)
        self.prompts.append(prompt)
        last = prompt.rpartition("<user>")[2].removesuffix("<assistant>").strip()
        words = (
            [] if last == "empty" else ["read", f" {self.count(prompt)}:", *(f" {word}" for word in last.split(" "))]
        )
        limit, usage = sampling.max_new_tokens, Usage(self.count(prompt))
        return EchoAnswer(words * (100 if last in ("long", "slow") else 1), limit, usage, last == "slow")


def session(template: Template = CHAT, name: str = "echo", **generator: Any) -> Session:
    return Session(name, Path("gen-model") / name, EchoGenerator(**generator), template)  # type: ignore[arg-type]


if __name__ == "__main__":
    from phi_scaffold.cli import main
    from phi_scaffold.cli.options import Flags

    text = os.environ.get("ECHO_TEMPLATE")
    template = PromptTemplate.from_text(text) if text else CHAT
    Flags.open_session = lambda *_: session(template)  # type: ignore[method-assign,assignment,return-value]
    sys.argv = ["phi-scaffold", "chat", *sys.argv[1:]]
    main()
