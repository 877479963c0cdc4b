"""The process that builds an ONNX model: `python -m phi_runtime.export.builder_process REQUEST`.

REQUEST is JSON: source, out, cache, precision, execution_provider, options (by the names of onnxruntime-genai 0.18), and watched if
it is to end with the process that holds its stdin; or calibrate, keywords of the builder's own measurement of key-value caches. Its
output is the builder's, and at the end, if it failed, a line of JSON behind FAILED.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from phi_runtime.models.builder_source import option_names

FAILED = "phi-scaffold: failed "
_SEPARATORS = {"op_types_to_quantize": "/", "nodes_to_exclude": ","}


def build(request: dict[str, Any]) -> None:
    """Builds what `request` says. Raises what the builder raises, and ValueError for an option that its release does not know."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    options = names_of_release(request["options"], option_names())
    from onnxruntime_genai.models import builder

    place = (
        None,
        request["source"],
        request["out"],
        request["precision"],
        request["execution_provider"],
        request["cache"],
    )
    if _before_0_15():  # DirectML's last release is 0.14.1: options are given as they are
        builder.create_model("", *place[1:], **options)
        return
    builder.create_model(*place, **builder.parse_extra_options(*place, as_pairs(options)))
    share_head(Path(request["out"]) / "model.onnx")


def share_head(file: Path) -> None:
    """Lets an embedding that shares its 8 bits with the head find them: with the default algorithm the builder of 0.18 gives it
    the names that RTN would use, and the model does not load."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    there = {tensor.name for tensor in model.graph.initializer}
    head = next((node for node in model.graph.node if node.name.startswith("/lm_head/MatMul_Q")), None)
    lost = [
        (node, place, name)
        for node in model.graph.node
        for place, name in enumerate(node.input)
        if name.startswith("lm_head.MatMul.weight_") and name not in there
    ]
    if head is None or not lost:
        return
    for node, place, name in lost:
        node.input[place] = head.input[2 if name == "lm_head.MatMul.weight_scale" else 1]
    onnx.save(model, file)


def calibrate(keywords: dict[str, Any]) -> None:
    """Measures the scales of a quantised key-value cache. `corpus` is a file of texts in a JSON array, or None for the builder's."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from onnxruntime_genai.models.quantization.kv_cache_calibration import calibrate_kv_scales

    corpus = keywords.pop("corpus")
    texts = json.loads(Path(corpus).read_text(encoding="utf-8")) if corpus else None
    calibrate_kv_scales(**keywords, corpus=texts)


def names_of_release(options: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """`options` by the names that the installed builder reads, which passes over all others. Raises ValueError."""
    found = {}
    for name, value in options.items():
        older = f"int4_{name}"  # up to 0.15
        if name not in known and older not in known:
            raise ValueError(f"the installed onnxruntime-genai has no option {name} for its model builder")
        found[name if name in known else older] = value
    return found


def as_pairs(options: Mapping[str, Any]) -> list[str]:
    """`options` as the builder's command line takes them."""
    return [f"{name}={_text(name, value)}" for name, value in options.items()]


def _text(name: str, value: Any) -> str:
    if isinstance(value, list):
        return _SEPARATORS[name.removeprefix("int4_")].join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _before_0_15() -> bool:
    import onnxruntime_genai

    major, minor = (int(part) for part in onnxruntime_genai.__version__.split(".")[:2])
    return (major, minor) < (0, 15)


def _end_with_parent() -> None:
    """Ends this process when the other end of its stdin is closed, as it also is when the parent is killed."""

    def wait() -> None:
        while os.read(0, 1):  # past Python's own buffer, which a daemon thread may not hold when Python ends
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(argument: str) -> int:
    """Builds, and says at the end why it could not."""
    request = json.loads(argument)
    if request.get("watched"):
        _end_with_parent()
    try:
        calibrate(request["calibrate"]) if "calibrate" in request else build(request)
    except Exception as e:
        traceback.print_exc()
        told = {"type": type(e).__name__, "message": str(e), "errno": getattr(e, "errno", None)}
        print(f"\n{FAILED}{json.dumps(told)}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
