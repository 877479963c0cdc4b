"""Where the files that a config names lie: relative to the config's own folder, as Olive has it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from phi_runtime.config.file_formats import FORMATS, Format, unpacked_name
from phi_runtime.config.schema import DataConfig, Datastore, LoadDataset
from phi_runtime.core.project import project_of

# Parts of file names by which Hugging Face's datasets tells the splits of a folder.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True)
class Resolved:
    """A path, and whether it was found under the project's root instead of beside the config (AI Toolkit wrote them so)."""

    path: Path
    from_root: bool = False


def resolve(written: str, config_path: Path) -> Resolved:
    """The file or folder that `written` means. One that exists nowhere yet is expected beside the config."""
    beside = Path(config_path.parent, written)
    under_root = Path(config_path.parent.parent, written)
    if not _is_there(beside) and _is_there(under_root):
        return Resolved(_normal(under_root), from_root=True)
    return Resolved(_normal(beside))


def data_paths(data: DataConfig, config_path: Path) -> list[Resolved]:
    """The files of the split that `data` names, in the order in which they are read: those of a folder or a pattern by name.

    A hub data set is one file in model-cache/, where `fetch` brings it. Empty where there is none on this machine: no files for
    that split, or a file in an Azure ML datastore.
    """
    load = data.load_dataset_config
    files = load.data_files
    if isinstance(files, Datastore):
        return []
    if load.format is None:
        return [Resolved(hub_path(load, config_path))]
    if isinstance(files, dict):
        files = files.get(split_name(data), [])
    if files is None:
        found = list(_of_folder(resolve(load.data_dir or ".", config_path), load.format))
        return _of_split(found, split_name(data))
    written = [files] if isinstance(files, str) else files
    inside = f"{load.data_dir}/" if load.data_dir else ""
    return [one for file in written for one in _expanded(resolve(inside + file, config_path), load.format)]


def hub_path(load: LoadDataset, config_path: Path) -> Path:
    """Where the split of a hub data set lies, or is to be brought to."""
    parts = [load.data_name.replace("/", "--"), load.subset, load.data_dir, load.split.partition("[")[0]]
    name = "--".join(re.sub(r"[^\w.-]+", "-", part) for part in parts if part)
    revision = f"@{re.sub(r'[^A-Za-z0-9._-]+', '-', load.revision)}" if load.revision else ""
    return project_of(config_path).model_cache / "datasets" / f"{name}{revision}.jsonl"


def split_name(data: DataConfig) -> str:
    """`train` of `train[:90%]`."""
    return data.load_dataset_config.split.partition("[")[0]


def _is_there(path: Path) -> bool:
    return path.exists() or (_is_pattern(path) and any(_matches(path)))


def _is_pattern(path: Path) -> bool:
    return any(c in str(path) for c in "*?[")


def _matches(pattern: Path) -> Iterator[Path]:
    """What a pattern means, but for hidden files. A part that is there as it is written is no pattern, as in `data [1]/*.jsonl`."""
    parts = pattern.parts
    fixed = next((i for i in range(1, len(parts)) if not Path(*parts[: i + 1]).exists()), len(parts))
    folder = Path(*parts[:fixed])
    pattern_in_it = str(Path(*parts[fixed:]))
    return (folder / name for name in glob(pattern_in_it, root_dir=folder, recursive=True))  # noqa: PTH207 (finds hidden ones)


def _expanded(found: Resolved, format: Format) -> Iterator[Resolved]:
    if found.path.is_dir():
        yield from _of_folder(found, format)
    elif _is_pattern(found.path) and not found.path.exists():
        matches = sorted(path for path in _matches(found.path) if path.is_file())
        yield from [Resolved(path, found.from_root) for path in matches] or [found]
    else:
        yield found


def _of_folder(found: Resolved, format: Format) -> Iterator[Resolved]:
    """The files of one format in a folder and those below it, without hidden ones; the folder itself where there is none."""
    folder = found.path
    paths = [path for path in sorted(folder.rglob("*")) if FORMATS.get(unpacked_name(path).suffix.lower()) == format]
    seen = [path for path in paths if path.is_file() and not any(p[0] in "._" for p in path.relative_to(folder).parts)]
    yield from [Resolved(path, found.from_root) for path in seen] or [found]


def _of_split(found: list[Resolved], split: str) -> list[Resolved]:
    """Of the files of a folder those whose names tell that they are of `split`; all are `train` where no name tells any."""

    def words(path: Path) -> set[str]:
        return set(re.split(r"[^a-z]+", unpacked_name(path).stem.casefold()))

    told = {name: [f for f in found if words(f.path) & set(keys)] for name, keys in _SPLITS.items()}
    if any(told.values()):
        return told.get(split, [])
    return found if split == "train" else []


def _normal(path: Path) -> Path:
    # Not Path.resolve: a symlinked project must keep the names that its user sees.
    return Path(os.path.normpath(path.absolute()))
