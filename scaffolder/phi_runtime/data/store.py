"""Tokenized rows on disk, read through a memory map: rows that are not read take no memory.

A store is an artifact: `tokens.npy` (ids of all rows, concatenated, uint32), `trained.npy` (training mask, bool), `rows.npy`
(one `ROW` each), `turns.npy` (hashes of the earlier questions of conversations, uint64), `clusters.npy` (see `clusters`) and
`survey.json`. It is written in parts, so that an interrupted tokenization resumes.
"""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

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
        ("turns", "<u4"),  # number of questions before the last one
        ("group", "<u8"),  # hash of the value of `group_by`; 0 if there is none
    ]
)
TRAINED = np.uint64(0)
"""Name of the cluster of rows that are always trained."""


class Clusters(NamedTuple):
    """Rows that must be on one side of every split.

    Attributes:
        names: Name of the cluster of each row, (N,): a hash that depends on content only. `TRAINED` marks conversations that
            are the opening of too many others to be validation rows.
        openings: Number of conversations whose opening is too common to keep all of them on one side.
        crowded: Number of near duplicates in clusters that are too large to be kept on one side.
    """

    names: np.ndarray
    openings: int = 0
    crowded: int = 0


PART_TOKENS = 8_000_000
KEPT_STORES = 6

ROWS, SURVEY = "rows.npy", "survey.json"
CLUSTERS = "clusters.npy"
_TOKENS, _TRAINED, _TURNS = "tokens.npy", "trained.npy", "turns.npy"
_DTYPES = {_TOKENS: np.dtype("<u4"), _TRAINED: np.dtype("?"), _TURNS: np.dtype("<u8"), ROWS: ROW}


@dataclass(frozen=True)
class Store:
    """Tokenized rows in the order of the files.

    Attributes:
        tokens, trained: Token ids and training mask of all rows, (T,) each.
        rows: (N,) of `ROW`.
        turns: Hashes of the questions before the last one of all conversations, in the order of the rows.
        clusters: Name of the cluster of each row, (N,); see `Clusters`.
    """

    tokens: np.ndarray
    trained: np.ndarray
    rows: np.ndarray
    survey: Survey = field(default_factory=Survey)
    turns: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype="<u8"))
    clusters: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype="<u8"))

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

    @cached_property
    def turn_starts(self) -> np.ndarray:
        """Start of each row in `turns`, (N,)."""
        counts: np.ndarray = self.rows["turns"].astype(np.int64)
        return np.cumsum(counts) - counts

    def release(self) -> None:
        """Return the memory of tokens that were read; they are read again from the file when needed."""
        for array in (self.tokens, self.trained):
            owner: Any = array.base
            while isinstance(owner, np.ndarray):
                owner = owner.base
            if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                owner.madvise(mmap.MADV_DONTNEED)

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of a row and their training mask, (t,) each."""
        start, stop = self.starts[index], self.starts[index + 1]
        return self.tokens[start:stop], self.trained[start:stop]


def open_store(folder: Path) -> Store | None:
    """Return the store in `folder` and mark it as used; None if there is no complete one."""
    if read_manifest(folder) is None:
        return None
    with suppress(OSError):  # a disk or folder to read only
        (folder / SURVEY).touch()
    survey = from_json(Survey, read_json(folder / SURVEY))
    return replace(_mapped_store(folder), survey=survey, clusters=_mapped(folder / CLUSTERS))


def _mapped_store(folder: Path) -> Store:
    tokens, trained, rows, turns = (_mapped(folder / name) for name in (_TOKENS, _TRAINED, ROWS, _TURNS))
    return Store(tokens, trained, rows, turns=turns)


def _mapped(path: Path) -> np.ndarray:
    # A plain array over the map: slicing a memmap object costs ten times as much.
    return np.asarray(np.load(path, mmap_mode="r"))


def _parts(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.parts")


def discard_parts(folder: Path) -> None:
    """Remove the parts of the complete store in `folder`, which are still there if its writer was killed at its end."""
    shutil.rmtree(_parts(folder), ignore_errors=True)


class StoreWriter:
    """Write a store in batches, resuming from the parts of an interrupted run.

    `seen` is the number of input rows, good or bad, that complete parts cover already; the caller skips them.
    """

    def __init__(self, folder: Path) -> None:
        self.work = _parts(folder)
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
        self.buffers: dict[str, list[np.ndarray]] = {name: [] for name in _DTYPES}
        self.buffered_tokens = 0
        self.survey = Survey()

    def add(self, part: Store) -> None:
        """Add a batch of rows; its clusters are not used."""
        for name, array in (_TOKENS, part.tokens), (_TRAINED, part.trained), (_TURNS, part.turns), (ROWS, part.rows):
            self.buffers[name].append(array)
        self.buffered_tokens += len(part.tokens)
        self.survey.add(part.survey)
        if self.buffered_tokens >= PART_TOKENS:
            self._write_part()

    def _write_part(self) -> None:
        if not self.buffers[ROWS]:
            return
        part = self._part(len(self.parts))
        arrays = {name.removesuffix(".npy"): np.concatenate(buffer) for name, buffer in self.buffers.items()}
        staged = part.with_suffix(".partial.npz")
        staged.unlink(missing_ok=True)  # a link is not followed
        np.savez(staged, **arrays)
        self.seen += self.survey.read
        sizes = {name: len(array) for name, array in arrays.items()}
        state = {"seen": self.seen, "sizes": sizes, "survey": to_json(self.survey)}
        write_json(part.with_suffix(".json"), state)
        staged.replace(part)  # last: a part that exists is complete
        self.parts.append(part)
        self._begin()

    def discard(self) -> None:
        """Remove all parts."""
        discard_parts(self.folder)

    def finish(self, key: str, facts: dict[str, Any], find_clusters: Callable[[Store], Clusters]) -> Store:
        """Join the parts, find the clusters of their rows, and put the store in place."""
        self._write_part()
        states = [read_json(part.with_suffix(".json")) for part in self.parts]
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for file_name, dtype in _DTYPES.items():
            name = file_name.removesuffix(".npy")
            with (out / file_name).open("wb") as file:  # not through a memory map, whose pages count as our memory
                shape = (sum(state["sizes"][name] for state in states),)
                write_array_header_1_0(file, {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
                for part in self.parts:
                    with np.load(part) as arrays:
                        arrays[name].tofile(file)
        survey = Survey()
        for state in states:
            survey.add(from_json(Survey, state["survey"]))
        clusters = find_clusters(_mapped_store(out))
        np.save(out / CLUSTERS, clusters.names)
        survey.openings, survey.crowded = clusters.openings, clusters.crowded
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
