"""Counts for /metrics, in the text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections import Counter

_PREFIX = "phi_scaffold_"
_HELP = {
    "requests_total": "Requests that were taken in, by the HTTP status at their end (499: the client went away).",
    "prompt_tokens_total": "Tokens of the prompts.",
    "cached_prompt_tokens_total": "Tokens of the prompts that were in the cache and not read again.",
    "completion_tokens_total": "Tokens of the answers.",
    "first_token_seconds_sum": "Seconds from the request to its first token, added up.",
    "first_token_seconds_count": "Requests that reached their first token.",
    "request_seconds_sum": "Seconds of the requests that were taken in, added up.",
    "request_seconds_count": "Requests that were taken in.",
    "refused_total": "Requests that found no free place (429).",
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Labels]] = Counter()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        self.counts[name, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]

    def total(self, name: str) -> float:
        """Over all labels."""
        return sum(amount for (each, _), amount in self.counts.items() if each == name)

    def text(self, gauges: dict[str, tuple[str, float]]) -> str:
        """All counts, and `gauges`: (help, value) by name."""
        lines: list[str] = []
        for name, about in _HELP.items():
            lines += [f"# HELP {_PREFIX}{name} {about}", f"# TYPE {_PREFIX}{name} counter"]
            for (each, labels), amount in sorted(self.counts.items()):
                if each == name:
                    lines.append(f"{_PREFIX}{name}{_written(labels)} {amount:g}")
        for name, (about, value) in gauges.items():
            lines += [
                f"# HELP {_PREFIX}{name} {about}",
                f"# TYPE {_PREFIX}{name} gauge",
                f"{_PREFIX}{name} {value:.0f}",
            ]
        return "\n".join(lines) + "\n"


def _written(labels: Labels) -> str:
    escaped = ((name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels)
    inside = ",".join(f'{name}="{value}"' for name, value in escaped)
    return f"{{{inside}}}" if inside else ""
