"""Key tables of the parts of a config, read by the translation and by the JSON Schema."""

from __future__ import annotations

from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.dialects.key_table import KeyTable, drop_nulls, fix_values, is_note
from phi_runtime.config.dialects.training_keys import (
    ACCELERATOR_CONFIG,
    FSDP_CONFIG,
    GRADIENT_CHECKPOINTING,
    MEASURED,
    TRAINING_ARGS,
)
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import (
    AcceleratorConfig,
    AzureMLSystem,
    BuilderOptions,
    DataConfig,
    Datastore,
    ExportPass,
    FinetunePass,
    FsdpConfig,
    GradientCheckpointing,
    InputModel,
    LoadDataset,
    LoadKwargs,
    LocalSystem,
    Pass,
    PreProcess,
    RegistryModel,
    SearchStrategy,
    Strict,
    TrainingArgs,
    Workflow,
    WorkspaceModel,
)

PASSES: KeyPath = ("passes",)

_TOKEN = "the Hub token is read from `HF_TOKEN` or `.env`"
_HOOK = "only `text_formatting_func` is called; build the text there, or in `transform` of hooks.py"

WORKFLOW = KeyTable(
    nested="engine",
    renamed={"model": "input_model"},
    ignored={
        "$schema": "the editor finds the schema by the file name",
        "evaluators": MEASURED,
        "evaluator": MEASURED,
        "packaging_config": "models are written to gen-model/",
        "cache_config": "finished stages are cached in gen-model/",
        "enable_shared_cache": "finished stages are cached in gen-model/",
        "clean_evaluation_cache": "a model that changed is evaluated again",
        "plot_pareto_frontier": "`evaluate` prints the metrics of all models",
        "no_artifacts": "artifacts are always kept",
        "output_name": "each artifact has a fixed folder in gen-model/",
    },
    refused={
        "data_root": "write data paths relative to this file",
        "workflow_host": "name the system in `host`",
        "auto_optimizer_config": "list the passes",
        "builds": "write one config per build",
    },
)

_LOAD_ARGUMENTS = dict.fromkeys(
    ("from_pretrained_args", "hf_from_pretrained_args", "model_loading_args"), "load_kwargs"
)
_SCRIPT = "only Hugging Face models can be fine-tuned; set `model_path` to a model folder or Hub id"

INPUT_MODEL = KeyTable(
    nested="config",
    renamed={"model_name": "model_path", **_LOAD_ARGUMENTS},
    ignored={
        "model_file_format": "it is detected from the model folder",
        "io_config": "the model builder defines the inputs of the graph",
        "dummy_inputs_func": "the model builder defines the inputs of the graph",
        "generative": "all supported models are generative",
        "model_attributes": "they are read from the model",
    },
    refused={
        **dict.fromkeys(("model_script", "script_dir", "model_loader"), _SCRIPT),
    },
)

# Keys of `hf_config` other than model_name, task and the arguments of from_pretrained.
HF_CONFIG = KeyTable(
    renamed=INPUT_MODEL.renamed,
    ignored={
        "components": "the model builder exports one graph",
        "dataset": "`data_configs` name the rows",
        "use_ort_implementation": "the model builder exports the model",
        "model_class": "the class is read from the model's config.json",
        "feature": "the model builder defines the inputs of the graph",
        "config": "it is read from the model",
    },
)

LOAD_KWARGS = KeyTable(
    nested="extra_args",
    renamed={"dtype": "torch_dtype", "_attn_implementation": "attn_implementation"},
    ignored={
        "token": _TOKEN,
        "use_auth_token": _TOKEN,
        "low_cpu_mem_usage": "transformers 5 always does this",
        "use_safetensors": "only safetensors are loaded",
        "use_cache": "it is off for training and on for generation",
        "local_files_only": "loading a model never downloads",
        "cache_dir": "models are stored in model-cache/",
    },
    refused={
        **dict.fromkeys(
            ("quantization_method", "quantization_config", "load_in_4bit", "load_in_8bit"),
            "use a pass of type QLoRA, which loads the base model in 4 bits",
        ),
        "max_memory": "spreading a model over devices by memory is not implemented",
        "sliding_window": "the attention window is read from the model; remove this key",
    },
)

OTHER_ENVIRONMENTS = ("PythonEnvironment", "IsolatedORT", "ORTEnvironment")
"""Systems of Olive that run passes with another Python or ONNX Runtime on this machine."""
_ENVIRONMENT = "all passes run in the environment of the project"
LOCAL_SYSTEM = KeyTable(
    nested="config",
    ignored=dict.fromkeys(
        (
            "python_environment_path",
            "environment_variables",
            "prepend_to_path",
            "olive_managed_env",
            "requirements_file",
        ),
        _ENVIRONMENT,
    ),
)
AZUREML_SYSTEM = KeyTable(
    nested="config",
    ignored={
        "is_dev": "it was an option for Olive's developers",
        "olive_managed_env": "`aml_docker_config` defines the environment of the job",
        "requirements_file": "`aml_docker_config` defines the environment of the job",
    },
)

