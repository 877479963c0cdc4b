"""A million rows to tokens, next to the bare tokenizer on the same texts, and memory by number of rows.

    python bench/tokenize_rows.py MODEL_FOLDER [ROWS]

Rows of about 60 tokens each are made on the spot. The bare tokenizer gets lists of 1024 texts that are in memory already, on all
cores, and its ids are kept as we keep them; we read a file, check, render, hash, survey, tokenize, mask and store.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

TEMPLATE = "### Text: {text}\n### The tone is:\n{tone}"
WORDS = [
    "the",
    "a",
    "and",
    "but",
    "so",
    "then",
    "we",
    "they",
    "it",
    "nobody",
    "somebody",
    "house",
    "river",
    "morning",
    "evening",
    "letter",
    "friend",
    "kitchen",
    "garden",
    "train",
    "city",
    "mountain",
    "story",
    "question",
    "answer",
    "window",
    "table",
    "little",
    "green",
    "quiet",
    "sudden",
    "heavy",
    "bright",
    "yesterday",
    "tomorrow",
    "never",
    "always",
    "went",
    "came",
    "saw",
    "heard",
    "found",
    "heard",
    "found",
    "lost",
    "kept",
    "broke",
    "made",
    "gave",
    "took",
    "carried",
    "left",
    "stayed",
    "waited",
    "walked",
    "ran",
]

OURS = """
import json, resource, sys, time
from pathlib import Path
from phi_runtime.data.dataset import DataContext, load_dataset
from phi_runtime.core.events import silent
from phi_runtime.models.load import quiet_libraries
from phi_runtime.models.reference import ModelRef
from phi_runtime.passes.lora import LoRA
from phi_runtime.config.schema import DataConfig, Workflow
config, model, cache = map(Path, sys.argv[1:4])
data = DataConfig.model_validate(json.loads(config.read_text()))
workflow = Workflow.model_construct(data_configs=[data])
training = LoRA.model_validate({"type": "LoRA", "train_data_config": "rows", "eval_dataset_size": 0.01})
started, cpu = time.perf_counter(), time.process_time()
place = DataContext(config, ModelRef(model, "hf", "bench"), cache)
dataset = load_dataset(workflow, training, place, silent, "bench")
loaded = time.perf_counter() - started
if sys.argv[4] == "sequences":
    dataset.training.sequences(None, 0)
wall, cpu = time.perf_counter() - started, time.process_time() - cpu
print(json.dumps({"wall_s": wall, "cpu_s": cpu, "load_s": loaded, "rows": len(dataset.training.store),
                  "tokens": len(dataset.training.store.tokens), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))
"""

BARE = """
import json, os, resource, sys, time
import numpy as np
from itertools import chain
os.environ["TOKENIZERS_PARALLELISM"] = "true"
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
template = json.loads(sys.argv[3])
with open(sys.argv[2]) as file:
    texts = [template.format(**json.loads(line)) for line in file]
started, cpu, tokens = time.perf_counter(), time.process_time(), 0
for i in range(0, len(texts), 1024):
    encoded = tokenizer.encode_batch_fast(texts[i : i + 1024])
    tokens += len(np.fromiter(chain.from_iterable(e.ids for e in encoded), dtype=np.uint32))
print(json.dumps({"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu, "tokens": tokens,
                  "rows": len(texts)}))
"""


def main(model: Path, most: int) -> None:
    with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
        folder = Path(temporary)
        print(f"{'rows':>9}  {'ours s':>8} {'rows/s':>8} {'peak MB':>8}  {'again s':>8} {'peak MB':>8}")
        first = {}
        for rows in (most // 4, most // 2, most):
            data = write(folder / f"{rows}.jsonl", rows)
            config = folder / f"{rows}.json"
            config.write_text(json.dumps(data_config(data)))
            for name in ("first", "again"):
                mode = "sequences" if name == "again" else "load"
                found = run(OURS, str(config), str(model), str(folder / "cache"), mode)
                first[name] = found
            a, b = first["first"], first["again"]
            line = f"{rows:9,}  {a['wall_s']:8.1f} {rows / a['wall_s']:8,.0f} {a['peak_mb']:8.0f}"
            print(f"{line}  {b['wall_s']:8.2f} {b['peak_mb']:8.0f}", flush=True)
        bare = run(BARE, str(model / "tokenizer.json"), str(folder / f"{most}.jsonl"), json.dumps(TEMPLATE))
        print(
            f"\nthe bare tokenizer on the same {most:,} texts ({bare['tokens'] / most:.1f} tokens each): {bare['wall_s']:.1f} s,"
        )
        print(
            f"{bare['tokens'] / bare['wall_s']:,.0f} tokens/s; ours {a['tokens'] / a['wall_s']:,.0f} tokens/s, reading and all: "
        )
        print(
            f"{a['wall_s'] / bare['wall_s']:.2f} times its time, {a['cpu_s'] / bare['cpu_s']:.2f} times its CPU seconds"
        )


def write(path: Path, rows: int) -> Path:
    chance = random.Random(rows)
    tones = ("joy", "fear", "calm", "anger")
    with path.open("w") as file:
        for i in range(rows):
            text = " ".join(chance.choices(WORDS, k=chance.randint(30, 56)))
            file.write(json.dumps({"text": f"{text} {i}.", "tone": tones[i % 4]}) + "\n")
    return path


def data_config(path: Path) -> dict[str, object]:
    return {
        "name": "rows",
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": "json", "data_files": str(path)},
        "pre_process_data_config": {"text_template": TEMPLATE, "strategy": "line-by-line", "max_seq_len": 128},
    }


def run(code: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
