"""What the builder's process prints, as progress while it works and as one error when it fails."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from phi_runtime.core.errors import OutOfResources, PhiError, WorkFailed
from phi_runtime.export.builder_process import FAILED

_LAYER = re.compile(r"^Reading (?:decoder )?layer (\d+)")
_ROUNDED = re.compile(r"complete quantization of (?!model )")
_SHARE = re.compile(r"^Progress: \[.*\] +(\d+)")
_SAVED = re.compile(r"^Saving .*?(\d+)/(\d+) \[")
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass
class Watched:
    """The progress of a build with so many `layers` (None where that is not known); `last` holds its last lines."""

    layers: int | None
    last: list[str] = field(default_factory=list)
    rounded: int = 0
    phase: str = ""

    def heard(self, line: str) -> dict[str, Any] | None:
        """The data of the progress event that `line` gives rise to, if it does to one: at the start of a phase its name."""
        text = line.strip()
        if text:
            self.last = [*self.last[-19:], text]
        if found := _LAYER.search(text):
            return self._progress("", int(found[1]) + 1, self.layers, "layers")
        if _ROUNDED.search(text):
            self.rounded += 1
            return self._progress("rounding the weights", self.rounded, None, "matrices")
        if found := _SHARE.search(text):
            return self._progress("rounding the weights", int(found[1]), 100, "%")
        if found := _SAVED.search(text):
            return self._progress("writing the model", int(found[1]), int(found[2]), "tensors")
        return None

    def _progress(self, phase: str, done: int, total: int | None, unit: str) -> dict[str, Any]:
        if phase != self.phase:
            self.phase = phase
            return {"done": None, "total": None, "unit": "", "message": phase}
        return {"done": done, "total": total, "unit": unit}


def error_of(code: int, last: Sequence[str], log: str) -> PhiError:
    """Why the process that ended with `code`, and whose last lines are these, failed; `log` is where all of its output is."""
    kept = f"its output is in {log}"
    told = next((json.loads(line.removeprefix(FAILED)) for line in reversed(last) if line.startswith(FAILED)), None)
    if told is None:
        if code == -9:  # SIGKILL
            return OutOfResources(
                "the model builder was killed, most likely because memory ran out",
                fix="free memory, or export on a machine with more: it takes two to three times the size of the model",
            )
        reason = last[-1] if last else f"exit code {code}"
        return WorkFailed(f"the model builder failed: {reason}", fix=kept)
    if told["errno"] in _FULL_DISK or "No space left on device" in told["message"]:
        return OutOfResources(
            f"the disk is full: the ONNX model could not be written ({told['message']})",
            fix="free some space; `phi-scaffold run` goes on from what is there",
        )
    if told["type"] in ("MemoryError", "OutOfMemoryError"):
        return OutOfResources(
            "the model builder ran out of memory", fix="free memory, or export on a machine with more"
        )
    reason = f"{told['type']}: {told['message']}" if told["message"] else told["type"]
    return WorkFailed(f"the model builder failed: {reason}", fix=kept)
