"""Ends an answer before a stop text, which may come in several pieces."""

from __future__ import annotations


class StopTexts:
    """Lets through what comes before the first stop text, and holds back what may be the beginning of one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stop = tuple(text for text in stop if text)
        self.held = ""
        self.met = False

    def push(self, text: str) -> str:
        """What can be told of the answer, now that `text` has come. `met` says afterwards that a stop text was in it."""
        if not self.stop:
            return text
        self.held += text
        found = [place for place in (self.held.find(stop) for stop in self.stop) if place >= 0]
        if found:
            self.met = True
            told, self.held = self.held[: min(found)], ""
            return told
        kept = max((_overlap(self.held, stop) for stop in self.stop), default=0)
        told, self.held = self.held[: len(self.held) - kept], self.held[len(self.held) - kept :]
        return told

    def rest(self) -> str:
        """What was held back, where the answer ends without a stop text."""
        told, self.held = self.held, ""
        return told


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
