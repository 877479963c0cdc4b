"""Common settings of transformers' Trainer. Defaults are Olive's."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from phi_runtime.config.schema.common import Count, Fraction, NamesOrPattern, Strict, Whole


def _steps_shape(value: Any) -> str:
    return "float" if isinstance(value, float) and 0 < value < 1 else "int"


Steps = Annotated[
    Annotated[Count, Tag("int")] | Annotated[float, Tag("float"), Field(gt=0, lt=1)], Discriminator(_steps_shape)
]
"""A number of steps; a value below 1 is a fraction of all steps of the run."""

Scheduler = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
    "reduce_lr_on_plateau",
    "greedy",
]

Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_bnb_8bit",
    "adamw_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "adamw_torch_4bit",
    "adamw_torch_8bit",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
    "lion_8bit",
    "lion_32bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
    "ademamix",
    "ademamix_8bit",
    "paged_ademamix_8bit",
    "paged_ademamix_32bit",
    "galore_adamw",
    "galore_adamw_8bit",
    "galore_adafactor",
    "apollo_adamw",
    "grokadamw",
    "schedule_free_adamw",
    "schedule_free_radam",
    "schedule_free_sgd",
    "stable_adamw",
]

ADAMW_OF_BITSANDBYTES = ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit")
"""Variants of AdamW that only save GPU memory; on a CPU adamw_torch gives the same result."""

OPTIMIZER_PACKAGES = {
    **dict.fromkeys(
        (
            "adamw_bnb_8bit",
            "adamw_8bit",
            "paged_adamw_32bit",
            "paged_adamw_8bit",
            "rmsprop_bnb",
            "rmsprop_bnb_8bit",
            "rmsprop_bnb_32bit",
            "lion_8bit",
            "lion_32bit",
            "paged_lion_8bit",
            "paged_lion_32bit",
            "ademamix",
            "ademamix_8bit",
            "paged_ademamix_8bit",
            "paged_ademamix_32bit",
        ),
        "bitsandbytes",
    ),
    **dict.fromkeys(("adamw_torch_4bit", "adamw_torch_8bit"), "torchao"),
    **dict.fromkeys(("galore_adamw", "galore_adamw_8bit", "galore_adafactor"), "galore-torch"),
    "apollo_adamw": "apollo-torch",
    "grokadamw": "grokadamw",
    **dict.fromkeys(("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"), "schedulefree"),
    "stable_adamw": "torch-optimi",
}
"""Package of each optimizer that is not part of torch or transformers."""


class GradientCheckpointing(Strict):
    """Recomputation of activations in the backward pass."""

    every_n_layers: Count = Field(
        1,
        description="Recompute the activations of every n-th layer only. Default 1: all layers; 2 or 4 train faster and need "
        "more memory.",
    )
    offload: bool = Field(
        False,
        description="CUDA: keep the saved activations in host memory instead of GPU memory. Default false; set true for long "
        "sequences that do not fit.",
    )


class TrainingBasics(Strict):
    """Common settings of the trainer."""

    num_train_epochs: float = Field(
        3.0,
        gt=0,
        description="Passes over the training rows. Default 3; 1 to 5 is usual. Fewer if the validation loss rises before "
        "the end, more for a few hundred rows.",
    )
    max_steps: Whole = Field(
        -1,
        ge=-1,
        description="Number of optimizer steps; overrides num_train_epochs. Default -1: the epochs decide. Set a small "
        "number for a quick trial.",
    )
    per_device_train_batch_size: Count = Field(
        8,
        description="Rows per device in one forward and backward pass. Default 8; 1 to 16 is usual. Lower it if memory runs "
        "out and raise gradient_accumulation_steps by the same factor, which keeps the result.",
    )
    per_device_eval_batch_size: Count = Field(
        8,
        description="Rows per device in one evaluation step. Default 8. It changes speed and memory only, never the loss.",
    )
    auto_find_batch_size: bool = Field(
        False,
        description="If memory runs out, halve the batch, double the accumulation and repeat the step. Default false: the "
        "run stops with the advice to do so.",
    )
    gradient_accumulation_steps: Count = Field(
        1,
        description="Batches per optimizer step: one step trains on batch × accumulation × devices rows. Default 1; 16 to 64 "
        "rows per step are usual.",
    )
    gradient_checkpointing: bool = Field(
        True,
        description="Recompute activations in the backward pass instead of storing them. Default true: much less memory, "
        "about 20 % slower. Set false if memory allows.",
    )
    gradient_checkpointing_kwargs: GradientCheckpointing | None = Field(
        None,
        description="Layers to recompute, and where saved activations are kept. Default null: all layers, on the device.",
    )
    learning_rate: float = Field(
        2e-4,
        gt=0,
        lt=1,
        description="Peak learning rate, after the warmup. Default 2e-4; 1e-4 to 5e-4 is usual for LoRA and QLoRA, 1e-5 to "
        "5e-5 for FullFinetune. Lower it if the loss jumps or diverges.",
    )
    lr_scheduler_type: Scheduler = Field(
        "constant",
        description="Shape of the learning rate over the run. Default constant; cosine or linear usually end with a lower "
        "loss. reduce_lr_on_plateau and greedy follow the validation loss.",
    )
    lr_scheduler_kwargs: dict[str, Any] | None = Field(
        None,
        description='Further settings of the scheduler, such as {"min_lr": 1e-6} or {"num_cycles": 2}. Default null: those '
        "of transformers.",
    )
    warmup_steps: float = Field(
        0,
        ge=0,
        description="Optimizer steps over which the learning rate rises linearly from 0; a value below 1 is a fraction of "
        "all steps. Default 0; 0.03 to 0.1 is usual.",
    )
    optim: Optimizer = Field(
        "adamw_torch_fused",
        description="Optimizer. Default adamw_torch_fused. The 8-bit and paged AdamW of bitsandbytes save GPU memory and "
        "need CUDA; without it adamw_torch is used, with a warning.",
    )
    optim_args: Annotated[str, Field(pattern=r"^\s*\w+\s*=[^,=]+(,\s*\w+\s*=[^,=]+)*$")] | None = Field(
        None,
        description="Further settings of the optimizer, as `name=value, name=value`. Default null: those of its library.",
        examples=["beta3=0.999"],
    )
    optim_target_modules: NamesOrPattern = Field(
        None,
        description="galore_… and apollo_…: linear modules whose gradients are projected to low rank, by name suffix, as "
        "all-linear, or as a regular expression. Required by these optimizers; default null.",
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Decoupled weight decay of AdamW. Default 0; 0.01 to 0.1 is usual for FullFinetune. It rarely matters "
        "for adapters.",
    )
    max_grad_norm: float = Field(
        1.0,
        ge=0,
        description="Gradients with a larger norm are scaled down to this norm; 0 disables clipping. Default 1.0; 0.3 is "
        "usual for QLoRA.",
    )
    adam_beta1: Fraction = Field(0.9, description="Decay rate of AdamW's first moment. Default 0.9; rarely changed.")
    adam_beta2: Fraction = Field(
        0.999, description=("Decay rate of AdamW's second moment. Default 0.999; 0.95 adapts faster in short runs.")
    )
    adam_epsilon: float = Field(
        1e-8,
        gt=0,
        description=("Constant in AdamW's denominator, for numerical stability. Default 1e-8; rarely changed."),
    )
    label_smoothing_factor: Fraction = Field(
        0.0,
        description="Share of each target's probability that is spread over the vocabulary in training. Default 0; up to 0.1 "
        "against overconfidence.",
    )
    neftune_noise_alpha: float | None = Field(
        None,
        gt=0,
        description="Scale of uniform noise on the embeddings while training (NEFTune, https://arxiv.org/abs/2310.05914). "
        "Default null: none; 5 to 15 is usual for chat data.",
    )
    logging_strategy: Literal["no", "steps", "epoch"] = Field(
        "steps",
        description="When a line is added to the loss log: every logging_steps steps (steps, default), after each epoch, or no.",
    )
    logging_steps: Steps = Field(
        10,
        description="Optimizer steps between two lines of the loss log; a value below 1 is a fraction of all steps. Default 10.",
    )
    logging_first_step: bool = Field(False, description="Also log the first step. Default false.")
    eval_strategy: Literal["no", "steps", "epoch"] | None = Field(
        None,
        description="When the validation loss is computed: steps, epoch or no. Default null: every eval_steps if that is "
        "set, else after each epoch. Without validation rows it never is.",
    )
    eval_steps: Steps | None = Field(
        None,
        description="Optimizer steps between two evaluations; a value below 1 is a fraction of all steps. Default null: "
        "logging_steps.",
    )
    eval_delay: float = Field(
        0, ge=0, description=("Steps, or epochs if eval_strategy is epoch, before the first evaluation. Default 0.")
    )
    eval_on_start: bool = Field(
        False, description=("Also compute the validation loss before the first step, as a baseline. Default false.")
    )
    save_strategy: Literal["no", "steps", "epoch", "best"] = Field(
        "steps",
        description="When a checkpoint is written: every save_steps steps (steps, default), after each epoch, at each new "
        "best validation metric (best), or no. A stopped run always saves one.",
    )
    save_steps: Steps | None = Field(
        None,
        description="Optimizer steps between two checkpoints; a value below 1 is a fraction of all steps. Default null: ten "
        "checkpoints per run.",
    )
    save_total_limit: Count = Field(
        1,
        description="Number of checkpoints to keep, in addition to the best one. Default 1; each takes about the disk space "
        "of the trained weights times three.",
    )
    load_best_model_at_end: bool = Field(
        False,
        description="Keep the weights with the best validation metric instead of the last ones. Default false; a checkpoint "
        "is written at each new best, whatever save_steps is. Set true if the validation loss rises before the "
        "end.",
    )
    metric_for_best_model: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Metric that defines the best weights: `loss`, or a metric returned by `metrics` in hooks.py. Default "
        "null: the validation loss.",
        examples=["loss"],
    )
    greater_is_better: bool | None = Field(
        None,
        description="True if a higher metric_for_best_model is better. Default null: false if its name ends in `loss`, else "
        "true.",
    )
    seed: Whole = Field(42, ge=0, description="Seed of randomly initialized weights and of dropout. Default 42.")
    data_seed: Annotated[Whole, Field(ge=0)] | None = Field(
        None, description=("Seed of the order of rows and of the validation split. Default null: `seed`.")
    )

    @property
    def order_seed(self) -> int:
        """The seed of the order of rows: data_seed, or seed."""
        return self.seed if self.data_seed is None else self.data_seed
