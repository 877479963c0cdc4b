"""HTTP requests and answers as values, so that each service of the stand-in is a function from one to the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Call:
    """A request: `path` is decoded, `query` has the first value of each name, `headers` are in lower case."""

    method: str
    host: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, method: str, host: str, target: str, headers: Mapping[str, str], body: bytes) -> Call:
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        lower = {name.lower(): value for name, value in headers.items()}
        return cls(method, host, unquote(url.path), query, lower, body)

    @property
    def address(self) -> str:
        """Method and address without query, which faults are matched with."""
        return f"{self.method} https://{self.host}{self.path}"

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else {}

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}


@dataclass(frozen=True)
class Answer:
    """A response. With `cut`, half of the body is sent and the connection closed."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8", **headers})


def refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an error in the form of Azure Resource Manager."""
    return as_json({"error": {"code": code, "message": message}}, status, **(headers or {}))


def storage_refusal(status: int, code: str) -> Answer:
    """Return an error in the form of Azure Storage."""
    xml = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return Answer(status, xml.encode(), {"Content-Type": "application/xml", "x-ms-error-code": code})
