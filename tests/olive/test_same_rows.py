"""A split's slice and the filters of a data config leave the rows that Olive's reader leaves, in the same order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.workflow.schema import LoadDataset

pytestmark = pytest.mark.olive

COUNT = 37
ROWS = [
    {"phrase": f"phrase {i}", "tone": ("joy", "fear", "calm")[i % 3], "rank": i % 4, "weight": i / 8, "kept": i % 5 > 0}
    for i in range(COUNT)
]
SLICES = (
    "", "[:90%]", "[90%:]", "[33%:67%]", "[:1%]", "[:2%]", "[-10%:]", "[:-50%]", "[0%:100%]", "[50%:]",
    "[3:9]", "[:5]", "[30:]", "[-5:]", "[:-30]", "[20:500]", "[:]",
)  # fmt: skip
FILTERS: tuple[dict[str, Any], ...] = (
    {"tone": "joy"},
    {"rank": 2},
    {"weight": 1.5},
    {"kept": False},
    {"tone": "fear", "rank": 3, "kept": True},
)
FILES = {"lines": "rows.jsonl", "array": "rows.json", "csv": "rows.csv"}


def cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """The kind of the file, and the split and filters, by the name of the case."""
    sliced = {f"{kind} train{part}": (kind, {"split": f"train{part}"}) for kind in FILES for part in SLICES}
    filtered = {
        f"{kind} {json.dumps(wanted)}": (kind, {"split": "train[:80%]", "col_filters": wanted})
        for kind in FILES
        for wanted in FILTERS
    }
    return sliced | filtered


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    paths = {kind: folder / name for kind, name in FILES.items()}
    paths["lines"].write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    paths["array"].write_text(json.dumps(ROWS), encoding="utf-8")
    lines = [",".join(ROWS[0]), *(",".join(map(str, row.values())) for row in ROWS)]
    paths["csv"].write_text("\n".join(lines), encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def olives(files: dict[str, Path], ask_olive: Any) -> Any:
    """What Olive reads, by case."""
    return ask_olive({"rows": {name: _load(kind, part, files) for name, (kind, part) in cases().items()}})["rows"]


def _load(kind: str, part: dict[str, Any], files: dict[str, Path]) -> dict[str, Any]:
    return {"data_name": "csv" if kind == "csv" else "json", "data_files": str(files[kind]), **part}


@pytest.mark.parametrize("name", cases())
def test_the_rows_of_a_slice_and_a_filter_are_those_that_olive_reads(
    name: str, files: dict[str, Path], olives: dict[str, Any]
) -> None:
    from phi_runtime.data.selection import select_rows
    from phi_runtime.errors import DataError

    kind, part = cases()[name]
    read = olives[name]
    if "corresponds to no data" in (read["error"] or ""):
        with pytest.raises(DataError, match="leaves none"):
            select_rows(LoadDataset.model_validate(_load(kind, part, files)), [files[kind]])
        return
    rows = select_rows(LoadDataset.model_validate(_load(kind, part, files)), [files[kind]])
    # By the text of a cell: ours of a CSV file have no other type.
    assert [_texts(row.values) for _, row in rows] == [_texts(row) for row in read["answer"]], read["error"]


def _texts(row: dict[str, Any]) -> dict[str, str]:
    return {column: str(value) for column, value in row.items()}
