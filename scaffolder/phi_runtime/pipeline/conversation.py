"""A conversation with a model of a project, kept within the context of the model."""

from __future__ import annotations

import gc
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from phi_runtime.core.errors import UsageError
from phi_runtime.data.chat import Message
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.inference.generator import Answer, PromptTooLong, SamplingParams
from phi_runtime.pipeline.session import Session


@dataclass(frozen=True)
class Turn:
    """A message of the user and the answer to it, as generated; `complete` is False if the answer was cut."""

    question: str
    answer: str
    complete: bool = True


class Conversation:
    """Turns with a model, of which it reads the newest that fit into its context, after the system message.

    A model that was not trained on conversations reads the last message alone.

    Attributes:
        session: The model that answers; `use` and `switch` change it.
        sampling: Parameters of the next answer. At most half of the context is reserved for it.
        system: System message; "" for none. `instruct` changes it.
        turns: All turns, oldest first.
        dropped: Number of the oldest turns that the model does not read any more.
    """

    def __init__(self, session: Session, sampling: SamplingParams) -> None:
        self.session, self.sampling = session, sampling
        self.system = ""
        self.turns: list[Turn] = []
        self.dropped = 0

    def ask(self, text: str) -> Answer:
        """Start the answer to `text`, after dropping the oldest turns if they do not fit. Does not add a turn.

        Raises:
            PromptTooLong: `text` does not fit, even by itself. No turn is dropped.
            UsageError: The template of the model rejects `text` or the conversation.
        """
        context = self.session.generator.context_length
        first = self._first_that_fits(text, context - min(self.sampling.max_new_tokens, context // 2))
        sampling = replace(
            self.sampling, max_new_tokens=min(self.sampling.max_new_tokens, context - self._size(text, first))
        )
        answer = self.session.answer(text, sampling, self._messages(first))
        self.dropped = first
        return answer

    def clear(self) -> None:
        """Forget all turns, but not the system message."""
        self.turns, self.dropped = [], 0

    def instruct(self, system: str) -> None:
        """Set the system message.

        Raises:
            UsageError: The template of the model ignores or rejects system messages.
        """
        if system and not _accepts(self.session, system):
            raise UsageError("the prompt format of this model has no system message", fix="write it in your message")
        self.system = system

    def use(self, session: Session) -> bool:
        """Continue with `session`; start again, and return False, if its prompts have another format."""
        previous, self.session = self.session, session
        return self._continue_from(_format(previous))

    def switch(self, load: Callable[[], Session], restore: Callable[[], Session]) -> bool:
        """Continue with the session that `load` opens, as in `use`; the memory of the current one is freed before.

        If `load` fails, `restore` opens the current session again.
        """
        previous = _format(self.session)
        del self.session
        gc.collect()  # a generator is in reference cycles
        try:
            self.session = load()
        except BaseException:
            self.session = restore()
            raise
        return self._continue_from(previous)

    def _continue_from(self, previous: tuple[bool, tuple[str, ...]]) -> bool:
        self.dropped = 0
        same = previous == _format(self.session) and (not self.system or _accepts(self.session, self.system))
        if not same:
            self.turns, self.system = [], ""
        return same

    def rows(self) -> list[dict[str, Any]]:
        """Return the conversation as data rows of the model's training format.

        A conversation is one row, in which a cut answer has the weight 0: it is not trained on. Otherwise, each turn with a
        complete answer is a row. Without a complete answer there is no row.
        """
        template = self.session.template
        if not any(turn.complete for turn in self.turns):
            return []
        if isinstance(template, ChatTemplate):
            messages = self._messages(0)
            answers = (message for message in messages if message["role"] == "assistant")
            for turn, message in zip(self.turns, answers, strict=True):
                message |= {} if turn.complete else {"weight": 0}
            return [template.row_of(messages)]
        rows: list[dict[str, Any]] = []
        for turn in self.turns:
            if not turn.complete:
                continue
            if template.inputs:
                rows.append(self.session.columns_of(turn.question) | {template.answer: turn.answer.strip()})
            else:
                rows.append({template.answer: turn.question + turn.answer})
        return rows

    def _first_that_fits(self, text: str, room: int) -> int:
        """Return the number of the turn from which the prompt takes at most `room` tokens.

        If turns must be dropped, a quarter of the room is freed: the KV cache begins at the first turn, so that each drop
        reads the whole prompt again.
        """
        if self._size(text, self.dropped) <= room:
            return self.dropped
        last = len(self.turns)
        if (size := self._size(text, last)) > room:
            raise PromptTooLong(
                f"the message is too long: {size:,} tokens, of {room:,} that leave room for an answer",
                fix="shorten it, or lower --max-new-tokens",
            )

        def first_below(limit: int) -> int:
            return bisect_left(range(last + 1), -limit, lo=self.dropped, key=lambda first: -self._size(text, first))

        spacious = first_below(room * 3 // 4)
        return spacious if spacious < last else first_below(room)

    def _size(self, text: str, first: int) -> int:
        """Return the tokens of the prompt for `text` after the turns from `first`."""
        session = self.session
        return session.generator.count(session.render(text, self._messages(first)), session.adapter)

    def _messages(self, first: int) -> list[Message]:
        turns = [
            {"role": role, "content": content}
            for turn in self.turns[first:]
            for role, content in (("user", turn.question), ("assistant", turn.answer.strip()))
        ]
        return [*_system_message(self.system), *turns]


def _system_message(system: str) -> list[Message]:
    return [{"role": "system", "content": system}] if system else []


def _accepts(session: Session, system: str) -> bool:
    """Return True if the prompt format of the model has a place for a system message."""
    try:
        return session.converses and system.strip() in session.render("Hello", _system_message(system))
    except UsageError:
        return False


def _format(session: Session) -> tuple[bool, tuple[str, ...]]:
    return session.converses, session.template.columns
