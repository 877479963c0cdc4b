"""Download a split of a Hugging Face Hub data set through `datasets`, once, as a JSON Lines file.

The library streams: only the files of that split are transferred, and none is copied to its cache.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import LoadDataset
from phi_runtime.core.artifacts import staged
from phi_runtime.core.errors import ConfigError, DataError, MissingDependency
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.models.hub_errors import hub_errors, reason

INSTALL = 'pip install "datasets>=5.2,<6"'
CONVERTED = "refs/convert/parquet"  # branch with the Hub's own Parquet copy of a data set
_ROWS_AT_ONCE = 1000
_TRIES = 2  # each makes six requests of huggingface_hub, over some 25 seconds
_SHOWN_NAMES = 20
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def download(load: LoadDataset, split: str, target: Path, emit: Emit, stage: str) -> dict[str, Any]:
    """Write a split of a Hub data set to `target`, one row a line.

    `target` is complete or absent. Datetimes are written as ISO 8601 text, decimals as text, NaN and infinities as null.
    Memory holds one row group of a Parquet file at a time, 10 MB of a JSON Lines file, or all of a JSON array. The token
    comes from HF_TOKEN or `hf auth login`.

    Args:
        load: Id (`data_name`), subset, revision and data_dir of the data set.
        split: Name of the split, without a slice.
        target: File to write.
        emit, stage: Progress in rows; its total is the number on the data set's card.

    Returns:
        `source`, `commit`, `subset`, `split`, `license`, `columns` (names), `rows` and `bytes` (of `target`).

    Raises:
        NetworkError: the Hub does not answer or refuses.
        DataError: the subset or split does not exist, or rows cannot be written as JSON.
        ConfigError: the name is not an id.
        MissingDependency: `datasets` or a library for the file format is not installed.
    """
    name = load.data_name
    datasets = _library(name)
    with _translated_errors(name, load.revision), tempfile.TemporaryDirectory(prefix="phi-scaffold-") as scratch:
        info = _repository(name, load.revision)
        builder = _builder(datasets, info, load.subset, load.data_dir, scratch)
        rows = _split(builder, name, split)
        announced = getattr((builder.info.splits or {}).get(split), "num_examples", None) or None
        written = _write(_rows(datasets, rows, name), target, announced, emit, stage)
    if announced and announced != written["rows"]:
        message = f"the card of {name} lists {announced} rows in `{split}`; its files have {written['rows']}"
        emit(Event("warning", stage, {"message": message}))
    license_ = (info.card_data.to_dict() if info.card_data else {}).get("license") or ""
    return {
        "source": f"hub:datasets/{info.id}",
        "commit": info.sha,
        "subset": builder.config.name,
        "split": split,
        "license": license_ if isinstance(license_, str) else ", ".join(license_),
        **written,
    }


def _library(name: str) -> Any:
    for variable in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(variable, "1")
    try:
        import datasets
        from huggingface_hub.utils import logging as hub_logging

        from phi_runtime.models.hub_answers import bound_answers
    except ImportError as e:
        raise MissingDependency(
            f"reading {name} from the Hub needs the library datasets ({e})",
            fix=f"run `{INSTALL}` in the project's .venv, or use a local file",
        ) from e
    bound_answers()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a request to another host at every call
    datasets.config.TORCH_AVAILABLE = False  # or it imports torch for one class: 1.4 s and 180 MB
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = _TRIES
    # They also raise what they log as errors.
    datasets.logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity_error()
    return datasets


def _repository(name: str, revision: str | None) -> Any:
    """Return the Hub's description of the data set; its commit is used from here on."""
    from huggingface_hub import HfApi

    api = HfApi()
    info = api.dataset_info(name, revision=revision)
    if info.gated:
        api.auth_check(info.id, repo_type="dataset")
    script = f"{info.id.rpartition('/')[2]}.py"
    if script in {file.rfilename for file in info.siblings or []}:
        raise DataError(
            f"{name} has a loading script ({script}), which datasets no longer runs",
            fix=f"set revision to {CONVERTED}, which may have it as Parquet files (each subset a data_dir)",
        )
    return info


def _builder(datasets: Any, info: Any, subset: str | None, data_dir: str | None, scratch: str) -> Any:
    path = f"hf://datasets/{info.id}"  # the bare id could also be a local folder
    try:
        # A separate cache: with the user's it would use another commit when the network fails.
        builder = datasets.load_dataset_builder(path, subset, data_dir=data_dir, revision=info.sha, cache_dir=scratch)
    except ValueError:
        known = datasets.get_dataset_config_names(path, revision=info.sha)
        if subset is None and len(known) > 1:
            raise DataError(
                f"{info.id} has {len(known)} subsets and no default", fix=f"set subset to one of {_listed(known)}"
            ) from None
        if subset is not None and subset not in known:
            raise DataError(
                f"{info.id} has no subset `{subset}`{did_you_mean(subset, known)}",
                fix=f"set subset to one of {_listed(known)}",
            ) from None
        raise
    if hasattr(builder.config, "fragment_scan_options"):
        # Parquet. By default Arrow keeps everything it has read of a file until the end of that file.
        import pyarrow.dataset

        builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        builder.config.batch_size = _ROWS_AT_ONCE
    return builder


