"""From the files of a data config to a store of its tokenised rows: read, checked, counted and encoded in one go, once.

The store is known by the content of data, hooks, template and tokenizer: nothing is tokenised twice, and nothing stale is used.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from phi_runtime.config.file_formats import unpacked_name
from phi_runtime.config.schema import DataConfig
from phi_runtime.core.artifacts import digest, file_digest
from phi_runtime.core.errors import DataError, Location
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.locks import exclusive
from phi_runtime.data.chat_template import Template
from phi_runtime.data.hooks import Hooks
from phi_runtime.data.rows import Broken
from phi_runtime.data.selection import Found, select
from phi_runtime.data.store import ROW, Store, StoreWriter, discard_old_stores, open_store
from phi_runtime.data.survey import Survey
from phi_runtime.data.template import Piece, Rendered, RowFault
from phi_runtime.data.tokenize import Encoded, Encoder

BATCH_ROWS, BATCH_CHARACTERS = 512, 1_000_000
AHEAD = 8  # batches that wait for the encoder, so that it never waits for the reader
FORM = 1  # of a store: counts up when the same data would be stored otherwise
LIBRARIES = ("tokenizers", "transformers", "jinja2")  # whose versions shape the tokens

_TOKENIZER_FILES = (
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
_NO_WORD = re.compile(r"[\W_]+")
_NO_ASCII_WORD = {code: None for code in range(128) if not chr(code).isalnum()}


@dataclass(frozen=True)
class Recipe:
    """All that shapes the tokens of a data config's rows. `tokenizer` loads it when it is needed."""

    data: DataConfig
    files: list[Path]
    hooks: Hooks
    completion_only: bool
    template: Template
    tokenizer: Callable[[], Any]
    tokenizer_key: str
    versions: dict[str, str]


def tokenizer_key(folder: Path) -> str:
    """The content of a model folder's tokenizer."""
    files = sorted({path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()})
    return digest([(path.name, file_digest(path)) for path in files])


def prepare(recipe: Recipe, cache: Path, emit: Emit, stage: str) -> Store:
    """The store of `recipe` in the folder `cache`, made if it is not there.

    Broken rows are counted in its survey and left out; whether that will do is for the caller to say. Raises DataError for a
    file that cannot be read, or that changes while it is, and Conflict when another process makes a store there.
    """
    if absent := next((path for path in recipe.files if not path.is_file()), None):
        raise DataError("there is no such data file", where=Location(absent), fix="check the path")
    before = _states(recipe.files)
    key = _key(recipe)
    folder = cache / key[:20]
    store = open_store(folder)
    if store is not None:
        return store
    tokenizer = recipe.tokenizer()
    with exclusive(cache.with_name(f"{cache.name}.lock")):
        writer = StoreWriter(folder)
        try:
            _fill(writer, recipe, tokenizer, emit, stage)
        finally:
            if changed := _states(recipe.files) != before:
                writer.discard()  # its parts are not of the content that the key names
        if changed:
            raise DataError(
                "the data changed while they were read",
                where=Location(recipe.files[0]),
                fix="run it again when they are at rest",
            )
        store = writer.finish(key, {"files": [str(path) for path in recipe.files]})
        discard_old_stores(cache, keep=folder)
    return store


def _key(recipe: Recipe) -> str:
    process = recipe.data.pre_process_data_config
    shaping = process.model_dump(
        include={
            "text_template",
            "text_cols",
            "chat_template",
            "message_col",
            "add_special_tokens",
            "text_formatting_func",
        }
    )
    load = recipe.data.load_dataset_config.model_dump(mode="json", exclude={"data_files", "data_dir"})
    # The ending tells what stands between the fields of a table.
    content = [(file_digest(path), unpacked_name(path).suffix.lower()) for path in recipe.files]
    return digest(
        [FORM, load, shaping, recipe.completion_only, recipe.hooks.key, content, recipe.tokenizer_key, recipe.versions]
    )


def _states(files: list[Path]) -> list[tuple[int, int]]:
    found = [path.stat() if path.is_file() else None for path in files]
    return [(s.st_size, s.st_mtime_ns) if s else (0, 0) for s in found]


class _Batch:
    """Rows on their way to the encoder: their pieces, their places and hashes, and what was seen on the way."""

    def __init__(self) -> None:
        self.pieces: list[list[Piece]] = []
        self.places: list[tuple[int, int, int]] = []
        self.hashes: list[bytes] = []
        self.survey = Survey()
        self.characters = 0

    @property
    def full(self) -> bool:
        return self.survey.read >= BATCH_ROWS or self.characters >= BATCH_CHARACTERS

    def add(self, file: int, line: int, number: int, row: Rendered) -> None:
        self.pieces.append(row.pieces)
        self.places.append((file, line, number))
        self.hashes.append(hashes_of(row.question, row.answer))
        self.characters += len(row.question) + len(row.answer)

    def rows(self, encoded: Sequence[Encoded]) -> np.ndarray:
        """The rows of the store, (n,) of `ROW`."""
        return rows_of(self.places, self.hashes, encoded)


