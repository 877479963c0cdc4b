"""The files that a data config names, in all its forms."""

from __future__ import annotations

import json
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config import file_search
from phi_runtime.config.file_search import matches
from phi_runtime.config.paths import data_paths, hub_path, resolve
from phi_runtime.config.schema import DataConfig, LoadDataset
from phi_runtime.core.errors import ConfigError


def data(files: Any, split: str = "train") -> DataConfig:
    return DataConfig.model_validate(
        {
            "name": "d",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": files, "split": split},
        }
    )


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        ("a.jsonl", "train", ["a.jsonl"]),
        (["b.jsonl", "a.jsonl"], "train[:10%]", ["b.jsonl", "a.jsonl"]),
        ({"train": "a.jsonl", "test": ["c.jsonl", "d.jsonl"]}, "test[5:]", ["c.jsonl", "d.jsonl"]),
        ({"train": "a.jsonl"}, "train", ["a.jsonl"]),
        ({"train": "a.jsonl"}, "validation", []),
        ({"type": "azureml_datastore", "datastore_url": "azureml://x/y"}, "train", []),
    ],
)
def test_the_files_of_the_split_are_named_in_their_order(
    tmp_path: Path, files: Any, split: str, expected: list[str]
) -> None:
    found = data_paths(data(files, split), tmp_path / "config.json")
    assert [f.path for f in found] == [tmp_path / name for name in expected]


def test_each_file_may_lie_in_folder_the_config_or_under_the_projects_root(tmp_path: Path) -> None:
    config = tmp_path / "fine-tuning" / "config.json"
    for name in ("fine-tuning/a.jsonl", "datasets/b.jsonl"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    in_folder, under_root = data_paths(data(["a.jsonl", "datasets/b.jsonl"]), config)
    assert (in_folder.path, in_folder.from_root) == (tmp_path / "fine-tuning" / "a.jsonl", False)
    assert (under_root.path, under_root.from_root) == (tmp_path / "datasets" / "b.jsonl", True)


@pytest.mark.parametrize("files", ["*/**/*.jsonl", "*/*/*/*.jsonl", "/**/*.jsonl", "**/*.jsonl", "many/**/a.jsonl"])
def test_a_pattern_that_would_search_a_whole_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: str
) -> None:
    monkeypatch.setattr(file_search, "MOST_FILES", 20)
    for number in range(21):
        (tmp_path / "many" / str(number)).mkdir(parents=True)
    with pytest.raises(ConfigError, match="more than 20 files"):
        data_paths(data(files), tmp_path / "config.json")
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "a.jsonl").touch()
    (found,) = data_paths(data("few/**/*.jsonl"), tmp_path / "config.json")
    assert found.path == tmp_path / "few" / "a.jsonl"


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "**",
        "a/*.jsonl",
        "**/*.jsonl",
        "*/**/x.jsonl",
        "**/b/**",
        "[ab]/?/*",
        ".hidden/*",
        "**/.hidden/**",
        "**/**/x*",
    ],
)
def test_a_pattern_matches_what_glob_matches(tmp_path: Path, pattern: str) -> None:
    for name in ("x.jsonl", "a/x.jsonl", "a/b/x.jsonl", "a/b/b/y.jsonl", "b/c/z.csv", ".hidden/x.jsonl", "a/.x.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path) for path in matches(tmp_path / pattern) if path.is_file()]
    assert sorted(found) == sorted(
        {path for path in glob(f"{tmp_path}/{pattern}", recursive=True) if Path(path).is_file()}  # noqa: PTH207
    )
    assert found


@pytest.mark.parametrize(
    ("pattern", "names"), [("**/x.jsonl", ["x.jsonl"]), ("loop/**", []), ("**/**/**/x*", ["x.jsonl"])]
)
def test_links_that_lead_back_are_not_entered(tmp_path: Path, pattern: str, names: list[str]) -> None:
    for name in ("loop", "again", "more"):
        (tmp_path / name).symlink_to(".", target_is_directory=True)
    (tmp_path / "x.jsonl").touch()
    (found,) = data_paths(data(pattern), tmp_path / "config.json")
    assert found.path == tmp_path / (names[0] if names else "loop/x.jsonl")


def test_patterns_that_multiply_through_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_search, "MOST_FILES", 500)
    for name in "abc":
        (tmp_path / name).symlink_to(".", target_is_directory=True)
    with pytest.raises(ConfigError, match="more than 500 files"):
        data_paths(data("/".join("*" * 12) + "/x.jsonl"), tmp_path / "config.json")


