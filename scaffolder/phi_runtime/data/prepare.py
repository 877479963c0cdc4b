"""Turn the files of a data config into a store of tokenized rows: read, check, count and encode in one pass, once.

The store is keyed by the content of data, hooks, template and tokenizer: no row is tokenized twice, no stale one is used.
"""

from __future__ import annotations

import gc
import hashlib
import re
import string
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from phi_runtime.config.file_formats import unpacked_name
from phi_runtime.config.schema import DataConfig
from phi_runtime.core.artifacts import digest, file_digest
from phi_runtime.core.errors import DataError, Location
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.locks import exclusive
from phi_runtime.data.chat_template import ChatTemplate, Template
from phi_runtime.data.clusters import find_clusters
from phi_runtime.data.column_meanings import marked_false
from phi_runtime.data.end_tokens import SpecialTokens
from phi_runtime.data.files import missing_file
from phi_runtime.data.hooks import Hooks
from phi_runtime.data.row import RowError
from phi_runtime.data.rows import BadRow, original_names
from phi_runtime.data.selection import SelectedRow, read_options, select
from phi_runtime.data.store import ROW, Store, StoreWriter, discard_old_stores, discard_parts, open_store
from phi_runtime.data.survey import Survey
from phi_runtime.data.template import Piece, Rendered
from phi_runtime.data.tokenize import EncodedBatch, Encoder
from phi_runtime.models.fetch import TOKENIZER_FILES

BATCH_ROWS, BATCH_CHARACTERS = 2048, 1_000_000
AHEAD = 8  # batches queued for the encoder, so that it never waits for the reader
ENCODERS = 2  # threads: one converts tokens while the other encodes; more of them compete for the cores, or for a table of words
_COLLECTION_OBJECTS = 1_000_000  # new ones after which garbage is collected; the batches in memory have fewer
FORMAT_VERSION = 4  # of a store; increment when the same data would be stored differently
LIBRARIES = ("tokenizers", "transformers", "jinja2")  # their versions shape the tokens

_PUNCTUATION = (
    r"""[\s.,;:!?'"()…¡¿«»‘’‚“”„、。，；：！？「」]"""  # of sentences; symbols such as - and + have a meaning
)
_ASCII_PUNCTUATION = bytes(code for code in range(128) if re.match(_PUNCTUATION, chr(code)))
_DIGITS_OR_SPACE = bytes(code if chr(code) in string.digits else 32 for code in range(256))
_PUNCTUATIONS, _NUMBER = re.compile(f"{_PUNCTUATION}+"), re.compile(r"\d+")


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the tokens of a data config's rows. `tokenizer` loads it on demand."""

    data: DataConfig
    files: list[Path]
    hooks: Hooks
    completion_only: bool
    template: Template
    tokenizer: Callable[[], Any]
    tokenizer_key: str
    versions: dict[str, str]


def tokenizer_key(folder: Path) -> str:
    """Return a digest of the tokenizer files of a model folder."""
    files = sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()})
    return digest([(path.relative_to(folder).as_posix(), file_digest(path)) for path in files])


def prepare(recipe: Recipe, cache: Path, emit: Emit, stage: str) -> Store:
    """Return the store of `recipe` in the folder `cache`; create it if it is missing.

    Bad rows are skipped and counted in its survey; the caller decides if that is acceptable.

    Raises:
        DataError: a file cannot be read, or changes while it is read.
        Conflict: another process is writing a store there.
    """
    if absent := next((path for path in recipe.files if not path.is_file()), None):
        raise missing_file(absent)
    initial = _states(recipe.files)
    key = _key(recipe)
    folder = cache / key[:20]
    store = open_store(folder)
    if store is not None:
        discard_parts(folder)
        return store
    tokenizer = recipe.tokenizer()
    with exclusive(cache.with_name(f"{cache.name}.lock")):
        store = open_store(folder)
        if store is not None:  # another process has written it meanwhile
            return store
        writer = StoreWriter(folder)
        try:
            with _rare_collections():
                _fill(writer, recipe, tokenizer, emit, stage)
        finally:
            if changed := _states(recipe.files) != initial:
                writer.discard()  # its parts do not match the key
        if changed:
            raise DataError(
                "the data changed while it was read",
                where=Location(recipe.files[0]),
                fix="run again when nothing writes to it",
            )
        store = writer.finish(key, {"files": [str(path) for path in recipe.files]}, find_clusters)
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
            "special_tokens_in_rows",
            "group_by",
        }
    )
    if process.optional_cols:
        shaping["optional_cols"] = process.optional_cols
    load = recipe.data.load_dataset_config.model_dump(mode="json", exclude={"data_files", "data_dir"})
    # The suffix decides the field separator of a table.
    content = [(file_digest(path), unpacked_name(path).suffix.lower()) for path in recipe.files]
    return digest(
        [
            FORMAT_VERSION,
            load,
            shaping,
            recipe.completion_only,
            recipe.hooks.key,
            content,
            recipe.tokenizer_key,
            recipe.versions,
        ]
    )


