"""LoRA and QLoRA on a GPU with the shape of Phi-3-mini: the runtime, transformers' Trainer and Olive; int4 for CUDA, and decoding.

    [PHI_OLIVE_PYTHON=/path/to/python] python bench/gpu.py [--steps 8] [--rows 2] [--length 2048] [--layers 32] [--cpu] [PART …]

PARTS: lora, qlora, export (default: all). Nothing is downloaded: the weights are random, so losses only show that all sides compute
the same. Every side trains on the same text, joined to sequences of --length tokens, all tokens trained, --rows a step, in
bfloat16, without gradient checkpointing, in turn. Without PHI_OLIVE_PYTHON, Olive is skipped. `--cpu` tries the script with a
model of width 64.

Time is the median of the steps after the second. Memory is what the card (with --cpu: the process) holds at most, above what it
held before; the estimate is that of `run --dry-run`. "Share of the limit" is the time of the matrix products that a step needs
(4 · parameters · tokens: Kaplan et al. 2020, without gradients of frozen weights) at the rate of large bfloat16 matrices here.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from serve import TOPICS, Plain  # these are bench/serve.py and bench/training.py
from training import Peak, matrix_flops, resident_bytes, steps_of

PARTS = ("lora", "qlora", "export")
TARGETS = ["qkv_proj", "o_proj"]
DECODED_TOKENS = 128
SIDE_LIMIT_S = 240


def main(options: argparse.Namespace) -> None:
    import torch

    limit = matrix_flops("cpu", "bfloat16", 1024) if options.cpu else matrix_flops("cuda", "bfloat16", 8192)
    name = "CPU" if options.cpu else torch.cuda.get_device_name()
    print(f"{date.today()}, {name}: bfloat16 matrices {limit / 1e12:.1f} TFLOP/s", flush=True)
    with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
        folder = Path(temporary)
        parameters = make_model(folder / "model", options)
        make_data(folder / "rows.jsonl", options)
        print(
            f"Phi-3 of {parameters / 1e9:.2f} B parameters, {options.rows} x {options.length} tokens a step", flush=True
        )
        for part in options.parts or PARTS:
            if part == "export":
                export(folder, options)
            else:
                train(part, folder, options, 4 * parameters * options.rows * options.length / limit)


# -- the model and its text --------------------------------------------------------------------------------------------


def make_model(folder: Path, options: argparse.Namespace) -> int:
    """Write a model of random weights with a small tokenizer; return its number of parameters."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.tokenizer_kinds import tokenizer_of

    tokenizer = tokenizer_of("byte-level", bos=False, added=False)
    size = {"hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 32}
    if options.cpu:
        size = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = Phi3Config(
        **size,
        num_hidden_layers=options.layers,
        vocab_size=32064,
        max_position_embeddings=4096,
        original_max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cpu" if options.cpu else "cuda"):
        model = Phi3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def make_data(file: Path, options: argparse.Namespace) -> None:
    """Write rows of about 200 words, enough for all steps."""
    words = random.Random(0)
    count = options.steps * options.rows * options.length // 180 + 10
    rows = (json.dumps({"text": " ".join(words.choices(TOPICS, k=200))}) + "\n" for _ in range(count))
    file.write_text("".join(rows), encoding="utf-8")


# -- training ----------------------------------------------------------------------------------------------------------


def train(method: str, folder: Path, options: argparse.Namespace, least_s: float) -> None:
    """Train with every side, and print its figures; `least_s` is the time of the matrix products of a step."""
    print(f"\n{method}")
    for side in ("ours", "trainer", "olive"):
        if side == "olive" and "PHI_OLIVE_PYTHON" not in os.environ:
            print("  olive    skipped: PHI_OLIVE_PYTHON is not set")
            continue
        command = command_of(side, method, folder, options)
        before = 0 if options.cpu else card_bytes()
        tail: list[str] = []
        process = subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        watchdog = threading.Timer(SIDE_LIMIT_S, process.kill)
        watchdog.start()
        peak = Peak(partial(resident_bytes, process.pid) if options.cpu else card_bytes)
        assert process.stdout is not None
        ticks, losses = steps_of("olive" if side == "olive" else "ours", process.stdout, tail)
        code = process.wait()
        watchdog.cancel()
        held = peak.stop() - before
        if code or len(ticks) < 4:
            print(f"  {side:8} ended with {code}: {''.join(tail[-3:]).strip()[-300:]}")
            continue
        step_s = statistics.median([b - a for a, b in pairwise(ticks[1:])])
        rate = options.rows * options.length / step_s
        facts = f"{rate:9.0f} tokens/s, {least_s / step_s:4.0%} of the limit, peak {held / 1e9:.1f} GB"
        estimated = f" (estimate {estimate(folder, method) / 1e9:.1f})" if side == "ours" else ""
        print(f"  {side:8} {facts}{estimated}, loss {losses[0]:.3f} … {losses[-1]:.3f}", flush=True)


def command_of(side: str, method: str, folder: Path, options: argparse.Namespace) -> list[str]:
    if side == "trainer":
        return [sys.executable, __file__, "--stock", method, str(folder), *flags(options)]
    place = folder / f"{side}-{method}" / "fine-tuning"
    place.mkdir(parents=True)
    config = config_of(method, folder, options)
    if side == "olive":
        config |= {"cache_dir": str(place / "cache"), "output_dir": str(place / "out"), "evaluate_input_model": False}
    path = place / "olive-config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    if side == "olive":
        return [os.environ["PHI_OLIVE_PYTHON"], "-m", "olive", "run", "--config", str(path)]
    return [phi(), "run", "--json", "--until", "finetune", "--config", str(path)]


def config_of(method: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    device, provider = ("cpu", "CPUExecutionProvider") if options.cpu else ("gpu", "CUDAExecutionProvider")
    system = {"type": "LocalSystem", "accelerators": [{"device": device, "execution_providers": [provider]}]}
    rows = {"text_template": "{text}", "strategy": "join", "max_seq_len": options.length, "add_special_tokens": False}
    rows["max_samples"] = options.steps * options.rows
    data = {
        "name": "train",
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": "json", "data_files": str(folder / "rows.jsonl"), "split": "train"},
        "pre_process_data_config": rows,
    }
    arguments = {"seed": 0, "data_seed": 42, "gradient_checkpointing": False, "learning_rate": 1e-4}
    arguments |= {"per_device_train_batch_size": options.rows, "gradient_accumulation_steps": 1}
    arguments |= {"max_steps": options.steps, "logging_steps": 1}
    adapter = {"type": "QLoRA" if method == "qlora" else "LoRA", "target_modules": TARGETS, "r": 16, "alpha": 32}
    adapter |= {"lora_dropout": 0.0, "train_data_config": "train", "training_args": arguments}
    if method == "lora":
        adapter["torch_dtype"] = "bfloat16"
    else:
        adapter |= {"quant_type": "nf4", "double_quant": True, "compute_dtype": "bfloat16"}
    return {
        "input_model": {"type": "HfModel", "model_path": str(folder / "model")},
        "systems": {"local": system},
        "data_configs": [data],
        "passes": {"finetune": adapter},
        "host": "local",
        "target": "local",
    }


def train_with_stock_trainer(method: str, folder: Path, options: argparse.Namespace) -> None:
    """Train with transformers' Trainer and peft, as their documentation does; print each step as the runtime does."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        BitsAndBytesConfig,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Print(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                print(json.dumps({"event": "metric", "step": state.global_step, "loss": logs["loss"]}), flush=True)

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    texts = [json.loads(line)["text"] for line in (folder / "rows.jsonl").read_text().splitlines()]
    ids = tokenizer("\n\n".join(texts))["input_ids"]
    blocks = [ids[i : i + options.length] for i in range(0, len(ids) - options.length, options.length)]
    rows = [{"input_ids": block, "labels": block} for block in blocks[: options.steps * options.rows]]
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    place: dict[str, Any] = {} if options.cpu else {"device_map": {"": 0}}
    if method == "qlora":
        place["quantization_config"] = quantized
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16, **place)
    if method == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    adapter = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    arguments = TrainingArguments(
        output_dir=str(folder / f"stock-{method}"),
        per_device_train_batch_size=options.rows,
        max_steps=options.steps,
        learning_rate=1e-4,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=True,
        use_cpu=options.cpu,
        seed=0,
        disable_tqdm=True,
    )
    trainer = Trainer(get_peft_model(model, adapter), arguments, train_dataset=rows, callbacks=[Print()])
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def estimate(folder: Path, method: str) -> float:
    """Return the bytes that `run --dry-run` expects."""
    config = folder / f"ours-{method}" / "fine-tuning" / "olive-config.json"
    command = [
        phi(),
        "run",
        "finetune",
        "--force",
        "finetune",
        "--dry-run",
        "--no-step",
        "--json",
        "--config",
        str(config),
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    estimates = json.loads(done.stdout.splitlines()[-1])["estimates"]
    return float(estimates[0]["total_bytes"]) if estimates else float("nan")


# -- export ------------------------------------------------------------------------------------------------------------


def export(folder: Path, options: argparse.Namespace) -> None:
    """Train two steps, merge, build int4, and write tokens with it."""
    place = folder / "export" / "fine-tuning"
    place.mkdir(parents=True)
    config = config_of("lora", folder, options)
    config["passes"]["finetune"]["training_args"]["max_steps"] = 2
    config["passes"] |= {
        "merge": {"type": "MergeAdapterWeights"},
        "export": {"type": "ModelBuilder", "precision": "int4", "gate": None},
    }
    path = place / "olive-config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    started = time.monotonic()
    command = [phi(), "run", "--json", "--until", "export", "--config", str(path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    print(f"\nexport: int4 after {time.monotonic() - started:.0f} s, with two steps of training and the merge")
    if done.returncode:
        print(f"  ended with {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}")
        return
    onnx = place.parent / "gen-model" / "onnx"
    size = sum(file.stat().st_size for file in onnx.iterdir())
    plain = Plain(onnx)
    rates = []
    for _ in range(5):
        ids = plain.tokenizer.encode(" ".join(TOPICS * 8))
        generator = plain.generator(ids, len(ids) + DECODED_TOKENS)
        generator.generate_next_token()
        first = time.perf_counter()
        count = 0
        while not generator.is_done():
            generator.generate_next_token()
            count += 1
        rates.append(count / (time.perf_counter() - first))
    print(f"  {size / 1e9:.2f} GB, decoding {statistics.median(rates):.0f} tokens/s (median of five)")


# -- measurement -------------------------------------------------------------------------------------------------------


def card_bytes() -> int:
    """Return the memory that is used on the first card."""
    import pynvml

    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OLIVE_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}


def phi() -> str:
    return str(Path(sys.executable).parent / "phi-scaffold")


def flags(options: argparse.Namespace) -> list[str]:
    numbers = [f"--{name}={getattr(options, name)}" for name in ("steps", "rows", "length", "layers")]
    return [*numbers, *(["--cpu"] if options.cpu else [])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--cpu", action="store_true", help="try the script, with a model of width 64")
    parser.add_argument("--stock", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_intermixed_args()
    if given.stock:
        train_with_stock_trainer(given.stock[0], Path(given.stock[1]), given)
    else:
        main(given)
