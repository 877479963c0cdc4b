"""What the command line says over the config, put into it before it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.file_formats import format_of
from phi_runtime.core.errors import UsageError
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.hardware.device import has_nvidia_gpu

HERE = "this_machine"


@dataclass(frozen=True)
class Overrides:
    """What the command line says over the config. `data` are files for data configs, by name; "" stands for the only one.
    `skip_bad_rows` leaves out rows that cannot be used; `run_user_script` lets the user_script of a config run. `values` are settings
    by their dotted path from the top of the config, as a trial of a search has them; a data config stands there by its name."""

    on_local: bool = False
    data: Mapping[str, Path] = field(default_factory=dict)
    trust_remote_code: bool = False
    skip_bad_rows: bool = False
    run_user_script: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For a file, or another process."""
        return {**asdict(self), "data": {name: str(file) for name, file in self.data.items()}}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Overrides:
        """What `as_dict` gave."""
        return cls(**{**value, "data": {name: Path(file) for name, file in value["data"].items()}})


def override(draft: Draft, overrides: Overrides) -> None:
    """Applies `overrides` to the translated config. Raises UsageError when they name what is not there."""
    if not isinstance(draft.value, dict):
        return
    if overrides.on_local:
        device, provider = ("gpu", "CUDAExecutionProvider") if has_nvidia_gpu() else ("cpu", "CPUExecutionProvider")
        accelerator = {"device": device, "execution_providers": [provider]}
        draft.value["systems"] = {HERE: {"type": "LocalSystem", "accelerators": [accelerator]}}
        draft.value["host"] = draft.value["target"] = HERE
    for name, file in overrides.data.items():
        _read_from(draft, name, file)
    for key, value in overrides.values.items():
        _set(draft, key, value)


def _set(draft: Draft, key: str, value: Any) -> None:
    """Puts `value` to the dotted path `key`; settings that are not written yet are made. A part that has a name must be there."""
    part: Any = draft.value
    *outer, last = key.split(".")
    for depth, name in enumerate(outer):
        if isinstance(part, list):
            known = {c["name"]: c for c in part if isinstance(c, dict) and isinstance(c.get("name"), str)}
        else:
            known = part
        if name not in known and depth == 1 and outer[0] in ("passes", "data_configs"):
            raise UsageError(
                f"`{key}`: there is nothing called `{name}` in `{outer[0]}`{did_you_mean(name, list(known))}",
                fix=f"`{outer[0]}` holds {', '.join(known)}",
            )
        part = known.setdefault(name, {})
        if not isinstance(part, dict | list):
            raise UsageError(f"`{key}`: `{name}` is {part!r}, which holds no settings", fix="check the path")
    if not isinstance(part, dict):
        raise UsageError(f"`{key}` names no setting", fix=f"write which of {outer[-1]} is meant")
    part[last] = value


def _read_from(draft: Draft, name: str, file: Path) -> None:
    configs = draft.get(("data_configs",))
    names = [c.get("name") if isinstance(c, dict) else None for c in configs] if isinstance(configs, list) else []
    if not name and len(names) != 1:
        raise UsageError(
            f"the config has {len(names)} data configs",
            fix=f"say for which: --data NAME={file} ({', '.join(map(str, names))})",
        )
    if name and name not in names:
        known = [n for n in names if isinstance(n, str)]
        raise UsageError(
            f"there is no data config `{name}`{did_you_mean(name, known)}",
            fix=f"the data configs are {', '.join(known)}",
        )
    if not file.is_file():
        raise UsageError(f"there is no data file {file}", fix="check --data")
    at = names.index(name) if name else 0
    files = {"data_name": format_of(file), "data_files": str(file.absolute()), "split": "train"}
    configs[at] = {**configs[at], "load_dataset_config": files}
