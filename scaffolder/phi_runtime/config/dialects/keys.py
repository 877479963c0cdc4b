"""What older Olive documents call the parts of a config: one table for each, read by the translation and by the JSON Schema."""

from __future__ import annotations

from typing import NamedTuple

from phi_runtime.config.dialects.table import Older
from phi_runtime.config.dialects.training_keys import (
    ACCELERATOR_CONFIG,
    FSDP_CONFIG,
    GRADIENT_CHECKPOINTING,
    MEASURED,
    TRAINING_ARGS,
)
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
)

_TOKEN = "the hub token comes from HF_TOKEN or .env"
_NOT_YET = "is not built yet"
_HOOK = "only text_formatting_func is called: let that, or transform in hooks.py, make the text of the pair"

WORKFLOW = Older(
    nested="engine",
    renamed={"model": "input_model"},
    left_out={
        "$schema": "the editor finds the schema by the name of the file",
        "evaluators": MEASURED,
        "evaluator": MEASURED,
        "packaging_config": "the finished models lie in gen-model/",
        "cache_config": "what is done is kept in gen-model/",
        "enable_shared_cache": "what is done is kept in gen-model/",
        "clean_evaluation_cache": "`evaluate` measures again when a model has changed",
        "plot_pareto_frontier": "`evaluate` prints the figures of all models",
        "no_artifacts": "the artefacts are always kept",
        "output_name": "each artefact has a folder of its own name",
    },
    refused={
        "data_root": "write the paths of the data relative to this file instead",
        "workflow_host": "name the system as `host` instead",
        "auto_optimizer_config": "name the passes instead",
        "builds": "make one config for each build instead",
    },
)

_LOAD_ARGUMENTS = {"from_pretrained_args": "load_kwargs", "model_loading_args": "load_kwargs"}
_SCRIPT = "only Hugging Face models can be fine-tuned: name the model's folder or hub id as `model_path` instead"

INPUT_MODEL = Older(
    nested="config",
    renamed={"model_name": "model_path", **_LOAD_ARGUMENTS},
    left_out={
        "model_file_format": "the layout of the model's folder says it",
        "io_config": "the model builder knows the model's inputs",
        "dummy_inputs_func": "the model builder knows the model's inputs",
        "generative": "every model here is",
        "model_attributes": "they are read from the model",
    },
    refused={
        **dict.fromkeys(("model_script", "script_dir", "model_loader"), _SCRIPT),
        "adapter_path": "fine-tuning starts from a full model: merge the adapter first",
    },
)

# What stood in `hf_config` and is none of model_name, task and the arguments of from_pretrained.
HF_CONFIG = Older(
    renamed=INPUT_MODEL.renamed,
    left_out={
        "model_class": "the model's config.json names its class",
        "feature": "the model builder knows the model's inputs",
        "config": "it is read from the model",
    },
)

LOAD_KWARGS = Older(
    nested="extra_args",
    renamed={"dtype": "torch_dtype"},
    left_out={
        "token": _TOKEN,
        "use_auth_token": _TOKEN,
        "low_cpu_mem_usage": "transformers always loads so",
        "use_safetensors": "only safetensors are read",
        "use_cache": "it is off while training and on while answering",
        "local_files_only": "nothing is downloaded while a model is loaded",
        "cache_dir": "models lie in model-cache/",
    },
    refused={
        **dict.fromkeys(
            ("quantization_method", "quantization_config", "load_in_4bit", "load_in_8bit"),
            "a pass of type QLoRA loads the base in 4 bits: use that",
        ),
        "max_memory": "a model over several devices is not built yet",
    },
)

ACCELERATOR_HOLDER = Older(nested="config")
AZUREML_SYSTEM = Older(
    nested="config",
    left_out={
        "is_dev": "it was a switch for Olive's own developers",
        "olive_managed_env": "the job's environment is that of `aml_docker_config`",
        "requirements_file": "the job's environment is that of `aml_docker_config`",
    },
)

DATA_CONFIG = Older(
    left_out={
        "post_process_data_config": "nothing is left to do after the model",
        "dataloader_config": "the batch sizes stand in `training_args`",
    },
)

LOAD_DATASET = Older(
    nested="params",
    left_out={
        "token": _TOKEN,
        "use_auth_token": _TOKEN,
        "trust_remote_code": "data files hold no code",
        "streaming": "the rows are read as they come",
        "cache_dir": "the files are read where they lie",
        "download_mode": "the files are read where they lie",
    },
    renamed={"name": "subset", "delimiter": "sep"},
)

