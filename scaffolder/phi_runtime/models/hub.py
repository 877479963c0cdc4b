"""Models from the Hugging Face Hub, through huggingface_hub: resumed, with progress, with the token of its own login."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import LoadKwargs
from phi_runtime.core.artifacts import file_digest, folder_bytes, require_free_space
from phi_runtime.core.errors import NetworkError
from phi_runtime.core.events import Emit, Event

# Weights as safetensors only: a pickle can run code when it is loaded.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "README.md")
UNWANTED = ("onnx/*", "original/*", "*/*.safetensors")
PARTIAL = ".partial"


@dataclass(frozen=True)
class HubModel:
    """What was downloaded: the repository, the commit, and its licence tag."""

    repo_id: str
    commit: str
    licence: str


def download(repo_id: str, load: LoadKwargs, out: Path, emit: Emit) -> HubModel:
    """Downloads the model `repo_id` into the folder `out`, going on with what an earlier call left there. Python files come only
    with a model that is trusted.

    The token comes from HF_TOKEN or `hf auth login`. Raises NetworkError, which says what the hub answered, and OutOfResources.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    with _hub_errors(repo_id):
        info = HfApi().model_info(repo_id, revision=load.revision, files_metadata=True)
        siblings = {s.rfilename: s for s in info.siblings or []}
        wanted = [*WANTED, "*.py"] if load.trust_remote_code else list(WANTED)
        names = filter_repo_objects(siblings, allow_patterns=wanted, ignore_patterns=list(UNWANTED))
        files = [siblings[n] for n in names]
        if not any(f.rfilename.endswith(".safetensors") for f in files):
            raise NetworkError(
                f"{repo_id} has no safetensors weights (and pickled ones are not loaded)",
                fix="choose a repository that has them",
            )
        total = sum(f.size or 0 for f in files)
        require_free_space(out, total - min(folder_bytes(out), total), f"downloading {repo_id}")
        with _progress(out, total, emit):
            partials = [_download_file(repo_id, str(info.sha), file, out) for file in files]
    for file, partial in zip(files, partials, strict=True):
        partial.replace(out / file.rfilename)
    for leftover in out.rglob(f"*{PARTIAL}"):  # of an older revision
        leftover.unlink()
    card = info.card_data.to_dict() if info.card_data else {}
    return HubModel(repo_id, str(info.sha), str(card.get("license", "")))


def _download_file(repo_id: str, commit: str, file: Any, out: Path) -> Path:
    """One file of the repository under a partial name, appended to what an earlier process got of it.

    `snapshot_download` would begin an interrupted file anew (huggingface_hub 2 names its temporary files at random), and weights
    come in files of gigabytes. The blob's id is in the name, so that two versions never mix.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    partial = out / f"{file.rfilename}.{file.blob_id}{PARTIAL}"
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as stream:
        url = hf_hub_url(repo_id, file.rfilename, revision=commit)
        http_get(url, stream, resume_size=stream.tell(), headers=build_hf_headers(), expected_size=file.size)
    if file.lfs and file_digest(partial) != file.lfs.sha256:
        partial.unlink()
        raise NetworkError(f"{file.rfilename} of {repo_id} arrived damaged", fix="run again: it is downloaded anew")
    return partial


@contextmanager
def _progress(folder: Path, total_bytes: int, emit: Emit) -> Iterator[None]:
    """Tells twice a second how much of the download lies in `folder`."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            done = min(folder_bytes(folder), total_bytes)
            emit(Event("progress", "fetch", {"done": done, "total": total_bytes, "unit": "bytes"}))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    from huggingface_hub import errors

    site = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        yield
    except errors.GatedRepoError as e:
        raise NetworkError(
            f"{repo_id} is gated: its owner wants its terms accepted first",
            fix=f"accept them at {site}/{repo_id}, then log in with `hf auth login` or set HF_TOKEN in .env",
        ) from e
    except errors.RevisionNotFoundError as e:
        raise NetworkError(f"{repo_id} has no such revision", fix="check input_model.load_kwargs.revision") from e
    except errors.RepositoryNotFoundError as e:
        raise NetworkError(
            f"there is no model {repo_id} at {site}, or it is private",
            fix="check the id; for a private model log in with `hf auth login` or set HF_TOKEN in .env",
        ) from e
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as e:
        if isinstance(e, OSError) and e.errno == 28:  # no space left: the engine says it
            raise
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise NetworkError(
            f"{site} did not give {repo_id}: {reason}", fix="check the network; the next run goes on from here"
        ) from e
