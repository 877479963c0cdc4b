"""Draws what `data check` and `data preview` found."""

from __future__ import annotations

from typing import Any

from phi_scaffold.show.run import console

_STYLES = {"prompt": "dim", "completion": "bold green", "special": "yellow"}
_SHOWN = 5  # places of one kind of fault


def report(found: dict[str, Any]) -> None:
    """The report as tables: one for each data set, then the split."""
    for data in found["datasets"]:
        _data_set(data)
    if found["splits"]:
        _splits(found["splits"])
    for remark in found["warnings"]:
        console().print(f"[yellow]note:[/] {_plain(remark)}")
    if not found["usable"]:
        console().print("[red]Nothing usable is left to train on.[/]")


def _data_set(data: dict[str, Any]) -> None:
    out = console()
    out.print(f"[bold]{_plain(data['name'])}[/]: {_plain(', '.join(data['files']))}")
    rows, tokens = data["rows"], data["tokens"]
    table = _table("", "rows", "")
    table.add_row("read", f"{rows['read']:,}", f"{data['row_type']}, {data['strategy']}, loss on {data['loss']}")
    for key, what in (
        ("broken", "cannot be used; `run` stops at them, or leaves them out with --skip-bad-rows"),
        ("empty", "left out"),
        ("filtered", "left out by hooks.py"),
        ("too_long", f"of more than {data['max_seq_len']} tokens: over_long is {data['over_long']}"),
        ("all_masked", "with no token to train on, left out"),
        ("no_end_token", "without an end token: the model will not learn to stop"),
        ("duplicate", "with question and answer of a row before"),
    ):
        if rows[key]:
            style = "red" if key == "broken" else "yellow"
            table.add_row(f"[{style}]{key.replace('_', ' ')}[/]", f"{rows[key]:,}", what)
    table.add_row("kept", f"{rows['kept']:,}", "")
    out.print(table)
    if tokens["percentiles"]:
        spread = "  ".join(f"{p} %: {n}" for p, n in tokens["percentiles"].items() if p not in ("5", "25"))
        out.print(f"tokens: {tokens['total']:,}, trained {100 * tokens['trained_share']:.1f} %; of a row, {spread}")
    if data["labels"]:
        total = sum(data["labels"].values())
        shares = [f"{_plain(k)} {100 * n / total:.1f} %" for k, n in list(data["labels"].items())[:12]]
        more = f", and {len(data['labels']) - 12} more" if len(data["labels"]) > 12 else ""
        out.print(f"{len(data['labels'])} answers: {', '.join(shares)}{more}")
    if len(data["columns"]) > 1:
        mixed = "; ".join(f"{_plain(names) or 'none'}: {n:,}" for names, n in data["columns"].items())
        out.print(f"[yellow]mixed columns:[/] {mixed}")
    for key, what in (("encoding_faults", "encoding trouble"), ("personal_data", "likely personal data")):
        if data[key]:
            kinds = ", ".join(f"{kind.replace('_', ' ')} {n:,}" for kind, n in data[key].items())
            out.print(f"[yellow]{what}:[/] {kinds}")
    for key in ("broken_at", "empty_at", "encoding_faults_at", "personal_data_at"):
        for place in data[key][:_SHOWN]:
            out.print(f"  {_plain(place['file'])}:{place['line']}: {_plain(place['message'])}", style="dim")
        if len(data[key]) > _SHOWN:
            out.print("  …", style="dim")


def _splits(splits: dict[str, Any]) -> None:
    table = _table("", "rows", "sequences", "tokens", "trained tokens")
    for name, key in (("trained on", "training"), ("validation", "validation")):
        if key in splits:
            side = splits[key]
            table.add_row(name, *(f"{side[k]:,}" for k in ("rows", "sequences", "tokens", "trained_tokens")))
    out = console()
    out.print(table)
    leakage = splits["leakage"]
    if leakage["same_question"] or leakage["near_duplicate"]:
        same, near = leakage["same_question"], leakage["near_duplicate"]
        out.print(f"[yellow]held-out rows that training has seen:[/] {same} the same, {near} in almost the same words")
        for pair in leakage["examples"][:_SHOWN]:
            out.print(f"  {_plain(pair['validation'])} is like {_plain(pair['training'])}", style="dim")


def preview(rows: list[dict[str, Any]]) -> None:
    """Rows in colour: prompt, completion and special tokens apart. Where there is no colour, what is trained stands in ⟦ ⟧."""
    from rich.text import Text

    out = console()
    coloured = out.is_terminal and not out.no_color
    for row in rows:
        out.rule(f"{row['location']}, {row['tokens']} tokens, {row['trained']} trained", style="dim", align="left")
        text = Text()
        for segment in row["segments"]:
            style = _STYLES[segment["kind"]] + (
                " reverse" if segment["trained"] and segment["kind"] == "special" else ""
            )
            marked = segment["trained"] and not coloured
            text.append(f"⟦{segment['text']}⟧" if marked else segment["text"], style=style)
        out.print(text)
    if coloured:
        legend = Text("prompt", style=_STYLES["prompt"])
        legend.append(" trained", style=_STYLES["completion"]).append(" special token", style=_STYLES["special"])
        legend.append(" trained special token", style=_STYLES["special"] + " reverse")
        out.print(legend)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if not i or not name else "right")
    return table


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
