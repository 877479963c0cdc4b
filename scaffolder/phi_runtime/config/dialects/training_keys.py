"""Key tables of `training_args`: all arguments of transformers' Trainer, past and present, that are not fields of TrainingArgs."""

from __future__ import annotations

from phi_runtime.config.dialects.key_table import KeyTable
from phi_runtime.config.schema import FsdpConfig
from phi_runtime.config.schema.training_basics import TrainingBasics

MEASURED = "every run evaluates its models, as configured in evaluation.json"
_ALWAYS_RESUMES = "`run` always resumes from the newest complete checkpoint"
_EXACTLY = "a run always resumes exactly where it stopped"
_LIKE_LENGTH = "rows are always grouped by length"
_SHOWN = "phi-scaffold shows the progress"
_ONLY_LOSS = "evaluation on the validation rows computes the loss only"
_NOT_SENT = "a run never uploads to the Hub"
_GONE = "transformers 5 does not have this setting"
_DEVICE = "set `device` of the accelerator to `cpu`"

TRAINING_ARGS = KeyTable(
    nested="extra_args",
    renamed={
        "evaluation_strategy": "eval_strategy",
        "warmup_ratio": "warmup_steps",
        "activation_checkpointing": "gradient_checkpointing",
        "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
    },
    ignored={
        **dict.fromkeys(("group_by_length", "train_sampling_strategy", "length_column_name"), _LIKE_LENGTH),
        **dict.fromkeys(("overwrite_output_dir", "resume_from_checkpoint"), _ALWAYS_RESUMES),
        "save_only_model": "a checkpoint always holds the complete training state",
        "enable_jit_checkpoint": "a stopped run always saves a checkpoint",
        "restore_callback_states_from_checkpoint": _EXACTLY,
        "logging_dir": "losses are logged to metrics.jsonl of the run",
        "logging_nan_inf_filter": "losses are logged unfiltered",
        "include_num_input_tokens_seen": "tokens are always counted",
        "skip_memory_metrics": "memory use is always recorded",
        "do_train": "the pass always trains",
        "do_eval": "set `eval_strategy`",
        "do_predict": MEASURED,
        "remove_unused_columns": "a batch only holds inputs of the model",
        "label_names": "the labels are called `labels`",
        **dict.fromkeys(("disable_tqdm", "log_level", "log_level_replica"), _SHOWN),
        **dict.fromkeys(
            (
                "prediction_loss_only",
                "eval_accumulation_steps",
                "eval_do_concat_batches",
                "eval_use_gather_object",
                "batch_eval_metrics",
                "include_for_metrics",
                "include_inputs_for_metrics",
            ),
            _ONLY_LOSS,
        ),
        **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), "evaluation uses the dtype of training"),
        "use_cache": "it is off for training and on for generation",
        "local_rank": "the launcher sets it",
        **dict.fromkeys(
            ("hub_model_id", "hub_private_repo", "hub_strategy", "hub_always_push", "hub_revision"), _NOT_SENT
        ),
        **dict.fromkeys(
            (
                "save_safetensors",
                "half_precision_backend",
                "fp16_backend",
                "fp16_opt_level",
                "use_mps_device",
                "use_legacy_prediction_loop",
                "past_index",
                "mp_parameters",
                "jit_mode_eval",
                "ray_scope",
                "tpu_num_cores",
            ),
            _GONE,
        ),
        "use_module_with_loss": "Olive removed ONNX Runtime training",
    },
    refused={
        "ignore_data_skip": f"{_EXACTLY}, including its data; remove this key",
        "parallelism_config": "shard the model with `fsdp`",
        "push_to_hub": f"{_NOT_SENT}; remove this key",
        "hub_token": "never write a token into a config; put it into .env as `HF_TOKEN`",
        "no_cuda": _DEVICE,
        "use_cpu": _DEVICE,
    },
)
GRADIENT_CHECKPOINTING = KeyTable(
    ignored={
        "use_reentrant": "the non-reentrant variant is always used",
        "preserve_rng_state": "the random state is always preserved",
        "determinism_check": "the default is used",
        "debug": "the default is used",
    },
)
_FSDP1 = "FSDP2 does not have this setting"
_TPU = "TPUs are not supported; remove this key"
FSDP_CONFIG = KeyTable(
    renamed={f"fsdp_{key}": key for key in FsdpConfig.model_fields},
    ignored=dict.fromkeys(
        ("backward_prefetch", "forward_prefetch", "use_orig_params", "sync_module_states", "limit_all_gathers"), _FSDP1
    ),
    refused=dict.fromkeys(("xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt", "xla_fsdp_settings"), _TPU),
)
ACCELERATOR_CONFIG = KeyTable(
    ignored={"use_seedable_sampler": "`data_seed` determines the order of rows"},
    refused={
        "split_batches": "set `per_device_train_batch_size` to the batch size of one device",
        "dispatch_batches": "each process reads its own rows; remove this key",
        "gradient_accumulation_kwargs": "set `gradient_accumulation_steps`",
        "use_configured_state": "the trainer configures its processes; remove this key",
    },
)

OPTIMIZERS = {"adamw_hf": "adamw_torch", "paged_adamw": "paged_adamw_32bit"}

# Optimizers of transformers that are not supported, with the reason.
_IN_BACKWARD = "it steps inside the backward pass, so steps cannot be checked nor its state saved"
OPTIMIZERS_REFUSED = {
    "adamw_torch_xla": "it needs a TPU",
    "adamw_torch_npu_fused": "it needs an NPU",
    "adamw_anyprecision": "its package torchdistx does not support current torch",
    **dict.fromkeys(("lomo", "adalomo"), _IN_BACKWARD),
    **dict.fromkeys(
        (
            "galore_adamw_layerwise",
            "galore_adamw_8bit_layerwise",
            "galore_adafactor_layerwise",
            "apollo_adamw_layerwise",
        ),
        _IN_BACKWARD,
    ),
}

# Training arguments that are often written into the pass itself.
OFTEN_IN_THE_PASS = (*TrainingBasics.model_fields, "report_to")

# Short names of training arguments outside `training_args`.
TRAINING_NAMES = {
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
}
