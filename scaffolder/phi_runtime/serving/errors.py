"""Errors in OpenAI's format: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

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
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def invalid(message: str, param: str, code: str | None = None) -> ApiError:
    """Return a 400 error for the request field `param`."""
    return ApiError(400, message, param=param, code=code)


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
    if kind in ("UsageError", "DataError", "ValueError"):
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
        404: f"unknown path `{request.url.path}`; see /v1/models, /v1/chat/completions and /v1/completions",
        405: f"`{request.url.path}` does not accept {request.method}",
        400: "the body is not readable JSON",
    }.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response()


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
