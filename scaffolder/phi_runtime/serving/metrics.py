"""Counters for /metrics, in Prometheus text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections import Counter

_PREFIX = "phi_scaffold_"
_HELP = {
    "requests_total": "Admitted requests by their final HTTP status (499: the client disconnected).",
    "prompt_tokens_total": "Prompt tokens.",
    "cached_prompt_tokens_total": "Prompt tokens that were already in the cache.",
    "completion_tokens_total": "Generated tokens.",
    "first_token_seconds_sum": "Total seconds from a request to its first token.",
    "first_token_seconds_count": "Requests that reached their first token.",
    "request_seconds_sum": "Total seconds of admitted requests.",
    "request_seconds_count": "Admitted requests.",
    "refused_total": "Requests refused because the queue was full (429).",
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters by name and labels."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Labels]] = Counter()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        self.counts[name, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]

    def total(self, name: str) -> float:
        """Return the sum over all labels."""
        return sum(amount for (key, _), amount in self.counts.items() if key == name)

    def text(self, gauges: dict[str, tuple[str, float]]) -> str:
        """Return all counters, and `gauges` given as (help, value) by name."""
        lines: list[str] = []
        for name, help_text in _HELP.items():
            lines += [f"# HELP {_PREFIX}{name} {help_text}", f"# TYPE {_PREFIX}{name} counter"]
            for (key, labels), amount in sorted(self.counts.items()):
                if key == name:
                    lines.append(f"{_PREFIX}{name}{_format_labels(labels)} {amount:g}")
        for name, (help_text, value) in gauges.items():
            lines += [
                f"# HELP {_PREFIX}{name} {help_text}",
                f"# TYPE {_PREFIX}{name} gauge",
                f"{_PREFIX}{name} {value:.0f}",
            ]
        return "\n".join(lines) + "\n"


def _format_labels(labels: Labels) -> str:
    escaped = ((name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels)
    inside = ",".join(f'{name}="{value}"' for name, value in escaped)
    return f"{{{inside}}}" if inside else ""