DATA_CONFIG = KeyTable(
    ignored={
        "post_process_data_config": "there is no post-processing",
        "dataloader_config": "batch sizes are set in `training_args`",
    },
)

LOAD_DATASET = KeyTable(
    nested="params",
    ignored={
        "token": _TOKEN,
        "use_auth_token": _TOKEN,
        "trust_remote_code": "data files contain no code",
        "streaming": "rows are always streamed",
        "cache_dir": "files are read in place",
        "download_mode": "files are read in place",
    },
    renamed={"name": "subset", "delimiter": "sep", "column_names": "names", "dataset_name": "data_name"},
)

PRE_PROCESS = KeyTable(
    nested="params",
    renamed={"source_max_len": "max_seq_len", "corpus_strategy": "strategy"},
    ignored={
        "model_name": "`input_model` defines it",
        "task": "`input_model` defines it",
        "trust_remote_code": "`input_model` defines it",
        "kv_cache": "it is read from the model",
    },
    refused={
        "input_formatting_func": _HOOK,
        "output_formatting_func": _HOOK,
    },
)

_PASS_IGNORED = {
    "evaluator": MEASURED,
    "clean_run_cache": "`run --force STAGE` runs a stage again",
    "output_name": "each artifact has a fixed folder in gen-model/",
    "disable_search": "a search is configured in sweep.yaml",
}
_FINETUNE = {"hf_training_args": "training_args"}
_FINETUNE_IGNORED = {
    **_PASS_IGNORED,
    "use_ort_trainer": "Olive removed ONNX Runtime training",
    "ortmodule_onnx_opset_version": "Olive removed ONNX Runtime training",
    "model_parallel": "the model runs on the device of `host`",
}
_LORA_IGNORED = {
    **_FINETUNE_IGNORED,
    "task_type": "the model generates text",
    "peft_type": "the type of the pass defines it",
}
_LORA_NAMES = {**_FINETUNE, "lora_r": "r", "lora_alpha": "alpha", "dropout": "lora_dropout"}
_ONLY_QLORA = "a LoRA does not quantize its base model; QLoRA has this key"

LORA = KeyTable(
    nested="config",
    renamed=_LORA_NAMES,
    ignored={
        **_LORA_IGNORED,
        **dict.fromkeys(("double_quant", "quant_type", "compute_dtype", "save_quant_config"), _ONLY_QLORA),
    },
)
QLORA = KeyTable(nested="config", renamed=_LORA_NAMES, ignored=_LORA_IGNORED)
_NO_DROPOUT = "it has no effect in Olive either; use `rank_dropout` or `module_dropout`"
PRODUCT = KeyTable(
    nested="config",
    renamed={"hf_training_args": "training_args", "lora_r": "r", "lora_alpha": "alpha"},
    ignored={
        **_FINETUNE_IGNORED,
        "lora_dropout": _NO_DROPOUT,
        "dropout": _NO_DROPOUT,
        "ephemeral_gpu_offload": "it has no effect in Olive either; it is an option of DoRA",
    },
)
FULL = KeyTable(nested="config", renamed=_FINETUNE, ignored=_FINETUNE_IGNORED)
MERGE = KeyTable(nested="config", ignored=_PASS_IGNORED)
_NO_CHAT = "an ONNX model without it cannot generate text; remove this key"
_BUILDER_REFUSED = {"exclude_embeds": _NO_CHAT, "exclude_lm_head": _NO_CHAT}
BUILDER = KeyTable(nested="config", ignored=_PASS_IGNORED, refused=_BUILDER_REFUSED)

BUILDER_NAMES = {
    "accuracy_level": "int4_accuracy_level",
    "block_size": "int4_block_size",
    "is_symmetric": "int4_is_symmetric",
    "op_types_to_quantize": "int4_op_types_to_quantize",
    "nodes_to_exclude": "int4_nodes_to_exclude",
    "algo_config": "int4_algo_config",
}
"""Names, in builder releases since 0.15, of options that are keys of Olive's pass."""
_NO_OPTIONS = {"type", "adapters", "precision", "metadata_only", "search", "extra_options", "gate"}
BUILDER_KEYS = tuple(key for key in ExportPass.model_fields if key not in _NO_OPTIONS)
"""Builder options that are keys of the pass, even if they are written in its `extra_options`."""
BUILDER_LISTS = {"int4_op_types_to_quantize": "/", "int4_nodes_to_exclude": ","}
"""Builder options that are lists, with their separator on the builder's command line."""

