"""Settings of the command line that override the config before it is validated."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phi_runtime.config.diagnostics import key_path_of
from phi_runtime.config.dialects.draft import MISSING, Draft
from phi_runtime.config.dialects.systems import PROVIDER_OF
from phi_runtime.config.dialects.translate import translate
from phi_runtime.config.file_formats import format_of
from phi_runtime.config.reading.source import KeyPath, Source, parse_source
from phi_runtime.config.schema import Workflow
from phi_runtime.core.errors import ConfigError, UsageError
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.hardware.device import has_nvidia_gpu

HERE = "this_machine"


@dataclass(frozen=True)
class Overrides:
    """Settings of the command line that override the config.

    Attributes:
        on_local: Run on this machine, whatever `host` and `target` are.
        on_azureml: Run on this Azure ML system, whatever `host` is; `azureml` for the one of `host`, or the only one.
        data: Data files by name of their data config; "" is the only one.
        skip_bad_rows: Skip rows that cannot be used instead of failing.
        run_user_script: Allow the user_script of the config to run.
        settings: Settings of `--set`: text by dotted path from the top of the config, in which data configs have their names.
        search: File of the search, instead of sweep.yaml or the search in the config.
        values: Settings by the same paths, such as those of a trial. They replace those of `settings`.
    """

    on_local: bool = False
    on_azureml: str = ""
    data: Mapping[str, Path] = field(default_factory=dict)
    trust_remote_code: bool = False
    skip_bad_rows: bool = False
    run_user_script: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    search: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


def override(draft: Draft, overrides: Overrides) -> None:
    """Apply `overrides` to the translated config. Raises UsageError if they name something that is not in it."""
    if not isinstance(draft.value, dict):
        return
    if overrides.on_local:
        device = "gpu" if has_nvidia_gpu() else "cpu"
        accelerator = {"device": device, "execution_providers": [PROVIDER_OF[device]]}
        draft.value["systems"] = {HERE: {"type": "LocalSystem", "accelerators": [accelerator]}}
        draft.value["host"] = draft.value["target"] = HERE
        passes = draft.value.get("passes")
        for step in passes.values() if isinstance(passes, dict) else ():
            if isinstance(step, dict):
                step.pop("host", None)
    for name, file in overrides.data.items():
        _read_from(draft, name, file)
    for key, text in overrides.settings.items():
        _set_text(draft, key, text)
    for key, value in overrides.values.items():
        set_value(draft.value, _path_of(draft, key), value)


def _set_text(draft: Draft, key: str, text: str) -> None:
    """Set the dotted path `key` to the value that `text` is in YAML, or to the text if the schema accepts only that.

    The key of a pass may be an older one. Errors are located at the option.
    """
    path = _path_of(draft, key)
    before = draft.value
    values = [(path, value) for value in _readings(text)]
    for at, value in [*values, *(newer for older in values for newer in _in_current_format(draft, *older)), values[0]]:
        draft.value = copy.deepcopy(before)
        created = at[: 1 + next(n for n in range(len(at) - 1, -1, -1) if draft.has(at[:n]))]
        set_value(draft.value, at, value)
        if _is_accepted(draft, at, created):
            break
    draft.source = replace(draft.source, options={**draft.source.options, created: f"--set {key}={text}"})
    draft.set_source_path(created, created)


def _in_current_format(draft: Draft, path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the path and value of the setting of a pass in the current format, if the translation knows it as an older one."""
    outer, name, *_ = *path, ""
    step = draft.get(path[:2])
    if outer != "passes" or len(path) < 3 or not isinstance(step, dict) or "type" not in step:
        return
    alone = Draft(Source(draft.source.path, "", {"passes": {name: {"type": step["type"]}}}, {}))
    set_value(alone.value, path, value)
    try:
        alone = translate(Source(draft.source.path, "", alone.value, {}))
    except ConfigError:
        return
    for key in alone.keys(path[:2]):
        for new in [(*path[:2], key), *((*path[:2], key, inner) for inner in alone.keys((*path[:2], key)))]:
            if new != path and alone.source_path(new) == path:
                yield new, alone.get(new)


def _readings(text: str) -> list[Any]:
    """Return the value of `text` in YAML, of which JSON is a part, and the text itself."""
    try:
        source = parse_source(Path("option.yaml"), text)
    except ConfigError:  # a `:` or `{` in a text
        return [text]
    is_text = source.comments or (isinstance(source.value, str) and text[:1] not in "'\"")
    return [text] if is_text else [source.value, text]


def _is_accepted(draft: Draft, path: KeyPath, created: KeyPath) -> bool:
    """Return True if the schema has nothing against the value at `path`, and the objects around it from `created` on."""
    try:
        Workflow.model_validate({k: v for k, v in draft.value.items() if k not in ("sweep", "evaluation")})
    except ValidationError as e:
        errors = (key_path_of(draft.value, error) for error in e.errors(include_url=False))
        return not any(error[: len(path)] == path[: len(error)] and len(error) >= len(created) for error in errors)
    return True


def _path_of(draft: Draft, key: str) -> KeyPath:
    """Return the path of the dotted path `key`. Settings may be missing; a named pass or data config must exist."""
    path: list[str | int] = []
    for name in key.split("."):
        part = draft.get(tuple(path))
        outer = path[-1] if path else ""
        if isinstance(part, list):
            known = [
                c["name"] if isinstance(c, dict) and isinstance(c.get("name"), str) else str(i)
                for i, c in enumerate(part)
            ]
        elif isinstance(part, dict) or part is MISSING:
            known = list(part) if part is not MISSING else []
        else:
            raise UsageError(f"`{key}`: `{outer}` is {part!r}, which has no settings", fix="check the path")
        if name not in known and (isinstance(part, list) or path == ["passes"]):
            raise UsageError(
                f"`{key}`: `{outer}` has no `{name}`{did_you_mean(name, known)}",
                fix=f"use one of {', '.join(known)}",
            )
        path.append(known.index(name) if isinstance(part, list) else name)
    return tuple(path)


def set_value(config: Any, path: KeyPath, value: Any) -> None:
    """Set the value at `path` of `config`, creating the objects around it."""
    part = config
    for key in path[:-1]:
        part = part.setdefault(key, {}) if isinstance(part, dict) else part[key]
    part[path[-1]] = value


def _read_from(draft: Draft, name: str, file: Path) -> None:
    configs = draft.items(("data_configs",))
    names = [c.get("name") if isinstance(c, dict) else None for c in configs]
    if not name and len(names) != 1:
        raise UsageError(
            f"the config has {len(names)} data configs",
            fix=f"name one: --data NAME={file} ({', '.join(map(str, names))})",
        )
    if name and name not in names:
        known = [n for n in names if isinstance(n, str)]
        raise UsageError(
            f"unknown data config `{name}`{did_you_mean(name, known)}",
            fix=f"use one of {', '.join(known)}",
        )
    if not file.is_file():
        raise UsageError(f"data file {file} does not exist", fix="check --data")
    at = names.index(name) if name else 0
    if isinstance(configs[at], dict):  # else validation reports it
        files = {"data_name": format_of(file), "data_files": str(file.absolute()), "split": "train"}
        configs[at]["load_dataset_config"] = files
