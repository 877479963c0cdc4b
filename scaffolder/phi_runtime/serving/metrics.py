"""Counters for /metrics, in Prometheus text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections.abc import Mapping

_PREFIX = "phi_scaffold_"
_HELP = {
    "requests_total": "Admitted requests by their final HTTP status (499: the client disconnected).",
    "prompt_tokens_total": "Prompt tokens.",
    "cached_prompt_tokens_total": "Prompt tokens that were already in the cache.",
    "completion_tokens_total": "Generated tokens.",
    "first_token_seconds_sum": "Total seconds from a streaming request to its first token.",
    "first_token_seconds_count": "Streaming requests that reached their first token.",
    "request_seconds_sum": "Total seconds of admitted requests.",
    "request_seconds_count": "Admitted requests.",
    "refused_total": "Requests refused because the queue was full (429).",
}


def prometheus_text(counts: Mapping[str, float], gauges: Mapping[str, tuple[str, float]]) -> str:
    """Return the text for Prometheus.

    Args:
        counts: Counters by name, with the labels behind it: `requests_total{status="200"}`.
        gauges: Help text and value by name.
    """
    lines: list[str] = []
    for name, help_text in _HELP.items():
        lines += [f"# HELP {_PREFIX}{name} {help_text}", f"# TYPE {_PREFIX}{name} counter"]
        lines += [f"{_PREFIX}{key} {counts[key]}" for key in sorted(counts) if key.partition("{")[0] == name]
    for name, (help_text, value) in gauges.items():
        lines += [
            f"# HELP {_PREFIX}{name} {help_text}",
            f"# TYPE {_PREFIX}{name} gauge",
            f"{_PREFIX}{name} {value:.0f}",
        ]
    return "\n".join(lines) + "\n"
