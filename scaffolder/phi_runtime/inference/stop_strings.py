"""Texts that end a streamed answer: stop strings, and the text of a prompt template after the answer."""

from __future__ import annotations


class StopStrings:
    """Passes on the text before the first stop string, and buffers what may be the beginning of one.

    Attributes:
        matched: True once a stop string was found.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stop = tuple(text for text in stop if text)
        self.buffer = ""
        self.matched = False

    def push(self, text: str) -> str:
        """Add the next text of the answer, and return what can be passed on."""
        if not self.stop:
            return text
        self.buffer += text
        matches = [index for index in (self.buffer.find(stop) for stop in self.stop) if index >= 0]
        if matches:
            self.matched = True
            output, self.buffer = self.buffer[: min(matches)], ""
            return output
        kept = max((overlap(self.buffer, stop) for stop in self.stop), default=0)
        split = len(self.buffer) - kept
        output, self.buffer = self.buffer[:split], self.buffer[split:]
        return output

    def flush(self) -> str:
        """Return the buffered text at the end of an answer without a stop string."""
        output, self.buffer = self.buffer, ""
        return output


class Suffix:
    """Removes the text of a prompt template from the end of an answer, with the white space around it.

    It buffers only what may be that text: inside an answer the same text stays.
    """

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix.strip()
        self.buffer = ""

    def push(self, text: str) -> str:
        """Add the next text of the answer, and return what can be passed on."""
        if not self.suffix:
            return text
        self.buffer += text
        first = max(0, len(self.buffer.rstrip()) - len(self.suffix))
        split = next(i for i in range(first, len(self.buffer) + 1) if self.suffix.startswith(self.buffer[i:].strip()))
        split = len(self.buffer[:split].rstrip())
        output, self.buffer = self.buffer[:split], self.buffer[split:]
        return output

    def flush(self) -> str:
        """Return the buffered text at the end of the answer, unless it is the suffix."""
        output, self.buffer = self.buffer, ""
        return "" if self.suffix and output.strip() == self.suffix else output


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of `stop`, and not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
