"""Refuse access tokens that are written into a config."""

from __future__ import annotations

from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.reading.source import KeyPath


def refuse_tokens(draft: Draft, at: KeyPath) -> None:
    """Refuse a Hub token in the object at `at`."""
    for key in ("token", "use_auth_token", "hf_token"):
        if isinstance(draft.get((*at, key)), str):
            message = "never write a token into a config; put it into .env as `HF_TOKEN` and revoke this one"
            draft.refuse((*at, key), message, rule="secret")
