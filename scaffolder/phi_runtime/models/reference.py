"""A reference to a model on disk, passed from one pass to the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phi_runtime.config.schema import Kind


@dataclass(frozen=True)
class ModelRef:
    """A model on disk.

    Attributes:
        path: Its folder.
        kind: "hf" (a full model), "adapter" or "onnx".
        key: Digest of its content.
        base: For an adapter or an output of one, the full model it was trained on.
        trust_remote_code: The user allows Python code of the model to run.
        adapter: The active adapter of an ONNX graph.
    """

    path: Path
    kind: Kind
    key: str
    base: ModelRef | None = None
    trust_remote_code: bool = False
    adapter: str | None = None

    @property
    def full(self) -> ModelRef:
        """The full model: this one, or the base of an adapter."""
        return self.base if self.kind == "adapter" and self.base else self
