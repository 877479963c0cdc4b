"""Size, speed, and distance from the source model of export settings on a CPU, next to the builder's own int4.

    python bench/export.py MODEL_FOLDER [ROUNDS [NAME …]]

Every build is made once from MODEL_FOLDER (Hugging Face format). Quality is over English and code, the text of the export's gate and
two modules of Python's own library, about 1,200 tokens: KL(source ‖ build) in nats, the share of equal likeliest tokens, and the
perplexity; of a build that keeps the last token's logits alone, they are those of the same build with all. Speed is that of the
runtime's own loop, reading 256 tokens and writing 64, on all cores that we may use: in each of ROUNDS (15) all builds take their turn
in another order, each loaded again, since the memory layout alone changes speed by several percent. A round's decode speed
is that of its median token. Shown are the medians of the rounds, and of the ratios to the builder's own int4 in the same round. NAME
picks some of the builds.

Last come the perplexity gap to the source and the speed of what the template writes, against the builder's own: the target is at most
0.6 of its gap, at its speed or more.
"""

from __future__ import annotations

import gc
import inspect
import os
import random
import shutil
import statistics
import string
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime_genai as og

from phi_runtime.core.artifacts import folder_bytes
from phi_runtime.core.errors import PhiError
from phi_runtime.core.events import silent
from phi_runtime.export.gate import compare
from phi_runtime.export.gate_comparison import GateComparison
from phi_runtime.export.gate_rows import GateRow, full_row
from phi_runtime.export.gate_text import TEXT
from phi_runtime.inference.onnx_folder import open_model
from phi_runtime.models.load import load_tokenizer, quiet_libraries
from phi_runtime.models.reference import ModelRef
from phi_runtime.workers.process import Worker, python

PROMPT, ANSWER, ROW = 256, 64, 256
MIXED = {"matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"}
LAYERS = {"matmul_mixed_precision": "mixed_layers:int8"}
RTN = {"algo_config": "rtn"}
POINTS = {**RTN, "is_symmetric": False}
LAST = {"matmul_mixed_precision": "last_matmul:int8"}
BUILDS: dict[str, tuple[str, dict[str, Any]]] = {
    "builder's int4": ("int4", {}),
    "template": ("int4", {**MIXED, "prune_lm_head": True, "fuse_mlp_gate_up": True}),
    "template, gate and up apart": ("int4", {**MIXED, "prune_lm_head": True}),
    "template, block 64": ("int4", {**MIXED, "prune_lm_head": True, "fuse_mlp_gate_up": True, "block_size": 64}),
    "last": ("int4", LAST),
    "layers": ("int4", LAYERS),
    "rtn": ("int4", RTN),
    "rtn, mixed": ("int4", {**RTN, **MIXED}),
    "zero points": ("int4", POINTS),
    "zero points, mixed": ("int4", {**POINTS, **MIXED}),
    "k_quant": ("int4", {"algo_config": "k_quant"}),
    "k_quant, mixed": ("int4", {"algo_config": "k_quant", **MIXED}),
    "block 16": ("int4", {"block_size": 16}),
    "block 64": ("int4", {"block_size": 64}),
    "block 128": ("int4", {"block_size": 128}),
    "accuracy 1": ("int4", {"accuracy_level": 1}),
    "int8": ("int8", {}),
    "fp32": ("fp32", {}),
}


@dataclass
class Build:
    """A build: its folder, build time (seconds), distance from its source, and speeds of the rounds (tokens/s)."""

    folder: Path
    build_s: float
    quality: GateComparison | None = None
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)


def main(source: Path, rounds: int, names: list[str]) -> None:
    quiet_libraries()
    reference = ModelRef(source, "hf", "")
    rows = text_rows(reference)
    chosen = {name: BUILDS[name] for name in BUILDS if not names or name in names or name == "builder's int4"}
    with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
        builds: dict[str, Build] = {}
        for number, (name, (precision, options)) in enumerate(chosen.items()):
            print(f"building {name}", file=sys.stderr, flush=True)
            build = made(source, Path(temporary) / str(number), precision, options)
            if build is None:
                print(f"{name}: cannot be built", flush=True)
                continue
            try:
                build.quality = quality(reference, build.folder, precision, options, rows)
            except Exception as e:  # what is built need not run
                print(f"{name}: does not run ({e})", flush=True)
                continue
            builds[name] = build
        measure(builds, rounds)
        show(builds)


