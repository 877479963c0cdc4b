"""A hub from anyone: a mirror, or a server that a project names. It writes nothing elsewhere, fills nothing, and gets no token."""

from __future__ import annotations

import gzip
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import NetworkError, PhiError
from phi_runtime.core.events import silent
from phi_runtime.core.project import ProjectFolder
from phi_runtime.models import hub_answers
from phi_runtime.models.fetch import fetch, present
from tests.phi_runtime.pipeline.test_fetch import HubServer, _HubHandler, model
from tests.phi_runtime.pipeline.test_fetch import hub as hub
from tests.phi_runtime.pipeline.test_fetch import project as project

WEIGHTS = "model.safetensors"
NAMES = (
    *("a\nb.json", "a\x1b[2J.json", "a\0.json", "a\x7f.json", "a\u202enosj.json", "a\u200b.json"),
    *("a:b.json", 'a".json', "a|b.json", "a?.json", "a<b.json", "a*.json", "a\\b.json"),
    *("../a.json", "/a.json", "a/./b.json", "a//b.json", "a /b.json", "a./b.json"),
    *("con.json", "sub/NUL.json", "aux.txt", "lpt1.json", "COM1.tar.json"),
)
"""Names that would be written elsewhere, that Windows takes for others, and that show as others."""
ANSWERS = (
    *("[]", "null", '"text"', "{}", "{", "[" * 100_000),
    *('{"siblings": 1}', '{"siblings": [1]}', '{"siblings": [{}]}', '{"siblings": [{"rfilename": 1}]}'),
    '{"id": "a/b", "siblings": [{"rfilename": "a.safetensors", "size": "x"}]}',
    '{"id": "a/b", "siblings": [{"rfilename": "a.safetensors", "size": -1}]}',
    '{"id": "a/b", "siblings": [{"rfilename": "a.safetensors", "size": 1e999}]}',
)
"""Answers about the files of a repository that describe none."""
Answer = Callable[[_HubHandler], bool]


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # between attempts of the client


def attack(hub: HubServer, answer: Answer) -> None:
    """Let `answer` handle requests first; it returns True if it has answered."""

    class Handler(_HubHandler):
        def handle_any(self, send: bool) -> None:
            self.server.requests.append((self.command, self.path, dict(self.headers)))
            try:
                if not answer(self):
                    self.server.requests.pop()
                    super().handle_any(send)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    hub.RequestHandlerClass = Handler


def is_file(request: _HubHandler, name: str = WEIGHTS) -> bool:
    return "/resolve/" in request.path and request.path.endswith(name)


def is_list(request: _HubHandler) -> bool:
    return request.path.startswith("/api/models/")


