"""Every form of a data file, a split's slice and the filters of a data config leave the rows that Olive's reader leaves, in order.

Where ours are others that is meant: we leave out the lines of a text that hold nothing, and the line breaks at the end of a row.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.schema import LoadDataset

pytestmark = [pytest.mark.olive, pytest.mark.timeout(1800)]  # the first makes the environment

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
FILES = {
    "lines": "rows.jsonl",
    "array": "rows.json",
    "csv": "rows.csv",
    "packed": "rows.jsonl.gz",
    "parquet": "rows.parquet",
}
FORMATS = {"csv": "csv", "parquet": "parquet"}

TEXT = "one\n two  \n\n\nthree\u2028 and\tmore\r\nfour\n\nfive, without an end"
AWKWARD = 'a,"b ""c"", d",e\n1,"two\nlines",\n,"  ",x\n'


def cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """The kind of the file, and the split and filters, by the name of the case."""
    sliced = {f"{kind} train{part}": (kind, {"split": f"train{part}"}) for kind in FILES for part in SLICES}
    filtered = {
        f"{kind} {json.dumps(filters)}": (kind, {"split": "train[:80%]", "col_filters": filters})
        for kind in FILES
        for filters in FILTERS
    }
    return sliced | filtered


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    folder = tmp_path_factory.mktemp("rows")
    paths = {kind: folder / name for kind, name in FILES.items()}
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    paths["lines"].write_text(lines, encoding="utf-8")
    paths["packed"].write_bytes(gzip.compress(lines.encode()))
    paths["array"].write_text(json.dumps(ROWS), encoding="utf-8")
    table = [",".join(ROWS[0]), *(",".join(map(str, row.values())) for row in ROWS)]
    paths["csv"].write_text("\n".join(table), encoding="utf-8")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), paths["parquet"])
    for name, content in (("text.txt", TEXT), ("awkward.csv", AWKWARD), ("by-tabs.csv", AWKWARD.replace(",", "\t"))):
        (folder / name).write_text(content, encoding="utf-8", newline="")
    return paths


@pytest.fixture(scope="module")
def olives(files: dict[str, Path], ask_olive: Any) -> Any:
    """What Olive reads, by case."""
    return ask_olive({"rows": {name: _load(kind, part, files) for name, (kind, part) in cases().items()}})["rows"]


def _load(kind: str, part: dict[str, Any], files: dict[str, Path]) -> dict[str, Any]:
    return {"data_name": FORMATS.get(kind, "json"), "data_files": str(files[kind]), **part}


def ours(load: dict[str, Any], *files: Path) -> list[dict[str, Any]]:
    from phi_runtime.data.selection import SelectedRow, select

    rows = list(select(LoadDataset.model_validate(load), files))
    return [row.row.values for row in rows if isinstance(row, SelectedRow)]


@pytest.mark.parametrize("name", cases())
def test_the_rows_of_a_slice_and_a_filter_are_those_that_olive_reads(
    name: str, files: dict[str, Path], olives: dict[str, Any]
) -> None:
    from phi_runtime.core.errors import DataError

    kind, part = cases()[name]
    read = olives[name]
    if "corresponds to no data" in (read["error"] or ""):
        with pytest.raises(DataError, match="selects none"):
            ours(_load(kind, part, files), files[kind])
        return
    rows = ours(_load(kind, part, files), files[kind])
    if kind == "csv":  # whose cells have no other type with us
        assert [_texts(row) for row in rows] == [_texts(row) for row in read["answer"]], read["error"]
    else:
        assert rows == read["answer"], read["error"]


def _texts(row: dict[str, Any]) -> dict[str, str]:
    return {column: str(value) for column, value in row.items()}


# -- files of other forms -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def others(files: dict[str, Path], ask_olive: Any) -> Any:
    """What Olive reads of texts, tables and folders, by name of the case."""
    folder = files["lines"].parent
    pattern = {"data_name": "json", "data_files": str(folder / "rows.json*")}
    text = {"data_name": "text", "data_files": str(folder / "text.txt")}
    requests = {
        "line": text,
        "paragraph": text | {"sample_by": "paragraph"},
        "document": text | {"sample_by": "document"},
        "awkward": {"data_name": "csv", "data_files": str(folder / "awkward.csv"), "keep_default_na": False},
        "sep": {"data_name": "csv", "data_files": str(folder / "by-tabs.csv"), "sep": "\t", "keep_default_na": False},
        "pattern": pattern,
    }
    return ask_olive({"rows": {name: {"split": "train", **load} for name, load in requests.items()}})["rows"]


@pytest.mark.parametrize("sample_by", ["line", "paragraph", "document"])
def test_a_text_is_parted_as_olive_parts_it_but_for_what_is_empty_and_the_line_breaks_at_its_ends(
    sample_by: str, files: dict[str, Path], others: dict[str, Any]
) -> None:
    load = {"data_name": "text", "data_files": "text.txt", "sample_by": sample_by}
    texts = [row["text"] for row in ours(load, files["lines"].with_name("text.txt"))]
    olives = [row["text"].strip("\n") for row in others[sample_by]["answer"]]
    assert texts == [text for text in olives if text.strip()], others[sample_by]["error"]


@pytest.mark.parametrize(("name", "file", "sep"), [("awkward", "awkward.csv", None), ("sep", "by-tabs.csv", "\t")])
def test_quotes_line_breaks_and_empty_cells_of_a_table_are_read_as_olive_reads_them(
    name: str, file: str, sep: str | None, files: dict[str, Path], others: dict[str, Any]
) -> None:
    rows = ours({"data_name": "csv", "data_files": file, "sep": sep}, files["lines"].with_name(file))
    assert [_texts(row) for row in rows] == [_texts(row) for row in others[name]["answer"]], others[name]["error"]


def test_the_files_of_a_pattern_are_read_in_the_order_in_which_olive_reads_them(
    files: dict[str, Path], others: dict[str, Any]
) -> None:
    from phi_runtime.config.paths import data_paths
    from phi_runtime.config.schema import DataConfig

    folder = files["lines"].parent
    load = {"data_name": "json", "data_files": "rows.json*"}
    data = DataConfig.model_validate({"name": "rows", "type": "HuggingfaceContainer", "load_dataset_config": load})
    found = [one.path for one in data_paths(data, folder / "config.json")]
    assert [path.name for path in found] == ["rows.json", "rows.jsonl", "rows.jsonl.gz"]
    assert ours(load, *found) == others["pattern"]["answer"], others["pattern"]["error"]
