"""The questions that models are compared on: a sample of a split, without those that exceed the context of a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from phi_runtime.config.schema import Evaluation
from phi_runtime.data.dataset import DataSplit
from phi_runtime.data.hooks import Values
from phi_runtime.data.tokenize import prompt_ids


@dataclass(frozen=True)
class Questions:
    """Questions with their expected answers; free text has rows, and columns where they are grouped.

    Attributes:
        rows: The rows that they come from.
        values, prompts, references: Columns, prompt and expected answer of each row.
        too_long: Number of sampled rows that are excluded, since prompt and answer exceed the context.
    """

    rows: DataSplit
    values: list[Values] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    too_long: int = 0

    @property
    def groups(self) -> list[str | None]:
        """The value of `group_by` of each row; None where there is none."""
        column = self.rows.settings.group_by
        if column is None:
            return [None] * len(self.rows)
        values = ("" if row.get(column) is None else str(row[column]) for row in self.values)
        return [value if value.strip() else None for value in values]

    @property
    def remark(self) -> str:
        total = len(self.rows) + self.too_long
        return f"{self.too_long} of {total} rows are not measured: prompt and answer exceed the context of a model"


def sample_questions(split: DataSplit, settings: Evaluation, tokenizer: Any, context_tokens: int | None) -> Questions:
    """Return up to `max_rows` questions of `split`, evenly over labels.

    Args:
        context_tokens: The smallest context of the models; None if there is no limit.
    """
    rows, template = split.sample(settings.max_rows), split.template
    if not template.has_prompt:
        return Questions(rows, rows.values() if rows.settings.group_by else [])
    values = rows.values()
    prompts = [template.render_prompt(row) for row in values]
    fitting = list(range(len(prompts)))
    if context_tokens is not None:
        limit, tokens = context_tokens - settings.max_new_tokens, rows.store.rows["tokens"][rows.chosen].tolist()
        fitting = [
            i
            for i in fitting
            if tokens[i] <= limit or len(prompt_ids(tokenizer, prompts[i], special=template.special)) <= limit
        ]
    return Questions(
        replace(rows, chosen=rows.chosen[fitting]),
        [values[i] for i in fitting],
        [prompts[i] for i in fitting],
        [template.reference(values[i]) for i in fitting],
        len(prompts) - len(fitting),
    )
