"""Why a stage is not what it was: its inputs then and now, in words. Loads no ML library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from phi_runtime.config.paths import data_paths
from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.core.artifacts import digest, file_digest
from phi_runtime.core.project import Project
from phi_runtime.data.hooks import functions_key
from phi_runtime.models.reference import ModelRef

_SHORT = 60  # characters of a value that is shown as it was and as it is; a longer one is named alone
_NAMED = {"chat_template": "the chat template changed", "hooks": "hooks.py changed"}


def origins(workflow: Workflow, training: FinetunePass, project: Project, source: ModelRef) -> dict[str, str]:
    """What lies behind the inputs of a stage that trains, part by part, where the inputs hold one digest of several: the `files` of
    its data, the `functions` over their rows, and the `tokenizer` of the model that it starts from. Kept beside the inputs."""
    from phi_runtime.data.prepare import tokenizer_key

    configs = [workflow.data_config(name) for name in training.data_names]
    paths = [found.path for data in configs for found in data_paths(data, project.config)]
    return {
        "files": digest([file_digest(path) for path in paths if path.is_file()]),
        "functions": digest([functions_key(project.config, data) for data in configs]),
        "tokenizer": tokenizer_key(source.path),
    }


def changed(
    before: Mapping[str, Any], now: Mapping[str, Any], then: Mapping[str, str], today: Mapping[str, str]
) -> str:
    """In words, what of a stage's inputs is other than it was. `then` and `today` are the `origins` of both, as far as known."""

    def other(name: str) -> bool:
        return name in then and then[name] != today.get(name, then[name])

    if not before:
        return "made by another version"
    parts = []
    if before.get("input") != now["input"]:
        parts.append("the model before it changed" + (", and its tokenizer with it" if other("tokenizer") else ""))
    if before.get("data", now.get("data")) != now.get("data"):
        functions = other("functions")
        parts += ["the functions over the rows changed"] if functions else []
        parts += ["the data changed"] if other("files") or not functions else []
    if before.get("hooks", "") != now.get("hooks", ""):
        parts.append(_NAMED["hooks"])
    for part in now.keys() - {"input", "data", "hooks"}:
        parts += _differences(part, before.get(part, now[part]), now[part])
    return "; ".join(sorted(parts)) or "made by another version"


def _differences(name: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        return [d for k in keys for d in _differences(k, before.get(k), now.get(k))]
    if before == now:
        return []
    if name in _NAMED:
        return [_NAMED[name]]
    was, is_ = (json.dumps(value, ensure_ascii=False) for value in (before, now))
    return [f"{name}: {was} → {is_}" if max(len(was), len(is_)) <= _SHORT else f"{name} changed"]
