"""An OpenAI-compatible server that answers with a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def judge_server(reply: Callable[[str], str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the address, and the requests with their headers as they come in."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"data": [{"id": "tiny-judge"}]})

        def do_POST(self) -> None:
            if self.path != "/v1/chat/completions":
                self.send_response(307)
                self.send_header("Location", "/v1/chat/completions")
                self.end_headers()
                return
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append({"authorization": self.headers["Authorization"], **body})
            content = reply(body["messages"][0]["content"])
            self._send({"choices": [{"message": {"role": "assistant", "content": content}}]})

        def _send(self, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