def chunked(request: _HubHandler, pieces: Iterator[bytes], headers: dict[str, str]) -> bool:
    """Answer with the chunks of a body whose length is not announced."""
    request.send_response(200)
    for name, value in {"Transfer-Encoding": "chunked", **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    for piece in pieces:
        request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    request.wfile.write(b"0\r\n\r\n")
    return True


def endless() -> Iterator[bytes]:
    while True:
        yield b" " * 2**20


@contextmanager
def other_host() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server under another name than the hub, and the headers of its requests."""
    received: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://localhost:{server.server_port}", received
    server.shutdown()
    server.server_close()


def refused(project: ProjectFolder, match: str = ".") -> PhiError:
    with pytest.raises(NetworkError, match=match) as error:
        fetch(model("org/tiny"), project, silent)
    assert present(model("org/tiny"), project) is None
    assert error.value.exit_code == 7
    return error.value


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_that_no_folder_should_have_is_refused(hub: HubServer, project: ProjectFolder, name: str) -> None:
    hub.files[name] = b"{}"
    before = set(project.root.parent.rglob("*"))
    assert "\x1b" not in str(refused(project, "may not be written"))
    assert not [path for _, path, _ in hub.requests if "resolve" in path]
    assert not [path for path in set(project.root.parent.rglob("*")) - before if path.is_file()]


def test_names_that_differ_only_in_case_are_refused(hub: HubServer, project: ProjectFolder) -> None:
    hub.files["Config.JSON"] = b"{}"  # one file on Windows and macOS
    hub.files["config.json"] = b"{}"
    hub.files["CONFIG.json"] = b"{}"
    refused(project, "may not be written")


@pytest.mark.parametrize("announced", ["less", "more"])
def test_a_body_of_another_size_is_refused(hub: HubServer, project: ProjectFolder, announced: str) -> None:
    body = hub.files[WEIGHTS]
    sent = body[:-1] if announced == "more" else body + b"0"

    def answer(request: _HubHandler) -> bool:
        if not is_file(request):
            return False
        request.answer(200, sent, {})
        return True

    attack(hub, answer)
    refused(project)


def test_an_endless_file_ends_at_its_announced_size(hub: HubServer, project: ProjectFolder) -> None:
    attack(hub, lambda request: is_file(request) and chunked(request, endless(), {}))
    refused(project, "longer than announced")
    written = sum(file.stat().st_size for file in project.model_cache.rglob("*") if file.is_file())
    assert written <= sum(map(len, hub.files.values()))


def test_a_file_without_a_size_leaves_room_on_the_disk(
    hub: HubServer, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi_runtime.models import hub as module

    usage = type("usage", (), {"free": module.RESERVE_BYTES + 3 * 2**20})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(module, "require_free_space", lambda *_: None)
    original = _HubHandler.sibling
    monkeypatch.setattr(_HubHandler, "sibling", lambda *a: {"rfilename": original(*a)["rfilename"]})
    attack(hub, lambda request: is_file(request) and chunked(request, endless(), {}))
    refused(project, "longer than announced")


def test_a_compressed_file_ends_at_its_announced_size(hub: HubServer, project: ProjectFolder) -> None:
    bomb = gzip.compress(b"\0" * 2**25)

    def answer(request: _HubHandler) -> bool:
        return is_file(request) and chunked(request, iter([bomb]), {"Content-Encoding": "gzip"})

    attack(hub, answer)
    refused(project, "longer than announced")


@pytest.mark.parametrize("kind", ["endless", "bomb", "siblings"])
def test_the_list_of_files_is_bounded(
    hub: HubServer, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(hub_answers, "LIMIT_BYTES", 2**22)
    siblings = ({"rfilename": f"{n}.json", "size": 1, "blobId": "0" * 40} for n in range(10**7))
    bodies = {
        "endless": lambda: endless(),
        "bomb": lambda: iter([gzip.compress(b" " * 2**25)]),
        "siblings": lambda: (b'{"siblings": [' + json.dumps(s).encode() * 500 for s in siblings),
    }
    headers = {"Content-Encoding": "gzip"} if kind == "bomb" else {}
    attack(hub, lambda request: is_list(request) and chunked(request, bodies[kind](), headers))
    refused(project, "compresses" if kind == "bomb" else "more than 4 MB")


@pytest.mark.parametrize("what", ["list", "file"])
def test_a_redirect_takes_no_token_to_another_host(
    hub: HubServer, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    with other_host() as (address, received):

        def answer(request: _HubHandler) -> bool:
            if not (is_list(request) if what == "list" else is_file(request)):
                return False
            request.answer(302, b"", {"Location": f"{address}/collect"})
            return True

        attack(hub, answer)
        with pytest.raises(PhiError):
            fetch(model("org/tiny"), project, silent)
    assert received, "the redirect is followed"
    assert not [headers for headers in received if "hf_of_the_user" in str(headers)]
    assert [headers for _, _, headers in hub.requests if "hf_of_the_user" in str(headers)]


def test_redirects_in_a_circle_end(hub: HubServer, project: ProjectFolder) -> None:
    def answer(request: _HubHandler) -> bool:
        request.answer(302, b"", {"Location": request.path})
        return True

    attack(hub, answer)
    refused(project)
    assert len(hub.requests) < 200


@pytest.mark.parametrize("body", ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_that_is_none_is_the_fault_of_the_hub(hub: HubServer, project: ProjectFolder, body: str) -> None:
    def answer(request: _HubHandler) -> bool:
        if not is_list(request):
            return False
        request.answer(200, body.encode(), {"Content-Type": "application/json"})
        return True

    attack(hub, answer)
    refused(project)
    assert not list(project.root.parent.rglob("evil*"))


def test_an_error_page_with_escape_sequences_is_shown_inert(
    hub: HubServer, project: ProjectFolder, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: _HubHandler) -> bool:
        request.answer(500, b"", {"X-Error-Message": "\x1b]0;owned\x07"})
        return True

    attack(hub, answer)
    project.config.write_text(
        json.dumps({"input_model": {"type": "HfModel", "model_path": "org/tiny"}, "passes": {}}), encoding="utf-8"
    )
    monkeypatch.setenv("PHI_SCAFFOLD_HANDED_OVER", "1")
    result = cli("fetch", "--project", project.root)
    assert result.code != 0
    assert "\x1b" not in result.out + result.err


def test_a_hub_is_reached_by_https_alone_if_a_project_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phi_runtime.core.dotenv import read_dotenv
    from phi_runtime.core.errors import ConfigError

    before = dict(os.environ)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    (tmp_path / ".env").write_text("HF_ENDPOINT=http://collector.example\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="https"):
        read_dotenv(tmp_path)
    os.environ.clear()
    os.environ.update(before)
