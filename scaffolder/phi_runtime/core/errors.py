"""The one family of errors that reaches a user: what was wrong, where, and what to do next."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Location:
    """A place in a file. `line` and `column` count from 1; 0 means that the file as a whole is meant."""

    path: Path | str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column or 1}" if self.line else str(self.path)


class PhiError(Exception):
    """Something the user can act on. `fix` is one imperative sentence or command."""

    exit_code = 1

    def __init__(self, what: str, *, where: Location | None = None, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.where}: error: {self.what}" if self.where else self.what


class WorkFailed(PhiError):
    """A stage ran and did not reach its end."""

    exit_code = 1


class UsageError(PhiError):
    """A flag, a name or a folder on the command line is not what the command takes."""

    exit_code = 2


class ConfigError(PhiError):
    """The workflow config is invalid. `findings` holds every fault, root causes first."""

    exit_code = 3

    def __init__(
        self, what: str, *, where: Location | None = None, fix: str = "", findings: tuple[object, ...] = ()
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.findings = findings


class DataError(PhiError):
    """The data cannot be read, or nothing usable is left of it."""

    exit_code = 4


class MissingDependency(PhiError):
    """A library, a device or a whole runtime is absent."""

    exit_code = 5


class Conflict(PhiError):
    """Files or another run are in the way."""

    exit_code = 6


class NetworkError(PhiError):
    """The hub or the package registry did not answer, or said no."""

    exit_code = 7


class OutOfResources(PhiError):
    """Not enough memory or disk."""

    exit_code = 8


class Interrupted(PhiError):
    """The user stopped the work; what was reached is kept."""

    exit_code = 130


def told(error: PhiError) -> dict[str, Any]:
    """`error` as JSON for another process, which `error_of` makes it of again: of the nearest kind that this module has."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__)
    where = error.where and [str(error.where.path), error.where.line, error.where.column]
    return {"kind": kind, "what": error.what, "fix": error.fix, "where": where}


def error_of(value: dict[str, Any]) -> PhiError:
    """The error that `told` gave."""
    kind: type[PhiError] = getattr(sys.modules[__name__], value["kind"])
    return kind(value["what"], where=Location(*value["where"]) if value["where"] else None, fix=value["fix"])
