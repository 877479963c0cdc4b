"""Stands before the app: who may ask, from where, and how much at once."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from typing import TYPE_CHECKING

from phi_runtime.serving.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 4 * 1024 * 1024
# So much of a body that is too large is read before the answer: a client that still writes hears none.
_DRAINED = 64 * 1024 * 1024
_BODY_S = 60.0


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware. Without a key it obeys only requests for this machine's own names: a web page whose name was made to mean
    127.0.0.1 (DNS rebinding) is not among them. /health needs no key."""

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
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    def _admit(self, scope: Scope) -> None:
        """Raises ApiError."""
        headers = dict(scope["headers"])
        if self.key is None:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
            if name and not is_loopback(name.casefold()):
                raise ApiError(403, f"this server has no API key and serves this machine alone, not {name}")
        elif scope["path"] != "/health":
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not given:
                what = "there is no API key in the header `Authorization: Bearer …`"
            elif hmac.compare_digest(given.strip(), self.key):
                return
            else:
                what = "the API key is not the one of this server"
            raise ApiError(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


async def _body(receive: Receive) -> bytes:
    """The whole body. Raises ApiError when it is too large, or does not come."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(400, "the request broke off")
                size += len(part := message.get("body", b""))
                if size <= LARGEST_BODY:
                    parts.append(part)
                else:
                    parts.clear()
                if not message.get("more_body") or size > _DRAINED:
                    break
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {_BODY_S:.0f} s") from None
    if size > LARGEST_BODY:
        raise ApiError(413, f"the body is larger than {LARGEST_BODY // 1024**2} MB", code="request_too_large")
    return b"".join(parts)
