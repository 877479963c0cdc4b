"""Download models from the Hugging Face Hub: resumable, with progress, with the token of its login."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import LoadKwargs
from phi_runtime.core.artifacts import file_digest, folder_bytes, require_free_space
from phi_runtime.core.errors import NetworkError
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.project import WINDOWS_DEVICES
from phi_runtime.models.hub_answers import BoundedFile, bound_answers
from phi_runtime.models.hub_errors import hub_errors, network_fix, reason

# Weights as safetensors only: a pickle can run code when it is loaded.
INCLUDED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "README.md")
EXCLUDED = ("onnx/*", "original/*", "*/*.safetensors")
PARTIAL = ".partial"
RESERVE_BYTES = 2**30  # of the disk, for a file whose size a mirror does not announce


@dataclass(frozen=True)
class HubModel:
    """A downloaded model: repository, commit, and license tag."""

    repo_id: str
    commit: str
    license: str


def download(repo_id: str, load: LoadKwargs, out: Path, emit: Emit, included: Sequence[str] = INCLUDED) -> HubModel:
    """Download the files of the model `repo_id` that match `included` into the folder `out`, resuming an earlier download.

    Python files are downloaded only with trust_remote_code. The token comes from HF_TOKEN or `hf auth login`.

    Raises:
        NetworkError: the Hub's answer, such as a gated or unknown repository, a damaged file, or a name outside of the folder.
        OutOfResources: the disk has too little space.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    bound_answers()
    with _hub_errors(repo_id, load.revision):
        info = HfApi().model_info(repo_id, revision=load.revision, files_metadata=True)
        siblings = {s.rfilename: s for s in info.siblings or []}
        patterns = [*included, "*.py"] if load.trust_remote_code else list(included)
        names = list(filter_repo_objects(siblings, allow_patterns=patterns, ignore_patterns=list(EXCLUDED)))
        files = [siblings[n] for n in names]
        for file in files:
            _require_plain_name(file, repo_id)
            if not isinstance(file.size, int | None) or (file.size or 0) < 0:
                raise ValueError(f"{file.rfilename} has the size {file.size!a}")
        if len({name.casefold() for name in names}) < len(files):  # one file on Windows and macOS
            raise NetworkError(
                f"{repo_id} lists names that may not be written together: they differ in case alone",
                fix="choose another repository",
            )
        if included is INCLUDED and not any(f.rfilename.endswith(".safetensors") for f in files):
            raise NetworkError(
                f"{repo_id} has no safetensors weights (pickled weights are not loaded)",
                fix="choose a repository with safetensors weights",
            )
        total = sum(f.size or 0 for f in files)
        for leftover in set(out.rglob(f"*{PARTIAL}")) - {_partial(out, file) for file in files}:
            if not leftover.is_dir():  # of an older revision
                leftover.unlink()
        require_free_space(out, total - min(folder_bytes(out), total), f"downloading {repo_id}")
        with _progress(out, total, emit):
            partials = [_download_file(repo_id, str(info.sha), file, out) for file in files]
    for file, partial in zip(files, partials, strict=True):
        partial.replace(out / file.rfilename)
    card = info.card_data.to_dict() if info.card_data else {}
    return HubModel(repo_id, str(info.sha), str(card.get("license", "")))


def _download_file(repo_id: str, commit: str, file: Any, out: Path) -> Path:
    """Download one file under a partial name, appending to an earlier partial download.

    `snapshot_download` restarts an interrupted file (huggingface_hub 2 names its temporary files at random), and weights
    come in files of gigabytes. The blob's id is in the name, so that two versions never mix.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    partial = _partial(out, file)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if partial.is_symlink():  # not ours
        partial.unlink()
    with partial.open("ab") as stream:
        url = hf_hub_url(repo_id, file.rfilename, revision=commit)
        most = shutil.disk_usage(out).free - RESERVE_BYTES if file.size is None else file.size
        bounded: Any = BoundedFile(stream, most, f"{file.rfilename} of {repo_id}")
        http_get(url, bounded, resume_size=stream.tell(), headers=build_hf_headers(), expected_size=file.size)
    if not _is_complete(partial, file):
        partial.unlink()
        raise NetworkError(f"{file.rfilename} of {repo_id} is corrupt", fix="run again to download it again")
    return partial


def _partial(out: Path, file: Any) -> Path:
    return out / f"{file.rfilename}.{file.blob_id}{PARTIAL}"


def _is_complete(path: Path, file: Any) -> bool:
    """Return True if the downloaded file has the announced size and content: by SHA-256, or for small files by git blob id."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return False
    if file.lfs:
        return file_digest(path) == file.lfs.sha256
    if file.blob_id is None:  # not announced by a mirror
        return True
    with path.open("rb") as stream:
        blob = hashlib.file_digest(stream, lambda: hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))
    return bool(blob.hexdigest() == file.blob_id)


def _require_plain_name(file: Any, repo_id: str) -> None:
    """Raise NetworkError for a name that would be written outside of the model's folder, or that Windows reads as another."""
    name, blob = str(file.rfilename), str(file.blob_id or "")
    parts = name.split("/")
    unsafe = re.search(r'[\\:*?"<>|]', name) or not name.isprintable()
    unsafe = unsafe or any(not part or part[-1] in ". " for part in parts)  # Windows drops them; also `.` and `..`
    unsafe = unsafe or any(part.partition(".")[0].casefold() in WINDOWS_DEVICES for part in parts)
    if unsafe or not re.fullmatch(r"[0-9a-f]*", blob):
        raise NetworkError(
            f"{repo_id} lists a file that may not be written: {name!a}",
            fix="choose another repository, and report this one",
        )


@contextmanager
def _progress(folder: Path, total_bytes: int, emit: Emit) -> Iterator[None]:
    """Report the downloaded bytes in `folder` twice a second."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            with suppress(OSError):  # a corrupt file is removed while its size is read
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
def _hub_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Translate the exceptions of huggingface_hub; those of the operating system, such as a full disk, pass through."""
    from huggingface_hub import constants

    try:
        with hub_errors("model", repo_id, revision):
            yield
    except OSError as e:
        if e.errno:
            raise
        raise NetworkError(
            f"cannot download {repo_id} from {constants.ENDPOINT}: {reason(e)}", fix=network_fix(e, "model")
        ) from e
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as e:  # of huggingface_hub, which trusts it
        raise NetworkError(
            f"the answer of {constants.ENDPOINT} about {repo_id} cannot be read: {type(e).__name__}: {str(e)[:200]}",
            fix="check HF_ENDPOINT, or choose another repository",
        ) from e
