"""Settings of the command line that override the config before it is validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.dialects.systems import PROVIDER_OF
from phi_runtime.config.file_formats import format_of
from phi_runtime.core.errors import UsageError
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.hardware.device import has_nvidia_gpu

HERE = "this_machine"


@dataclass(frozen=True)
class Overrides:
    """Settings of the command line that override the config.

    Attributes:
        on_local: Run on this machine, whatever `host` and `target` are.
        data: Data files by name of their data config; "" is the only one.
        skip_bad_rows: Skip rows that cannot be used instead of failing.
        run_user_script: Allow the user_script of the config to run.
        values: Settings by dotted path from the top of the config, such as those of a trial; data configs by name.
    """

    on_local: bool = False
    data: Mapping[str, Path] = field(default_factory=dict)
    trust_remote_code: bool = False
    skip_bad_rows: bool = False
    run_user_script: bool = False
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
    for name, file in overrides.data.items():
        _read_from(draft, name, file)
    for key, value in overrides.values.items():
        _set(draft, key, value)


def _set(draft: Draft, key: str, value: Any) -> None:
    """Set the dotted path `key` to `value`. Missing settings are created; a named pass or data config must exist."""
    part: Any = draft.value
    *outer, last = key.split(".")
    for depth, name in enumerate(outer):
        if isinstance(part, list):
            known = {c["name"]: c for c in part if isinstance(c, dict) and isinstance(c.get("name"), str)}
        else:
            known = part
        if name not in known and depth == 1 and outer[0] in ("passes", "data_configs"):
            raise UsageError(
                f"`{key}`: `{outer[0]}` has no `{name}`{did_you_mean(name, list(known))}",
                fix=f"use one of {', '.join(known)}",
            )
        part = known.setdefault(name, {})
        if not isinstance(part, dict | list):
            raise UsageError(f"`{key}`: `{name}` is {part!r}, which has no settings", fix="check the path")
    if not isinstance(part, dict):
        raise UsageError(f"`{key}` is not a setting", fix=f"add the key in {outer[-1]}")
    part[last] = value


def _read_from(draft: Draft, name: str, file: Path) -> None:
    configs = draft.get(("data_configs",))
    names = [c.get("name") if isinstance(c, dict) else None for c in configs] if isinstance(configs, list) else []
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
    files = {"data_name": format_of(file), "data_files": str(file.absolute()), "split": "train"}
    configs[at] = {**configs[at], "load_dataset_config": files}