def _split(builder: Any, name: str, split: str) -> Any:
    sides = {str(side): rows for side, rows in builder.as_streaming_dataset().items()}
    if split not in sides:
        raise DataError(
            f"{name} has no split `{split}`{did_you_mean(split, sides)}", fix=f"set split to one of {_listed(sides)}"
        )
    return sides[split]


def _rows(datasets: Any, split: Any, name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows as Python values. Raises DataError for columns that JSON cannot represent."""
    features: Any = split.features
    if features:
        _require_json(features, name)
    # Without known types, tables may differ in theirs (pieces of a CSV) and cannot be joined.
    at_once = _ROWS_AT_ONCE if features else 1
    schema: Any = None
    packed = False
    for table in split.with_format("arrow").iter(at_once):
        if schema is None or table.schema != schema:
            schema = table.schema
            # Not from the split: for a JSON array it has no types, and returns mixed ones as text (seen in datasets 5.2.0).
            features = split.features or datasets.Features.from_arrow_schema(schema)
            _require_json(features, name)
            packed = any(type(leaf).__name__ == "Json" for leaf in _leaves(features))
        rows = table.to_pylist()
        yield from map(features.decode_example, rows) if packed else rows
    if schema is None:
        raise DataError(f"the split `{split.split}` of {name} has no rows", fix="choose another split")


def _require_json(features: dict[str, Any], name: str) -> None:
    unfit = {
        column: kind for column, feature in features.items() for leaf in _leaves(feature) if (kind := _not_json(leaf))
    }
    if unfit:
        named = _listed([f"`{column}` ({kind})" for column, kind in unfit.items()])
        verb = "are" if len(unfit) > 1 else "is"
        raise DataError(f"{named} of {name} {verb} neither text nor numbers", fix="choose a text data set")


def _leaves(feature: Any) -> Iterator[Any]:
    """Yield the types of single values inside the type of a column."""
    if isinstance(feature, dict):
        for inner in feature.values():
            yield from _leaves(inner)
    elif hasattr(feature, "feature"):  # a list
        yield from _leaves(feature.feature)
    else:
        yield feature


def _not_json(leaf: Any) -> str:
    """Return the kind of a value that JSON cannot represent, such as `image` or `binary`; "" if it can."""
    kind, dtype = type(leaf).__name__, str(getattr(leaf, "dtype", ""))
    if kind == "Value":
        return dtype if "binary" in dtype or dtype.startswith("duration") else ""
    return kind.lower() if kind != "Json" and hasattr(leaf, "decode_example") else ""


def _write(
    rows: Iterable[dict[str, Any]], target: Path, announced: int | None, emit: Emit, stage: str
) -> dict[str, Any]:
    """Write the rows, and report progress twice a second."""
    target.parent.mkdir(parents=True, exist_ok=True)
    count, columns, reported = 0, dict[str, None](), time.monotonic()

    def report() -> None:
        total = announced if announced and count <= announced else None
        emit(Event("progress", stage, {"done": count, "total": total, "unit": "rows"}))

    with staged(target) as partial, partial.open("xb") as stream:  # no link is followed
        for row in rows:
            stream.write(_line(row))
            count += 1
            columns |= dict.fromkeys(row)
            if time.monotonic() - reported >= 0.5:
                reported = time.monotonic()
                report()
        size_bytes = stream.tell()
        report()
    return {"columns": list(columns), "rows": count, "bytes": size_bytes}


def _line(row: dict[str, Any]) -> bytes:
    try:
        text = _encode(row)
    except (TypeError, ValueError):
        text = _encode(_plain(row))
    return text.encode() + b"\n"


def _plain(value: Any) -> Any:
    """Return `value` with types that JSON lacks as text, and NaN and infinities as None."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime | date | time_of_day):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    more = f", … ({len(shown)} in all)" if len(shown) > _SHOWN_NAMES else ""
    return ", ".join(shown[:_SHOWN_NAMES]) + more


@contextmanager
def _translated_errors(name: str, revision: str | None) -> Iterator[None]:
    """Translate the libraries' exceptions into PhiErrors; operating system errors such as a full disk pass through."""
    from huggingface_hub import errors
    from yaml import YAMLError

    try:
        with hub_errors("data set", name, revision):
            yield
    except errors.HFValidationError as e:
        raise ConfigError(f"`{name}` is not the id of a data set", fix="write `owner/name`, as on its page") from e
    except ImportError as e:
        raise MissingDependency(
            f"the files of {name} need a library that is not installed: {_reason(e)}",
            fix="install it in the project's .venv, or choose another data set",
        ) from e
    except StopIteration as e:
        raise DataError(f"{name} has no rows", fix="choose another data set") from e
    except FileNotFoundError as e:
        if e.errno:
            raise
        raise DataError(
            f"{name} has no data files that can be read: {_reason(e)}", fix="check revision and data_dir"
        ) from e
    except YAMLError as e:
        raise DataError(
            f"the card of {name} (README.md) is invalid: {_reason(e)}", fix="choose another data set"
        ) from e
    except (ValueError, TypeError, NotImplementedError, EOFError, OSError) as e:  # Arrow's are of these kinds too
        if isinstance(e, OSError) and e.errno:
            raise
        raise DataError(
            f"the files of {name} cannot be read: {_reason(e)}", fix="check them on its page, or choose another"
        ) from e


def _reason(error: Exception) -> str:
    if hasattr(error, "details"):  # a CastError, whose first line has no content
        return f"they differ in their columns: {error.details()}"
    return reason(error)
