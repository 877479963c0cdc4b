"""Tokenised rows on the disk, read through the memory map: what is not looked at takes no memory.

A store is an artefact of four files: `tokens.npy` (ids of all rows, one after the other, uint32), `trained.npy` (of each, whether it
is trained, bool), `rows.npy` (one `ROW` each) and `survey.json`. It is written in parts, so that a stopped tokenisation goes on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0

from phi_runtime.core.artifacts import put_in_place, read_manifest, seal, write_json
from phi_runtime.data.survey import Survey

ROW = np.dtype(
    [
        ("file", "<u4"),  # which of the data files
        ("line", "<i8"),  # line in it, from 1
        ("number", "<i8"),  # place among all rows of all files, from 0
        ("tokens", "<u4"),
        ("trained", "<u4"),
        ("question", "<u8", (2,)),  # hash of what is asked
        ("answer", "<u8"),  # hash of the answer
        ("words", "<u8"),  # hash of the words of what is asked, without case and punctuation
        ("endless", "?"),  # whether no token of its own ends the row
    ]
)
PART_TOKENS = 8_000_000
KEPT_STORES = 6

_ROWS, _TOKENS, _TRAINED, _SURVEY = "rows.npy", "tokens.npy", "trained.npy", "survey.json"


@dataclass(frozen=True)
class Store:
    """Tokenised rows, in the order of the files: `tokens` (T,), `trained` (T,), `rows` (N,) of `ROW`."""

    tokens: np.ndarray
    trained: np.ndarray
    rows: np.ndarray
    survey: Survey = field(default_factory=Survey)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each row begins in `tokens`, and where the last one ends, (N + 1,)."""
        return np.concatenate([[0], np.cumsum(self.rows["tokens"], dtype=np.int64)])

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a row, and which of them are trained."""
        start, stop = self.starts[index], self.starts[index + 1]
        return self.tokens[start:stop], self.trained[start:stop]


def open_store(folder: Path) -> Store | None:
    """The store in `folder`, which counts as used by that; None when there is no whole one."""
    if read_manifest(folder) is None:
        return None
    (folder / _SURVEY).touch()
    # As plain arrays over the map: a slice of a memmap object itself costs ten times as much.
    tokens, trained, rows = (np.asarray(np.load(folder / name, mmap_mode="r")) for name in (_TOKENS, _TRAINED, _ROWS))
    survey = Survey.from_dict(json.loads((folder / _SURVEY).read_text(encoding="utf-8")))
    return Store(tokens, trained, rows, survey)


class StoreWriter:
    """Takes rows in batches and makes a store of them in `folder`, from the parts that an earlier try left there.

    `seen` is the number of rows of the data, good or bad, that are in whole parts already: those need not be given again.
    """

    def __init__(self, folder: Path) -> None:
        self.work = folder.with_name(f".{folder.name}.parts")
        self.folder = folder
        self.work.mkdir(parents=True, exist_ok=True)
        self.parts: list[Path] = []
        self.seen = self.rows_written = 0
        while (part := self._part(len(self.parts))).is_file():
            state = json.loads(part.with_suffix(".json").read_text(encoding="utf-8"))
            self.seen, self.rows_written = state["seen"], self.rows_written + state["rows"]
            self.parts.append(part)
        self._begin()

    def _part(self, number: int) -> Path:
        return self.work / f"{number:05}.npz"

    def _begin(self) -> None:
        self.held: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        self.held_tokens = 0
        self.survey = Survey()

    def add(self, tokens: np.ndarray, trained: np.ndarray, rows: np.ndarray, survey: Survey) -> None:
        """One batch: the ids of its rows (t,), which of them are trained (t,), the rows (n,), and what was seen on the way."""
        for held, some in zip(self.held, (tokens, trained, rows), strict=True):
            held.append(some)
        self.held_tokens += len(tokens)
        self.survey.add(survey)
        if self.held_tokens >= PART_TOKENS:
            self._write_part()

    def _write_part(self) -> None:
        if not self.held[0]:
            return
        part = self._part(len(self.parts))
        tokens, trained, rows = (np.concatenate(held) for held in self.held)
        aside = part.with_suffix(".partial.npz")
        np.savez(aside, tokens=tokens, trained=trained, rows=rows)
        self.seen += self.survey.read
        self.rows_written += len(rows)
        state = {"seen": self.seen, "rows": len(rows), "tokens": len(tokens), "survey": self.survey.as_dict()}
        write_json(part.with_suffix(".json"), state)
        aside.replace(part)  # last: a part is there when it is whole
        self.parts.append(part)
        self._begin()

    def discard(self) -> None:
        """Forgets all parts."""
        shutil.rmtree(self.work, ignore_errors=True)

    def finish(self, key: str, facts: dict[str, Any]) -> Store:
        """Puts the parts together and the store in place."""
        self._write_part()
        states = [json.loads(part.with_suffix(".json").read_text(encoding="utf-8")) for part in self.parts]
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        sizes = {
            _TOKENS: [s["tokens"] for s in states],
            _TRAINED: [s["tokens"] for s in states],
            _ROWS: [s["rows"] for s in states],
        }
        for name, dtype in ((_TOKENS, np.dtype("<u4")), (_TRAINED, np.dtype("?")), (_ROWS, ROW)):
            with (out / name).open("wb") as file:  # not through the memory map, whose pages count as memory of ours
                shape = (sum(sizes[name]),)
                write_array_header_1_0(file, {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
                for part in self.parts:
                    with np.load(part) as arrays:
                        arrays[name.removesuffix(".npy")].tofile(file)
        survey = Survey()
        for state in states:
            survey.add(Survey.from_dict(state["survey"]))
        write_json(out / _SURVEY, survey.as_dict())
        seal(out, key=key, kind="data", facts=facts)
        put_in_place(out, self.folder)
        self.discard()
        store = open_store(self.folder)
        assert store is not None
        return store


def discard_old_stores(folder: Path, keep: Path) -> None:
    """Removes all stores of `folder` but `keep` and those that were used last, KEPT_STORES in all, and parts of stores that were
    never finished: whoever calls this holds the folder's lock, so that nobody is at work on them."""
    found = [p for p in folder.iterdir() if p.is_dir()]
    parts = [p for p in found if p.name.startswith(".")]

    def used(store: Path) -> float:
        return (store / _SURVEY).stat().st_mtime if (store / _SURVEY).is_file() else 0.0

    by_use = sorted((p for p in found if p not in parts and p != keep), key=used, reverse=True)
    for old in [*by_use[KEPT_STORES - 1 :], *parts]:
        shutil.rmtree(old, ignore_errors=True)
