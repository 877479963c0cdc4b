"""What one pass hands to the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phi_runtime.workflow.schema import Kind


@dataclass(frozen=True)
class ModelRef:
    """A model on disk. `key` names its content; `base` is the full model that an adapter, or what was made of one, came from."""

    path: Path
    kind: Kind
    key: str
    base: ModelRef | None = None
