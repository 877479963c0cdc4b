"""From the files of a data config to a store of its tokenised rows: read, checked, counted and encoded in one go, once.

The store is known by the content of data, hooks, template and tokenizer: nothing is tokenised twice, and nothing stale is used.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from phi_runtime.artefacts import digest, file_digest
from phi_runtime.data.chat_template import Template
from phi_runtime.data.files import unpacked_name
from phi_runtime.data.hooks import Hooks
from phi_runtime.data.rows import Broken
from phi_runtime.data.selection import Found, select
from phi_runtime.data.store import ROW, Store, StoreWriter, discard_old_stores, open_store
from phi_runtime.data.survey import Survey
from phi_runtime.data.template import Piece, RowFault
from phi_runtime.data.tokenize import Encoder
from phi_runtime.errors import DataError, Location
from phi_runtime.events import Emit, Event
from phi_runtime.workflow.schema import DataConfig

BATCH_ROWS, BATCH_CHARACTERS = 1024, 1_000_000
AHEAD = 4  # batches that wait for the encoder, so that it never waits for the reader
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
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Recipe:
    """All that shapes the tokens of a data config's rows. `tokenizer` loads it when it is needed."""

    data: DataConfig
    files: list[Path]
    hooks: Hooks
    completion_only: bool
    template: Callable[[], Template]
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
    file that cannot be read, or that changes while it is.
    """
    if absent := next((path for path in recipe.files if not path.is_file()), None):
        raise DataError("there is no such data file", where=Location(absent), fix="check the path")
    before = _states(recipe.files)
    key = _key(recipe)
    folder = cache / key[:20]
    store = open_store(folder)
    if store is not None:
        (folder / "survey.json").touch()
        return store
    cache.mkdir(parents=True, exist_ok=True)
    tokenizer = recipe.tokenizer()
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
    discard_old_stores(cache, [folder])
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


@dataclass
class _Batch:
    """Rows on their way to the encoder."""

    pieces: list[list[Piece]]
    rows: np.ndarray
    survey: Survey


def _fill(writer: StoreWriter, recipe: Recipe, tokenizer: Any, emit: Emit, stage: str) -> None:
    """Reads in this thread and encodes in two others: the tokenizer works outside of Python's lock, on all cores, and while one
    puts its ids in order the other keeps it busy."""
    template = recipe.template()
    settings = recipe.data.pre_process_data_config
    encoder = Encoder(tokenizer, end_token=settings.add_special_tokens, chat=not template.special)
    waiting: deque[Future[tuple[np.ndarray, np.ndarray, _Batch]]] = deque()
    done, told = writer.seen, time.monotonic()
    with ThreadPoolExecutor(2, thread_name_prefix="tokenise") as pool:
        try:
            for batch in _batches(recipe, template, writer.seen):
                waiting.append(pool.submit(_encoded, encoder, batch))
                if len(waiting) >= AHEAD:
                    done += _take(writer, waiting)
                if time.monotonic() - told > 0.5:
                    told = time.monotonic()
                    emit(Event("progress", stage, {"done": done, "total": None, "unit": "rows"}))
            while waiting:
                done += _take(writer, waiting)
        finally:
            for future in waiting:
                future.cancel()


def _take(writer: StoreWriter, waiting: deque[Future[tuple[np.ndarray, np.ndarray, _Batch]]]) -> int:
    tokens, trained, batch = waiting.popleft().result()
    writer.add(tokens, trained, batch.rows, batch.survey)
    return batch.survey.read


def _batches(recipe: Recipe, template: Template, skipped: int) -> Iterator[_Batch]:
    found = select(recipe.data.load_dataset_config, recipe.files)
    place = {path: i for i, path in enumerate(recipe.files)}
    pieces: list[list[Piece]] = []
    rows: list[tuple[Any, ...]] = []
    survey, characters = Survey(), 0
    for item in islice(found, skipped, None):
        survey.read += 1
        if isinstance(item, Broken):
            survey.saw_broken(place[Path(item.where.path)], item)
        elif (row := _rendered(item, place[item.path], recipe, template, survey)) is not None:
            text, question, answer = row
            pieces.append(text)
            rows.append((place[item.path], item.row.line, item.number, 0, 0, *_hashes(question, answer), False))
            characters += sum(len(piece) for piece, _ in text)
        if survey.read >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield _Batch(pieces, np.array(rows, dtype=ROW), survey)
            pieces, rows, survey, characters = [], [], Survey(), 0
    if survey.read:
        yield _Batch(pieces, np.array(rows, dtype=ROW), survey)


def _rendered(
    item: Found, file: int, recipe: Recipe, template: Template, survey: Survey
) -> tuple[list[Piece], str, str] | None:
    """The text of a row, its question and its answer; None, and counted, where the row is not to be used."""
    line = item.row.line
    survey.saw_columns(item.row.values)
    try:
        values = recipe.hooks(item.row.values)
        if values is None:
            survey.filtered += 1
            return None
        template.check(values)
        text = template.pieces(values, completion_only=recipe.completion_only)
        question, answer = template.question(values), template.reference(values)
        (question + answer + "".join(piece for piece, _ in text)).encode()  # half of a surrogate pair is no text
    except RowFault as e:
        if e.empty:
            survey.saw_empty(file, line, str(e))
        else:
            survey.saw_broken(file, Broken(item.where, str(e), e.fix))
        return None
    except UnicodeEncodeError:
        survey.saw_broken(file, Broken(item.where, "this row holds half of a surrogate pair, which is no text"))
        return None
    survey.saw(file, line, question, answer)
    return text, question, answer


def _hashes(question: str, answer: str) -> tuple[tuple[int, int], int, int]:
    first = hashlib.blake2b(question.encode(), digest_size=16).digest()
    words = " ".join(_WORD.findall(question.casefold())).encode()
    return (
        (int.from_bytes(first[:8], "little"), int.from_bytes(first[8:], "little")),
        int.from_bytes(hashlib.blake2b(answer.encode(), digest_size=8).digest(), "little"),
        int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little"),
    )


def _encoded(encoder: Encoder, batch: _Batch) -> tuple[np.ndarray, np.ndarray, _Batch]:
    rows = encoder.encode(batch.pieces)
    tokens = np.fromiter(chain.from_iterable(row.ids for row in rows), dtype=np.uint32)
    trained = np.fromiter(chain.from_iterable(row.trained for row in rows), dtype=np.bool_)
    for i, row in enumerate(rows):
        batch.rows["tokens"][i], batch.rows["trained"][i] = len(row.ids), row.trained_count
        batch.rows["endless"][i] = row.endless
        ids = row.ids
        if len(ids) > 1:
            batch.survey.double_bos += ids[0] == ids[1] == encoder.tokenizer.bos_token_id
            batch.survey.double_end += ids[-1] == ids[-2] == encoder.end
    batch.survey.endless += int(batch.rows["endless"].sum())
    return tokens, trained, batch
