"""What one pass hands to the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phi_runtime.config.schema import Kind


@dataclass(frozen=True)
class ModelRef:
    """A model on disk.

    `key` names its content; `base` is the full model that an adapter, or what was made of one, came from. `trust_remote_code` says
    that the user lets Python code of the model run. `adapter` names the one that is active on an ONNX graph.
    """

    path: Path
    kind: Kind
    key: str
    base: ModelRef | None = None
    trust_remote_code: bool = False
    adapter: str | None = None
