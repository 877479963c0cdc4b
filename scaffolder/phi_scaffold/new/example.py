"""A row of the data in the template of a new project, as the model will see it."""

from __future__ import annotations

from phi_runtime.data.row import RowError
from phi_runtime.data.rows import read_rows
from phi_runtime.data.template import PromptTemplate
from phi_scaffold.new.answers import Answers
from phi_scaffold.new.data_source import LocalData
from phi_scaffold.new.derive import text_template_for
from phi_scaffold.new.renaming import renamed

_LONGEST = 600  # characters that are shown


def example_of(answers: Answers) -> str:
    """Return the first row of the user's data as text; "" for conversations, free text and data sets of the Hub.

    Raises:
        UsageError: The prompt template does not fit the data.
        DataError: The data cannot be read.
    """
    source = answers.source
    if not isinstance(source, LocalData) or answers.data_columns is None or answers.data_columns.kind != "columns":
        return ""
    renaming = renamed(answers.data_columns, source)
    template = PromptTemplate.from_text(text_template_for(answers, renaming.columns, renaming.originals))
    for row in read_rows(source.read[0], source.reading):
        values = {**row.values, **{new: row.values.get(old) for new, old in renaming.originals.items()}}
        try:
            text = template.render_prompt(values) + template.render_completion(values)
        except (KeyError, RowError):  # a row without this column
            continue
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return ""
