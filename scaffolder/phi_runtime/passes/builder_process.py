"""The process that the ModelBuilder pass starts: `python -m phi_runtime.passes.builder_process REQUEST`.

REQUEST is JSON: source, out, cache, precision, execution_provider, options. Its output is the builder's.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def build(request: dict[str, Any]) -> None:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from onnxruntime_genai.models import builder

    place = (
        None,
        request["source"],
        request["out"],
        request["precision"],
        request["execution_provider"],
        request["cache"],
    )
    options: dict[str, Any] = request["options"]
    if _before_0_15():  # DirectML's last release is 0.14.1: `int4_…` options, given as they are
        builder.create_model(
            "", *place[1:], **{k: str(v) if k == "int4_algo_config" else v for k, v in options.items()}
        )
        return
    # 0.15 took the prefix away and 0.16 the old names; the builder passes over names that it does not know, so map all of them.
    given = [f"{name.removeprefix('int4_')}={str(value).lower()}" for name, value in options.items()]
    builder.create_model(*place, **builder.parse_extra_options(*place, given))


def _before_0_15() -> bool:
    import onnxruntime_genai

    major, minor = (int(part) for part in onnxruntime_genai.__version__.split(".")[:2])
    return (major, minor) < (0, 15)


if __name__ == "__main__":
    build(json.loads(sys.argv[1]))
