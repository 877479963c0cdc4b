"""Middleware in front of the app: API key, host check, and body limits."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from typing import TYPE_CHECKING

from phi_runtime.serving.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 4 * 1024 * 1024
# A body that is too large is read up to here before the error is sent: a client that still writes would not receive it.
_DRAINED = 64 * 1024 * 1024
_BODY_S = 60.0


def is_loopback(host: str) -> bool:
    """Return True if `host` is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware that checks the API key and reads the body. /health needs no key.

    A server without a key accepts only the host names of this machine, so that a web page cannot reach it by DNS rebinding
    (its own name resolved to 127.0.0.1).
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self.app = app
        self.key = key.encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._admit(scope)
            body = await _body(receive)
        except ApiError as e:
            await e.response()(scope, receive, send)
            return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    def _admit(self, scope: Scope) -> None:
        """Raise ApiError unless the request may pass."""
        headers = dict(scope["headers"])
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # A proxy in front may end the body elsewhere, and take the rest for another request (RFC 9112, 6.1).
            what = "a request has Content-Length or Transfer-Encoding, not both"
            raise ApiError(400, what, headers={"Connection": "close"})
        if self.key is None:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
            if name and not is_loopback(name.casefold()):
                raise ApiError(
                    403, f"a server without an API key accepts requests for this machine only, not for `{name}`"
                )
        elif scope["path"] != "/health":
            scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not key:
                what = "the header `Authorization: Bearer …` has no API key"
            elif hmac.compare_digest(key.strip(), self.key):
                return
            else:
                what = "the API key is wrong"
            raise ApiError(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


async def _body(receive: Receive) -> bytes:
    """Return the body. Raises ApiError if it is too large or does not arrive in time."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(400, "the client closed the connection")
                size += len(part := message.get("body", b""))
                if size <= LARGEST_BODY:
                    parts.append(part)
                else:
                    parts.clear()
                if not message.get("more_body") or size > _DRAINED:
                    break
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {_BODY_S:.0f} s") from None
    if size > LARGEST_BODY:
        raise ApiError(413, f"the body is larger than {LARGEST_BODY // 1024**2} MB", code="request_too_large")
    return b"".join(parts)
