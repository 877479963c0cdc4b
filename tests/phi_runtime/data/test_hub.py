"""Data sets of the hub: a split arrives as JSON Lines, whole or not at all, and what goes wrong is said with what to do about it.

The hub is a stand-in on this machine (hub_stand_in.py); the client is the real one.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phi_runtime.config.schema import LoadDataset
from phi_runtime.core.errors import ConfigError, DataError, MissingDependency, NetworkError, PhiError
from phi_runtime.core.events import Event, silent
from phi_runtime.data import hub as data_hub
from tests.phi_runtime.data.hub_data import PHRASES, TALKS, card, lines, parquet
from tests.phi_runtime.data.hub_stand_in import COMMIT, OTHER_COMMIT, TOKEN, HubStandIn, Repository, hub_stand_in

Download = Callable[..., dict[str, Any]]


_whole = parquet({"text": ["the first row", "the second"]})
DAMAGED = _whole[:8] + b"\xff" * 40 + _whole[48:]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "datasets" / "of-the-hub.jsonl"


@pytest.fixture
def download(target: Path) -> Download:
    def call(name: str, split: str = "train", **settings: Any) -> dict[str, Any]:
        emit = settings.pop("emit", silent)
        return data_hub.download(LoadDataset.model_construct(data_name=name, **settings), split, target, emit, "fetch")

    return call


def rows(target: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in target.read_bytes().decode().splitlines()]


def left(target: Path) -> list[str]:
    return [path.name for path in target.parent.iterdir()] if target.parent.exists() else []


def test_a_split_becomes_json_lines_and_nothing_else_of_the_data_set_is_downloaded(
    hub: HubStandIn, download: Download, target: Path
) -> None:
    facts = download("org/phrases")
    assert rows(target) == [
        {"phrase": "I won", "tone": 1},
        {"phrase": "I lost", "tone": 0},
        {"phrase": "Oh", "tone": 1},
        {"phrase": "Ah", "tone": 0},
    ]
    assert facts == {
        "source": "hub:datasets/org/phrases",
        "commit": COMMIT,
        "subset": "default",
        "split": "train",
        "license": "mit",
        "columns": ["phrase", "tone"],
        "rows": 4,
        "bytes": target.stat().st_size,
    }
    assert left(target) == [target.name]
    bodies = [path for method, path, _ in hub.requests if method == "GET" and "resolve" in path]
    assert not [path for path in bodies if "test-" in path]


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("subset", "split", "expected"),
    [("english", "train", "good morning"), ("german", "train", "schönen Tag"), ("german", "validation", "hallo")],
)
def test_a_subset_and_a_split_are_chosen_by_name(
    download: Download, target: Path, subset: str, split: str, expected: str
) -> None:
    facts = download("org/talks", split, subset=subset)
    assert rows(target)[0] == {"text": expected}
    assert (facts["subset"], facts["split"]) == (subset, split)
    assert expected in target.read_text(encoding="utf-8")  # as written, not as \u escapes


def test_the_revision_that_is_asked_for_is_read(hub: HubStandIn, download: Download, target: Path) -> None:
    hub.repositories["org/phrases"].other = {"train.jsonl": lines({"phrase": "of old"})}
    assert download("org/phrases", revision="v1")["commit"] == OTHER_COMMIT
    assert rows(target) == [{"phrase": "of old"}]


def test_a_folder_of_the_data_set_can_be_all_that_is_read(hub: HubStandIn, download: Download, target: Path) -> None:
    hub.repositories["org/talks"].files = {k: v for k, v in TALKS.items() if k != "README.md"}
    download("org/talks", "validation", data_dir="de")
    assert rows(target) == [{"text": "hallo"}]


def test_a_data_set_that_moved_is_found_under_its_new_name(hub: HubStandIn, download: Download, target: Path) -> None:
    hub.moved["phrases"] = "org/phrases"
    assert download("phrases")["source"] == "hub:datasets/org/phrases"
    assert len(rows(target)) == 4


@pytest.mark.usefixtures("hub")
def test_a_folder_of_the_same_name_here_is_not_taken_for_it(
    download: Download, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "phrases").mkdir(parents=True)
    (tmp_path / "org" / "phrases" / "train.jsonl").write_bytes(lines({"phrase": "not this one"}))
    monkeypatch.chdir(tmp_path)
    assert download("org/phrases")["rows"] == 4


def test_progress_counts_rows_up_to_what_the_card_announces(
    hub: HubStandIn, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    announces = "dataset_info: {features: [{name: text, dtype: string}], splits: [{name: train, num_examples: %d}]}"
    hub.repositories["org/many"] = Repository(
        {"README.md": card(announces % 2500), "train.jsonl": lines(*({"text": str(n)} for n in range(2500)))}
    )
    monkeypatch.setattr(
        data_hub, "time", SimpleNamespace(monotonic=count().__next__)
    )  # each look at the clock is a second
    events: list[Event] = []
    download("org/many", emit=events.append)
    assert {(e.event, e.stage, e.data["unit"], e.data["total"]) for e in events} == {
        ("progress", "fetch", "rows", 2500)
    }
    done = [e.data["done"] for e in events]
    assert done == sorted(done)
    assert done[-1] == 2500
    assert len(done) > 2

    hub.repositories["org/fewer"] = Repository(
        {"README.md": card(announces % 1), "train.jsonl": lines({"text": "one"}, {"text": "two"})}
    )
    events.clear()
    download("org/fewer", emit=events.append)
    assert [e.data["total"] for e in events if e.event == "progress"][-1] is None
    assert "lists 1 rows in `train`; its files have 2" in events[-1].data["message"]


def test_values_that_json_has_no_form_for_are_written_as_text_and_nan_as_null(
    hub: HubStandIn, download: Download, target: Path
) -> None:
    import pyarrow

    moment = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)
    columns = {
        "moment": pyarrow.array([moment], pyarrow.timestamp("us", tz="UTC")),
        "fine": pyarrow.array([moment], pyarrow.timestamp("ns")),
        "day": [date(2024, 2, 29)],
        "price": [Decimal("1.10")],
        "score": [float("nan")],
        "half": pyarrow.array([1.5], pyarrow.float16()),
        "scores": [[1.0, float("inf"), None]],
        "talk": [[{"role": "user", "content": "Grüß \u2028 Gott"}]],
        "nothing": [None],
    }
    hub.repositories["org/values"] = Repository({"train.parquet": parquet(columns)})
    download("org/values")
    assert rows_of_reader(target) == [
        {
            "moment": "2024-02-29T12:30:00+00:00",
            "fine": "2024-02-29T12:30:00",
            "day": "2024-02-29",
            "price": "1.10",
            "score": None,
            "half": 1.5,
            "scores": [1.0, None, None],
            "talk": [{"role": "user", "content": "Grüß \u2028 Gott"}],
            "nothing": None,
        }
    ]


def rows_of_reader(target: Path) -> list[dict[str, Any]]:
    """The rows as strict JSON: NaN is none."""
    text = target.read_text(encoding="utf-8")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.split("\n") if line]


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_values_of_mixed_types_stay_what_they_are_in_lines_and_in_an_array(
    hub: HubStandIn, download: Download, target: Path, name: str
) -> None:
    mixed = [{"call": {"a": 1}, "value": 1}, {"call": {"b": [1, "z"]}, "value": "s"}]
    content = lines(*mixed) if name.endswith("l") else json.dumps(mixed).encode()
    hub.repositories["org/mixed"] = Repository({name: content})
    download("org/mixed")
    assert rows(target) == mixed


def test_a_csv_whose_pieces_differ_in_type_is_read(hub: HubStandIn, download: Download, target: Path) -> None:
    first, second = "a,b\n1,x\n2,y\n", "a,b\n1.5,\nz,y\n"
    hub.repositories["org/csv"] = Repository({"train-1.csv": first.encode(), "train-2.csv": second.encode()})
    download("org/csv")
    assert rows(target) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": "1.5", "b": None}, {"a": "z", "b": "y"}]


def test_columns_that_are_not_text_are_named(hub: HubStandIn, download: Download, target: Path) -> None:
    import pyarrow
    from datasets import Features, Image, Value

    hub.repositories["org/bytes"] = Repository({"train.parquet": parquet({"text": ["a"], "raw": [[b"\x00"]]})})
    with pytest.raises(DataError, match=r"`raw` \(binary\) of org/bytes is neither text nor numbers"):
        download("org/bytes")
    schema = Features({"picture": Image(), "film": Image(), "text": Value("string")}).arrow_schema
    empty = {"bytes": b"", "path": None}
    table = pyarrow.table({"picture": [empty], "film": [empty], "text": ["a"]}, schema=schema)
    hub.repositories["org/pictures"] = Repository({"train.parquet": parquet(table)})
    with pytest.raises(DataError, match=r"`picture` \(image\), `film` \(image\) of org/pictures are neither text"):
        download("org/pictures")
    assert left(target) == []


@pytest.mark.usefixtures("hub")
def test_an_unknown_subset_or_split_is_said_with_the_known_ones(download: Download, target: Path) -> None:
    with pytest.raises(DataError, match="org/talks has no subset `englisch`; did you mean `english`") as caught:
        download("org/talks", subset="englisch")
    assert caught.value.fix == "set subset to one of english, german"
    with pytest.raises(DataError, match="org/talks has 2 subsets and no default") as caught:
        download("org/talks")
    assert "english, german" in caught.value.fix
    with pytest.raises(DataError, match="org/phrases has no subset `english`") as caught:
        download("org/phrases", subset="english")
    assert caught.value.fix == "set subset to one of default"
    with pytest.raises(DataError, match="org/phrases has no split `trian`; did you mean `train`") as caught:
        download("org/phrases", "trian")
    assert caught.value.fix == "set split to one of train, test"
    with pytest.raises(DataError, match="no split `all`"):
        download("org/phrases", "all")
    assert left(target) == []


def test_a_data_set_that_is_not_there_or_not_for_all_says_how_to_get_in(
    hub: HubStandIn, download: Download, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repositories["org/own"] = Repository({"train.jsonl": lines({"text": "mine"})}, private=True)
    for name in ("org/none", "org/own"):
        with pytest.raises(NetworkError, match=f"the data set {name} does not exist at .*, or it is private") as caught:
            download(name)
        assert caught.value.exit_code == 7
        assert "hf auth login" in caught.value.fix
        assert "HF_TOKEN" in caught.value.fix
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert download("org/own")["rows"] == 1
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    with pytest.raises(NetworkError, match="the data set org/none does not exist"):
        download("org/none")
    monkeypatch.setenv("HF_TOKEN", "hf_stale")
    with pytest.raises(NetworkError, match="cannot download org/phrases from") as caught:
        download("org/phrases")
    assert "check HF_TOKEN" in caught.value.fix
    assert "hf_stale" not in str(caught.value) + caught.value.fix


def test_a_gated_data_set_names_the_page_where_its_terms_are_accepted(
    hub: HubStandIn, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/phrases"].gated = True
    with pytest.raises(NetworkError, match="org/phrases is gated") as caught:
        download("org/phrases")
    assert f"{hub.address}/datasets/org/phrases" in caught.value.fix
    assert "HF_TOKEN" in caught.value.fix
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert download("org/phrases")["rows"] == 4


@pytest.mark.usefixtures("hub")
def test_a_revision_that_is_not_there_and_a_name_that_is_none(download: Download) -> None:
    with pytest.raises(NetworkError, match="org/phrases has no revision `v9`"):
        download("org/phrases", revision="v9")
    with pytest.raises(ConfigError, match="`a/b/c` is not the id of a data set"):
        download("a/b/c")


def test_a_loading_script_is_neither_run_nor_downloaded(hub: HubStandIn, download: Download, target: Path) -> None:
    converted = {f"{subset}/train/0000.parquet": parquet({"text": [subset]}) for subset in ("english", "german")}
    hub.repositories["org/phrases"] = Repository({"phrases.py": b"raise SystemExit"}, other=converted)
    with pytest.raises(DataError, match=r"org/phrases has a loading script \(phrases\.py\)") as caught:
        download("org/phrases")
    assert "set revision to refs/convert/parquet" in caught.value.fix
    assert not [path for path in hub.paths if path.endswith(".py")]
    assert left(target) == []
    download("org/phrases", revision="refs/convert/parquet", data_dir="german")
    assert rows(target) == [{"text": "german"}]


def test_no_network_is_said_as_such(
    hub: HubStandIn, download: Download, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.fails_with = 503
    with pytest.raises(NetworkError, match=r"cannot download org/phrases from .*503"):
        download("org/phrases")
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(NetworkError, match="cannot download org/phrases from") as caught:
            download("org/phrases")
        assert "unset HF_HUB_OFFLINE" in caught.value.fix
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match=r"cannot download org/phrases from http://127\.0\.0\.1:9") as caught:
        download("org/phrases")
    assert caught.value.exit_code == 7
    assert "check the network" in caught.value.fix
    assert left(target) == []


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_connection_that_breaks_in_the_middle_leaves_what_was_there_before(
    hub: HubStandIn, download: Download, target: Path, kind: str
) -> None:
    texts = [f"{n} " * 200 for n in range(9000)]
    content = lines(*({"text": t} for t in texts)) if kind == "jsonl" else parquet({"text": texts})
    hub.repositories["org/long"] = Repository({f"train.{kind}": content})
    target.parent.mkdir()
    target.write_text("of an earlier run")
    hub.break_after = len(content) // 2
    with pytest.raises(NetworkError) as caught:
        download("org/long")
    assert "secret" not in str(caught.value)  # of the signed address that large files come from
    assert left(target) == [target.name]
    assert target.read_text() == "of an earlier run"
    hub.break_after = None
    assert download("org/long")["rows"] == 9000
    assert [row["text"] for row in rows(target)] == texts


@pytest.mark.usefixtures("hub")
def test_being_stopped_leaves_no_half_file(download: Download, target: Path) -> None:
    def stop(_: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download("org/phrases", emit=stop)
    assert left(target) == []


@pytest.mark.usefixtures("hub")
def test_a_full_disk_stays_an_error_of_the_disk(
    download: Download, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        download("org/phrases")
    assert caught.value.errno == errno.ENOSPC
    assert not isinstance(caught.value, PhiError)
    assert left(target) == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"train.parquet": parquet({"text": []})}, "`train` of org/odd has no rows"),
        ({"train.jsonl": b""}, "org/odd has no rows"),
        ({"train.jsonl": b'{"text": "a"}\n{"text":\n'}, "the files of org/odd cannot be read: JSON parse error"),
        ({"train.parquet": b"PAR1 is not all"}, "the files of org/odd cannot be read"),
        ({"train.parquet": DAMAGED}, "the files of org/odd cannot be read"),
        (
            {"train.jsonl.gz": gzip.compress(lines(*[{"a": 1}] * 99), mtime=0)[:-9]},
            "the files of org/odd cannot be read",
        ),
        (
            {"train-1.jsonl": lines({"a": 1}), "train-2.jsonl": lines({"b": "x"})},
            "differ in their columns: there are 1 new",
        ),
        ({"README.md": card("license: mit")}, "org/odd has no data files"),
        ({"notes.bin": b"\x00"}, "org/odd has no data files"),
        (
            {"README.md": card("configs: [x"), "train.jsonl": lines({"a": 1})},
            r"the card of org/odd \(README.md\) is invalid",
        ),
    ],
)
def test_files_without_rows_or_that_are_broken_are_faults_of_the_data(
    hub: HubStandIn, download: Download, target: Path, files: dict[str, bytes], said: str
) -> None:
    hub.repositories["org/odd"] = Repository(files)
    with pytest.raises(DataError, match=said) as caught:
        download("org/odd")
    assert caught.value.fix
    assert left(target) == []


def test_without_the_library_the_way_to_get_it_is_told(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependency, match="needs the library datasets") as caught:
        download("org/phrases")
    assert caught.value.exit_code == 5
    assert 'pip install "datasets>=5.2,<6"' in caught.value.fix


CHILD = """
import sys
from pathlib import Path
from phi_runtime.config.schema import LoadDataset
from phi_runtime.core.events import silent
from phi_runtime.data.hub import download
heavy = {"datasets", "pyarrow", "pandas", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
download(LoadDataset(data_name="org/phrases"), "train", Path(sys.argv[1]), silent, "")
assert "torch" not in sys.modules
"""


def test_the_environment_alone_leads_to_the_hub_and_nothing_is_printed_or_kept(tmp_path: Path) -> None:
    target = tmp_path / "train.jsonl"
    with hub_stand_in() as hub:
        hub.repositories["org/phrases"] = Repository(PHRASES, private=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        home = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(target)],
            env=environment | home,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert len(rows(target)) == 4
        assert all(h.get("Authorization") or h.get("authorization") or "/large/" in p for _, p, h in hub.requests)
    kept = [p for p in tmp_path.rglob("*") if p.is_file() and p != target]
    assert not [p for p in kept if TOKEN.encode() in p.read_bytes()]
    assert sum(p.stat().st_size for p in kept) < 10_000  # the card, no data
