"""Build an ONNX model with the model builder of onnxruntime-genai, in a separate process, and complete its folder.

The builder puts its folder on sys.path, imports modules called `builders` and `quantization`, and prints at length (seen in
onnxruntime-genai 0.18): that is why it gets its own process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi_runtime.config.schema.export import ExportPass
from phi_runtime.config.supported_precisions import SHORT
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import folder_bytes, require_free_space
from phi_runtime.core.events import Event
from phi_runtime.export.builder_output import Watched, error_of
from phi_runtime.export.folder import complete
from phi_runtime.export.gate import check
from phi_runtime.models.exportable import needed_options

_OWN = {
    "int4_block_size": "block_size",
    "int4_accuracy_level": "accuracy_level",
    "int4_is_symmetric": "is_symmetric",
    "int4_op_types_to_quantize": "op_types_to_quantize",
    "int4_nodes_to_exclude": "nodes_to_exclude",
    "int4_algo_config": "algo_config",
    **{
        name: name
        for name in ("use_qdq", "use_webgpu_fp32", "use_cuda_bf16", "include_hidden_states", "enable_cuda_graph")
    },
}
"""Keys of the pass → the builder's options, by the names of onnxruntime-genai 0.18."""


@dataclass(frozen=True)
class BuildRequest:
    """A model to build: the Hugging Face folder `source`, the folder `out` that gets the model, the precision, the execution provider
    by ONNX Runtime's name, and options of the builder by the names of its release 0.18."""

    source: Path
    out: Path
    precision: str
    provider: str
    options: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False


def options_of(step: ExportPass) -> dict[str, Any]:
    """The options that the keys of the pass come to, by the names of the builder's release 0.18."""
    values = step.model_dump(include=set(_OWN), exclude_none=True)
    options = {_OWN[key]: value for key, value in values.items()}
    if step.use_8bits_moe is not None:
        options["moe_quant_type"] = "int8" if step.use_8bits_moe else "int4"
    return options | step.extra_options.model_dump(exclude_none=True)


def request_of(context: PassContext[ExportPass]) -> BuildRequest:
    """What the pass of `context` asks to be built."""
    step, source = context.config, context.source
    return BuildRequest(
        source.path,
        context.out,
        step.precision,
        context.workflow.execution_provider,
        needed_options(_stored(source.path)) | options_of(step),
        source.trust_remote_code,
    )


def make(context: PassContext[ExportPass]) -> None:
    """Builds what the pass asks for into `context.out`."""
    request = request_of(context)
    if request.options.get("kv_cache_quant_scheme", "none") != "none":
        from phi_runtime.export.kv_cache import build_calibrated

        build_calibrated(context, request)
    else:
        build(context, request)


def finish(context: PassContext[ExportPass]) -> dict[str, Any]:
    """Completes the folder of the model that lies in `context.out`, and asks the gate. Returns the facts for its manifest."""
    complete(context)
    facts = check(context)
    return {"precision": context.config.precision, "size_bytes": folder_bytes(context.out), **facts}


def build(context: PassContext[ExportPass], request: BuildRequest) -> None:
    """Builds the model of `request` in a process of its own, which never outlives this one; its progress is that of the pass.

    Raises OutOfResources when disk or memory are full, and WorkFailed. What was written by then is gone.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    require_free_space(request.out, 2 * folder_bytes(request.source), "building the ONNX model")
    layers = _stored(request.source).get("num_hidden_layers")
    try:
        in_a_process(context, _as_json(context, request), layers)
    except BaseException:
        shutil.rmtree(request.out, ignore_errors=True)  # half a model is of no use, and takes space
        raise


def in_a_process(context: PassContext[ExportPass], work: Mapping[str, Any], layers: int | None) -> None:
    """Has builder_process do `work` on a model of so many layers; what it prints becomes progress, or the reason why it failed."""
    log = context.work / "builder.log"
    watched = Watched(layers)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "phi_runtime.export.builder_process", json.dumps({**work, "watched": True})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=_environment(),
            start_new_session=True,  # Ctrl-C at the terminal is for this process alone
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line in process.stdout:  # text mode: a \r of a progress bar ends a line too
                file.write(line)
                if data := watched.heard(line):
                    context.emit(Event("progress", context.name, data))
        except BaseException:
            process.kill()
            raise
        finally:
            code = process.wait()
            process.stdin.close()
            process.stdout.close()
    if code:
        kept = context.project.gen_model / f"{context.name}.builder.log"
        log.replace(kept)
        raise error_of(code, watched.last, context.project.shown(kept))


def _as_json(context: PassContext[ExportPass], request: BuildRequest) -> dict[str, Any]:
    remote = {"hf_remote": True} if request.trust_remote_code else {}
    return {
        "source": str(request.source),
        "out": str(request.out),
        "cache": str(context.work / "builder-cache"),
        "precision": request.precision,
        "execution_provider": SHORT[request.provider],
        "options": {**request.options, **remote},
    }


def _environment() -> dict[str, str]:
    """Offline, and talkative at once: progress comes from what it prints."""
    own = {"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    return {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"} | own


def _stored(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config
