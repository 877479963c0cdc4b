"""Bounds on the answers of a hub: a project may name any, and an endless body would fill memory or disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any, BinaryIO

from phi_runtime.core.errors import NetworkError

LIMIT_BYTES = 64 * 2**20
"""Longest answer that is not a file, such as the list of the files of a repository."""


class BoundedFile:
    """A file to download into, which takes no more than `most` bytes."""

    def __init__(self, file: BinaryIO, most: int, name: str) -> None:
        self._file, self._most, self._name = file, most, name

    def write(self, data: bytes) -> int:
        """Write `data`. Raises NetworkError if the file is longer than announced."""
        if self._file.tell() + len(data) > self._most:
            raise NetworkError(f"{self._name} is longer than announced", fix="choose another repository or mirror")
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@cache
def bound_answers() -> None:
    """Limit the answers that huggingface_hub reads in this process; files have their own limits."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, stream: Any, host: str) -> None:
            self.stream, self.host = stream, host

        def __iter__(self) -> Iterator[bytes]:
            total = 0
            for chunk in self.stream:
                total += len(chunk)
                if total > LIMIT_BYTES:
                    raise NetworkError(
                        f"{self.host} sends an answer of more than {LIMIT_BYTES // 2**20} MB",
                        fix=f"check HF_ENDPOINT ({os.environ.get('HF_ENDPOINT', 'not set')})",
                    )
                yield chunk

        def close(self) -> None:
            self.stream.close()

    def plain(request: httpx2.Request) -> None:
        request.headers["Accept-Encoding"] = "identity"

    def bounded(response: httpx2.Response) -> None:
        if response.url.path.startswith("/api/") or response.status_code >= 300:
            if response.headers.get("Content-Encoding", "identity") != "identity":  # a few bytes may become gigabytes
                raise NetworkError(
                    f"{response.url.host} compresses an answer that was requested plain", fix="check HF_ENDPOINT"
                )
            response.stream = Bounded(response.stream, response.url.host)

    def client() -> httpx2.Client:
        made = default_client_factory()
        hooks = made.event_hooks
        made.event_hooks = {"request": [*hooks["request"], plain], "response": [*hooks["response"], bounded]}
        return made

    set_client_factory(client)