PRE_PROCESS = Older(
    nested="params",
    renamed={"source_max_len": "max_seq_len", "corpus_strategy": "strategy"},
    left_out={
        "model_name": "it is that of `input_model`",
        "task": "it is that of `input_model`",
        "trust_remote_code": "it is that of `input_model`",
        "kv_cache": "it is read from the model",
    },
    refused={
        "input_formatting_func": _HOOK,
        "output_formatting_func": _HOOK,
    },
)

_PASS_LEFT_OUT = {
    "evaluator": MEASURED,
    "clean_run_cache": "`run --force STAGE` does a stage again",
    "output_name": "each artefact has a folder of its own name",
    "disable_search": "a search is described in sweep.yaml",
}
_FINETUNE = {"hf_training_args": "training_args"}
_FINETUNE_LEFT_OUT = {
    **_PASS_LEFT_OUT,
    "use_ort_trainer": "ONNX Runtime training is gone from Olive",
    "ortmodule_onnx_opset_version": "ONNX Runtime training is gone from Olive",
    "model_parallel": "the model goes to the device of `host`",
}
_LORA_NAMES = {**_FINETUNE, "lora_r": "r", "lora_alpha": "alpha", "dropout": "lora_dropout"}
_ONLY_QLORA = "a LoRA trains over a base that is not quantised; QLoRA has this key"

LORA = Older(
    nested="config",
    renamed=_LORA_NAMES,
    left_out={
        **_FINETUNE_LEFT_OUT,
        **dict.fromkeys(("double_quant", "quant_type", "compute_dtype", "save_quant_config"), _ONLY_QLORA),
    },
)
QLORA = Older(nested="config", renamed=_LORA_NAMES, left_out=_FINETUNE_LEFT_OUT)
_NO_DROPOUT = "Olive takes it here and does nothing with it: rank_dropout and module_dropout are its own"
PRODUCT = Older(
    nested="config",
    renamed={"hf_training_args": "training_args", "lora_r": "r", "lora_alpha": "alpha"},
    left_out={
        **_FINETUNE_LEFT_OUT,
        "lora_dropout": _NO_DROPOUT,
        "dropout": _NO_DROPOUT,
        "ephemeral_gpu_offload": "Olive takes it here and does nothing with it: it is for DoRA",
    },
)
FULL = Older(nested="config", renamed=_FINETUNE, left_out=_FINETUNE_LEFT_OUT)
MERGE = Older(nested="config", left_out=_PASS_LEFT_OUT)
_NO_CHAT = "an ONNX model without it could not be asked anything: take the key out"
_BUILDER_REFUSED = {"exclude_embeds": _NO_CHAT, "exclude_lm_head": _NO_CHAT}
BUILDER = Older(nested="config", left_out=_PASS_LEFT_OUT, refused=_BUILDER_REFUSED)

BUILDER_NAMES = {
    "accuracy_level": "int4_accuracy_level",
    "block_size": "int4_block_size",
    "is_symmetric": "int4_is_symmetric",
    "op_types_to_quantize": "int4_op_types_to_quantize",
    "nodes_to_exclude": "int4_nodes_to_exclude",
    "algo_config": "int4_algo_config",
}
"""What releases of the builder since 0.15 call options that are keys of Olive's pass."""
_NO_OPTIONS = {"type", "adapters", "precision", "metadata_only", "search", "extra_options", "gate"}
BUILDER_KEYS = tuple(key for key in ExportPass.model_fields if key not in _NO_OPTIONS)
"""Options of the builder that are keys of the pass, also where they stand in its extra_options."""
BUILDER_LISTS = {"int4_op_types_to_quantize": "/", "int4_nodes_to_exclude": ","}
"""Those of them that are lists, and what separates the members on the builder's command line."""

