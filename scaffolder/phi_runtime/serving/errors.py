"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a client is told instead of an answer. `param` is the field of the request that is at fault."""

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
    """A field of the request that cannot be obeyed."""
    return ApiError(400, message, param=param, code=code)


def from_worker(told: dict[str, str], text: str, guide: str) -> ApiError:
    """The error for what the worker told. `text` and `guide` are the fields that say what is asked, and what form it must have."""
    kind = told["kind"]
    message = f"{told['message']}: {told['fix']}" if told["fix"] else told["message"]
    if kind == "PromptTooLong":
        return invalid(told["message"], text, "context_length_exceeded")
    if kind == "InvalidGuide":
        return invalid(message, guide, "invalid_schema")
    if kind == "UnknownAdapter":
        return ApiError(404, message, param="model", code="model_not_found")
    if kind in ("UsageError", "DataError", "RowFault", "ValueError"):
        return invalid(message, text)
    if kind == "OutOfResources":
        return ApiError(503, message, code="out_of_memory")
    if kind == "stopping":
        return ApiError(503, told["message"], code="stopping")
    return ApiError(500, message, code="internal_error")


# -- handlers of the app ------------------------------------------------------------------------------------------------------


async def on_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses: unknown paths and methods, bodies that it cannot read."""
    assert isinstance(error, HTTPException)
    message = {
        404: f"there is no {request.url.path} here; see /v1/models, /v1/chat/completions and /v1/completions",
        405: f"{request.url.path} does not take {request.method}",
        400: "the body is not JSON that can be read",
    }.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response()


async def on_invalid_body(_: Request, error: Exception) -> JSONResponse:
    """Wrong types and missing fields; OpenAI answers 400 to them."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        where = f" at character {first['loc'][-1]}" if isinstance(first["loc"][-1], int) else ""
        return ApiError(400, f"the body is not JSON{where}: {first['ctx']['error']}", code="invalid_json").response()
    place = first["loc"][1:]
    if not place:
        return ApiError(
            400, "the body is not a JSON object; is the header `Content-Type: application/json` there?"
        ).response()
    # pydantic adds which member of a union it tried: the field is what stands before that
    param = str(place[0]) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place[1:3])
    if place[0] != "messages":
        param = str(place[0])
    return invalid(f"{param}: {first['msg']}", param).response()


async def on_fault(_: Request, error: Exception) -> JSONResponse:
    return ApiError(500, f"{type(error).__name__} in the server", code="internal_error").response()
