"""Rename the columns whose names cannot be in a template, in the config that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from phi_runtime.data.column_aliases import aliases_of
from phi_runtime.data.columns import Columns, first_row
from phi_scaffold.new.data_source import HubData, LocalData


@dataclass(frozen=True)
class Renaming:
    """Columns with names for a template.

    Attributes:
        columns: The columns by these names.
        originals: The names in the data of those that have another one.
        load_options: Keys of `load_dataset_config` that rename them.
    """

    columns: Columns
    originals: Mapping[str, str] = field(default_factory=dict)
    load_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        if not self.originals:
            return []
        shown = ", ".join(f"`{new}` is `{old}`" for new, old in self.originals.items())
        olive = "; Olive does not read `column_mapping`" if "column_mapping" in self.load_options else ""
        return [f"renamed for the template: {shown}{olive}"]


def renamed(columns: Columns, source: HubData | LocalData) -> Renaming:
    """Rename columns: with `names` for a single table, which Olive reads, else with `column_mapping`."""
    if columns.kind == "chat":  # no template has its columns
        return Renaming(columns)
    used = dict.fromkeys((*columns.inputs, columns.answer, *columns.filters))
    every = [*used, *(name for name, _ in columns.unused)]
    aliases = {name: alias for name, alias in aliases_of(every).items() if name in used}
    if not aliases:
        return Renaming(columns)
    options: dict[str, Any] = {"column_mapping": aliases}
    if isinstance(source, LocalData) and source.format in ("csv", "xlsx") and len(source.read) == 1:
        names = [aliases.get(name, name) for name in first_row(source.read[0], source.reading).values]
        options = {"header": 0, **source.load_options, "names": names}
    new = replace(
        columns,
        inputs=tuple(aliases.get(name, name) for name in columns.inputs),
        answer=aliases.get(columns.answer, columns.answer),
        optional=tuple(aliases.get(name, name) for name in columns.optional),
        filters={aliases.get(name, name): value for name, value in columns.filters.items()},
        longest_rows=tuple(
            {aliases.get(name, name): value for name, value in row.items()} for row in columns.longest_rows
        ),
    )
    return Renaming(new, {alias: name for name, alias in aliases.items()}, options)
