"""An ONNX model whose key-value cache has 4 or 8 bits: it is built, its caches are measured, and it is built again with that.

The scales are the builder's own measurement (onnxruntime_genai.models.quantization.kv_cache_calibration, seen in 0.18): of every
channel's values, all but the largest of ten thousand, over the texts that the model was trained on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from phi_runtime.config.pass_graph import training_of
from phi_runtime.config.supported_precisions import RUNNABLE
from phi_runtime.context import PassContext, dataset_behind
from phi_runtime.export.build import BuildRequest, build, in_a_process

_TEXTS, _ROW_TOKENS, _TOKENS = 24, 512, 4096  # a text is repeated up to a row's length


def build_calibrated(context: PassContext, request: BuildRequest) -> None:
    """Builds the model of `request`, which names a kv_cache_quant_scheme; raises as `build` does."""
    options = dict(request.options)
    scheme = options.pop("kv_cache_quant_scheme")
    cpu = "CPUExecutionProvider"  # the caches hold the same whatever computes them, and this runs everywhere
    precision = request.precision if request.precision in RUNNABLE[cpu] else "fp32"
    folder = context.work / "caches"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    plain, scales = folder / "model", folder / "scales.json"
    context.info("building the model that its caches are measured on")
    build(context, replace(request, out=plain, precision=precision, provider=cpu, options=_for_any(options)))
    context.info("measuring the caches")
    keywords = {
        "model_path": str(plain / "model.onnx"),
        "tokenizer_path": str(request.source),
        "out_json": str(scales),
        "quant_type": scheme,
        "target_seq": min(
            _ROW_TOKENS, json.loads((plain / "genai_config.json").read_text("utf-8"))["model"]["context_length"]
        ),
        "num_seqs": _TEXTS,
        "corpus": _texts(context, folder / "texts.json"),
    }
    in_a_process(context, {"calibrate": keywords}, None)
    shutil.rmtree(plain)
    context.info("building the model")
    files = {"kv_cache_quant_scheme": scheme, "kv_cache_scale_file": str(scales)}
    build(context, replace(request, options={**options, **files}))


def _for_any(options: dict[str, object]) -> dict[str, object]:
    """`options` without those that shape a model for one execution provider."""
    kept = (
        "accuracy_level",
        "algo_config",
        "block_size",
        "is_symmetric",
        "matmul_mixed_precision",
        "windowed_kv_cache",
    )
    return {name: value for name, value in options.items() if name in kept}


def _texts(context: PassContext, file: Path) -> str | None:
    """A file with texts of the training that made the source; None where there are none, so that the builder takes its own."""
    training = training_of(context.workflow.passes, context.name)
    if training is None:
        return None
    dataset = dataset_behind(context, training, "the caches are measured on texts of the builder")
    if dataset is None:
        return None
    side, tokenizer = dataset.training, context.place.tokenizer
    texts, count = [], 0
    for index in side.chosen:
        ids = side.store.row(int(index))[0][:_ROW_TOKENS].tolist()
        texts.append(tokenizer.decode(ids))
        count += len(ids)
        if len(texts) >= _TEXTS and count >= _TOKENS:
            break
    file.write_text(json.dumps(texts), encoding="utf-8")
    return str(file)
