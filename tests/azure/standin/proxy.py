"""The proxy: it answers CONNECT with its own certificate, and hands each request to the service of its host."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import threading
import traceback
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.azure.standin import arm, blob, history, login, runner, vault
from tests.azure.standin.cloud import CLIENT_SECRET, TENANT, Cloud
from tests.azure.standin.messages import Answer, Call, refusal

CERTS = Path(__file__).with_name("certs.py")
SERVICES = (
    ("management.azure.com", arm.answer),
    ("login.microsoftonline.com", login.answer),
    (".api.azureml.ms", history.answer),
    (".blob.core.windows.net", blob.answer),
    (".vault.azure.net", vault.answer),
)


class Standin:
    """A running stand-in. `environment` is what a client needs, `cloud` is its state.

    Args:
        folder: Folder for certificates and the working folders of jobs.
        python: Python with Azure's client; it creates the certificates and runs the jobs.
        machine: Environment variables of the machines that run jobs.
    """

    def __init__(self, folder: Path, python: Path, machine: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(python), str(CERTS), str(folder)], check=True)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(folder / "server.pem")
        self.cloud = Cloud(folder)
        handler = type("StandinHandler", (_Handler,), {"cloud": self.cloud, "tls": tls})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        address, authority = f"http://127.0.0.1:{self.server.server_address[1]}", str(folder / "ca.pem")
        through = {"HTTPS_PROXY": address, "https_proxy": address, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        trusted = {"REQUESTS_CA_BUNDLE": authority, "SSL_CERT_FILE": authority}
        self.network = {**through, **trusted}
        secret = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "app", "AZURE_CLIENT_SECRET": CLIENT_SECRET}
        self.environment = {**self.network, **secret}
        identity = {"MSI_ENDPOINT": f"{address}/identity", "MSI_SECRET": login.IDENTITY_SECRET}
        self.cloud.machine = runner.machine(folder, python, {**self.network, **identity, **(machine or {})})
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.cloud.reset()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: Cloud
    tls: ssl.SSLContext
    host = "127.0.0.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing; the cloud has a log."""

    def do_CONNECT(self) -> None:
        """Speak TLS in place of the host, then answer its requests until the client closes."""
        self.send_response(200, "Connection established")
        self.end_headers()
        try:
            connection = self.tls.wrap_socket(self.connection, server_side=True)
        except OSError:  # the client does not trust the authority, or is gone
            return
        self.host = self.path.rpartition(":")[0]
        self.connection = self.request = connection
        self.rfile, self.wfile = connection.makefile("rb"), connection.makefile("wb")
        self.close_connection = False
        with contextlib.suppress(OSError, ValueError):
            while not self.close_connection:
                self.close_connection = True
                self.handle_one_request()
        self.close_connection = True
        with contextlib.suppress(OSError, ValueError):
            self.wfile.flush()
            connection.close()

    def _handle(self) -> None:
        call = Call.of(self.command, self.host, self.path, dict(self.headers), self._body())
        fault = self.cloud.fault(call)
        if fault and fault.kind == "drop":
            self.cloud.record(call, "drop")
            self.close_connection = True
            return
        answer = fault.answer() if fault and isinstance(fault.kind, int) else self._answer(call)
        self.cloud.record(call, fault.kind if fault else answer.status)
        if fault and fault.kind == "lose":
            self.close_connection = True
            return
        self._send(answer, cut=bool(fault and fault.kind == "cut"))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = _handle  # noqa: N815

    def _answer(self, call: Call) -> Answer:
        if call.host == "127.0.0.1":
            return login.managed_identity(self.cloud, call)
        for host, answer in SERVICES:
            if call.host == host or (host.startswith(".") and call.host.endswith(host)):
                try:
                    return answer(self.cloud, call)
                except Exception:
                    self.cloud.errors.append(f"{call.address}\n{traceback.format_exc()}")
                    return refusal(500, "StandIn", "the stand-in itself has failed")
        return refusal(404, "UnknownHost", call.host)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, answer: Answer, cut: bool) -> None:
        self.send_response(answer.status)
        length = {"Content-Length": str(len(answer.body))}
        for name, value in ({"x-ms-request-id": str(uuid.uuid4())} | length | dict(answer.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
        self.wfile.flush()
        if cut:
            self.close_connection = True
