"""The flags of Olive's commands, from 0.6 to 0.13."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["value", "text", "list", "switch"]


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        key: Dotted key of Olive's config that it sets, a name without dots for the builder of the config, or "" if it is
            ignored.
        kind: A `value` is JSON or text, a `list` is separated by commas or blanks, a `switch` needs no value.
        reason: Why it is ignored; "" for a flag whose absence changes nothing.
    """

    key: str = ""
    kind: Kind = "value"
    reason: str = ""


def _ignored(reason: str, *names: str, kind: Kind = "value") -> dict[str, Flag]:
    return {name: Flag("", kind, reason) for name in names}


# Commands of Olive without a counterpart, and what to do instead.
OTHER_COMMANDS: Mapping[str, str] = {
    "init": "run `phi-scaffold new NAME`",
    "run-pass": "write the pass to a config and run `phi-scaffold olive run --config FILE`",
    "extract-adapters": "use the folder of the adapter: `phi-scaffold olive generate-adapter -m MODEL --adapter_path FOLDER`",
    "export-adapters": "run `phi-scaffold olive convert-adapters --adapter_path FOLDER`",
    "benchmark": "run `phi-scaffold evaluate`",
    "session-params-tuning": "run `phi-scaffold optimize`",
    "tune-session-params": "run `phi-scaffold optimize`",
    "generate-model-package": "use the folder gen-model/onnx of the project",
    "generate-cost-model": "use Olive: models are not split here",
    "diffusion-lora": "use Olive: only models that generate text are trained here",
    "shared-cache": "use Olive: models and results stay on this machine here",
    "manage-aml-compute": "use Olive: projects run on this machine here",
    "configure-qualcomm-sdk": "use Olive: no model is built for NPUs here",
}
# Keys without dots: what the builder of the config does with their values.
BECOMES: Mapping[str, str] = {
    "output_path": "folder of the project",
    "write_only": "write the project without running it",
    "adapter_path": "input_model.adapter_path; generate-adapter adds further ones to the graph",
    "data_files": "data_configs.0.load_dataset_config.data_files",
    "precision": "passes.export.precision",
    "torch_dtype": "passes.export.precision",
    "quantize_int4": "passes.export.precision int4",
    "extra_options": "passes.export.extra_options",
    "use_model_builder": "passes.export, also without this flag",
    "device": "systems.local_system.accelerators.0.device",
    "provider": "systems.local_system.accelerators.0.execution_providers",
    "modality": "text, or an error",
    "eval.split": "data_configs.1.load_dataset_config.split",
    "eval.subset": "data_configs.1.load_dataset_config.subset",
    "method": "passes.finetune.type",
    "algorithm": "options of passes.export",
    "config": "config of the project",
}
SHORT = {"m": "model_name_or_path", "t": "task", "a": "adapter_path", "o": "output_path", "d": "data_name"}
SYNONYMS = {
    "base_model_path": "model_name_or_path",
    "adapter_paths": "adapter_path",
    "run_config": "config",
    "use_qdq_encoding": "use_qdq_format",
    "enable_qdq_encoding": "use_qdq_format",
    "num_splits": "num_split",
    "dynamic_to_fixed_shape_dim_param": "dim_param",
    "dynamic_to_fixed_shape_dim_value": "dim_value",
}

