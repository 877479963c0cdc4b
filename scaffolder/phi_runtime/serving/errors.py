"""Errors in OpenAI's format: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

_CHAT = "use /v1/chat/completions"
# Paths of other APIs, by their beginnings, and what to do instead.
_ELSEWHERE = {
    "/v1/responses": f"the Responses API is not supported; {_CHAT}",
    "/v1/conversations": f"conversations are not stored; {_CHAT} with all messages",
    "/v1/messages": f"the API of Anthropic is not supported; {_CHAT}",
    "/v1/embeddings": "these models generate text and have no embeddings; use a server with an embedding model",
    "/v1/rerank": "these models generate text and do not rank; use a server with a reranker",
    "/v1/audio": "these models read and write text only",
    "/v1/images": "these models read and write text only",
    "/v1/videos": "these models read and write text only",
    "/v1/realtime": f"the Realtime API is not supported; {_CHAT} with stream: true",
    "/v1/moderations": "this server does not moderate",
    "/v1/assistants": f"the Assistants API is not supported; {_CHAT}",
    "/v1/threads": f"the Assistants API is not supported; {_CHAT}",
    "/v1/vector_stores": "this server stores no files",
    "/v1/files": "this server stores no files",
    "/v1/uploads": "this server stores no files",
    "/v1/batches": f"batches are not supported; {_CHAT} for each request",
    "/v1/fine_tuning": "train with `phi-scaffold run`",
    "/v1/chat/completions/": "answers are not stored",
    "/chat/completions": "the base URL ends with /v1",
    "/completions": "the base URL ends with /v1",
    "/models": "the base URL ends with /v1",
    "/v1/v1": "the base URL has /v1 twice",
    "/api/": f"the API of Ollama is not supported; {_CHAT}",
}

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An error response. `param` is the field of the request that it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        param = self.param and _printable(self.param)
        return {"error": {"message": _printable(self.message), "type": kind, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def invalid(message: str, param: str, code: str | None = None) -> ApiError:
    """Return a 400 error for the request field `param`."""
    return ApiError(400, message, param=param, code=code)


def _printable(text: str) -> str:
    """Return `text` with lone surrogates of the request, which UTF-8 cannot express, as escapes."""
    return text.encode(errors="backslashreplace").decode()


def from_worker(failure: dict[str, str], text: str, guide: str) -> ApiError:
    """Return the error for a failure that the worker sent. `text` and `guide` name the fields of the input and of the guide."""
    kind = failure["kind"]
    message = f"{failure['message']}: {failure['fix']}" if failure["fix"] else failure["message"]
    if kind == "PromptTooLong":
        return invalid(failure["message"], text, "context_length_exceeded")
    if kind == "InvalidGuide":
        return invalid(message, guide, "invalid_schema")
    if kind == "UnknownAdapter":
        return ApiError(404, message, param="model", code="model_not_found")
    if kind in ("UsageError", "DataError"):
        return invalid(message, text)
    if kind == "OutOfResources":
        return ApiError(503, message, code="out_of_memory")
    if kind == "stopping":
        return ApiError(503, failure["message"], code="stopping")
    return ApiError(500, message, code="internal_error")


# -- handlers of the app ------------------------------------------------------------------------------------------------------


async def on_api_error(_: Request, error: Exception) -> JSONResponse:
    """Answer an ApiError with its status and body."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Errors of the framework: unknown paths and methods, unreadable bodies."""
    assert isinstance(error, HTTPException)
    message = {
        404: f"unknown path `{request.url.path[:200]}`; {_instead(request.url.path)}",
        405: f"`{request.url.path}` does not accept {request.method}",
        400: "the body is not readable JSON",
    }.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response()


def _instead(path: str) -> str:
    """Return what to do instead of a request to the unknown `path`."""
    hints = (hint for beginning, hint in _ELSEWHERE.items() if path.startswith(beginning))
    return next(hints, "see /v1/models, /v1/chat/completions and /v1/completions")


async def on_invalid_body(_: Request, error: Exception) -> JSONResponse:
    """Wrong types and missing fields, to which OpenAI answers 400."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        position = f" at character {first['loc'][-1]}" if isinstance(first["loc"][-1], int) else ""
        return ApiError(400, f"the body is not JSON{position}: {first['ctx']['error']}", code="invalid_json").response()
    path = first["loc"][1:]
    if not path:
        message = "the body is not a JSON object; check that the header `Content-Type: application/json` is set"
        return ApiError(400, message).response()
    # pydantic appends the member of a union that it tried; only in messages is the path deeper than one field
    param = str(path[0])
    if path[0] == "messages":
        param += "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[1:3])
    return invalid(f"{param}: {first['msg']}", param).response()


async def on_fault(_: Request, error: Exception) -> JSONResponse:
    """Answer an unexpected exception with status 500 and its type, without its text."""
    return ApiError(500, f"internal error: {type(error).__name__}", code="internal_error").response()
