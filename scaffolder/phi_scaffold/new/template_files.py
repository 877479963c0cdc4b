"""The template that ships with this version, and the requirement that installs this version."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from phi_runtime.core.errors import WorkFailed
from phi_scaffold import __version__

LOCAL_REQUIREMENT = "setup/phi-scaffold.local.txt"  # of this machine; git ignores it
_CHECKOUT = Path(__file__).resolve().parents[3]
_COMPILED: dict[tuple[Any, str | None], Any] = {}  # source and name to code


def own_requirement() -> str:
    """Return the pip requirement of the running phi-scaffold that others can install, too: a release, a URL or a commit."""
    origin = _origin()
    if origin is None:
        return f"phi-scaffold=={__version__}"
    url: str = origin["url"]
    if not url.startswith("file:"):
        if vcs := origin.get("vcs_info"):
            return f"phi-scaffold @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
        digest = origin.get("archive_info", {}).get("hashes", {}).get("sha256")
        return f"phi-scaffold @ {url}" + (f"#sha256={digest}" if digest else "")
    commit = _published_commit(Path(url2pathname(urlsplit(url).path))) if "dir_info" in origin else ""
    return f"phi-scaffold @ {commit}" if commit else f"phi-scaffold=={__version__}"


def local_requirement() -> str:
    """Return the pip requirement of the checkout or file that the running phi-scaffold comes from; empty if it is from elsewhere."""
    origin = _origin()
    if origin is None or not origin["url"].startswith("file:") or "vcs_info" in origin:
        return ""
    editable = origin.get("dir_info", {}).get("editable")
    return f"-e {origin['url']}" if editable else f"phi-scaffold @ {origin['url']}"


def _origin() -> dict[str, Any] | None:
    """Return where pip installed phi-scaffold from (direct_url.json, PEP 610), or None for a package index."""
    try:
        text = metadata.distribution("phi-scaffold").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return {"url": _CHECKOUT.as_uri(), "dir_info": {"editable": True}}
    return json.loads(text) if text else None


def _published_commit(checkout: Path) -> str:
    """Return the URL of the commit that is checked out, or an empty string if its remote has no such commit."""
    try:
        remote = _git(checkout, "config", "--get", "remote.origin.url")
        commit = _git(checkout, "rev-parse", "HEAD")
        published = _git(checkout, "branch", "--remotes", "--contains", commit)
    except (OSError, subprocess.SubprocessError):
        return ""
    remote = re.sub(r"^([\w.-]+@[\w.-]+):(?!//)", r"ssh://\1/", remote)  # git@host:owner/name
    remote = re.sub(r"^https://[^/]*@", "https://", remote)  # a token in it stays here
    return f"git+{remote}@{commit}" if published and remote.startswith(("https://", "ssh://")) else ""


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def template_root(temporary: Path) -> Path:
    """Return the folder of copier.yml: in the installed package, or in a checkout a copy under `temporary`.

    Without the copy, copier would render the last commit of the repository instead of the working tree.
    """
    packed = Path(__file__).parents[1] / "_template"
    if (packed / "copier.yml").is_file():
        return packed
    copy = temporary / "template"
    for folder in ("template", "samples"):
        shutil.copytree(_CHECKOUT / folder, copy / folder)
    shutil.copyfile(_CHECKOUT / "copier.yml", copy / "copier.yml")
    return copy


def setup_folder() -> Path:
    """Return the folder with the requirements of phi-scaffold: in the installed package, or in a checkout."""
    packed = Path(__file__).parents[1] / "_template" / "template" / "setup"
    return packed if packed.is_dir() else _CHECKOUT / "template" / "setup"


@contextmanager
def _compiled_once() -> Iterator[None]:
    """Compile each template of copier once in this process: it does so 450 times a project, for 99 different ones."""
    from jinja2 import Environment

    original = Environment.compile

    def compile(self: Environment, source: Any, name: str | None = None, *arguments: Any, **options: Any) -> Any:
        key = (source, name)  # all have the settings of copier.yml
        if key not in _COMPILED:
            _COMPILED[key] = original(self, source, name, *arguments, **options)
        return _COMPILED[key]

    Environment.compile = compile  # type: ignore[method-assign]
    try:
        yield
    finally:
        Environment.compile = original  # type: ignore[method-assign]


def render(tree: Path, answers: dict[str, Any], template: Path | None = None) -> None:
    """Render a template, by default that of this version, into the new folder `tree`.

    Args:
        tree: The new folder.
        answers: Values for the questions of copier.yml.
        template: Folder of copier.yml.

    Raises:
        WorkFailed: copier fails.
    """
    gc.disable()  # copier allocates objects that stay; collecting meanwhile takes a fifth of the time of `new`
    from copier import run_copy
    from plumbum import local

    try:
        # Hide git: copier would query it for every file, and the tree is in no repository yet.
        with local.env(PATH=os.devnull), _compiled_once():
            source = str(template or template_root(tree.parent))
            run_copy(source, tree, data=answers, defaults=True, quiet=True, overwrite=True)
    except OSError:
        raise
    except Exception as e:  # copier raises ValueError, AssertionError and its own kinds
        raise WorkFailed(f"rendering the template failed: {e}", fix="report this with the command that you ran") from e
    finally:
        gc.freeze()
        gc.enable()
