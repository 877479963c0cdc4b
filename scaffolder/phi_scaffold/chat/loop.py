"""The loop of a chat: read an entry, answer it or run it as a command, report errors and continue."""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import nullcontext
from types import FrameType
from typing import TYPE_CHECKING

from phi_runtime.core.errors import PhiError
from phi_runtime.core.signals import handled_by
from phi_runtime.core.units import count
from phi_runtime.data.chat_template import ChatTemplate
from phi_scaffold.chat.commands import ChatCommands
from phi_scaffold.chat.reader import Entry, Reader
from phi_scaffold.cli.failure import print_failure
from phi_scaffold.show.terminal import SafeText, note

if TYPE_CHECKING:
    from phi_runtime.inference.generator import Answer
    from phi_runtime.pipeline.conversation import Conversation


class Loop:
    """A chat on stdin and stdout.

    On a terminal, Ctrl-C stops an answer or discards the line, and ends the chat if it follows itself. Elsewhere it ends the
    chat at once.

    Args:
        conversation: The conversation.
        commands: Its commands.
        as_json: Print each answer as a line of JSON.
        quiet: Print answers and errors alone.

    Attributes:
        exit_code: Exit code of the first error that was not typed on a terminal; 0 for none.
    """

    def __init__(self, conversation: Conversation, commands: ChatCommands, *, as_json: bool, quiet: bool) -> None:
        self.conversation, self.commands, self.as_json, self.quiet = conversation, commands, as_json, quiet
        self.exit_code = 0
        self.reader = Reader()
        self._stopped = False

    def run(self) -> None:
        """Chat until the input ends or a command ends the chat."""
        interrupted = False
        while True:
            try:
                entry = self.reader.read(f"{self._labels()[0]}: ")
                interrupted = False
                if text := self._message(entry):
                    self._answer(text)
            except EOFError:
                break
            except PhiError as e:
                self._report(e)
            except KeyboardInterrupt:
                if not self.reader.interactive or interrupted:
                    raise
                interrupted = True
                note("\nCtrl-C again or /exit ends the chat")

    def _labels(self) -> list[str]:
        """Return the columns of a prompt, those that may be empty last."""
        template = self.conversation.session.template
        if isinstance(template, ChatTemplate):
            return ["you"]
        return sorted(template.inputs, key=lambda name: name in template.optional) or ["text"]

    def _message(self, entry: Entry) -> str:
        """Return the message that begins with `entry`; run a command, and return "".

        On a terminal, a message of several columns is read column by column, and returned as JSON.
        """
        first, *others = self._labels()
        values = {first: entry.text}
        if others and self.reader.interactive and entry.text and not entry.text.startswith("{"):
            while not entry.command and len(values) <= len(others):
                name = others[len(values) - 1]
                entry = self.reader.read(f"{name}: ")
                values[name] = entry.text
        if entry.command:
            self.commands.run(entry.command, entry.text)
            return ""
        return json.dumps(values, ensure_ascii=False) if len(values) > 1 else entry.text

    def _report(self, error: PhiError) -> None:
        print_failure(error, self.as_json)
        if not self.reader.interactive:
            self.exit_code = self.exit_code or error.exit_code

    def _answer(self, text: str) -> None:
        from phi_runtime.pipeline.conversation import Turn

        dropped = self.conversation.dropped
        self._stopped = False
        with handled_by(self._stop) if self.reader.interactive else nullcontext():
            answer = self.conversation.ask(text)
            dropped = self.conversation.dropped - dropped
            context = self.conversation.session.generator.context_length
            if dropped:
                turns = f"{dropped} turns" if dropped > 1 else "turn"
                note(f"dropped the oldest {turns}: the context of {context:,} tokens is full")
            written, rate = self._print(answer)
        if self.as_json:
            usage = vars(answer.usage)
            print(
                json.dumps({"answer": written, "finish_reason": answer.finish, "dropped_turns": dropped, **usage}),
                flush=True,
            )
        else:
            print(flush=True)
        if written.strip():
            self.conversation.turns.append(Turn(text, written, answer.finish == "stop"))
        elif not self.quiet:
            note("the answer is empty; the conversation continues without it")
        if self.reader.interactive and sys.stdout.isatty() and not (self.quiet or self.as_json):
            note(_summary(answer, rate, context))
        elif answer.finish == "length" and not (self.quiet or self.as_json):
            note(f"the answer is cut at {answer.usage.completion_tokens} tokens (--max-new-tokens)")

    def _print(self, answer: Answer) -> tuple[str, float]:
        """Print an answer as it is generated, until Ctrl-C; return its text and its tokens per second after the first."""
        safe, written, started_s = SafeText(), "", 0.0
        for piece in answer:
            if answer.usage.completion_tokens == 1:
                started_s = time.monotonic()
            written += piece.text
            if not self.as_json:
                print(safe.push(piece.text), end="", flush=True)
            if self._stopped:
                answer.close()
                break
        if not self.as_json:
            print(safe.flush(), end="")
        seconds = time.monotonic() - started_s
        return written, (answer.usage.completion_tokens - 1) / max(seconds, 1e-9)

    def _stop(self, number: int, _: FrameType | None) -> None:
        """Stop the answer after its current step; end the chat on SIGTERM."""
        if number == signal.SIGTERM:
            raise SystemExit(128 + number)
        self._stopped = True


def _summary(answer: Answer, tokens_per_s: float, context: int) -> str:
    usage = answer.usage
    tokens = usage.completion_tokens
    end = {"stop": "", "length": " (the limit)"}.get(answer.finish or "", " (stopped)")
    rate = f", {tokens_per_s:.1f} tokens/s" if tokens > 1 else ""
    total = f"{usage.prompt_tokens + tokens:,}" + (f" of {context:,}" if context < 1 << 30 else "")
    return f"{count(tokens, 'token')}{end}{rate}; context: {total} tokens"
