"""Progress of a build, parsed from what the model builder prints (onnxruntime-genai 0.14 to 0.18)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_LAYER = re.compile(r"^Reading (?:decoder )?layer (\d+)")
_ROUNDED = re.compile(r"complete quantization of (?!model )")
_SHARE = re.compile(r"^Progress: \[.*\] +(\d+)")
_SAVED = re.compile(r"^Saving .*?(\d+)/(\d+) \[")


@dataclass
class BuilderProgress:
    """Progress of one build of a model with so many `layers`; None if their number is unknown."""

    layers: int | None
    rounded: int = 0
    phase: str = ""

    def parse(self, line: str) -> dict[str, Any] | None:
        """Return the data of a progress event, or None if `line` shows no progress. A new phase is announced first."""
        text = line.strip()
        if match := _LAYER.search(text):
            return self._progress("", int(match[1]) + 1, self.layers, "layers")
        if _ROUNDED.search(text):
            self.rounded += 1
            return self._progress("rounding the weights", self.rounded, None, "matrices")
        if match := _SHARE.search(text):
            return self._progress("rounding the weights", int(match[1]), 100, "%")
        if match := _SAVED.search(text):
            return self._progress("writing the model", int(match[1]), int(match[2]), "tensors")
        return None

    def _progress(self, phase: str, done: int, total: int | None, unit: str) -> dict[str, Any]:
        if phase != self.phase:
            self.phase = phase
            return {"done": None, "total": None, "unit": "", "message": phase}
        return {"done": done, "total": total, "unit": unit}
