"""What settings of transformers' Trainer are called elsewhere, and what becomes of those that are no setting here."""

from __future__ import annotations

from phi_runtime.config.dialects.table import Older
from phi_runtime.config.schema import FsdpConfig
from phi_runtime.config.schema.training_basics import TrainingBasics

MEASURED = "every run measures its models itself; what it asks stands in evaluation.json"
_ALWAYS_RESUMES = "`run` always goes on from the newest whole checkpoint"
_EXACTLY = "a run goes on exactly where it stopped"
_LIKE_LENGTH = "batches always hold rows of like length here"
_SHOWN = "progress is shown by phi-scaffold"
_ONLY_LOSS = "on held-out rows the loss is measured, and nothing else of the model's output is kept"
_NOT_SENT = "nothing is sent to the hub by a run"
_GONE = "transformers 5 has no such setting"
_DEVICE = "set the accelerator's `device` to cpu instead"

# All that transformers' TrainingArguments has, or once had, and that is no field of TrainingArgs.
TRAINING_ARGS = Older(
    nested="extra_args",
    renamed={
        "evaluation_strategy": "eval_strategy",
        "warmup_ratio": "warmup_steps",
        "activation_checkpointing": "gradient_checkpointing",
        "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
    },
    left_out={
        **dict.fromkeys(("group_by_length", "train_sampling_strategy", "length_column_name"), _LIKE_LENGTH),
        **dict.fromkeys(("overwrite_output_dir", "resume_from_checkpoint"), _ALWAYS_RESUMES),
        "save_only_model": "a checkpoint always holds all that going on from it needs",
        "enable_jit_checkpoint": "a run that is told to stop always saves",
        "restore_callback_states_from_checkpoint": _EXACTLY,
        "logging_dir": "the losses are in metrics.jsonl of the run",
        "logging_nan_inf_filter": "losses are shown as they are",
        "include_num_input_tokens_seen": "tokens are always counted",
        "skip_memory_metrics": "the use of memory is always recorded",
        "do_train": "the pass trains",
        "do_eval": "`eval_strategy` says when",
        "do_predict": MEASURED,
        "remove_unused_columns": "only what the model reads is in a batch",
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
        **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), "held-out rows are measured as they are trained"),
        "use_cache": "it is off while training and on while answering",
        "local_rank": "what starts the processes tells them",
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
        "use_module_with_loss": "ONNX Runtime training is gone from Olive",
    },
    refused={
        "ignore_data_skip": f"{_EXACTLY}, in the data too: take the key out",
        "parallelism_config": "a model is spread over devices by `fsdp`: use that",
        "push_to_hub": f"{_NOT_SENT}: take the key out",
        "hub_token": "a token does not belong into a file: put it into .env as HF_TOKEN",
        "no_cuda": _DEVICE,
        "use_cpu": _DEVICE,
    },
)
GRADIENT_CHECKPOINTING = Older(
    left_out={
        "use_reentrant": "the non-reentrant form is always used",
        "preserve_rng_state": "the random state is always kept",
        "determinism_check": "the default is used",
        "debug": "the default is used",
    },
)
_FSDP1 = "version 2 of FSDP has no such setting"
_TPU = "it is for TPUs, on which nothing runs here: take the key out"
FSDP_CONFIG = Older(
    renamed={f"fsdp_{key}": key for key in FsdpConfig.model_fields},
    left_out=dict.fromkeys(
        ("backward_prefetch", "forward_prefetch", "use_orig_params", "sync_module_states", "limit_all_gathers"), _FSDP1
    ),
    refused=dict.fromkeys(("xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt", "xla_fsdp_settings"), _TPU),
)
ACCELERATOR_CONFIG = Older(
    left_out={"use_seedable_sampler": "`data_seed` gives the order of the rows"},
    refused={
        "split_batches": "set per_device_train_batch_size to what one device gets instead",
        "dispatch_batches": "every process reads its own rows: take the key out",
        "gradient_accumulation_kwargs": "set gradient_accumulation_steps instead",
        "use_configured_state": "the trainer sets its processes up itself: take the key out",
    },
)

OPTIMIZERS = {"adamw_hf": "adamw_torch", "paged_adamw": "paged_adamw_32bit"}

# Optimizers of transformers that no run here can have, and why.
_IN_BACKWARD = "it steps within the backward pass, where no step can be checked, nor its state be saved"
OPTIMIZERS_REFUSED = {
    "adamw_torch_xla": "it is for TPUs",
    "adamw_torch_npu_fused": "it is for NPUs",
    "adamw_anyprecision": "torchdistx, which has it, is not published for today's torch",
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

# Settings of the trainer that people wrote into the pass itself.
OFTEN_IN_THE_PASS = (*TrainingBasics.model_fields, "report_to")

# Names that people use for settings of the trainer outside `training_args`.
TRAINING_NAMES = {
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
}
