"""A data config's files are found wherever it may name them: alone, in lists, by pattern, in folders, by split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.paths import data_paths, resolve
from phi_runtime.config.schema import DataConfig


@pytest.fixture(params=["project", "a [1] project"])
def root(request: Any, tmp_path: Path) -> Path:
    """A project, also one in a folder whose name looks like a pattern."""
    folder = tmp_path / request.param
    make(folder, "datasets/b.jsonl", "datasets/a.jsonl.gz", "datasets/note.txt", "datasets/sub/c.json")
    make(folder, "datasets/.hidden.jsonl", "datasets/_cache/d.jsonl", "fine-tuning/local.jsonl")
    return folder


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(root: Path, files: Any = None, data_name: str = "json", **load: Any) -> list[str]:
    """What is found, relative to the project's root."""
    config = DataConfig.model_validate(
        {
            "name": "train",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": data_name, "data_files": files, **load},
        }
    )
    paths = data_paths(config, root / "fine-tuning" / "olive-config.json")
    return [one.path.relative_to(root).as_posix() for one in paths]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("local.jsonl", ["fine-tuning/local.jsonl"]),
        ("../datasets/b.jsonl", ["datasets/b.jsonl"]),
        (["../datasets/b.jsonl", "../datasets/a.jsonl.gz"], ["datasets/b.jsonl", "datasets/a.jsonl.gz"]),
        ("../datasets/none.jsonl", ["datasets/none.jsonl"]),
        ("../datasets/*.jsonl*", ["datasets/a.jsonl.gz", "datasets/b.jsonl"]),
        ("../datasets/?.jsonl", ["datasets/b.jsonl"]),
        ("../datasets/[ab].json*", ["datasets/a.jsonl.gz", "datasets/b.jsonl"]),
        ("../datasets/**/*.json", ["datasets/sub/c.json"]),
        ("../datasets/**.jsonl", ["datasets/b.jsonl"]),
        ("../*/b.jsonl", ["datasets/b.jsonl"]),
        ("../datasets/*.csv", ["datasets/*.csv"]),
        (["../datasets/*.jsonl", "local.jsonl"], ["datasets/b.jsonl", "fine-tuning/local.jsonl"]),
        ("../datasets", ["datasets/a.jsonl.gz", "datasets/b.jsonl", "datasets/sub/c.json"]),
        ({"train": "../datasets/*.jsonl", "test": "local.jsonl"}, ["datasets/b.jsonl"]),
        ({"test": "local.jsonl"}, []),
    ],
)
def test_files_patterns_and_folders_are_found_from_the_config_by_name(
    root: Path, files: Any, expected: list[str]
) -> None:
    assert found(root, files) == expected


def test_a_folder_gives_the_files_of_its_format_packed_or_not_and_no_hidden_ones(root: Path) -> None:
    assert found(root, data_dir="../datasets") == ["datasets/a.jsonl.gz", "datasets/b.jsonl", "datasets/sub/c.json"]
    assert found(root, data_dir="../datasets", data_name="text") == ["datasets/note.txt"]
    assert found(root, data_dir="../datasets", data_name="parquet") == ["datasets"]
    assert found(root, ["b.jsonl", "s*/*.json"], data_dir="../datasets") == ["datasets/b.jsonl", "datasets/sub/c.json"]


def test_what_is_not_beside_the_config_is_found_under_the_root(root: Path) -> None:
    config = root / "fine-tuning" / "olive-config.json"
    for written in ("datasets/b.jsonl", "datasets", "datasets/*.jsonl"):
        assert resolve(written, config, pattern=True).from_root
    for written in ("local.jsonl", "../datasets/b.jsonl", "datasets/none.jsonl", "datasets/*.csv"):
        assert not resolve(written, config, pattern=True).from_root
    assert not resolve("datasets/*.jsonl", config).from_root, "a path that may not be a pattern"
    assert found(root, "datasets/*.jsonl") == ["datasets/b.jsonl"]
    assert found(root, "datasets/none.jsonl") == ["fine-tuning/datasets/none.jsonl"]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:90%]", ["d/training.jsonl", "d/x-train-00000-of-00002.jsonl", "d/x-train-00001-of-00002.jsonl"]),
        ("validation", ["d/dev_rows.jsonl", "d/sub/Val.jsonl"]),
        ("test[5:]", ["d/my.test.jsonl.gz"]),
        ("other", []),
    ],
)
def test_the_files_of_a_folder_are_told_apart_by_the_words_in_their_names(
    root: Path, split: str, expected: list[str]
) -> None:
    make(
        root, "d/training.jsonl", "d/x-train-00001-of-00002.jsonl", "d/x-train-00000-of-00002.jsonl", "d/trainer.jsonl"
    )
    make(root, "d/dev_rows.jsonl", "d/sub/Val.jsonl", "d/my.test.jsonl.gz", "d/latest.jsonl")
    assert found(root, data_dir="../d", split=split) == expected


def test_a_folder_without_names_of_splits_is_all_train(root: Path) -> None:
    assert len(found(root, data_dir="../datasets", split="train[:10]")) == 3
    assert found(root, data_dir="../datasets", split="validation") == []


def test_data_of_the_hub_is_one_file_in_the_model_cache(root: Path) -> None:
    assert found(root, data_name="own/set", split="test[:5]") == ["model-cache/datasets/own--set--test.jsonl"]
    (path,) = found(root, data_name="own/set", subset="en us", data_dir="x/y", revision="refs/pr/1")
    assert path.startswith("model-cache/datasets/own--set--en-us--x-y--train@refs-pr-1-")


def test_a_symlinked_project_keeps_the_names_that_its_user_sees(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    try:
        link.symlink_to(root, target_is_directory=True)
    except OSError:
        pytest.skip("Windows makes no symlinks without rights to")
    assert found(link, "../datasets/*.jsonl") == ["datasets/b.jsonl"]
    assert resolve("../datasets/b.jsonl", link / "fine-tuning" / "c.json").path == link / "datasets" / "b.jsonl"
