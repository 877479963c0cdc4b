"""Errors of huggingface_hub that models and data sets have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from phi_runtime.core.errors import NetworkError, first_line

_SHOWN_CHARACTERS = 200


@contextmanager
def hub_errors(kind: str, name: str, revision: str | None) -> Iterator[None]:
    """Translate what huggingface_hub raises for a repository that is absent or refused, and for a hub that does not answer.

    Args:
        kind: `model` or `data set`.
        name: Id of the repository.
        revision: Requested branch, tag or commit.

    Raises:
        NetworkError: One of these.
    """
    from huggingface_hub import constants, errors

    site, login = constants.ENDPOINT, "log in with `hf auth login` or set HF_TOKEN in .env"
    try:
        yield
    except errors.GatedRepoError as e:
        page = f"{site}/{name}" if kind == "model" else f"{site}/datasets/{name}"
        fix = f"accept them at {page}, then {login}"
        raise NetworkError(f"{name} is gated: its terms must be accepted first", fix=fix) from e
    except errors.RevisionNotFoundError as e:
        raise NetworkError(
            f"{name} has no revision `{revision}`", fix="set revision to a branch, tag or commit of its page"
        ) from e
    except errors.RepositoryNotFoundError as e:
        raise NetworkError(
            f"the {kind} {name} does not exist at {site}, or it is private",
            fix=f"check the id; for a private one {login}",
        ) from e
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as e:
        raise NetworkError(f"cannot download {name} from {site}: {reason(e)}", fix=network_fix(e, kind)) from e


def network_fix(error: Exception, kind: str) -> str:
    """Return what to do about a failed download of a `model` or `data set`."""
    from huggingface_hub import constants

    forbidding = ["HF_HUB_OFFLINE"] if constants.HF_HUB_OFFLINE else []
    if kind == "data set" and os.environ.get("HF_DATASETS_OFFLINE"):
        forbidding.append("HF_DATASETS_OFFLINE")
    if forbidding:
        return f"unset {' and '.join(forbidding)} to allow the network"
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return "check HF_TOKEN, or log in again with `hf auth login`"
    return f"check the network and run again; the download {'resumes' if kind == 'model' else 'starts over'}"


def reason(error: Exception) -> str:
    """Return the first line of an error, without the signature that a URL in it may have, and not too long."""
    text = first_line(error).rpartition(" either: ")[2]  # the text before it lists local folders
    text = re.sub(r"\?[^\s'\"]+", "", text)  # the query of a URL may be a signature
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
