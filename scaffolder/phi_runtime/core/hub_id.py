"""The form of an id on the Hugging Face Hub: owner/name."""

from __future__ import annotations

import re

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