# Builder options (0.18) accepted in `--extra_options` that do not apply here.
_ENGINE = "it is for the paged-attention engine, which is not used; remove this key"
_DRAFT = "it is for speculative decoding, which is not used; remove this key"
BUILDER_OPTIONS = KeyTable(
    ignored={
        "hf_token": _TOKEN,
        "config_only": "the complete model is built",
        "filename": "the graph is always model.onnx",
        "quant_mode": "the builder of 0.18 does not read it",
    },
    refused={
        **_BUILDER_REFUSED,
        **dict.fromkeys(
            (
                "use_paged_attention",
                "paged_block_size",
                "paged_chunk_size",
                "gpu_utilization_factor",
                "max_batch_size",
                "max_scheduled_tokens",
                "num_blocks",
                "kv_cache_rotation",
            ),
            _ENGINE,
        ),
        **dict.fromkeys(
            (
                "aux_hidden_state_layers",
                "dflash2_path",
                "dspark_path",
                "exclude_mtp",
                "max_draft_tokens",
                "mtp_quant_config",
                "state_window",
                "state_update_capacity",
            ),
            _DRAFT,
        ),
        "adapter_path": "set `adapter_path` of `input_model`, or list passes in `adapters` of this pass",
        "hf_remote": "set `trust_remote_code` in `load_kwargs` of `input_model`",
        "kv_cache_scale_file": "scales are measured on the training rows; remove this key",
        "linear_attn_op": "the builder chooses it; remove this key",
        "num_hidden_layers": "a model without some of its layers does not work; remove this key",
    },
)
SEARCH_STRATEGY = KeyTable(
    nested="sampler_config",
    renamed={
        "sampler": "type",
        "search_algorithm": "type",
        "max_samples": "num_trials",
        "num_samples": "num_trials",
        "max_iter": "num_trials",
    },
    ignored={
        "execution_order": "all options are searched together",
        "output_model_num": "the best trial is kept",
        "stop_when_goals_met": "all trials run",
        "include_pass_params": "only options in the search space are searched",
        "max_time": "stop a search with Ctrl-C and run it again to resume",
    },
)

TABLES: dict[type[Strict], KeyTable] = {
    Workflow: WORKFLOW,
    InputModel: INPUT_MODEL,
    RegistryModel: KeyTable(nested="config", ignored={"azureml_client": "a registry does not belong to a workspace"}),
    WorkspaceModel: KeyTable(nested="config", ignored={"azureml_client": "it is that of the system"}),
    LoadKwargs: LOAD_KWARGS,
    LocalSystem: LOCAL_SYSTEM,
    AzureMLSystem: AZUREML_SYSTEM,
    DataConfig: DATA_CONFIG,
    Datastore: KeyTable(nested="config"),
    LoadDataset: LOAD_DATASET,
    PreProcess: PRE_PROCESS,
    TrainingArgs: TRAINING_ARGS,
    GradientCheckpointing: GRADIENT_CHECKPOINTING,
    FsdpConfig: FSDP_CONFIG,
    AcceleratorConfig: ACCELERATOR_CONFIG,
    BuilderOptions: BUILDER_OPTIONS,
    SearchStrategy: SEARCH_STRATEGY,
}
PASS_TABLES: dict[str, KeyTable] = {
    "LoRA": LORA,
    "QLoRA": QLORA,
    "DoRA": LORA,
    "LoHa": PRODUCT,
    "LoKr": PRODUCT,
    "MergeAdapterWeights": MERGE,
    "ModelBuilder": BUILDER,
}
"""Key tables by pass type. Other passes that train use `FULL`."""


def table_of(model: type[Strict]) -> KeyTable:
    """Return the key table of one part of a config."""
    if issubclass(model, Pass):
        return PASS_TABLES.get(model.__name__) or (FULL if issubclass(model, FinetunePass) else KeyTable())
    return TABLES[model]


# Keys of a data config that only exist before Olive 0.7, and keys of its data loader up to 0.5.
OLD_DATA_KEYS = ("dataset_type", "corpus_strategy", "source_max_len", "target_max_len", "pair_format")
DATALOADER_KEYS = ("batch_size", "shuffle", "drop_last")

PRE_PROCESS_TYPES = ("text_generation_huggingface_pre_process", "huggingface_pre_process")
"""Olive's names of the pre-processing of text; the second is the default of the container, whatever the task."""

FILTER_FUNCTIONS = ("load_tiny_code_dataset", "tiny_code_dataset")
FILTERS = {"language": "programming_language"}
"""Dataset functions of the user scripts of Olive's examples (0.3 to 0.6), which select rows: argument → column."""

PAIR_FORMATS = {"default": "{input}{output}", "self_instruct": "{prompt}{completion}"}


def translate_keys(draft: Draft, at: KeyPath, model: type[Strict]) -> None:
    """Translate the keys of the object at `at`, which is to become a `model`, by its table.

    Keeps notes of the author apart, drops nulls that mean a default, and corrects the case of values.
    """
    table_of(model).apply(draft, at)
    for key in draft.keys(at):
        if is_note(key) and key not in model.model_fields:
            draft.take_note((*at, key))
    drop_nulls(draft, at, model)
    fix_values(draft, at, model)
