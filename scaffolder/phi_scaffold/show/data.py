"""Output of `data check` and `data preview`."""

from __future__ import annotations

import math
from typing import Any

from rich.markup import escape

from phi_runtime.data.labels import shortened
from phi_scaffold.show.paths import with_short_paths
from phi_scaffold.show.terminal import console, prose, table

_STYLES = {"prompt": "dim", "completion": "bold green", "special": "yellow"}
_EXAMPLES = 5  # rows listed for one kind of problem
_LABELS = 12
_BAR = 30  # characters of the longest bar
_KINDS = (  # key of the report, and its explanation
    ("encoding_faults", "encoding errors"),
    ("personal_data", "likely personal data"),
    ("written_ends", "end tokens that answers write; trained once, as the end"),
    ("special_tokens", "text that the model reads as special tokens (special_tokens_in_rows can refuse it)"),
    ("foreign_tokens", "special tokens of other models, which this one reads as text"),
    ("untrained", "rows with content that is not trained"),
)
_ROW_COUNTS = (  # key of the report, and its explanation
    ("broken", "cannot be used; `run` stops at them, or skips them with --skip-bad-rows"),
    ("empty", "skipped"),
    ("filtered", "removed by hooks.py"),
    ("too_long", "of more than {max_seq_len} tokens; over_long is `{over_long}`"),
    ("all_masked", "without a token to train on; skipped"),
    ("no_end_token", "without an end token: the model will not learn to stop"),
    ("duplicate", "with the same question and answer as an earlier row"),
    ("contradictory", "questions that have several answers"),
)


def report(facts: dict[str, Any]) -> None:
    """Print the report of the data sets, then of the split."""
    for data_set in facts["datasets"]:
        _data_set(data_set)
    if facts["splits"]:
        _splits(facts["splits"])
    for warning in facts["warnings"]:
        console().print(f"[yellow]note:[/] {escape(warning)}")
    if not facts["usable"]:
        console().print("[red]No usable row is left to train on.[/]")


def _data_set(facts: dict[str, Any]) -> None:
    out = console()
    out.print(f"[bold]{escape(facts['name'])}[/]: {escape(', '.join(facts['files']))} ({escape(facts['form'])})")
    counts = table("", ">rows", "")
    rows = facts["rows"]
    counts.add_row("read", f"{rows['read']:,}", f"{facts['row_type']}, {facts['strategy']}, loss on {facts['loss']}")
    for key, explanation in _ROW_COUNTS:
        if rows[key]:
            label = f"[{'red' if key == 'broken' else 'yellow'}]{key.replace('_', ' ')}[/]"
            counts.add_row(label, f"{rows[key]:,}", explanation.format(**facts))
    counts.add_row("kept", f"{rows['kept']:,}", "")
    out.print(counts)
    _tokens_and_labels(facts)
    if len(facts["columns"]) > 1:
        mixed = "; ".join(f"{escape(names) or 'none'}: {n:,}" for names, n in facts["columns"].items())
        out.print(f"[yellow]mixed columns:[/] {mixed}")
    for key, label in _KINDS:
        if facts[key]:
            names = {kind: kind.replace("_", " ") if kind.isidentifier() else kind for kind in facts[key]}
            kinds = ", ".join(f"{escape(names[kind])} {n:,}" for kind, n in facts[key].items())
            out.print(f"[yellow]{label}:[/] {kinds}")
    for key in ("broken_at", "empty_at", "contradictory_at", *(f"{key}_at" for key, _ in _KINDS)):
        for place in facts[key][:_EXAMPLES]:
            out.print(f"  {escape(place['file'])}:{place['line']}: {escape(place['message'])}", style="dim")
        if len(facts[key]) > _EXAMPLES:
            out.print("  …", style="dim")


def _tokens_and_labels(facts: dict[str, Any]) -> None:
    out, tokens, labels = console(), facts["tokens"], facts["labels"]
    if tokens["percentiles"]:
        spread = "  ".join(f"{p} %: {n}" for p, n in tokens["percentiles"].items() if p not in ("5", "25"))
        out.print(f"tokens: {tokens['total']:,}, {100 * tokens['trained_share']:.1f} % trained; per row, {spread}")
        _histogram(tokens["histogram"])
    if labels:
        total = sum(labels.values())
        shares = [f"{escape(shortened(k))} {100 * n / total:.1f} %" for k, n in list(labels.items())[:_LABELS]]
        more = f", and {len(labels) - _LABELS} more" if len(labels) > _LABELS else ""
        out.print(f"{len(labels)} {'label' if len(labels) == 1 else 'labels'}: {', '.join(shares)}{more}")


def _histogram(bins: list[dict[str, int]]) -> None:
    """Print the number of rows by their tokens, one line for each bin."""
    most = max(each["rows"] for each in bins)
    width = len(f"{bins[-1]['up_to']:,}")
    out = console()
    longest = min(_BAR, out.width - len(f"  up to {bins[-1]['up_to']:,}  {most:,}"))
    for each in filter(lambda each: each["rows"], bins):
        bar = "#" * math.ceil(longest * each["rows"] / most)
        out.print(f"  up to {each['up_to']:>{width},} {bar:<{longest}} {each['rows']:,}", style="dim")


def _splits(splits: dict[str, Any]) -> None:
    sides = table("", ">rows", ">sequences", ">tokens", ">trained tokens")
    for name in ("training", "validation", "test"):
        if name in splits:
            sides.add_row(name, *(f"{splits[name][k]:,}" for k in ("rows", "sequences", "tokens", "trained_tokens")))
    out = console()
    out.print(sides)
    for name, key in (("validation", "leakage"), ("test", "test_leakage")):
        if splits[key]:
            _leakage(name, splits[key])


def _leakage(name: str, leakage: dict[str, Any]) -> None:
    kinds = (
        ("same_question", "identical"),
        ("near_duplicate", "nearly identical"),
        ("same_beginning", "with the same beginning"),
    )
    counts = [f"{leakage[key]:,} {label}" for key, label in kinds if leakage[key]]
    if not counts:
        return
    out = console()
    out.print(f"[yellow]{name} rows that are also in training:[/] {', '.join(counts)}")
    for pair in leakage["examples"][:_EXAMPLES]:
        out.print(f"  {escape(pair['validation'])} is like {escape(pair['training'])}", style="dim")


def preview(rows: list[dict[str, Any]]) -> None:
    """Print rows with prompt, completion and special tokens in different colors; without color, ⟦ ⟧ marks trained text."""
    from rich.text import Text

    out = console()
    colored = out.is_terminal and not out.no_color
    for row in rows:
        place = f"{with_short_paths(row['location'])}, {row['tokens']} tokens, {row['trained']} trained"
        prose(Text(f"-- {place}", "dim"), hanging=3)
        text = Text()
        for segment in row["segments"]:
            reverse = " reverse" if segment["trained"] and segment["kind"] == "special" else ""
            marked = segment["trained"] and not colored
            piece = f"⟦{segment['text']}⟧" if marked else segment["text"]
            text.append(piece, style=_STYLES[segment["kind"]] + reverse)
        out.print(text)
    if colored:
        legend = Text("prompt", style=_STYLES["prompt"])
        legend.append(", trained", style=_STYLES["completion"]).append(", special token", style=_STYLES["special"])
        legend.append(", trained special token", style=_STYLES["special"] + " reverse")
        out.print(legend)
