"""Your own functions over the rows of the data. `phi-scaffold run` and `phi-scaffold data check` call those that are defined here.

A row is a dict of its columns, such as {"phrase": "What a day!", "tone": "joy"}. A change of this file makes the data, and what was
trained on them, anew. Other modules in this folder can be imported.
"""

from typing import Any

Row = dict[str, Any]

# Remove the `# ` to use one:
#
# def transform(row: Row) -> Row | None:
#     """The row as it is to be trained on, with other values or columns; None leaves it out."""
#     row["phrase"] = row["phrase"].strip()
#     return row
#
#
# def filter(row: Row) -> bool:
#     """Whether the row, as `transform` left it, is used."""
#     return len(row["phrase"]) < 500
