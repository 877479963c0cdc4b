"""Tokenized rows on disk, read through a memory map: rows that are not read take no memory.

A store is an artifact of four files: `tokens.npy` (ids of all rows, concatenated, uint32), `trained.npy` (training
mask, bool), `rows.npy` (one `ROW` each) and `survey.json`. It is written in parts, so that an
interrupted tokenization resumes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0

from phi_runtime.core.artifacts import put_in_place, read_json, read_manifest, seal, write_json
from phi_runtime.core.wire import from_json, to_json
from phi_runtime.data.repeats import Repeats, find_repeats
from phi_runtime.data.survey import Survey

ROW = np.dtype(
    [
        ("file", "<u4"),  # which of the data files
        ("line", "<i8"),  # line in it, from 1
        ("number", "<i8"),  # place among all rows of all files, from 0
        ("tokens", "<u4"),
        ("trained", "<u4"),
        ("question", "<u8", (2,)),  # hash of the question
        ("answer", "<u8"),  # hash of the answer
        ("words", "<u8"),  # hash of the question's words, without case and punctuation
        ("endless", "?"),  # True if the row does not end with an end token
    ]
)
PART_TOKENS = 8_000_000
KEPT_STORES = 6

ROWS, SURVEY = "rows.npy", "survey.json"
_TOKENS, _TRAINED = "tokens.npy", "trained.npy"


@dataclass(frozen=True)
class Store:
    """Tokenized rows in the order of the files: `tokens` (T,) and `trained` (T,) of all rows, and `rows` (N,) of `ROW`."""

    tokens: np.ndarray
    trained: np.ndarray
    rows: np.ndarray
    survey: Survey = field(default_factory=Survey)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def starts(self) -> np.ndarray:
        """Start of each row in `tokens`, and the end of the last one, (N + 1,)."""
        return np.concatenate([[0], np.cumsum(self.rows["tokens"], dtype=np.int64)])

    @cached_property
    def repeats(self) -> Repeats:
        """The rows that repeat a question."""
        return find_repeats(self.rows)

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of a row and their training mask, (t,) each."""
        start, stop = self.starts[index], self.starts[index + 1]
        return self.tokens[start:stop], self.trained[start:stop]


def open_store(folder: Path) -> Store | None:
    """Return the store in `folder` and mark it as used; None if there is no complete one."""
    if read_manifest(folder) is None:
        return None
    (folder / SURVEY).touch()
    # Plain arrays over the map: slicing a memmap object costs ten times as much.
    tokens, trained, rows = (np.asarray(np.load(folder / name, mmap_mode="r")) for name in (_TOKENS, _TRAINED, ROWS))
    survey = from_json(Survey, read_json(folder / SURVEY))
    return Store(tokens, trained, rows, survey)


class StoreWriter:
    """Write a store in batches, resuming from the parts of an interrupted run.

    `seen` is the number of input rows, good or bad, that complete parts cover already; the caller skips them.
    """

    def __init__(self, folder: Path) -> None:
        self.work = folder.with_name(f".{folder.name}.parts")
        self.folder = folder
        self.work.mkdir(parents=True, exist_ok=True)
        self.parts: list[Path] = []
        self.seen = 0
        while (part := self._part(len(self.parts))).is_file():
            state = read_json(part.with_suffix(".json"))
            self.seen = state["seen"]
            self.parts.append(part)
        self._begin()

    def _part(self, number: int) -> Path:
        return self.work / f"{number:05}.npz"

    def _begin(self) -> None:
        self.buffers: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        self.buffered_tokens = 0
        self.survey = Survey()

    def add(self, tokens: np.ndarray, trained: np.ndarray, rows: np.ndarray, survey: Survey) -> None:
        """Add a batch: its token ids (t,), training mask (t,), rows (n,), and survey."""
        for buffer, array in zip(self.buffers, (tokens, trained, rows), strict=True):
            buffer.append(array)
        self.buffered_tokens += len(tokens)
        self.survey.add(survey)
        if self.buffered_tokens >= PART_TOKENS:
            self._write_part()

    def _write_part(self) -> None:
        if not self.buffers[0]:
            return
        part = self._part(len(self.parts))
        tokens, trained, rows = (np.concatenate(buffer) for buffer in self.buffers)
        staged = part.with_suffix(".partial.npz")
        np.savez(staged, tokens=tokens, trained=trained, rows=rows)
        self.seen += self.survey.read
        state = {"seen": self.seen, "rows": len(rows), "tokens": len(tokens), "survey": to_json(self.survey)}
        write_json(part.with_suffix(".json"), state)
        staged.replace(part)  # last: a part that exists is complete
        self.parts.append(part)
        self._begin()

    def discard(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self.work, ignore_errors=True)

    def finish(self, key: str, facts: dict[str, Any]) -> Store:
        """Join the parts, and put the store in place."""
        self._write_part()
        states = [read_json(part.with_suffix(".json")) for part in self.parts]
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        sizes = {
            _TOKENS: [s["tokens"] for s in states],
            _TRAINED: [s["tokens"] for s in states],
            ROWS: [s["rows"] for s in states],
        }
        for name, dtype in ((_TOKENS, np.dtype("<u4")), (_TRAINED, np.dtype("?")), (ROWS, ROW)):
            with (out / name).open("wb") as file:  # not through a memory map, whose pages count as our memory
                shape = (sum(sizes[name]),)
                write_array_header_1_0(file, {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
                for part in self.parts:
                    with np.load(part) as arrays:
                        arrays[name.removesuffix(".npy")].tofile(file)
        survey = Survey()
        for state in states:
            survey.add(from_json(Survey, state["survey"]))
        write_json(out / SURVEY, to_json(survey))
        seal(out, key=key, kind="data", facts=facts)
        put_in_place(out, self.folder)
        self.discard()
        store = open_store(self.folder)
        assert store is not None
        return store


def discard_old_stores(folder: Path, keep: Path) -> None:
    """Remove the least recently used stores of `folder`, and parts of stores that were never finished.

    `keep` and the most recent others stay, KEPT_STORES in all. The caller holds the folder's lock.
    """
    folders = [p for p in folder.iterdir() if p.is_dir()]
    parts = [p for p in folders if p.name.startswith(".")]

    def used(store: Path) -> float:
        return (store / SURVEY).stat().st_mtime if (store / SURVEY).is_file() else 0.0

    by_use = sorted((p for p in folders if p not in parts and p != keep), key=used, reverse=True)
    for old in [*by_use[KEPT_STORES - 1 :], *parts]:
        shutil.rmtree(old, ignore_errors=True)