@pytest.mark.parametrize("written", ["a" * 300, "ä" * 200, "a/" * 4000, "\0", "\ud800", "[" * 500])
def test_a_text_that_can_be_no_path_names_no_file(tmp_path: Path, written: str) -> None:
    assert not resolve(written, tmp_path / "fine-tuning" / "olive-config.json").path.is_file()


@pytest.mark.parametrize("long", ["a" * 5000, "é" * 120])
def test_a_hub_data_set_with_a_long_name_has_a_path_that_the_system_can_look_up(tmp_path: Path, long: str) -> None:
    paths = [
        hub_path(LoadDataset(data_name="owner/rows", subset=long + end), tmp_path / "fine-tuning" / "c.json")
        for end in ("a", "b", "a")
    ]
    assert not paths[0].is_file()
    assert paths[0] == paths[2] != paths[1]


def test_hub_data_sets_that_differ_in_any_key_never_share_a_file(tmp_path: Path) -> None:
    keys: list[dict[str, str]] = [
        {},
        {"split": "test"},
        {"subset": "x"},
        {"data_dir": "x"},
        {"subset": "test", "split": "train"},
        {"subset": "en/de"},
        {"subset": "en-de"},
        {"subset": "en", "data_dir": "de"},
        {"revision": "v1"},
        {"revision": "refs/pr/1"},
        {"revision": "refs-pr-1"},
    ]
    paths = [hub_path(LoadDataset(data_name="owner/rows", **key), tmp_path / "c.json") for key in keys]
    assert len(set(paths)) == len(keys)
    assert hub_path(LoadDataset(data_name="owner/rows", split="train[:90%]"), tmp_path / "c.json") == paths[0]


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"data_name": "owner/rows"}, "owner--rows--train.jsonl"),
        ({"data_name": "some-rows", "split": "test[5:]"}, "some-rows--test.jsonl"),
        ({"data_name": "owner/rows", "revision": "6f1c2a9"}, "owner--rows--train@6f1c2a9.jsonl"),
    ],
)
def test_a_hub_data_set_of_an_earlier_version_is_found_if_no_other_can_have_its_name(
    tmp_path: Path, keys: dict[str, str], name: str
) -> None:
    assert hub_path(LoadDataset(**keys), tmp_path / "c.json").name == name


@pytest.mark.parametrize(
    ("source", "subset", "is_used"),
    [
        ("hub:datasets/glue", "sst2", True),
        ("hub:datasets/nyu-mll/glue", "sst2", True),  # moved on the Hub
        ("hub:datasets/glue/sst2", "default", False),  # the dataset whose file has the same name
        ("hub:datasets/glue/sst2", "sst2", False),
    ],
)
def test_a_subset_that_release_0_1_0_downloaded_is_found_if_its_record_names_it(
    tmp_path: Path, source: str, subset: str, is_used: bool
) -> None:
    config, load = tmp_path / "config.json", LoadDataset(data_name="glue", subset="sst2")
    new, old = hub_path(load, config), tmp_path / "model-cache" / "datasets" / "glue--sst2--train.jsonl"
    old.parent.mkdir(parents=True)
    old.touch()
    assert hub_path(load, config) == new
    old.with_suffix(".source.json").write_text(json.dumps({"source": source, "subset": subset}))
    assert hub_path(load, config) == (old if is_used else new)
    assert hub_path(load.model_copy(update={"data_dir": "en"}), config) != old
    new.touch()
    assert hub_path(load, config) == new


def test_a_path_that_may_be_no_pattern_is_not_searched_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_search, "MOST_FILES", 20)
    for number in range(21):
        (tmp_path / str(number)).mkdir()
    assert resolve("**/model", tmp_path / "config.json").path == tmp_path / "**" / "model"
    with pytest.raises(ConfigError, match="more than 20 files"):
        resolve("**/model", tmp_path / "config.json", pattern=True)
