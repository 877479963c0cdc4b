"""Rows that are held out: chosen by their content, evenly over the labels, the same whatever the order of the file."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from phi_runtime.data.rows import Row
from phi_runtime.data.template import PromptTemplate


def hold_out(rows: Sequence[Row], template: PromptTemplate, size: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Splits `rows` into (training, held out).

    `size` below 1 is a fraction of the rows, else a count. Rows with the same prompt (free text: the same text) stay on one
    side, so none that is scored has been seen; of several with the same prompt the held-out side keeps the first. Where answers
    repeat (labels) each label gives its share. Both sides come in an order that depends on `seed` and content alone, not on the
    order of the file.
    """
    asked = template.render_prompt if template.inputs else template.render_completion
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[asked(row.values)].append(row)
    ranked = sorted(groups.items(), key=lambda item: _rank(item[0], seed))
    wanted = round(size * len(ranked)) if size < 1 else int(size)
    if not wanted:
        return [row for _, group in ranked for row in group], []

    by_answer: dict[str, list[str]] = defaultdict(list)
    for prompt, group in ranked:
        by_answer[template.render_completion(group[0].values)].append(prompt)
    labels = len(by_answer) <= len(ranked) / 5
    chosen = _spread(by_answer, wanted, len(ranked)) if labels else {prompt for prompt, _ in ranked[:wanted]}
    training = [row for prompt, group in ranked if prompt not in chosen for row in group]
    held_out = [group[0] for prompt, group in ranked if prompt in chosen]
    return training, held_out


def _spread(by_answer: dict[str, list[str]], wanted: int, total: int) -> set[str]:
    """`wanted` prompts, from each answer as many as its share, the remainders going to the largest fractions."""
    shares = {answer: wanted * len(prompts) / total for answer, prompts in by_answer.items()}
    counts = {answer: int(share) for answer, share in shares.items()}
    by_remainder = sorted(shares, key=lambda answer: (counts[answer] - shares[answer], answer))
    for answer in by_remainder[: wanted - sum(counts.values())]:
        counts[answer] += 1
    return {prompt for answer, prompts in by_answer.items() for prompt in prompts[: counts[answer]]}


def _rank(prompt: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{prompt}".encode()).digest()
