"""Export with a 4- or 8-bit key-value cache: build, calibrate the cache on training rows, and build again with its scales.

The calibration is the builder's own (onnxruntime_genai.models.quantization.kv_cache_calibration, seen in 0.18): it covers
all but the largest of ten thousand values of each channel.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from phi_runtime.config.pass_graph import training_of
from phi_runtime.config.supported_precisions import SUPPORTED_PRECISIONS
from phi_runtime.context import PassContext, dataset_behind
from phi_runtime.core.artifacts import read_json
from phi_runtime.export.build import BuildRequest, build, run_builder

_TEXTS, _ROW_TOKENS, _TOKENS = 24, 512, 4096  # the builder repeats a short text up to a row's length


def build_calibrated(context: PassContext, request: BuildRequest) -> None:
    """Build the model of `request`, which has a kv_cache_quant_scheme. Raises as `build` does."""
    options = dict(request.options)
    scheme = options.pop("kv_cache_quant_scheme")
    cpu = "CPUExecutionProvider"  # available everywhere; cached values do not depend on the provider
    precision = request.precision if request.precision in SUPPORTED_PRECISIONS[cpu] else "fp32"
    folder = context.work / "caches"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    plain, scales = folder / "model", folder / "scales.json"
    context.info("building the model for the calibration of its cache")
    build(context, replace(request, out=plain, precision=precision, provider=cpu, options=_portable(options)))
    context.info("calibrating the cache")
    keywords = {
        "model_path": str(plain / "model.onnx"),
        "tokenizer_path": str(request.source),
        "out_json": str(scales),
        "quant_type": scheme,
        "target_seq": min(_ROW_TOKENS, read_json(plain / "genai_config.json")["model"]["context_length"]),
        "num_seqs": _TEXTS,
        "corpus": _texts(context, folder / "texts.json"),
    }
    run_builder(context, {"calibrate": keywords}, None)
    shutil.rmtree(plain)
    context.info("building the model")
    files = {"kv_cache_quant_scheme": scheme, "kv_cache_scale_file": str(scales)}
    build(context, replace(request, options={**options, **files}))


def _portable(options: dict[str, object]) -> dict[str, object]:
    """Return `options` without those that are for one execution provider."""
    portable = (
        "accuracy_level",
        "algo_config",
        "block_size",
        "is_symmetric",
        "matmul_mixed_precision",
        "windowed_kv_cache",
    )
    return {name: value for name, value in options.items() if name in portable}


def _texts(context: PassContext, file: Path) -> str | None:
    """Write training rows of the source into `file`; return None if there are none, so that the builder uses its own texts."""
    training = training_of(context.workflow.passes, context.name)
    if training not in context.workflow.trainings:
        return None
    dataset = dataset_behind(context, training, "the caches are measured on texts of the builder")
    if dataset is None:
        return None
    side, tokenizer = dataset.training, context.data.tokenizer
    texts, count = [], 0
    for index in side.chosen:
        ids = side.store.row(int(index))[0][:_ROW_TOKENS].tolist()
        texts.append(tokenizer.decode(ids))
        count += len(ids)
        if len(texts) >= _TEXTS and count >= _TOKENS:
            break
    file.write_text(json.dumps(texts), encoding="utf-8")
    return str(file)
