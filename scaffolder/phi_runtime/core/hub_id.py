"""The Hugging Face Hub: the form of an id, owner/name, and what the environment says of the hub to use."""

from __future__ import annotations

import os
import re
from pathlib import Path

HUB = "https://huggingface.co"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def hub_address() -> str:
    """Return the address of the hub to use: `HUB`, or a mirror that HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT") or HUB


def is_offline() -> bool:
    """Return True if HF_HUB_OFFLINE forbids requests, as huggingface_hub reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def hub_home() -> Path:
    """Return the folder of huggingface_hub's login and cache."""
    return Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