# Options of the builder (0.18) that its `--extra_options` takes and that are no business of a config here.
_ENGINE = "it is for the engine with paged attention, which is not used here: take the key out"
_DRAFT = "it is for drafting tokens with a second model, which is not done here: take the key out"
BUILDER_OPTIONS = Older(
    left_out={"hf_token": _TOKEN, "config_only": "the whole model is built"},
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
        "adapter_path": "name the passes as `adapters` of this pass instead",
        "filename": "the runtime finds the model by its usual name: take the key out",
        "hf_remote": "say it as `trust_remote_code` in load_kwargs of input_model instead",
        "kv_cache_scale_file": "the scales are measured on the training rows: take the key out",
        "linear_attn_op": "the builder chooses it: take the key out",
        "num_hidden_layers": "a model without some of its layers answers nonsense: take the key out",
    },
)
SEARCH_STRATEGY = Older(
    nested="sampler_config",
    renamed={
        "sampler": "type",
        "search_algorithm": "type",
        "max_samples": "num_trials",
        "num_samples": "num_trials",
        "max_iter": "num_trials",
    },
    left_out={
        "execution_order": "all values are searched together",
        "output_model_num": "the best trial is kept",
        "stop_when_goals_met": "all trials are run",
        "include_pass_params": "only what the search space names is searched",
        "max_time": "stop a search with Ctrl-C; it goes on where it stopped",
    },
)

SPELLINGS: dict[type[Strict], Older] = {
    Workflow: WORKFLOW,
    InputModel: INPUT_MODEL,
    RegistryModel: Older(nested="config", left_out={"azureml_client": "a registry belongs to no workspace"}),
    LoadKwargs: LOAD_KWARGS,
    LocalSystem: ACCELERATOR_HOLDER,
    AzureMLSystem: AZUREML_SYSTEM,
    DataConfig: DATA_CONFIG,
    Datastore: Older(nested="config"),
    LoadDataset: LOAD_DATASET,
    PreProcess: PRE_PROCESS,
    TrainingArgs: TRAINING_ARGS,
    GradientCheckpointing: GRADIENT_CHECKPOINTING,
    FsdpConfig: FSDP_CONFIG,
    AcceleratorConfig: ACCELERATOR_CONFIG,
    BuilderOptions: BUILDER_OPTIONS,
    SearchStrategy: SEARCH_STRATEGY,
}

PASS_TABLES: dict[str, Older] = {
    "LoRA": LORA,
    "QLoRA": QLORA,
    "DoRA": LORA,
    "LoHa": PRODUCT,
    "LoKr": PRODUCT,
    "MergeAdapterWeights": MERGE,
    "ModelBuilder": BUILDER,
}
"""By the type of the pass. Other passes that train have `FULL`."""


def table_of(part: type[Strict]) -> Older:
    """Return the older spellings of one part of a config."""
    if issubclass(part, Pass):
        return PASS_TABLES.get(part.__name__) or (FULL if issubclass(part, FinetunePass) else Older())
    return SPELLINGS[part]


# Passes of Olive that make an ONNX model in several steps; here the model builder makes it in one.
CLASSIC_EXPORT = {
    "OnnxConversion": "",
    "OptimumConversion": "",
    "OrtTransformersOptimization": "",
    "OnnxFloatToFloat16": "fp16",
    "OnnxMatMul4Quantizer": "int4",
    "ExtractAdapters": "",
}


class Usual(NamedTuple):
    """The values of an option that mean what is done here, in small letters (none: any), and why it has no effect."""

    values: tuple[str, ...]
    why: str


_BESIDE = "the builder keeps the weights beside the graph"
EXTRACT_OPTIONS = {
    "adapter_type": Usual(("lora",), "only LoRA can be inputs of a graph; merge the others into their base"),
    "make_inputs": Usual(("true",), "adapters are inputs of the graph"),
    "dynamic_lora_r": Usual(("true",), "the graph takes adapters of any rank"),
    "optional_inputs": Usual(("true",), "without an adapter the graph answers as its base"),
    "save_format": Usual(("onnx_adapter",), "adapters are .onnx_adapter files"),
    **dict.fromkeys(("pack_inputs", "pack_weights"), Usual((), "each product of the graph has inputs of its own")),
    **dict.fromkeys(
        (
            "save_as_external_data",
            "all_tensors_to_one_file",
            "external_data_name",
            "size_threshold",
            "convert_attribute",
        ),
        Usual((), _BESIDE),
    ),
}
"""The options of ExtractAdapters."""

# Keys of a data config that say it is of the form before 0.7, and those of its data loader up to 0.5.
OLD_DATA_KEYS = ("dataset_type", "corpus_strategy", "source_max_len", "target_max_len", "pair_format")
DATALOADER_KEYS = ("batch_size", "shuffle", "drop_last")

PAIR_FORMATS = {"default": "{input}{output}", "self_instruct": "{prompt}{completion}"}
