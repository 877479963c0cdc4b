"""The first rows of a data set of the Hub, from the server of its data set viewer: two requests, no library."""

from __future__ import annotations

import json
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import DataError, NetworkError
from phi_runtime.core.hub_id import HUB, hub_address, is_offline
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.data.columns import Columns, find_columns

SERVER = "https://datasets-server.huggingface.co"
_LIMIT_BYTES = 64 * 2**20  # of an answer
_ROWS = 100
_TIMEOUT_S = 10
_NO_ACCESS = (401, 403, 404)


def first_rows(name: str, split: str, chosen: Sequence[str] = ()) -> Columns:
    """Detect the columns of a split of the data set `name` from its first rows; see `find_columns` for `chosen`.

    Raises:
        NetworkError: The Hub does not answer, or has no such data set.
        DataError: There is no such split, or no column can be recognized as the answer.
    """
    splits = _get(name, "splits", dataset=name)["splits"]
    names = [entry["split"] for entry in splits]
    if split not in names:
        raise DataError(
            f"{name} has no split `{split}`{did_you_mean(split, names)}", fix=f"use one of {', '.join(names)}"
        )
    subset = next(entry["config"] for entry in splits if entry["split"] == split)
    answer = _get(name, "rows", dataset=name, config=subset, split=split, offset="0", length=str(_ROWS))
    with tempfile.TemporaryDirectory(prefix="phi-scaffold-") as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(row["row"]) + "\n" for row in answer["rows"]), encoding="utf-8")
        return replace(find_columns(file, chosen), rows=answer["num_rows_total"])


def _get(name: str, path: str, **query: str) -> Any:
    fix = "name them, the answer last: --columns question,answer"
    if hub_address().rstrip("/") != HUB:  # HF_TOKEN is for that server
        raise NetworkError(f"the columns of {name} are unknown: HF_ENDPOINT names another hub", fix=fix)
    request = urllib.request.Request(f"{SERVER}/{path}?{urllib.parse.urlencode(query)}")
    if token := os.environ.get("HF_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if is_offline():
        raise NetworkError(f"the columns of {name} are unknown: HF_HUB_OFFLINE is set", fix=fix)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            return json.loads(response.read(_LIMIT_BYTES))
    except (OSError, ValueError) as e:  # no network, a refusal, or a page of a proxy
        if isinstance(e, urllib.error.HTTPError) and e.code in _NO_ACCESS:
            what = f"the Hub has no data set `{name}` that is public, or that HF_TOKEN may read"
            raise NetworkError(what, fix=f"check the name; for a private data set set HF_TOKEN, or {fix}") from e
        raise NetworkError(f"the columns of {name} are unknown: the Hub did not answer ({e})", fix=fix) from e
