"""The user's data: a file, a folder, a pattern, or a data set of the Hub; read as the config reads it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phi_runtime.config.file_formats import FORMATS, FORMATS_OF_KEY, Format, format_of, known_format
from phi_runtime.config.file_search import is_pattern
from phi_runtime.config.schema import LoadDataset
from phi_runtime.core.errors import DataError, Location, UsageError
from phi_runtime.core.hub_id import HUB_ID
from phi_runtime.data.columns import Columns, find_columns
from phi_runtime.data.file_form import FileForm, file_form
from phi_runtime.data.row import ReadOptions
from phi_runtime.data.template import PromptTemplate, TemplateError
from phi_scaffold.new.answers import FormFlags

_EXAMINED = 20  # files whose form is detected
# Assumed of a data set of the Hub whose rows are not read, for max_seq_len 1024 and max_new_tokens 128.
_UNREAD = Columns((), "", 10_000, (), longest=1600, longest_answer=256)


@dataclass(frozen=True)
class HubData:
    """A split of a data set of the Hub."""

    id: str
    split: str = "train"


@dataclass(frozen=True)
class LocalData:
    """Files of the user.

    Attributes:
        format: Their format.
        name: The path in datasets/ for the config: a file, a pattern, or a folder, which ends in `/`.
        files: The files by their path in datasets/.
        read: The files that are trained on, in reading order.
        forms: The forms of the first of these.
    """

    format: Format
    name: str
    files: dict[str, Path]
    read: tuple[Path, ...]
    forms: tuple[FileForm, ...]

    @property
    def load_options(self) -> dict[str, Any]:
        """Keys of `load_dataset_config` that read the files; one in which they differ is detected for each."""
        first, *others = (form.keys for form in self.forms)
        return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}

    @property
    def reading(self) -> ReadOptions:
        """The options that these keys set."""
        options = self.load_options
        names = tuple(options["names"]) if "names" in options else None
        return ReadOptions(self.format, **{**options, "names": names})

    def copy_to(self, datasets: Path) -> None:
        """Copy the files into the folder `datasets`."""
        for name, file in self.files.items():
            (datasets / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, datasets / name)


def data_source(written: str | Path, form: FormFlags = FormFlags()) -> HubData | LocalData:
    """Return the data that `--data` names, in the form that flags name or that is detected.

    Raises:
        DataError: The file does not exist or has an unknown format, or no file of the folder or pattern has a known one.
        UsageError: The files have several formats.
    """
    path = Path(written).expanduser()
    if path.is_dir():
        return _files_of(path, f"{path.resolve().name}/", form)
    if not path.exists() and is_pattern(path):
        fixed = next(i for i, part in enumerate(path.parts) if is_pattern(part))
        folder, pattern = Path(*path.parts[:fixed]), Path(*path.parts[fixed:])
        return _files_of(folder, f"{folder.resolve().name}/{pattern.as_posix()}", form)
    name, _, split = str(written).partition(":")
    if not path.exists() and HUB_ID.fullmatch(name) and known_format(Path(name)) is None:
        return HubData(name, split or "train")
    return LocalData(format_of(path), path.name, {path.name: path}, (path,), _forms((path,), form))


def _forms(files: tuple[Path, ...], form: FormFlags) -> tuple[FileForm, ...]:
    formats = {format_of(file) for file in files}
    for key, value in asdict(form).items():
        if value is not None and not formats & set(FORMATS_OF_KEY[key]):
            flag = f"--{key}" if value is not False else f"--no-{key}"
            raise UsageError(f"{flag} does not apply to {files[0].name}", fix=f"remove {flag}")
    options = {key: value for key, value in asdict(form).items() if value is not None and key != "header"}
    if form.sep == "\\t":
        options["sep"] = "\t"
    if form.header is False:
        options["header"] = None
    try:
        LoadDataset.model_validate({"data_name": format_of(files[0]), **options})
    except ValidationError as e:
        error = e.errors()[0]
        raise UsageError(f"--{error['loc'][0]}: {error['msg']}", fix="correct its value") from None
    return tuple(
        file_form(file, ReadOptions(format_of(file), **options), find_names=form.header is not True)
        for file in files[:_EXAMINED]
    )


def _files_of(folder: Path, name: str, form: FormFlags) -> LocalData:
    """Return the files of a folder, or of the pattern below it that `name` is."""
    from phi_runtime.config.paths import data_paths
    from phi_runtime.config.schema import DataConfig

    pattern = name.partition("/")[2]
    files = [p for p in sorted(folder.glob(pattern or "**/*")) if p.is_file() and known_format(p)]
    files = [p for p in files if not any(part[0] in "._" for part in p.relative_to(folder).parts)]
    formats = sorted({format_of(file) for file in files})
    where = Location(folder / pattern if pattern else folder)
    if not formats:
        raise DataError("there is no data file", where=where, fix=f"use files that end in {', '.join(FORMATS)}")
    if len(formats) > 1:
        raise UsageError(
            f"the files of {where.path} have several formats: {', '.join(formats)}",
            fix=f"use a pattern: {folder}/*.jsonl",
        )
    absolute = str(folder.absolute())
    load = {"data_files": f"{absolute}/{pattern}"} if pattern else {"data_dir": absolute}
    config = {"name": "data", "type": "HuggingfaceContainer", "load_dataset_config": {"data_name": formats[0], **load}}
    read = tuple(r.path for r in data_paths(DataConfig.model_validate(config), folder.absolute() / "config"))
    if not read:
        raise DataError("no file name has the split `train`", where=where, fix="rename the files to train on")
    top = name.partition("/")[0]
    return LocalData(
        formats[0], name, {f"{top}/{f.relative_to(folder).as_posix()}": f for f in files}, read, _forms(read, form)
    )


def columns_of(source: HubData | LocalData, chosen: Sequence[str], prompt_template: str) -> Columns:
    """Detect the columns of the data. There is no request to the Hub if `chosen` or the template names them.

    Raises:
        DataError: A row cannot be used, or no column can be recognized as the answer.
        NetworkError: The Hub does not answer.
    """
    if isinstance(source, HubData):
        columns = tuple(chosen) or _columns_in(prompt_template)
        if len(columns) > 1:
            return replace(_UNREAD, inputs=columns[:-1], answer=columns[-1])
        from phi_scaffold.new.hub_rows import first_rows

        return first_rows(source.id, source.split, columns)
    first, *more = source.read
    return find_columns(first, chosen, more, source.reading)


def _columns_in(prompt_template: str) -> tuple[str, ...]:
    try:
        return PromptTemplate.from_text(prompt_template.replace("\\n", "\n")).columns
    except TemplateError:  # `plain` or `chat`
        return ()
