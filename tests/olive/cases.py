"""The configs that Olive and we both read: those of the dialects, those that `new` emits, and some made to reach every option."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from phi_runtime.config.schema import BuilderOptions, PreProcess, Strict, TrainingArgs
from phi_runtime.passes.dora import DoRA
from phi_runtime.passes.loha import LoHa
from phi_runtime.passes.lokr import LoKr
from phi_runtime.passes.lora import LoRA
from phi_runtime.passes.model_builder import ModelBuilder
from phi_runtime.passes.qlora import QLoRA

DIALECTS = Path(__file__).resolve().parents[1] / "phi_runtime" / "config" / "dialects"
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
    "group_by": "speaker",
    "optional_cols": ["question"],
    "special_tokens_in_rows": "refuse",
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
    "optim_args": "beta3=0.999",
    "optim_target_modules": ["q_proj"],
    "auto_find_batch_size": True,
    "gradient_checkpointing_kwargs": {"every_n_layers": 2, "offload": True},
    "label_smoothing_factor": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 0.3,
    "adam_beta1": 0.8,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "neftune_noise_alpha": 5.0,
    "logging_strategy": "epoch",
    "logging_steps": 9,
    "logging_first_step": True,
    "log_on_each_node": False,
    "eval_strategy": "epoch",
    "eval_steps": 13,
    "eval_delay": 2.0,
    "eval_on_start": True,
    "save_strategy": "best",
    "save_steps": 26,
    "save_total_limit": 2,
    "save_on_each_node": True,
    "load_best_model_at_end": False,  # in transformers it forbids most values of the others; see `best` below
    "metric_for_best_model": "eval_loss",
    "greater_is_better": False,
    "seed": 5,
    "data_seed": 8,
    "full_determinism": True,
    "report_to": "none",
    "run_name": "first",
    "project": "moods",
    "trackio_space_id": "me/moods",
    "trackio_bucket_id": "me/bucket",
    "trackio_static_space_id": False,
    "output_dir": "checkpoints",
    "torch_compile": True,
    "torch_compile_backend": "inductor",
    "torch_compile_mode": "default",
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": False},
    "torch_empty_cache_steps": 10,
    "dataloader_num_workers": 2,
    "dataloader_prefetch_factor": 4,
    "dataloader_persistent_workers": True,
    "dataloader_multiprocessing_context": "spawn",
    "dataloader_in_order": True,
    "dataloader_pin_memory": False,
    "dataloader_drop_last": True,
    "debug": "underflow_overflow",
    "average_tokens_across_devices": False,
    "ddp_timeout": 600,
    "ddp_find_unused_parameters": True,
    "ddp_bucket_cap_mb": 50,
    "ddp_broadcast_buffers": True,
    "ddp_static_graph": True,
    "fsdp": True,
    "fsdp_config": {"cpu_offload": True},
    "accelerator_config": {"even_batches": False},
}
# transformers takes the first only within several processes, and the second only where deepspeed is installed.
NEED_MORE = ("ddp_backend", "deepspeed")
LORA: dict[str, Any] = {
    "type": "LoRA",
    "torch_dtype": "float16",
    "device_map": "current_device",
    "allow_tf32": False,
    "train_data_config": "rows",
    "eval_data_config": "held_out",
    "eval_dataset_size": 0.2,
    "test_data_config": "held_out",
    "test_dataset_size": 0.1,
    "completion_only_loss": True,
    "packing": True,
    "early_stopping_patience": 3,
    "early_stopping_threshold": 0.01,
    "training_args": TRAINING,
    "r": 24,
    "alpha": 12.5,
    "lora_dropout": 0.25,
    "target_modules": ["q_proj", "v_proj"],
    "use_rslora": True,
    "int4_aware": True,
    "layers": "upper-half",
    "activation_cache_gb": 1.5,
    "ephemeral_gpu_offload": False,
    "init_lora_weights": "gaussian",
    "layers_to_transform": [0, 2],
    "layers_pattern": ["layers"],
    "rank_pattern": {"q_proj": 8},
    "alpha_pattern": {"q_proj": 4.0},
}
QLORA: dict[str, Any] = LORA | {
    "type": "QLoRA",
    "quant_type": "fp4",
    "double_quant": True,
    "compute_dtype": "float32",
    "save_quant_config": False,
}
DORA: dict[str, Any] = LORA | {"type": "DoRA", "ephemeral_gpu_offload": True}
_NOT_OF_PRODUCTS = ("lora_dropout", "use_rslora", "int4_aware", "ephemeral_gpu_offload", "init_lora_weights")
LOHA: dict[str, Any] = {key: value for key, value in LORA.items() if key not in _NOT_OF_PRODUCTS} | {
    "type": "LoHa",
    "rank_dropout": 0.1,
    "module_dropout": 0.05,
    "use_effective_conv2d": False,
    "init_weights": False,
    "exclude_modules": ["v_proj"],
}
LOKR: dict[str, Any] = LOHA | {
    "type": "LoKr",
    "decompose_both": True,
    "decompose_factor": 8,
    "rank_dropout_scale": True,
}
EXTRA_OPTIONS: dict[str, Any] = {
    "matmul_mixed_precision": "last_matmul:int8",
    "prune_lm_head": True,
    "shared_embeddings": False,
    "fuse_qkv": False,
    "fuse_qk_norm_gqa": False,
    "fuse_mlp_gate_up": True,
    "windowed_kv_cache": False,
    "kv_cache_quant_scheme": "int8_per_channel",
    "moe_quant_type": "int8",
    "qmoe_block_size": 64,
    "qmoe_weights_prepacked": 0,
    "matmulnbits_weights_prepacked": 1,
    "enable_cuda_fpa_intb_gemm": True,
    "use_device_allocator_for_initializers": True,
    "enable_dml_graph": False,
    "enable_webgpu_graph": True,
}
BUILDER: dict[str, Any] = {
    "type": "ModelBuilder",
    "precision": "int8",
    "metadata_only": False,
    "search": {"max_length": 2048, "do_sample": True, "temperature": 0.7},
    "int4_block_size": 64,
    "int4_accuracy_level": 2,
    "int4_is_symmetric": False,
    "int4_op_types_to_quantize": ["MatMul", "Gather"],
    "int4_nodes_to_exclude": ["/lm_head/MatMul"],
    "int4_algo_config": "k_quant_mixed",
    "int4_calibration": {"tokens": 4096, "damp_percent": 0.05},
    "use_qdq": True,
    "use_8bits_moe": True,
    "use_webgpu_fp32": True,
    "use_cuda_bf16": True,
    "include_hidden_states": True,
    "enable_cuda_graph": True,
    "adapters": ["finetune"],
    "gate": {"tokens": 512, "max_kl": 0.5, "min_top1": 0.6, "max_perplexity_increase": 0.3, "max_lost_answers": 0.1},
    "extra_options": EXTRA_OPTIONS,
}
EVERY_OPTION: dict[type[Strict], dict[str, Any]] = {
    PreProcess: PRE_PROCESS,
    TrainingArgs: TRAINING,
    LoRA: LORA,
    QLoRA: QLORA,
    DoRA: DORA,
    LoHa: LOHA,
    LoKr: LOKR,
    ModelBuilder: BUILDER,
    BuilderOptions: EXTRA_OPTIONS,
}


OURS = ("FullFinetune", "IA3", "PEANuT", "PromptTuning")
"""Passes that Olive has not."""


def dialect_cases() -> dict[str, dict[str, Any]]:
    """The canonical forms of the dialects that Olive has all parts of: nothing of Azure ML, and no pass of ours.

    Without modules_to_save and the function of a script, which Olive 0.13.0 refuses; a test of each says when it no longer does.
    """
    cases = {}
    for file in sorted(DIALECTS.rglob("*.canonical.json")):
        config = json.loads(file.read_text(encoding="utf-8"))
        if not _beyond_olive(config):
            for step in config["passes"].values():
                step.pop("modules_to_save", None)
                for key in NEED_MORE:
                    step.get("training_args", {}).pop(key, None)
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
        or any(p["type"] in OURS for p in config["passes"].values())
        or any(isinstance(f, dict) and f.get("type") == "azureml_datastore" for f in files)
    )


def made_cases() -> dict[str, dict[str, Any]]:
    """Configs of every option, and one for each value of each option that takes one of a few."""
    kinds = {"lora": LORA, "qlora": QLORA, "dora": DORA, "loha": LOHA, "lokr": LOKR}
    types = {name: step["type"] for name, step in kinds.items()}
    minimal = {f"minimal-{n}": changed(MINIMAL, ("passes", "finetune", "type"), kind) for n, kind in types.items()}
    everything = {
        **{f"everything-{name}": _everything(step) for name, step in kinds.items()},
        "best": changed(_everything(LORA), ("passes", "finetune", "training_args", "load_best_model_at_end"), True),
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
            for value in _literals(field.annotation) if key not in ("type", *NEED_MORE) else ():
                yield f"{key}={value}", changed(base, (*place, key), value)


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is not list:
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
