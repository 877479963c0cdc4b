"""ModelBuilder: a full model becomes an ONNX model for ONNX Runtime GenAI.

The builder runs in a process of its own: it puts its folder on sys.path, imports modules called `builders` and `quantization`,
and prints at length (seen in onnxruntime-genai 0.18).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from typing import Any

from phi_runtime.artefacts import folder_bytes, require_free_space, write_json
from phi_runtime.errors import WorkFailed
from phi_runtime.events import Event
from phi_runtime.passes import PassContext

LIBRARIES = ("onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-genai-directml", "transformers")

PROVIDERS = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
    "WebGpuExecutionProvider": "webgpu",
}


def run(context: PassContext) -> dict[str, Any]:
    from phi_runtime.data.template import FILE as TEMPLATE_FILE

    require_free_space(context.out, 2 * folder_bytes(context.source.path), "building the ONNX model")
    own = {"int4_block_size", "int4_accuracy_level", "int4_is_symmetric", "int4_algo_config"}
    options = context.config.model_dump(include=own, exclude_none=True)
    options |= context.config.extra_options.model_dump(exclude_none=True)
    if context.source.trust_remote_code:
        options["hf_remote"] = True
    request = {
        "source": str(context.source.path),
        "out": str(context.out),
        "cache": str(context.work / "builder-cache"),
        "precision": context.config.precision,
        "execution_provider": PROVIDERS[context.workflow.execution_provider],
        "options": options,
    }
    _build(context, request)
    if (context.source.path / TEMPLATE_FILE).is_file():
        shutil.copyfile(context.source.path / TEMPLATE_FILE, context.out / TEMPLATE_FILE)
    _set_search(context)
    sample = _check(context)
    return {"precision": context.config.precision, "size_bytes": folder_bytes(context.out), "sample": sample}


def _build(context: PassContext, request: dict[str, Any]) -> None:
    log = context.work / "builder.log"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    layers = _layer_count(context)
    last: deque[str] = deque(maxlen=5)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "phi_runtime.passes.builder_process", json.dumps(request)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:  # text mode: a \r of a progress bar ends a line too
                file.write(line)
                if line.strip():
                    last.append(line.strip())
                if found := re.search(r"decoder layer (?:layer )?(\d+)", line):
                    context.emit(
                        Event("progress", context.name, {"done": int(found[1]) + 1, "total": layers, "unit": "layers"})
                    )
        except BaseException:
            process.kill()
            raise
        finally:
            code = process.wait()
    if code:
        reason = next(
            (line for line in reversed(last) if "Error" in line or "Exception" in line),
            last[-1] if last else f"exit code {code}",
        )
        kept = context.project.gen_model / f"{context.name}.builder.log"
        log.replace(kept)
        raise WorkFailed(f"the model builder failed: {reason}", fix=f"its output is in {kept}")


def _set_search(context: PassContext) -> None:
    """The generation defaults that the config asks for, into genai_config.json."""
    file = context.out / "genai_config.json"
    if context.config.search:
        content = json.loads(file.read_text(encoding="utf-8"))
        content["search"] = content.get("search", {}) | context.config.search
        write_json(file, content)


def _layer_count(context: PassContext) -> int | None:
    config = json.loads((context.source.path / "config.json").read_text(encoding="utf-8"))
    count = config.get("num_hidden_layers")
    return int(count) if count else None


def _check(context: PassContext) -> str:
    """Generates from the new model, which must load and answer: the builder also builds what no runtime can run."""
    from phi_runtime.data.chat_template import load_template
    from phi_runtime.data.template import FILE as TEMPLATE_FILE
    from phi_runtime.inference.generator import Sampling
    from phi_runtime.inference.onnx import OnnxGenerator

    prompt, special = "Hello", True
    if (context.out / TEMPLATE_FILE).is_file():
        template = load_template(context.out)
        prompt, special = template.prompt_for("Hello, how are you?") or prompt, template.special
    try:
        generator = OnnxGenerator(context.out, special=special)
        pieces = list(generator.stream(prompt, Sampling(max_new_tokens=8)))
    except Exception as e:
        raise WorkFailed(
            f"the ONNX model was built but does not run: {e}", fix="choose another precision for the ModelBuilder pass"
        ) from e
    if generator.last_token_count == 0:
        raise WorkFailed(
            "the ONNX model was built but generates nothing", fix="choose another precision for the ModelBuilder pass"
        )
    return "".join(pieces)