_COMMON = {
    "model_name_or_path": Flag("input_model.model_path", "text"),
    "task": Flag("input_model.task", "text"),
    "trust_remote_code": Flag("input_model.load_kwargs.trust_remote_code", "switch"),
    "output_path": Flag("output_path", "text"),
    "save_config_file": Flag("write_only", "switch"),
    "dry_run": Flag("write_only", "switch"),
    **_ignored("", "log_level"),
    **_ignored("", "disable_telemetry", kind="switch"),
    **_ignored("the project runs on this machine", "resource_group", "workspace_name", "keyvault_name", "aml_compute"),
    **_ignored("the cache of the project is used", "account_name", "container_name"),
    **_ignored("the catalog has small models for tests", "test", kind="switch"),
    **_ignored("a model is read from its folder, not from a script", "model_script", "script_dir", "model_variant"),
}
_ADAPTER = {"adapter_path": Flag("adapter_path", "list")}
_LOAD, _PROCESS = "data_configs.0.load_dataset_config", "data_configs.0.pre_process_data_config"
_DATA = {
    "data_name": Flag(f"{_LOAD}.data_name", "text"),
    "data_files": Flag("data_files", "list"),
    "text_field": Flag(f"{_PROCESS}.text_cols", "text"),
    "text_template": Flag(f"{_PROCESS}.text_template", "text"),
    "use_chat_template": Flag(f"{_PROCESS}.chat_template", "switch"),
    "max_seq_len": Flag(f"{_PROCESS}.max_seq_len"),
    "add_special_tokens": Flag(f"{_PROCESS}.add_special_tokens", "switch"),
    "max_samples": Flag(f"{_PROCESS}.max_samples"),
    "input_cols": Flag(f"{_PROCESS}.input_cols", "list"),
    "batch_size": Flag("data_configs.0.dataloader_config.batch_size"),
}
_CALIBRATION = {
    **_DATA,
    **{name: Flag(f"{_LOAD}.{name.removeprefix('train_')}", "text") for name in ("split", "subset", "train_split")},
}
_BUILDER = {
    "precision": Flag("precision", "text"),
    "block_size": Flag("passes.export.int4_block_size"),
    "int4_block_size": Flag("passes.export.int4_block_size"),
    "int4_accuracy_level": Flag("passes.export.int4_accuracy_level"),
    "int4_op_types_to_quantize": Flag("passes.export.int4_op_types_to_quantize", "list"),
    "exclude_embeds": Flag("passes.export.exclude_embeds", "switch"),
    "exclude_lm_head": Flag("passes.export.exclude_lm_head", "switch"),
    "enable_cuda_graph": Flag("passes.export.enable_cuda_graph", "switch"),
    "extra_mb_options": Flag("extra_options", "text"),
    "use_model_builder": Flag("use_model_builder", "switch"),
    **_ignored("", "use_ort_genai", kind="switch"),
    **_ignored("the model builder exports the graph", "exporter"),
    **_ignored("the model builder exports the graph", "use_dynamo_exporter", "use_mobius_builder", kind="switch"),
    **_ignored("the model builder keeps all shapes dynamic", "dim_param", "dim_value", "fixed_param_dict"),
    **_ignored("the model builder chooses the opset and the names", "target_opset", "past_key_value_name"),
    **_ignored("the model is one file", "num_split", "memory", "cost_model"),
    **_ignored("activations keep the precision of the model", "act_precision", "mixed_precision_overrides_config"),
    **_ignored("int4 weights are stored as MatMulNBits", "use_qdq_format", kind="switch"),
    **_ignored("the model builder does what they are for", "surgeries"),
    "modality": Flag("modality", "text"),
    **_ignored("the passes are fixed, so nothing is searched", "seed", "providers_list"),
    **_ignored("the passes are fixed, so nothing is searched", "enable_search", kind="switch"),
    **_ignored("no graph is compiled for a device", "enable_aot", kind="switch"),
    **_ignored("no graph is compiled for a device", "qnn_env_path"),
}
_DEVICE = {"device": Flag("device", "text"), "provider": Flag("provider", "text")}
_OPTIMIZE = {**_COMMON, **_ADAPTER, **_CALIBRATION, **_BUILDER, **_DEVICE}

COMMANDS: Mapping[str, Mapping[str, Flag]] = {
    "finetune": {
        **_COMMON,
        **_DATA,
        "train_split": Flag(f"{_LOAD}.split", "text"),
        "train_subset": Flag(f"{_LOAD}.subset", "text"),
        "eval_split": Flag("eval.split", "text"),
        "eval_subset": Flag("eval.subset", "text"),
        "method": Flag("method", "text"),
        "lora_r": Flag("passes.finetune.r"),
        "lora_alpha": Flag("passes.finetune.alpha"),
        "target_modules": Flag("passes.finetune.target_modules", "list"),
        "torch_dtype": Flag("passes.finetune.torch_dtype", "text"),
        **_ignored("the folder of --output_path separates tasks", "task_name"),
    },
    "auto-opt": _OPTIMIZE,
    "optimize": _OPTIMIZE,
    "quantize": {
        **_COMMON,
        **_ADAPTER,
        **_CALIBRATION,
        **_BUILDER,
        "algorithm": Flag("algorithm", "text"),
        **_ignored("the model builder quantizes", "implementation"),
        **_ignored("weights are not rotated", "quarot_rotate", kind="switch"),
    },
    "capture-onnx-graph": {
        **_COMMON,
        **_ADAPTER,
        **_BUILDER,
        "torch_dtype": Flag("torch_dtype", "text"),
        **_ignored("the model builder reads the weights on the CPU", "conversion_device"),
    },
    "generate-adapter": {
        **_COMMON,
        **_ADAPTER,
        **_ignored("adapters are stored as .onnx_adapter files", "adapter_format"),
        **_ignored("adapters of peft are recognized by their config", "adapter_type"),
    },
    "convert-adapters": {
        **_COMMON,
        **_ADAPTER,
        "dtype": Flag("torch_dtype", "text"),
        "quantize_int4": Flag("quantize_int4", "switch"),
        "int4_block_size": Flag("passes.export.int4_block_size"),
        **_ignored("adapters are stored as .onnx_adapter files", "adapter_format", "int4_quantization_mode"),
    },
    "run": {
        **_COMMON,
        **_ADAPTER,
        "config": Flag("config", "text"),
        **dict.fromkeys(("list_required_packages", "packages"), Flag("write_only", "switch")),
        **_ignored("`run --force STAGE` repeats a stage", "clean_cache", kind="switch"),
        **_ignored("`setup` installs the libraries of the project", "setup", kind="switch"),
        **_ignored("unfinished work stays in the project", "tempdir", "package_config", "data_root"),
    },
}
