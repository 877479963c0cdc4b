"""The template that ships with this version, and the requirement that installs this version."""

from __future__ import annotations

import gc
import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import WorkFailed

_CHECKOUT = Path(__file__).resolve().parents[3]


def own_requirement() -> str:
    """Return the pip requirement of the running phi-scaffold: a release, a commit, an archive or a checkout (PEP 610)."""
    try:
        distribution = metadata.distribution("phi-scaffold")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return f"-e {_CHECKOUT.as_uri()}"
    origin = distribution.read_text("direct_url.json")
    if not origin:
        return f"phi-scaffold=={distribution.version}"
    direct = json.loads(origin)
    url: str = direct["url"]
    if "dir_info" in direct and direct["dir_info"].get("editable"):
        return f"-e {url}"
    if "vcs_info" in direct:
        return f"phi-scaffold @ {direct['vcs_info']['vcs']}+{url}@{direct['vcs_info']['commit_id']}"
    return f"phi-scaffold @ {url}"


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


def render(tree: Path, answers: dict[str, Any]) -> None:
    """Render the template into the new folder `tree`, with values for the questions of copier.yml.

    Raises:
        WorkFailed: copier fails.
    """
    gc.disable()  # copier allocates objects that stay; collecting meanwhile takes a fifth of the time of `new`
    from copier import run_copy
    from plumbum import local

    try:
        # Hide git: copier would query it for every file, and the tree is in no repository yet.
        with local.env(PATH=os.devnull):
            run_copy(str(template_root(tree.parent)), tree, data=answers, defaults=True, quiet=True, overwrite=True)
    except OSError:
        raise
    except Exception as e:  # copier raises ValueError, AssertionError and its own kinds
        raise WorkFailed(f"rendering the template failed: {e}", fix="report this with the command that you ran") from e
    finally:
        gc.freeze()
        gc.enable()
