"""Data sets from the Hugging Face Hub, through `datasets`: a split is brought here once, as JSON Lines, and is a file ever after.

The library streams: only the files of that split come over the network, and no copy of them lands in its cache.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import ConfigError, DataError, MissingDependency, NetworkError, PhiError
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.suggestions import did_you_mean

INSTALL = 'pip install "datasets>=5.2,<6"'
CONVERTED = "refs/convert/parquet"  # the branch on which the hub keeps its own Parquet copy of a data set
_ROWS_AT_ONCE = 1000
_TRIES = 2  # each is six requests of huggingface_hub's own, over some 25 seconds
_SHOWN_NAMES = 20
_SHOWN_CHARACTERS = 200
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def download(
    name: str,
    *,
    subset: str | None,
    split: str,
    revision: str | None,
    data_dir: str | None,
    target: Path,
    emit: Emit,
    stage: str,
) -> dict[str, Any]:
    """Writes `split` (a name alone, without slice) of the hub's data set `name` to `target`, one row a line; `target` appears whole
    or not at all. Emits progress in rows as `stage`; its `total` is what the data set's card announces.

    Returns `source`, `commit`, `subset`, `split`, `licence`, `columns` (names), `rows` and `bytes` (of `target`). Datetimes are
    written as ISO 8601 text, decimals as text, NaN and infinities as null. Memory holds one row group of a Parquet file at a time,
    10 MB of a JSON Lines file, or the whole of a JSON array.

    The token comes from HF_TOKEN or `hf auth login`. Raises NetworkError for what the hub does not give, DataError for a subset or a
    split that is not there and for rows that cannot be JSON, ConfigError for a name that is none, MissingDependency.
    """
    datasets = _library(name)
    with _told(name, revision), tempfile.TemporaryDirectory(prefix="phi-scaffold-") as scratch:
        info = _repository(name, revision)
        builder = _builder(datasets, info, subset, data_dir, scratch)
        rows = _split(builder, name, split)
        announced = getattr((builder.info.splits or {}).get(split), "num_examples", None) or None
        written = _write(_rows(datasets, rows, name), target, announced, emit, stage)
    if announced and announced != written["rows"]:
        message = f"the card of {name} announces {announced} rows in `{split}`, its files hold {written['rows']}"
        emit(Event("warning", stage, {"message": message}))
    licence = (info.card_data.to_dict() if info.card_data else {}).get("license") or ""
    return {
        "source": f"hub:datasets/{info.id}",
        "commit": info.sha,
        "subset": builder.config.name,
        "split": split,
        "licence": licence if isinstance(licence, str) else ", ".join(licence),
        **written,
    }


def _library(name: str) -> Any:
    for variable in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(variable, "1")
    try:
        import datasets
        from huggingface_hub.utils import logging as hub_logging
    except ImportError as e:
        raise MissingDependency(
            f"reading {name} from the hub needs the library datasets ({e})",
            fix=f"run `{INSTALL}` in the project's .venv, or give a file of your own",
        ) from e
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a request to another host at every call
    datasets.config.TORCH_AVAILABLE = False  # or it imports torch, to be a class of its: 1.4 s and 180 MB for nothing
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = _TRIES
    # What they log as errors they raise too.
    datasets.logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity_error()
    return datasets


def _repository(name: str, revision: str | None) -> Any:
    """What the hub says of the data set; its commit is read from here on, whatever is pushed meanwhile."""
    from huggingface_hub import HfApi

    api = HfApi()
    info = api.dataset_info(name, revision=revision)
    if info.gated:
        api.auth_check(info.id, repo_type="dataset")
    script = f"{info.id.rpartition('/')[2]}.py"
    if script in {file.rfilename for file in info.siblings or []}:
        raise DataError(
            f"{name} comes with a loading script ({script}), which is code that datasets no longer runs",
            fix=f"set revision to {CONVERTED}, where the hub may keep it as plain files (each subset a data_dir), or choose another",
        )
    return info


def _builder(datasets: Any, info: Any, subset: str | None, data_dir: str | None, scratch: str) -> Any:
    path = f"hf://datasets/{info.id}"  # the bare id would also mean a folder of that name here
    try:
        # A cache of its own: from the user's it would take another commit when the network fails.
        builder = datasets.load_dataset_builder(path, subset, data_dir=data_dir, revision=info.sha, cache_dir=scratch)
    except ValueError:
        known = datasets.get_dataset_config_names(path, revision=info.sha)
        if subset is None and len(known) > 1:
            raise DataError(
                f"{info.id} has {len(known)} subsets and no default one", fix=f"choose one of {_listed(known)}"
            ) from None
        if subset is not None and subset not in known:
            raise DataError(
                f"{info.id} has no subset `{subset}`{did_you_mean(subset, known)}",
                fix=f"choose one of {_listed(known)}",
            ) from None
        raise
    if hasattr(builder.config, "fragment_scan_options"):
        # Parquet. By default Arrow keeps what it has read of a file until the end of that file.
        import pyarrow.dataset

        builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        builder.config.batch_size = _ROWS_AT_ONCE
    return builder


def _split(builder: Any, name: str, split: str) -> Any:
    sides = {str(side): rows for side, rows in builder.as_streaming_dataset().items()}
    if split not in sides:
        raise DataError(
            f"{name} has no split `{split}`{did_you_mean(split, sides)}", fix=f"choose one of {_listed(sides)}"
        )
    return sides[split]


def _rows(datasets: Any, split: Any, name: str) -> Iterator[dict[str, Any]]:
    """The rows as Python values. Raises DataError for columns that cannot be JSON."""
    features: Any = split.features
    if features:
        _require_json(features, name)
    # Where no types are known, tables may differ in theirs (pieces of a CSV), and such cannot be joined to a thousand rows.
    at_once = _ROWS_AT_ONCE if features else 1
    schema: Any = None
    packed = False
    for table in split.with_format("arrow").iter(at_once):
        if schema is None or table.schema != schema:
            schema = table.schema
            # Not asking the split: of a JSON array it does not know its types, and gives mixed ones as text (datasets 5.2.0).
            features = split.features or datasets.Features.from_arrow_schema(schema)
            _require_json(features, name)
            packed = any(type(leaf).__name__ == "Json" for leaf in _leaves(features))
        found = table.to_pylist()
        yield from map(features.decode_example, found) if packed else found
    if schema is None:
        raise DataError(f"the split `{split.split}` of {name} has no rows", fix="choose another split")


def _require_json(features: dict[str, Any], name: str) -> None:
    unfit = {
        column: kind for column, feature in features.items() for leaf in _leaves(feature) if (kind := _not_json(leaf))
    }
    if unfit:
        named = _listed([f"`{column}` ({kind})" for column, kind in unfit.items()])
        verb = "are" if len(unfit) > 1 else "is"
        raise DataError(f"{named} of {name} {verb} not text or numbers", fix="choose a data set of text alone")


def _leaves(feature: Any) -> Iterator[Any]:
    """The types of single values, of which the type of a column is made."""
    if isinstance(feature, dict):
        for inner in feature.values():
            yield from _leaves(inner)
    elif hasattr(feature, "feature"):  # a list
        yield from _leaves(feature.feature)
    else:
        yield feature


def _not_json(leaf: Any) -> str:
    """What a value is that JSON has no form for, such as `image` or `binary`; '' when it has one."""
    kind, dtype = type(leaf).__name__, str(getattr(leaf, "dtype", ""))
    if kind == "Value":
        return dtype if "binary" in dtype or dtype.startswith("duration") else ""
    return kind.lower() if kind != "Json" and hasattr(leaf, "decode_example") else ""


def _write(
    rows: Iterable[dict[str, Any]], target: Path, announced: int | None, emit: Emit, stage: str
) -> dict[str, Any]:
    """Writes the rows beside `target`, then renames. Tells twice a second how many there are."""
    aside = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    count, columns, told = 0, dict[str, None](), time.monotonic()

    def tell() -> None:
        total = announced if announced and count <= announced else None
        emit(Event("progress", stage, {"done": count, "total": total, "unit": "rows"}))

    try:
        with aside.open("wb") as stream:
            for row in rows:
                stream.write(_line(row))
                count += 1
                columns |= dict.fromkeys(row)
                if time.monotonic() - told >= 0.5:
                    told = time.monotonic()
                    tell()
            stream.flush()
            os.fsync(stream.fileno())
            size_bytes = stream.tell()
        tell()
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return {"columns": list(columns), "rows": count, "bytes": size_bytes}


def _line(row: dict[str, Any]) -> bytes:
    try:
        text = _encode(row)
    except (TypeError, ValueError):
        text = _encode(_plain(row))
    return text.encode() + b"\n"


def _plain(value: Any) -> Any:
    """`value` with what JSON has no form for written as text, and NaN and infinities as None."""
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
def _told(name: str, revision: str | None) -> Iterator[None]:
    """Says what the libraries raise in the words of phi_runtime.core.errors. A full disk and the like stay what they are."""
    from huggingface_hub import constants, errors
    from yaml import YAMLError

    site, login = constants.ENDPOINT, "log in with `hf auth login` or set HF_TOKEN in .env"
    try:
        yield
    except PhiError:
        raise
    except errors.HFValidationError as e:
        raise ConfigError(f"`{name}` is not the id of a data set", fix="write it as on its page: owner/name") from e
    except errors.GatedRepoError as e:
        fix = f"accept them at {site}/datasets/{name}, then {login}"
        raise NetworkError(f"{name} is gated: its owner wants its terms accepted first", fix=fix) from e
    except errors.RevisionNotFoundError as e:
        raise NetworkError(
            f"{name} has no revision `{revision}`", fix="give a branch, tag or commit of its page"
        ) from e
    except errors.RepositoryNotFoundError as e:
        raise NetworkError(
            f"there is no data set {name} at {site}, or it is private",
            fix=f"check the id; for a private one {login}",
        ) from e
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as e:
        raise NetworkError(f"{site} did not give {name}: {_reason(e)}", fix=_way_out(e)) from e
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
        raise DataError(f"the card of {name} (README.md) is broken: {_reason(e)}", fix="choose another data set") from e
    except (ValueError, TypeError, NotImplementedError, EOFError, OSError) as e:  # Arrow's are of these kinds too
        if isinstance(e, OSError) and e.errno:
            raise
        raise DataError(
            f"the files of {name} cannot be read: {_reason(e)}", fix="look at them on its page, or choose another"
        ) from e


def _way_out(error: Exception) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_DATASETS_OFFLINE"):
        return "unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE, which forbid the network"
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return "check HF_TOKEN, or log in anew with `hf auth login`"
    return "check the network and run again: it begins anew"


def _reason(error: Exception) -> str:
    if hasattr(error, "details"):  # a CastError, whose first line says nothing
        return f"they differ in their columns: {error.details()}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = lines[0].rpartition(" either: ")[2]  # what stands before is where it looked on this machine
    said = re.sub(r"\?[^\s'\"]+", "", said)  # what follows the ? of an address may be a signature
    return said if len(said) <= _SHOWN_CHARACTERS else f"{said[:_SHOWN_CHARACTERS]}…"
