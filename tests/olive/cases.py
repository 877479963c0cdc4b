"""The configs that Olive and we both read: those of the dialects, those that `new` emits, and some made to reach every option."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from phi_runtime.workflow.schema import BuilderOptions, LoRA, ModelBuilder, PreProcess, QLoRA, Strict, TrainingArgs

DIALECTS = Path(__file__).resolve().parents[1] / "phi_runtime" / "workflow" / "dialects"
EMITTED = [f"{method}-{target}" for method in ("lora", "qlora") for target in ("cpu", "cuda", "directml")]

MINIMAL: dict[str, Any] = {
    "input_model": {"type": "HfModel", "model_path": "model"},
    "systems": {
        "here": {
            "type": "LocalSystem",
            "accelerators": [{"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}],
        }
    },
    "data_configs": [
        {
            "name": "rows",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"},
        }
    ],
    "passes": {
        "finetune": {"type": "LoRA", "train_data_config": "rows"},
        "merge": {"type": "MergeAdapterWeights"},
        "export": {"type": "ModelBuilder", "precision": "int4"},
    },
    "host": "here",
    "target": "here",
}

# Every value is another than the default, so that one which is not read is seen.
LOAD_DATASET: dict[str, Any] = {
    "data_name": "csv",
    "data_files": {"train": ["a.csv", "b.csv"], "test": "c.csv"},
    "split": "test[:90%]",
    "col_filters": {"language": "en", "rank": 3},
}
PRE_PROCESS: dict[str, Any] = {
    "text_template": "{question} {answer}",
    "text_cols": ["question", "answer"],
    "strategy": "join-random",
    "chat_template": "{{ messages[0].content }}",
    "message_col": "turns",
    "max_seq_len": 48,
    "over_long": "split",
    "max_samples": 7,
    "stride": 16,
    "joiner": " | ",
    "random_seed": 3,
    "random_retries": 5,
    "add_special_tokens": False,
    "drop_short_sequences": True,
    "pad_to_max_len": False,
    "padding_side": "left",
    "use_attention_mask": False,
    "processing_batch_size": 100,
}
TRAINING: dict[str, Any] = {
    "num_train_epochs": 2.5,
    "max_steps": 11,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 3,
    "gradient_accumulation_steps": 4,
    "gradient_checkpointing": False,
    "learning_rate": 3e-5,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr": 1e-6},
    "warmup_steps": 6,
    "optim": "paged_adamw_8bit",
    "weight_decay": 0.01,
    "max_grad_norm": 0.3,
    "adam_beta1": 0.8,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "neftune_noise_alpha": 5.0,
    "logging_steps": 9,
    "logging_first_step": True,
    "eval_strategy": "epoch",
    "eval_steps": 13,
    "save_steps": 26,
    "save_total_limit": 2,
    "seed": 5,
    "data_seed": 8,
    "report_to": "none",
    "output_dir": "checkpoints",
}
LORA: dict[str, Any] = {
    "type": "LoRA",
    "torch_dtype": "float16",
    "device_map": "current_device",
    "allow_tf32": False,
    "train_data_config": "rows",
    "eval_data_config": "held_out",
    "eval_dataset_size": 0.2,
    "completion_only_loss": True,
    "packing": True,
    "training_args": TRAINING,
    "r": 24,
    "alpha": 12.5,
    "lora_dropout": 0.25,
    "target_modules": ["q_proj", "v_proj"],
    "int4_aware": True,
    "ephemeral_gpu_offload": False,
}
QLORA: dict[str, Any] = LORA | {
    "type": "QLoRA",
    "quant_type": "fp4",
    "double_quant": True,
    "compute_dtype": "float32",
    "save_quant_config": False,
}
EXTRA_OPTIONS: dict[str, Any] = {"matmul_mixed_precision": "last_matmul:int8"}
BUILDER: dict[str, Any] = {
    "type": "ModelBuilder",
    "precision": "int8",
    "metadata_only": False,
    "search": {"max_length": 2048, "do_sample": True, "temperature": 0.7},
    "int4_block_size": 64,
    "int4_accuracy_level": 2,
    "int4_is_symmetric": False,
    "int4_algo_config": "k_quant_mixed",
    "extra_options": EXTRA_OPTIONS,
}
EVERY_OPTION: dict[type[Strict], dict[str, Any]] = {
    PreProcess: PRE_PROCESS,
    TrainingArgs: TRAINING,
    LoRA: LORA,
    QLoRA: QLORA,
    ModelBuilder: BUILDER,
    BuilderOptions: EXTRA_OPTIONS,
}


def dialect_cases() -> dict[str, dict[str, Any]]:
    """The canonical forms of the dialects that Olive has all parts of: nothing of Azure ML, and no full fine-tuning.

    Without modules_to_save and the function of a script, which Olive 0.13.0 refuses; a test of each says when it no longer does.
    """
    cases = {}
    for file in sorted(DIALECTS.rglob("*.canonical.json")):
        config = json.loads(file.read_text(encoding="utf-8"))
        if not _beyond_olive(config):
            for step in config["passes"].values():
                step.pop("modules_to_save", None)
            for data in config.get("data_configs") or []:
                for key in ("text_formatting_func", "user_script", "script_dir"):
                    data.get("pre_process_data_config", {}).pop(key, None)
            cases[file.relative_to(DIALECTS).as_posix().removesuffix(".canonical.json")] = config
    return cases


def _beyond_olive(config: dict[str, Any]) -> bool:
    files = [d["load_dataset_config"].get("data_files") for d in config.get("data_configs") or []]
    return bool(
        "passes" not in config  # a search by itself
        or config.get("azureml_client")
        or any(s["type"] == "AzureML" for s in config["systems"].values())
        or any(p["type"] == "FullFinetune" for p in config["passes"].values())
        or any(isinstance(f, dict) and f.get("type") == "azureml_datastore" for f in files)
    )


def made_cases() -> dict[str, dict[str, Any]]:
    """Configs of every option, and one for each value of each option that takes one of a few."""
    minimal = {"minimal-lora": MINIMAL, "minimal-qlora": changed(MINIMAL, ("passes", "finetune", "type"), "QLoRA")}
    everything = {
        "everything-lora": _everything(LORA),
        "everything-qlora": _everything(QLORA),
        "columns": changed(
            MINIMAL,
            ("data_configs", 0, "pre_process_data_config"),
            {"text_cols": ["a", "b"], "strategy": "line-by-line"},
        ),
    }
    return minimal | everything | dict(_machines()) | dict(_values())


def _everything(finetune: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(MINIMAL)
    config["input_model"] |= {
        "task": "text-generation-with-past",
        "load_kwargs": {
            "trust_remote_code": True,
            "revision": "refs/pr/7",
            "attn_implementation": "eager",
            "torch_dtype": "float16",
            "device_map": "cpu",
        },
    }
    config["systems"]["there"] = {
        "type": "LocalSystem",
        "hf_token": True,
        "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"], "memory": "16GB"}],
    }
    config["data_configs"] = [
        config["data_configs"][0]
        | {"name": name, "load_dataset_config": LOAD_DATASET, "pre_process_data_config": PRE_PROCESS}
        for name in ("rows", "held_out")
    ]
    config["passes"] |= {"finetune": finetune, "export": BUILDER}
    return config | {
        "host": "there",
        "cache_dir": "cached",
        "output_dir": "put/out",
        "log_severity_level": 3,
        "ort_log_severity_level": 2,
        "ort_py_log_severity_level": 1,
        "log_to_file": True,
        "clean_cache": True,
        "workflow_id": "mine",
        "search_strategy": False,
        "evaluate_input_model": True,
    }


def _machines() -> Iterator[tuple[str, dict[str, Any]]]:
    for device, provider in (("cpu", "CPU"), ("gpu", "CUDA"), ("gpu", "Dml"), ("gpu", "WebGpu"), ("gpu", "CPU")):
        accelerator = {"device": device, "execution_providers": [f"{provider}ExecutionProvider"]}
        yield f"machine-{device}-{provider}", changed(MINIMAL, ("systems", "here", "accelerators"), [accelerator])


def _values() -> Iterator[tuple[str, dict[str, Any]]]:
    base = _everything(QLORA)
    places: dict[type[Strict], tuple[str | int, ...]] = {
        PreProcess: ("data_configs", 0, "pre_process_data_config"),
        QLoRA: ("passes", "finetune"),
        TrainingArgs: ("passes", "finetune", "training_args"),
        ModelBuilder: ("passes", "export"),
    }
    for model, place in places.items():
        for key, field in model.model_fields.items():
            for value in _literals(field.annotation) if key != "type" else ():
                yield f"{key}={value}", changed(base, (*place, key), value)


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from _literals(part)


def changed(config: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy of `config` with another value at `path`."""
    copied = copy.deepcopy(config)
    place: Any = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copied