def _states(files: list[Path]) -> list[tuple[int, int]]:
    stats = [path.stat() if path.is_file() else None for path in files]
    return [(s.st_size, s.st_mtime_ns) if s else (0, 0) for s in stats]


class RowFacts(NamedTuple):
    """Everything that a store keeps of a row besides its tokens.

    Attributes:
        place: Index of its file, line in it, and number among all rows.
        hashes: Those of `hashes_of`.
        turns: Hashes of the earlier questions.
        group: Hash of its value of `group_by`; 0 if there is none.
    """

    place: tuple[int, int, int]
    hashes: bytes
    turns: tuple[int, ...] = ()
    group: int = 0


def facts_of(place: tuple[int, int, int], row: Rendered, group: Any = None) -> RowFacts:
    """Return the facts of a row with the value `group` of `group_by`."""
    value = "" if group is None else str(group)
    turns = tuple(map(_hash, row.earlier))
    return RowFacts(place, hashes_of(row.question, row.answer), turns, _hash(value) if value.strip() else 0)


class _Batch:
    """Rows for the encoder: their pieces and facts, and a survey."""

    def __init__(self) -> None:
        self.pieces: list[list[Piece]] = []
        self.facts: list[RowFacts] = []
        self.survey = Survey()
        self.characters = 0

    def add(self, facts: RowFacts, row: Rendered) -> None:
        self.pieces.append(row.pieces)
        self.facts.append(facts)
        self.characters += len(row.question) + len(row.answer)


def store_part(facts: Sequence[RowFacts], encoded: EncodedBatch) -> Store:
    """Return rows of a store from their facts and tokens."""
    rows: np.ndarray = np.zeros(len(facts), dtype=ROW)
    if len(facts):
        for name, column in zip(("file", "line", "number"), zip(*(f.place for f in facts), strict=True), strict=True):
            rows[name] = column
        four = np.frombuffer(b"".join(f.hashes for f in facts), dtype="<u8").reshape(-1, 4)
        rows["question"], rows["answer"], rows["words"] = four[:, :2], four[:, 2], four[:, 3]
        rows["turns"], rows["group"] = [len(f.turns) for f in facts], [f.group for f in facts]
        rows["tokens"], rows["endless"] = encoded.sizes, encoded.endless
        trained = np.concatenate([[0], np.cumsum(encoded.trained)])
        rows["trained"] = np.diff(trained[np.cumsum(encoded.sizes)], prepend=0)
    turns = np.array([turn for f in facts for turn in f.turns], dtype="<u8")
    return Store(encoded.tokens, encoded.trained, rows, turns=turns)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Collect garbage less often, and not among the objects of the libraries, which took a tenth of the time for nothing."""
    threshold, frozen = gc.get_threshold(), gc.get_freeze_count()
    if not frozen:
        gc.freeze()
    gc.set_threshold(_COLLECTION_OBJECTS, *threshold[1:])
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        if not frozen:  # else what the caller has frozen would be collected again
            gc.unfreeze()


def _fill(writer: StoreWriter, recipe: Recipe, tokenizer: Any, emit: Emit, stage: str) -> None:
    """Read in this thread and encode in others: the tokenizer releases Python's lock and uses all cores."""
    template = recipe.template
    encoder = Encoder.of(tokenizer, recipe.data.pre_process_data_config, template)
    waiting: deque[Future[Store]] = deque()
    done, reported = writer.seen, time.monotonic()
    threads = 1 if encoder.words else ENCODERS
    with ThreadPoolExecutor(threads, thread_name_prefix="tokenize") as pool:
        try:
            for batch in _batches(recipe, template, SpecialTokens.of(tokenizer), writer.seen):
                waiting.append(pool.submit(_encoded, encoder, batch))
                if len(waiting) >= AHEAD:
                    done += _take(writer, waiting)
                if time.monotonic() - reported > 0.5:
                    reported = time.monotonic()
                    emit(Event("progress", stage, {"done": done, "total": None, "unit": "rows"}))
        finally:  # also on an interruption: keep the batches that are being encoded
            while waiting:
                _take(writer, waiting)


def _take(writer: StoreWriter, waiting: deque[Future[Store]]) -> int:
    """Write the next batch and return the number of rows read for it. If it fails, no later batch is written."""
    try:
        part = waiting.popleft().result()
        writer.add(part)
    except BaseException:
        while waiting:
            waiting.pop().cancel()
        raise
    return part.survey.read


def _batches(recipe: Recipe, template: Template, special: SpecialTokens, skipped: int) -> Iterator[_Batch]:
    rows = select(recipe.data.load_dataset_config, recipe.files)
    place = {path: i for i, path in enumerate(recipe.files)}
    batch = _Batch()
    for item in islice(rows, skipped, None):
        survey = batch.survey
        survey.read += 1
        if isinstance(item, BadRow):
            survey.count_bad_row(place[Path(item.where.path)], item)
        elif (row := _rendered(item, place[item.path], recipe, template, special, survey)) is not None:
            batch.add(*row)
        if survey.read >= BATCH_ROWS or batch.characters >= BATCH_CHARACTERS:
            yield batch
            batch = _Batch()
    if batch.survey.read:
        yield batch


