"""Names of base models as people type them: ids, addresses of the Hub, folders, and parts of a name such as `phi-4-mini`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from phi_runtime.core.artifacts import read_json, read_manifest
from phi_runtime.core.errors import UsageError
from phi_runtime.core.hub_id import HUB_ID
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.models.exportable import why_not_exportable, why_not_loadable
from phi_runtime.models.known import known_id
from phi_runtime.models.place import is_model_folder
from phi_runtime.models.shape import shape_of, text_config
from phi_scaffold.new.catalog import BaseModel, catalog

_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)(?:[/?#].*)?", re.IGNORECASE
)
_PATH = re.compile(r"[./~\\]|[A-Za-z]:[\\/]|.*\\")
UNKNOWN_CONTEXT = 2048  # tokens assumed for a model whose config.json does not say
FAMILIES: dict[tuple[str, ...], str] = {("phi", "3"): "microsoft/Phi-3-mini-4k-instruct"}
"""Names of families, as words, and the model that each means without a size."""
_VARIANTS = (["instruct"], ["it"], ["chat"])  # words that a name of the usual variant of a model may lack


@cache
def base_model(id_: str) -> BaseModel | None:
    """Return what is known of a model that `find_base_model` returned; None for one of the Hub that is not in the catalog."""
    folder = Path(id_)
    local = local_model(folder) if folder.is_absolute() else None
    return local or catalog().models.get(id_)


def local_model(folder: Path, id_: str = "") -> BaseModel | None:
    """Return the facts of the model in `folder`, from its files; None if its config.json lacks a size."""
    shape = shape_of(folder)
    if shape is None:
        return None
    config = read_json(folder / "config.json")
    contexts = (text_config(config).get(key) for key in ("max_position_embeddings", "n_positions"))
    files = (folder / "chat_template.jinja", folder / "tokenizer_config.json")
    has_template = files[0].is_file() or (files[1].is_file() and "chat_template" in read_json(files[1]))
    manifest, named = read_manifest(folder), config.get("architectures")
    return BaseModel(
        id=id_ or str(folder),
        about="model on this machine",
        shape=shape,
        context=next((context for context in contexts if isinstance(context, int)), UNKNOWN_CONTEXT),
        base=not has_template,
        prompt_format="own" if has_template else "plain",
        license=str((manifest.facts.get("license") if manifest else "") or "unknown"),
        architecture=str(named[0]) if isinstance(named, list) and named else "unknown",
        source=str(folder / "config.json"),
        why_not_exportable=why_not_loadable(config) or why_not_exportable(config),
    )


def downloaded_model(name: str, project: ProjectFolder) -> BaseModel | None:
    """Return the facts of a model of the Hub that is in the model-cache/ of the project; None if it is not there."""
    return local_model(project.model_cache / name, name) if HUB_ID.fullmatch(name) else None


def find_base_model(name: str) -> str:
    """Return the base model that `name` means: an id of the catalog or the Hub, or the absolute path of a folder.

    Args:
        name: A catalog id in any case and with or without its owner, an address or id of the Hub, a folder with a model, or
            a part of one catalog id (`phi-4-mini`, `llama 3.2`), or a family (`phi3`).

    Raises:
        UsageError: `name` is none of these, a part of several ids, which the fix lists, or a model that cannot be used.
    """
    name = name.strip()
    if id_ := known_id(name):
        return id_
    if address := _ADDRESS.fullmatch(name):
        _refuse_unsupported(address[1])
        return known_id(address[1]) or address[1]
    folder = Path(name).expanduser()
    if is_model_folder(folder):
        return str(folder.resolve())
    if _PATH.match(name):
        raise UsageError(f"{folder} is not the folder of a model: it has no config.json", fix="check the path")
    found = [] if "/" in name else matching_models(name)
    if not found:
        _refuse_unsupported(name)
    if HUB_ID.fullmatch(name):
        return name
    if len(found) == 1:
        return found[0]
    if usual := FAMILIES.get(tuple(_words(name))):
        return usual
    if found:
        raise UsageError(f"`{name}` is a part of {len(found)} model names", fix=f"choose one of {', '.join(found)}")
    raise UsageError(
        f"unknown model `{name}`{did_you_mean(name, catalog().models)}",
        fix="see `phi-scaffold models`, or use a hub id: OWNER/NAME",
    )


def note_on_family(name: str, id_: str) -> str:
    """Return a note on the other models of a family if `name` is one, of which `id_` was chosen; else ""."""
    if "/" in name or FAMILIES.get(tuple(_words(name))) != id_ or known_id(name):
        return ""
    others = [other for other in matching_models(name) if other != id_]
    return f"`{name}` is {id_}; others are {', '.join(others)}"


def _refuse_unsupported(name: str) -> None:
    """Raise UsageError if `name` is the id of a model that cannot be used, or without an owner a part of it."""
    words = [] if "/" in name else _words(name)
    for model in catalog().unsupported:
        part = bool(words) and _rest(words, _words(model.id.rpartition("/")[2])) is not None
        if part or name.casefold() == model.id.casefold():
            raise UsageError(f"{model.id} is not supported: {model.reason}", fix=f"use {model.instead}")


def matching_models(name: str) -> list[str]:
    """Return the catalog ids that `name` is a part of, or whose owner it names.

    Only one of them is returned if the rest of it says merely that it follows instructions.

    Words and numbers are compared: `phi3` is a part of `Phi-3-mini-4k-instruct` and not of `Phi-3.5-mini-instruct`.
    """
    part = _words(name)
    if not part:
        return []
    rests = {id_: _rest(part, _words(id_.rpartition("/")[2])) for id_ in catalog().models}
    found = {id_: rest for id_, rest in rests.items() if rest is not None}
    owned = [id_ for id_ in rests if _rest(part, _words(id_.rpartition("/")[0])) is not None]
    usual = [id_ for id_, rest in found.items() if rest in _VARIANTS]
    return usual if len(usual) == 1 else [id_ for id_ in rests if id_ in found or id_ in owned]


def _words(name: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?|[a-z]+", name.casefold().replace("_", "."))


def _rest(part: Sequence[str], words: list[str]) -> list[str] | None:
    """Return the words that are not in `part`; None if its words do not follow one another in `words`."""
    for start in range(len(words) - len(part) + 1):
        if words[start : start + len(part)] == list(part):
            return words[:start] + words[start + len(part) :]
    return None
