"""The .env of a project: credentials and settings that it may set, and none that run code or redirect another's token.

A project may come from anyone. Its .env can name its own tokens and servers, but no variable that Python, the loader or a
library obeys by running code (PYTHONPATH, LD_PRELOAD), and no server to which the user's own credentials would be sent.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from urllib.parse import urlsplit

from phi_runtime.core.errors import ConfigError, Location

_SERVERS = {
    "HF_ENDPOINT": ("HF_TOKEN",),
    "WANDB_BASE_URL": ("WANDB_API_KEY",),
    "MLFLOW_TRACKING_URI": ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
}
"""Variables that name a server, with the credentials that are sent to it."""

_ALLOWED = re.compile(
    r"HF_(TOKEN|HUB_OFFLINE|DATASETS_OFFLINE|HUB_(DOWNLOAD|ETAG)_TIMEOUT)"
    r"|(HF_HUB|ORT|MLFLOW)_DISABLE_TELEMETRY|DO_NOT_TRACK"
    r"|PHI_SCAFFOLD_API_KEY|OPENAI_API_KEY"
    r"|WANDB_(API_KEY|PROJECT|ENTITY|MODE|NAME|NOTES|TAGS|RUN_GROUP|JOB_TYPE|SILENT|CONSOLE)"
    r"|MLFLOW_(TRACKING_(TOKEN|USERNAME|PASSWORD)|EXPERIMENT_NAME|RUN_NAME|TAGS)"
    r"|AZURE_(TENANT_ID|CLIENT_ID|CLIENT_SECRET|SUBSCRIPTION_ID|RESOURCE_GROUP)"
    r"|CUDA_VISIBLE_DEVICES|OMP_NUM_THREADS|NO_COLOR"
)
_QUOTED, _COMMENT = re.compile(r"""\s*(["'])(.*?)\1\s*(#.*)?"""), re.compile(r"\s#")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # `echo A=b > .env` in Windows PowerShell


def read_dotenv(root: Path, warn: Callable[[str], None] = lambda _: None) -> None:
    """Set the variables of the project's .env in the environment, except those that are set already.

    Reads lines of the form `NAME=value` and `export NAME=value`; strips quotes around the value; `#` starts a comment at the
    beginning of a line, after a space or after a closing quote. The user's own credentials are removed from the environment of
    this process if .env names the server for them.

    Args:
        root: Folder of the .env.
        warn: Receives a message about variables that .env may not set, and about credentials that are not sent.

    Raises:
        ConfigError: The file is not text, or a server is not reached by https.
    """
    file = root / ".env"
    if not file.is_file():
        return
    found = {name: (value, line) for name, value, line in _variables(file) if value}
    for server, credentials in _SERVERS.items():
        if server in found and server not in os.environ:
            value, line = found[server]
            if server == "MLFLOW_TRACKING_URI" and _sends_login(value, found):
                warn(f".env may not set `{server}`: MLflow would send your ~/.mlflow/credentials there")
                continue
            _require_encryption(server, value, Location(file, line))
            _withhold(server, credentials, {name for name in credentials if name in found}, warn)
            os.environ[server] = value
    for name, (value, _) in found.items():
        if _ALLOWED.fullmatch(name):
            os.environ.setdefault(name, value)
    if ignored := [name for name in found if name not in _SERVERS and not _ALLOWED.fullmatch(name)]:
        warn(f".env may not set {', '.join(f'`{name}`' for name in ignored)}; set it in your shell if you need it")


def environment_without_dotenv(root: Path) -> dict[str, str]:
    """Return the environment of this process without what the project's .env has set in it."""
    file = root / ".env"
    found = {(name, value) for name, value, _ in _variables(file)} if file.is_file() else set()
    return {name: value for name, value in os.environ.items() if (name, value) not in found}


def _variables(file: Path) -> list[tuple[str, str, int]]:
    """Return the name, value and line of each assignment."""
    variables = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        name = name.strip()
        if not equals or not name or name.startswith("#"):
            continue
        quoted = _QUOTED.fullmatch(value)
        variables.append((name, quoted[2] if quoted else _COMMENT.split(value, maxsplit=1)[0].strip(), number))
    return variables


def _text(file: Path) -> str:
    data = file.read_bytes()
    encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # which no variable can hold
        raise ConfigError(".env is not UTF-8 text", where=Location(file), fix="save it as UTF-8")
    return text


def _require_encryption(name: str, value: str, where: Location) -> None:
    """Raise ConfigError for the URL of another machine without https; paths and databases of a tracker are no URL."""
    url = urlsplit(value)
    if url.scheme in ("https", "sqlite", "file", "") and name != "HF_ENDPOINT":
        return
    if url.scheme != "https" and url.hostname not in _LOOPBACK:
        raise ConfigError(f"`{name}` must be an https address", where=where, fix=f"write {name}=https://…")


def _sends_login(tracker: str, found: Collection[str]) -> bool:
    """Return True if MLflow (3.17) would send the user's stored login to a server for which .env has none of its own."""
    has_own = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"} <= set(found)
    is_local = urlsplit(tracker).scheme in ("", "file", "sqlite")
    return not is_local and not has_own and Path("~/.mlflow/credentials").expanduser().is_file()


def _withhold(server: str, credentials: tuple[str, ...], own: set[str], warn: Callable[[str], None]) -> None:
    """Remove the user's credentials from the environment of this process: they belong to another server.

    Args:
        server: Variable that .env sets.
        credentials: Variables that are sent to this server.
        own: Those of them that .env sets too.
        warn: Receives a message if credentials are missing now.
    """
    removed = [name for name in credentials if os.environ.pop(name, None)]
    if own:
        return
    if server == "HF_ENDPOINT":
        os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"  # nor that of `hf auth login`
    if removed:
        warn(f".env sets `{server}`, so your {' and '.join(removed)} is not sent there; put a token for it into .env")
