"""Resolve the paths in a config, which are relative to its folder, as in Olive."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phi_runtime.config.file_formats import Format, known_format, unpacked_name
from phi_runtime.config.file_search import exists, is_pattern, matches, paths_below
from phi_runtime.config.schema import DataConfig, Datastore, LoadDataset
from phi_runtime.core.artifacts import digest, read_object
from phi_runtime.core.project import project_of

_LONGEST_NAME = 200  # bytes; file systems take 255

# Words in file names by which Hugging Face's datasets assigns the files of a folder to splits.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True)
class Resolved:
    """A path; `from_root` if it is relative to the project root, as AI Toolkit wrote paths, instead of the config."""

    path: Path
    from_root: bool = False


def resolve(written: str, config_path: Path, *, pattern: bool = False) -> Resolved:
    """Return the file or folder that `written` means; if it does not exist yet, relative to the config.

    Raises:
        ConfigError: `written` may be a pattern, and would search too many files.
    """
    written = possible(written)
    in_folder = Path(config_path.parent, written)
    under_root = Path(config_path.parent.parent, written)
    found = _matches_any if pattern else exists
    if not found(in_folder) and found(under_root):
        return Resolved(_normal(under_root), from_root=True)
    return Resolved(_normal(in_folder))


def possible(written: str) -> str:
    """Return a path that the system can look up: of names that are too long for it only the start, which names no file."""
    cut = "/".join(
        name if len(name.encode("utf-8", "replace")) < 256 else f"{name[:60]}…" for name in written.split("/")
    )
    return cut if len(cut.encode("utf-8", "replace")) < 3000 else f"{cut[:60]}…"


def data_paths(data: DataConfig, config_path: Path) -> list[Resolved]:
    """Return the files of the split that `data` names, in reading order; folders and patterns are sorted by name.

    A Hub dataset is one file in model-cache/, which `fetch` downloads, and so is a file of an Azure ML datastore, which a job there
    has. Empty if the split has no files or they are in a datastore only.

    Raises:
        ConfigError: A folder or pattern would search too many files.
    """
    load = data.load_dataset_config
    files = load.data_files
    if isinstance(files, Datastore):
        place = datastore_place(data, config_path)
        return [Resolved(place)] if place.is_file() else []
    if load.format is None:
        return [Resolved(hub_path(load, config_path))]
    if isinstance(files, dict):
        files = files.get(split_name(data), [])
    if files is None:
        resolved = list(_of_folder(resolve(load.data_dir or ".", config_path), load.format))
        return _of_split(resolved, split_name(data))
    written = [files] if isinstance(files, str) else files
    inside = f"{load.data_dir}/" if load.data_dir else ""
    return [
        one for file in written for one in _expanded(resolve(inside + file, config_path, pattern=True), load.format)
    ]


def hub_path(load: LoadDataset, config_path: Path) -> Path:
    """Return the path of the downloaded split of a Hub dataset.

    A digest keeps apart what has the same readable name: another subset, folder or revision. A dataset alone needs none, nor does a
    subset that release 0.1.0 downloaded: the record next to its file names it.
    """
    split, revision = load.split.partition("[")[0], load.revision or ""
    parts = [load.data_name.replace("/", "--"), load.subset, load.data_dir, split]
    name = "--".join(re.sub(r"[^\w.-]+", "-", part) for part in parts if part)
    name += f"@{re.sub(r'[^A-Za-z0-9._-]+', '-', revision)}" if revision else ""
    folder = project_of(config_path).model_cache / "datasets"
    plain = folder / f"{name}.jsonl"
    is_exact = not load.subset and not load.data_dir and re.fullmatch(r"[A-Za-z0-9._]*", revision)
    if is_exact and len(name.encode()) <= _LONGEST_NAME:
        return plain
    key = digest([load.data_name, load.subset, load.data_dir, split, revision])[:16]
    path = folder / f"{name[:60]}-{key}.jsonl"
    is_old = load.subset and not load.data_dir and not revision and not exists(path) and exists(plain)
    return plain if is_old and _is_subset(plain, load.data_name, load.subset) else path


def _is_subset(file: Path, name: str, subset: str | None) -> bool:
    """Return True if `file` is `subset` of the dataset `name`, which may have another owner on the Hub by now."""
    record = read_object(file.with_suffix(".source.json"))
    id_ = str(record.get("source")).removeprefix("hub:datasets/")
    return record.get("subset") == subset and id_.rpartition("/")[2] == name.rpartition("/")[2]


def datastore_place(data: DataConfig, config_path: Path) -> Path:
    """Return the path at which the file of an Azure ML datastore is looked for on this machine."""
    files = data.load_dataset_config.data_files
    assert isinstance(files, Datastore)
    name = re.sub(r"[^\w.-]+", "-", files.address.rpartition("/")[2], flags=re.ASCII)[-60:]
    return project_of(config_path).model_cache / "datasets" / f"azureml-{digest(files.address)[:12]}-{name}"


def split_name(data: DataConfig) -> str:
    """Return the name of the split: `train` for `train[:90%]`."""
    return data.load_dataset_config.split.partition("[")[0]


def _matches_any(path: Path) -> bool:
    return exists(path) or (is_pattern(path) and any(matches(path)))


def _expanded(resolved: Resolved, format: Format) -> Iterator[Resolved]:
    if os.path.isdir(resolved.path):  # noqa: PTH112 (False if not permitted)
        yield from _of_folder(resolved, format)
    elif is_pattern(resolved.path) and not exists(resolved.path):
        files = sorted(path for path in matches(resolved.path) if os.path.isfile(path))  # noqa: PTH113 (False if not permitted)
        yield from [Resolved(path, resolved.from_root) for path in files] or [resolved]
    else:
        yield resolved


def _of_folder(resolved: Resolved, format: Format) -> Iterator[Resolved]:
    """Yield the files of one format in a folder and below it, without hidden ones; the folder itself if there are none."""
    folder = resolved.path
    paths = [path for path in paths_below(folder) if known_format(path) == format]
    visible = [
        path for path in paths if path.is_file() and not any(p[0] in "._" for p in path.relative_to(folder).parts)
    ]
    yield from [Resolved(path, resolved.from_root) for path in visible] or [resolved]


def _of_split(files: list[Resolved], split: str) -> list[Resolved]:
    """Return the files whose names belong to `split`; without any such name, all files are `train`."""

    def words(path: Path) -> set[str]:
        return set(re.split(r"[^a-z]+", unpacked_name(path).stem.casefold()))

    by_split = {name: [f for f in files if words(f.path) & set(keys)] for name, keys in _SPLITS.items()}
    if any(by_split.values()):
        return by_split.get(split, [])
    return files if split == "train" else []


def _normal(path: Path) -> Path:
    # Not Path.resolve: a symlinked project keeps the names that its user sees.
    return Path(os.path.normpath(path.absolute()))