def _rendered(
    item: SelectedRow, file: int, recipe: Recipe, template: Template, special: SpecialTokens, survey: Survey
) -> tuple[RowFacts, Rendered] | None:
    """Return the row for training; None if it is not used, which is counted."""
    line, load = item.row.line, recipe.data.load_dataset_config
    survey.count_columns(item.row.values)
    try:
        values = recipe.hooks(item.row.values)
        if values is None:
            survey.filtered += 1
            return None
        if mark := marked_false(values, template.columns, conversation=isinstance(template, ChatTemplate)):
            raise RowError(
                f"`{mark}` is false: the answer is a bad one, which `col_filters` skips",
                f'add "col_filters": {{"{mark}": true}} to load_dataset_config',
            )
        row = template.row(values, completion_only=recipe.completion_only)
        group = _group(recipe.data.pre_process_data_config.group_by, item.row.values, values)
        for text in (row.question, row.answer, *[text for text, _ in row.pieces]):
            if not text.isascii():
                text.encode()  # fails for a lone surrogate
        tokens = special.find(row.text)
        own = sorted(tokens & special.own) if tokens else []
        if own and recipe.data.pre_process_data_config.special_tokens_in_rows == "refuse":
            raise RowError(f"this row contains the special token `{own[0]}`", "remove the token from its text")
    except RowError as e:
        what = _with_original_names(str(e), original_names(item.path, read_options(load, item.path)))
        if e.empty:
            survey.count_empty_row(file, line, what)
        else:
            survey.count_bad_row(file, BadRow(item.where, what, e.fix))
        return None
    except UnicodeEncodeError:
        survey.count_bad_row(file, BadRow(item.where, "this row contains a lone surrogate, which is not text"))
        return None
    survey.count_row(file, line, row.question, row.answer)
    survey.count_untrained(file, line, row.remarks)
    if row.ends or tokens:
        survey.count_tokens(file, line, row.ends, own, sorted(tokens.difference(own)))
    return facts_of((file, line, item.number), row, group), row


def _group(column: str | None, read: Mapping[str, Any], changed: Mapping[str, Any]) -> Any:
    """Return the value of the column `group_by`, after the hooks if they keep it. Raises RowError if the row has no such column."""
    if column is None:
        return None
    values = {**read, **changed}
    if column not in values:
        raise RowError(f"this row has no column `{column}` to group by", f"it has {', '.join(values) or 'none'}")
    return values[column]


def _blake2b(text: bytes, size: int = 8) -> bytes:
    return hashlib.blake2b(text, digest_size=size).digest()


def _hash(text: str) -> int:
    return int.from_bytes(_blake2b(text.encode(errors="surrogatepass"), 16)[:8], "little")


def _with_original_names(what: str, originals: Mapping[str, str]) -> str:
    for new, old in originals.items():
        what = what.replace(f"`{new}`", f"`{new}` (`{old}`)")
    return what


def hashes_of(question: str, answer: str) -> bytes:
    """Return hashes of the question (16 bytes), the answer (8) and the question's words (8)."""
    written = question.encode()
    exact = _blake2b(written, 16)
    words = _ascii_words(written) if question.isascii() else _words(question)
    return exact + _blake2b(answer.encode()) + (_blake2b(words) if words else exact[:8])


def _words(question: str) -> bytes:
    """Return a question without case and punctuation, followed by its numbers: 1.5 is not 15."""
    text = question.casefold()
    return "|".join([_PUNCTUATIONS.sub("", text), *_NUMBER.findall(text)]).encode()


def _ascii_words(question: bytes) -> bytes:
    """Return what `_words` does, ten times as fast as the regular expressions."""
    folded = question.lower()
    return b"|".join([folded.translate(None, _ASCII_PUNCTUATION), *folded.translate(_DIGITS_OR_SPACE).split()])


def answer_hash(answer: str) -> int:
    """Return the hash of an answer in the rows of a store."""
    return int.from_bytes(_blake2b(answer.encode()), "little")


def _encoded(encoder: Encoder, batch: _Batch) -> Store:
    encoded = encoder.encode_batch(batch.pieces)
    part, survey = store_part(batch.facts, encoded), batch.survey
    several = encoded.sizes > 1
    ends, sizes = np.cumsum(encoded.sizes)[several], encoded.sizes[several]
    survey.double_bos += _count_pairs(encoded.tokens, ends - sizes, encoder.tokenizer.bos_token_id)
    survey.double_end += _count_pairs(encoded.tokens, ends - 2, encoder.end)
    survey.endless += int(encoded.endless.sum())
    return replace(part, survey=survey)


def _count_pairs(tokens: np.ndarray, at: np.ndarray, token: int | None) -> int:
    """Return at how many of the places `at` the token is repeated."""
    return 0 if token is None else int(((tokens[at] == token) & (tokens[at + 1] == token)).sum())