def text_rows(source: ModelRef) -> list[GateRow]:
    """Token ids of the texts, in rows of 256."""
    tokenizer = load_tokenizer(source)
    texts = [TEXT, inspect.getsource(textwrap)[:1600], inspect.getsource(string)[:1600]]
    rows: list[GateRow] = []
    for text in texts:
        ids = tokenizer(text).input_ids
        rows += [full_row(ids[i : i + ROW]) for i in range(0, len(ids), ROW) if len(ids[i : i + ROW]) > 1]
    return rows


def made(source: Path, out: Path, precision: str, options: dict[str, Any]) -> Build | None:
    """The build, made as the pass makes it; None when the builder cannot."""
    request = {
        "source": str(source),
        "out": str(out),
        "cache": f"{out}-cache",
        "precision": precision,
        "execution_provider": "cpu",
        "options": options,
    }
    start = time.perf_counter()
    command = python("phi_runtime.export.builder_process")
    try:
        with Worker(command, "the model builder", log=out.with_suffix(".log")) as worker:
            worker.send(request)
            worker.result(silent)
    except PhiError:
        return None
    return Build(out, time.perf_counter() - start)


def quality(
    source: ModelRef, folder: Path, precision: str, options: dict[str, Any], rows: list[GateRow]
) -> GateComparison:
    """How far the build in `folder` is from its source; a pruned head has no logits to compare, so its twin is built."""
    if not options.get("prune_lm_head"):
        return compare(source, folder, rows, "bench")
    twin = Path(f"{folder}-whole")
    made(source.path, twin, precision, {**options, "prune_lm_head": False})
    try:
        return compare(source, twin, rows, "bench")
    finally:
        shutil.rmtree(twin)


def measure(builds: dict[str, Build], rounds: int) -> None:
    for number in range(rounds):
        for name in random.Random(number).sample(list(builds), len(builds)):
            prefill, decode = speed(open_model(builds[name].folder))
            builds[name].prefill.append(prefill)
            builds[name].decode.append(decode)
            gc.collect()


def speed(model: Any) -> tuple[float, float]:
    """Tokens a second of reading a prompt, and of writing an answer."""
    length = PROMPT + ANSWER
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = og.Generator(model, parameters)
    start = time.perf_counter()
    generator.append_tokens(np.arange(100, 100 + PROMPT, dtype=np.int32))
    generator.generate_next_token()
    first = time.perf_counter()
    ends = [first]
    for _ in range(ANSWER - 1):
        generator.generate_next_token()
        ends.append(time.perf_counter())
    return PROMPT / (first - start), 1 / statistics.median(after - before for before, after in pairwise(ends))


def show(builds: dict[str, Build]) -> None:
    own = builds["builder's int4"]
    print(
        "\n| build | MB | build s | prefill t/s | decode t/s | × prefill | × decode | perplexity | KL | top-1 | gap × |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, build in builds.items():
        found = build.quality
        assert found is not None
        cells = [
            name,
            f"{folder_bytes(build.folder) / 1e6:.0f}",
            f"{build.build_s:.0f}",
            f"{statistics.median(build.prefill):.0f}",
            f"{statistics.median(build.decode):.0f}",
            f"{ratio(build.prefill, own.prefill):.2f}",
            f"{ratio(build.decode, own.decode):.2f}",
            f"{found.perplexity:.2f}",
            f"{found.kl:.3f}",
            f"{found.top1:.3f}",
            f"{gap(build) / gap(own):.2f}",
        ]
        print(f"| {' | '.join(cells)} |")
    assert own.quality is not None
    print(f"\nsource: perplexity {own.quality.source_perplexity:.2f} over {own.quality.decisions} tokens")
    if template := builds.get("template"):
        print(
            f"template: {gap(template) / gap(own):.2f} of the perplexity gap of the builder's own int4 (at most 0.6), "
            f"at {ratio(template.decode, own.decode):.2f} of its decode speed (at least 1)"
        )


def gap(build: Build) -> float:
    assert build.quality is not None
    return build.quality.perplexity - build.quality.source_perplexity


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 15, sys.argv[3:])
