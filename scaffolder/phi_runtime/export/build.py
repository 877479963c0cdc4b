"""Build an ONNX model with the model builder of onnxruntime-genai, and complete its folder.

The builder runs in a worker process: it puts its folder on sys.path, imports modules called `builders` and `quantization`,
and prints at length (seen in onnxruntime-genai 0.18).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi_runtime.config.schema.export import ExportPass
from phi_runtime.config.supported_precisions import PROVIDER_NAMES
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import folder_bytes, read_json, require_free_space
from phi_runtime.core.errors import PhiError
from phi_runtime.core.events import Event
from phi_runtime.export.builder_output import BuilderProgress
from phi_runtime.export.builder_process import MEMORY_FIX, SUBJECT
from phi_runtime.export.folder import complete_folder
from phi_runtime.export.gate import run_gate
from phi_runtime.models.exportable import needed_options
from phi_runtime.workers.child import Message
from phi_runtime.workers.process import Worker, python

_OPTION_NAMES = {
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

# Offline, and unbuffered with progress bars: progress is parsed from what the builder prints. Without GIT_DIR, the builder
# writes the commit of the git repository around its environment, which is the user's, into the model (seen in
# onnxruntime-genai 0.18).
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONIOENCODING": "utf-8",
    "PYTHONUNBUFFERED": "1",
    "TQDM_DISABLE": None,
    "GIT_DIR": os.devnull,
}


@dataclass(frozen=True)
class BuildRequest:
    """A model to build.

    Attributes:
        source: Folder of the Hugging Face model.
        out: Folder for the ONNX model.
        precision: int4, int8, bf16, fp16 or fp32.
        provider: Execution provider, by ONNX Runtime's name.
        options: Options of the builder, by the names of onnxruntime-genai 0.18.
        trust_remote_code: True if code of the model may run.
    """

    source: Path
    out: Path
    precision: str
    provider: str
    options: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False


def options_of(step: ExportPass) -> dict[str, Any]:
    """Return the builder's options for the keys of the pass, by the names of onnxruntime-genai 0.18."""
    values = step.model_dump(include=set(_OPTION_NAMES), exclude_none=True)
    options = {_OPTION_NAMES[key]: value for key, value in values.items()}
    if step.base_algorithm == "gptq":  # the builder rounds the calibrated weights to themselves
        options.pop("algo_config", None)
    if step.use_8bits_moe is not None:
        options["moe_quant_type"] = "int8" if step.use_8bits_moe else "int4"
    return options | step.extra_options.model_dump(exclude_none=True)


def build_request(context: PassContext[ExportPass]) -> BuildRequest:
    """Return the build that the pass of `context` describes."""
    step, source = context.config, context.source
    return BuildRequest(
        source.path,
        context.out,
        step.precision,
        context.workflow.execution_provider,
        needed_options(read_json(source.path / "config.json")) | options_of(step),
        source.trust_remote_code,
    )


def build_pass(context: PassContext[ExportPass]) -> None:
    """Build the model of the pass into `context.out`, from a calibrated copy of its source if the pass requests it."""
    request = build_request(context)
    if not context.config.is_calibrated:
        _build(context, request)
        return
    from phi_runtime.export.calibrated import calibrated

    with calibrated(context, request) as copy:
        _build(context, copy)


def _build(context: PassContext[ExportPass], request: BuildRequest) -> None:
    if request.options.get("kv_cache_quant_scheme", "none") != "none":
        from phi_runtime.export.kv_cache import build_calibrated

        build_calibrated(context, request)
    else:
        build(context, request)


def complete_export(context: PassContext[ExportPass]) -> dict[str, Any]:
    """Complete the folder of the model in `context.out`, run the gate, and return the facts for the manifest."""
    complete_folder(context)
    facts = run_gate(context)
    return {"precision": context.config.precision, "size_bytes": folder_bytes(context.out), **facts}


def build(context: PassContext[ExportPass], request: BuildRequest) -> None:
    """Build the model of `request`. A model that is not complete is removed.

    Raises:
        OutOfResources: The disk or the memory is full.
        WorkFailed: The builder failed.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    require_free_space(request.out, 2 * folder_bytes(request.source), "building the ONNX model")
    layers = read_json(request.source / "config.json").get("num_hidden_layers")
    try:
        run_builder(context, _as_json(context, request), layers)
    except BaseException:
        shutil.rmtree(request.out, ignore_errors=True)
        raise


def run_builder(context: PassContext[ExportPass], request: Mapping[str, Any], layers: int | None) -> None:
    """Run `request` in a builder process, with progress events from what it prints. Its log is kept if it fails.

    Raises:
        PhiError: Why the builder failed.
    """
    log = context.project.gen_model / f"{context.name}.builder.log"
    progress = BuilderProgress(layers)

    def handle(message: Message) -> None:
        if data := progress.parse(message["output"]):
            context.emit(Event("progress", context.name, data))

    worker = Worker(
        python("phi_runtime.export.builder_process"),
        SUBJECT,
        log=log,
        environment=_ENVIRONMENT,
        output_messages=True,
        memory_fix=MEMORY_FIX,
    )
    try:
        with worker:
            worker.send(dict(request))
            worker.result(context.emit, handle)
    except PhiError:
        raise
    except BaseException:
        log.unlink(missing_ok=True)
        raise
    log.unlink(missing_ok=True)


def _as_json(context: PassContext[ExportPass], request: BuildRequest) -> dict[str, Any]:
    remote = {"hf_remote": True} if request.trust_remote_code else {}
    return {
        "source": str(request.source),
        "out": str(request.out),
        "cache": str(context.work / "builder-cache"),
        "precision": request.precision,
        "execution_provider": PROVIDER_NAMES[request.provider],
        "options": {**request.options, **remote},
    }
