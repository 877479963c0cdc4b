"""ModelBuilder: a full model becomes an ONNX model for ONNX Runtime GenAI.

The builder runs in a process of its own: it puts its folder on sys.path, imports modules called `builders` and `quantization`,
and prints at length (seen in onnxruntime-genai 0.18).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

from phi_runtime.artefacts import folder_bytes, require_free_space
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
    from phi_runtime.data.template import PromptTemplate

    require_free_space(context.out, 2 * folder_bytes(context.source.path), "building the ONNX model")
    options = {
        name: getattr(context.config, name)
        for name in ("int4_block_size", "int4_accuracy_level", "int4_is_symmetric", "int4_algo_config")
        if getattr(context.config, name) is not None
    }
    options |= {k: v for k, v in context.config.extra_options.model_dump().items() if v is not None}
    source = _calibrated(context) if context.config.calibration_rows else context.source.path
    request = {
        "source": str(source),
        "out": str(context.out),
        "cache": str(context.work / "builder-cache"),
        "precision": context.config.precision,
        "execution_provider": PROVIDERS[context.workflow.execution_provider],
        "options": options,
    }
    _build(context, request)
    if (context.source.path / TEMPLATE_FILE).is_file():
        PromptTemplate.load(context.source.path).save(context.out)
    sample = _check(context)
    return {"precision": context.config.precision, "size_bytes": folder_bytes(context.out), "sample": sample}


def _calibrated(context: PassContext) -> Path:
    """A copy of the source model in the work folder, its weights moved onto the 4-bit grid."""
    import torch

    from phi_runtime.data.dataset import load_dataset
    from phi_runtime.data.tokenize import encode_row
    from phi_runtime.models.load import load_model, load_tokenizer
    from phi_runtime.quantization.gptq import decoder_layers, move_to_grid

    assert context.workflow.finetune is not None
    dataset = load_dataset(context.workflow, context.workflow.finetune[1], context.project.config)
    tokenizer = load_tokenizer(context.source.path)
    model = load_model(context.source.path, torch.float32).eval()
    count = len(decoder_layers(model))
    mixed = "mixed_layers" in (context.config.extra_options.matmul_mixed_precision or "")

    def keep(layer: int, name: str) -> bool:
        # The layers to which the builder gives 8 bits (onnxruntime-genai 0.18, make_matmul_mixed_precision).
        sensitive = layer < count / 8 or layer >= 7 * count / 8 or (layer - round(count / 8)) % 3 == 2
        return mixed and sensitive and name.rpartition(".")[2] in ("qkv_proj", "v_proj", "down_proj")

    def on_layer(done: int, total: int) -> None:
        context.emit(Event("progress", context.name, {"done": done, "total": total, "unit": "layers rounded"}))

    rows = dataset.training[: context.config.calibration_rows]
    ids = [encode_row(row, dataset.template, tokenizer, completion_only=True)["input_ids"] for row in rows]
    move_to_grid(model, ids, context.config.int4_block_size or 32, keep, on_layer)
    folder = context.work / "rounded"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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


def _layer_count(context: PassContext) -> int | None:
    config = json.loads((context.source.path / "config.json").read_text(encoding="utf-8"))
    count = config.get("num_hidden_layers")
    return int(count) if count else None


def _check(context: PassContext) -> str:
    """Generates from the new model, which must load and answer: the builder also builds what no runtime can run."""
    from phi_runtime.data.template import FILE as TEMPLATE_FILE
    from phi_runtime.data.template import PromptTemplate
    from phi_runtime.inference.generator import Sampling
    from phi_runtime.inference.onnx import OnnxGenerator

    prompt = "Hello"
    if (context.out / TEMPLATE_FILE).is_file():
        template = PromptTemplate.load(context.out)
        prompt = template.render_prompt(dict.fromkeys(template.inputs, "Hello, how are you?"))
    try:
        generator = OnnxGenerator(context.out)
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
