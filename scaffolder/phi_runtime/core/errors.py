"""The errors that reach a user: what is wrong, where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phi_runtime.core.secrets import without_visible_secrets


@dataclass(frozen=True)
class Location:
    """A position in a file. `line` and `column` count from 1; line 0 means the file as a whole."""

    path: Path | str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column or 1}" if self.line else str(self.path)


class PhiError(Exception):
    """Base class of all errors that a user can act on. Passwords in URLs are not in its texts.

    Args:
        what: What is wrong, in the present tense.
        where: The file, line and column that it is about.
        fix: What to do: one imperative sentence, or a command.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: Location | None = None, fix: str = "") -> None:
        what = without_visible_secrets(what)
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = without_visible_secrets(fix)

    def __str__(self) -> str:
        return f"{self.where}: error: {self.what}" if self.where else self.what


class WorkFailed(PhiError):
    """A stage started and did not finish."""

    exit_code = 1


class UsageError(PhiError):
    """A flag, name or folder on the command line is not valid."""

    exit_code = 2


class ConfigError(PhiError):
    """The workflow config is invalid. `findings` holds every error, root causes first."""

    exit_code = 3

    def __init__(
        self, what: str, *, where: Location | None = None, fix: str = "", findings: tuple[object, ...] = ()
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.findings = findings


class DataError(PhiError):
    """The data cannot be read, or no usable row remains."""

    exit_code = 4


class MissingDependency(PhiError):
    """A library, a device or a runtime is not available."""

    exit_code = 5


class Conflict(PhiError):
    """Existing files or another run are in the way."""

    exit_code = 6


class NetworkError(PhiError):
    """The Hub or the package registry is unreachable, or refused the request."""

    exit_code = 7


class OutOfResources(PhiError):
    """The machine has too little memory or disk space; `resource` names which."""

    exit_code = 8

    def __init__(
        self,
        what: str,
        *,
        where: Location | None = None,
        fix: str = "",
        resource: Literal["memory", "disk"] = "memory",
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.resource = resource


class Interrupted(PhiError):
    """The user stopped the work; completed steps are kept."""

    exit_code = 130


_KINDS: dict[str, type[PhiError]] = {"PhiError": PhiError} | {kind.__name__: kind for kind in PhiError.__subclasses__()}


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's text that is not blank; the name of its class if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__ if isinstance(error, BaseException) else "")


def to_wire(error: PhiError) -> dict[str, Any]:
    """Return `error` as JSON for another process. A subclass from elsewhere travels as the nearest class of this module."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if _KINDS.get(kind.__name__) is kind)
    where = error.where and [str(error.where.path), error.where.line, error.where.column]
    wire = {"kind": kind, "what": error.what, "fix": error.fix, "where": where}
    return wire | ({"resource": error.resource} if isinstance(error, OutOfResources) else {})


def from_wire(wire: dict[str, Any]) -> PhiError:
    """Return the error that `to_wire` described."""
    where = Location(*wire["where"]) if wire["where"] else None
    resource = {"resource": wire["resource"]} if "resource" in wire else {}
    return _KINDS[wire["kind"]](wire["what"], where=where, fix=wire["fix"], **resource)
