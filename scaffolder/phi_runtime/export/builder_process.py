"""The worker process that builds an ONNX model; `build.run_builder` starts it.

Its request has source, out, cache, precision, execution_provider and options (by the names of onnxruntime-genai 0.18), or
calibrate: keywords of the builder's own calibration of key-value caches. What the builder prints goes to stderr.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import read_json
from phi_runtime.models.builder_source import option_names
from phi_runtime.workers.child import Parent

SUBJECT = "the model builder"
MEMORY_FIX = "free memory, or export on a machine with more: a build takes two to three times the size of the model"
_SEPARATORS = {"op_types_to_quantize": "/", "nodes_to_exclude": ","}


def build(request: dict[str, Any]) -> None:
    """Build the model of `request`. Raises what the builder raises, and ValueError for an option that its release lacks."""
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
    if _before_0_15():  # DirectML's last release is 0.14.1, which takes options as keywords
        builder.create_model("", *place[1:], **options)
        return
    builder.create_model(*place, **builder.parse_extra_options(*place, as_pairs(options)))
    share_head(Path(request["out"]) / "model.onnx")


def share_head(file: Path) -> None:
    """Repair the embedding of a graph that shares the head's 8-bit weight.

    With the default algorithm, the builder of onnxruntime-genai 0.18 refers to the tensor names that RTN would use, and the
    model does not load.
    """
    import onnx

    model = onnx.load(file, load_external_data=False)
    existing = {tensor.name for tensor in model.graph.initializer}
    head = next((node for node in model.graph.node if node.name.startswith("/lm_head/MatMul_Q")), None)
    dangling = [
        (node, index, name)
        for node in model.graph.node
        for index, name in enumerate(node.input)
        if name.startswith("lm_head.MatMul.weight_") and name not in existing
    ]
    if head is None or not dangling:
        return
    for node, index, name in dangling:
        node.input[index] = head.input[2 if name == "lm_head.MatMul.weight_scale" else 1]
    onnx.save(model, file)


def calibrate(keywords: dict[str, Any]) -> None:
    """Measure the scales of a quantized key-value cache. `corpus` is a JSON file with a list of texts; None uses the builder's."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from onnxruntime_genai.models.quantization.kv_cache_calibration import calibrate_kv_scales

    corpus = keywords.pop("corpus")
    texts = read_json(Path(corpus)) if corpus else None
    calibrate_kv_scales(**keywords, corpus=texts)


def names_of_release(options: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return `options` by the names that the installed builder knows. Raises ValueError: it silently ignores all others."""
    renamed = {}
    for name, value in options.items():
        older = f"int4_{name}"  # up to 0.15
        if name not in known and older not in known:
            raise ValueError(f"the model builder of the installed onnxruntime-genai has no option `{name}`")
        renamed[name if name in known else older] = value
    return renamed


def as_pairs(options: Mapping[str, Any]) -> list[str]:
    """Return `options` in the form of the builder's command line."""
    return [f"{name}={_text(name, value)}" for name, value in options.items()]


def _text(name: str, value: Any) -> str:
    if isinstance(value, list):
        return _SEPARATORS[name.removeprefix("int4_")].join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _before_0_15() -> bool:
    import onnxruntime_genai

    major, minor = (int(part) for part in onnxruntime_genai.__version__.split(".")[:2])
    return (major, minor) < (0, 15)


def main() -> None:
    """Build or calibrate as the request on stdin says."""
    parent = Parent()
    request = parent.receive()

    def work() -> None:
        calibrate(request["calibrate"]) if "calibrate" in request else build(request)

    parent.reply(work, SUBJECT, memory_fix=MEMORY_FIX)


if __name__ == "__main__":
    main()