def rows_of(places: Sequence[tuple[int, int, int]], hashes: Sequence[bytes], encoded: Sequence[Encoded]) -> np.ndarray:
    """Rows of a store: `places` are file, line and number of each, `hashes` those of `hashes_of`."""
    rows: np.ndarray = np.zeros(len(places), dtype=ROW)
    if not len(places):
        return rows
    for name, column in zip(("file", "line", "number"), zip(*places, strict=True), strict=True):
        rows[name] = column
    four = np.frombuffer(b"".join(hashes), dtype="<u8").reshape(-1, 4)
    rows["question"], rows["answer"], rows["words"] = four[:, :2], four[:, 2], four[:, 3]
    rows["tokens"] = [len(row.ids) for row in encoded]
    rows["trained"] = [row.trained_count for row in encoded]
    rows["endless"] = [row.endless for row in encoded]
    return rows


_Encoded = tuple[np.ndarray, np.ndarray, np.ndarray, Survey]


def _fill(writer: StoreWriter, recipe: Recipe, tokenizer: Any, emit: Emit, stage: str) -> None:
    """Reads in this thread and encodes in others: the tokenizer works outside of Python's lock, on all cores, and while one
    puts its ids in order another keeps it busy."""
    template = recipe.template
    settings = recipe.data.pre_process_data_config
    encoder = Encoder(tokenizer, end_token=settings.add_special_tokens, chat=not template.special)
    waiting: deque[Future[_Encoded]] = deque()
    done, told = writer.seen, time.monotonic()
    with ThreadPoolExecutor(3, thread_name_prefix="tokenise") as pool:
        try:
            for batch in _batches(recipe, template, writer.seen):
                waiting.append(pool.submit(_encoded, encoder, batch))
                if len(waiting) >= AHEAD:
                    done += _take(writer, waiting)
                if time.monotonic() - told > 0.5:
                    told = time.monotonic()
                    emit(Event("progress", stage, {"done": done, "total": None, "unit": "rows"}))
        finally:  # also when it is stopped: what is on its way is kept
            while waiting:
                _take(writer, waiting)


def _take(writer: StoreWriter, waiting: deque[Future[_Encoded]]) -> int:
    """Writes the next batch in order, and says how many rows were read for it. Where it fails, none behind it is written."""
    try:
        tokens, trained, rows, survey = waiting.popleft().result()
        writer.add(tokens, trained, rows, survey)
    except BaseException:
        while waiting:
            waiting.pop().cancel()
        raise
    return survey.read


def _batches(recipe: Recipe, template: Template, skipped: int) -> Iterator[_Batch]:
    found = select(recipe.data.load_dataset_config, recipe.files)
    place = {path: i for i, path in enumerate(recipe.files)}
    batch = _Batch()
    for item in islice(found, skipped, None):
        batch.survey.read += 1
        if isinstance(item, Broken):
            batch.survey.saw_broken(place[Path(item.where.path)], item)
        elif (row := _rendered(item, place[item.path], recipe, template, batch.survey)) is not None:
            batch.add(place[item.path], item.row.line, item.number, row)
        if batch.full:
            yield batch
            batch = _Batch()
    if batch.survey.read:
        yield batch


def _rendered(item: Found, file: int, recipe: Recipe, template: Template, survey: Survey) -> Rendered | None:
    """The row as it is trained; None, and counted, where it is not to be used."""
    line = item.row.line
    survey.saw_columns(item.row.values)
    try:
        values = recipe.hooks(item.row.values)
        if values is None:
            survey.filtered += 1
            return None
        row = template.row(values, completion_only=recipe.completion_only)
        "".join([row.question, row.answer, *[text for text, _ in row.pieces]]).encode()
    except RowFault as e:
        if e.empty:
            survey.saw_empty(file, line, str(e))
        else:
            survey.saw_broken(file, Broken(item.where, str(e), e.fix))
        return None
    except UnicodeEncodeError:
        survey.saw_broken(file, Broken(item.where, "this row holds half of a surrogate pair, which is no text"))
        return None
    survey.saw(file, line, row.question, row.answer)
    return row


def hashes_of(question: str, answer: str) -> bytes:
    """Hashes of what is asked (16 bytes), of the answer (8) and of the words of what is asked (8)."""
    # Ten times as fast as the expression, where there are no other letters.
    words = question.lower().translate(_NO_ASCII_WORD) if question.isascii() else _NO_WORD.sub("", question.casefold())
    return (
        hashlib.blake2b(question.encode(), digest_size=16).digest()
        + hashlib.blake2b(answer.encode(), digest_size=8).digest()
        + hashlib.blake2b(words.encode(), digest_size=8).digest()
    )


def _encoded(encoder: Encoder, batch: _Batch) -> _Encoded:
    encoded = encoder.encode(batch.pieces)
    rows, survey = batch.rows(encoded), batch.survey
    tokens = np.fromiter(
        chain.from_iterable(row.ids for row in encoded), dtype=np.uint32, count=int(rows["tokens"].sum())
    )
    trained: np.ndarray = np.zeros(len(tokens), dtype=np.bool_)
    bos, end, at = encoder.tokenizer.bos_token_id, encoder.end, 0
    for row in encoded:
        for start, stop in row.runs:
            trained[at + start : at + stop] = True
        ids = row.ids
        at += len(ids)
        if len(ids) > 1:
            survey.double_bos += ids[0] == ids[1] == bos
            survey.double_end += ids[-1] == ids[-2] == end
    survey.endless += int(rows["endless"].sum())
    return tokens, trained, rows, survey
