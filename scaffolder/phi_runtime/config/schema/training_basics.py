"""The settings of transformers' Trainer that most configs speak of. Defaults are Olive's."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from phi_runtime.config.schema.common import Count, Fraction, Strict, Whole


def _steps_shape(value: Any) -> str:
    return "float" if isinstance(value, float) and 0 < value < 1 else "int"


Steps = Annotated[
    Annotated[Count, Tag("int")] | Annotated[float, Tag("float"), Field(gt=0, lt=1)], Discriminator(_steps_shape)
]
"""A number of steps; below 1, that fraction of all steps of the run."""

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
"""Kinds of AdamW that save GPU memory alone; on a CPU adamw_torch trains the same."""

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
"""The distribution that an optimizer comes from, where it is not torch or transformers."""


def _modules_shape(value: Any) -> str:
    if value is None:
        return "nullable"
    return "a list" if isinstance(value, list | tuple) else "constrained-str"


class GradientCheckpointing(Strict):
    """How activations are recomputed."""

    every_n_layers: Count = Field(1, description="Recompute every n-th layer only: faster, in more memory.")
    offload: bool = Field(False, description="CUDA: keep what is saved for the recomputation in the host's memory.")


class TrainingBasics(Strict):
    """What most configs say of the training itself."""

    num_train_epochs: float = Field(3.0, gt=0, description="Passes over the training rows.")
    max_steps: Whole = Field(-1, ge=-1, description="Optimizer steps; -1 lets num_train_epochs decide.")
    per_device_train_batch_size: Count = Field(8, description="Rows per step and device.")
    per_device_eval_batch_size: Count = Field(8, description="Rows per evaluation step and device.")
    auto_find_batch_size: bool = Field(
        False,
        description="On out of memory the batch is halved, accumulation doubled, and the step repeated.",
    )
    gradient_accumulation_steps: Count = Field(1, description="Batches per optimizer step.")
    gradient_checkpointing: bool = Field(
        True, description="Recompute activations in the backward pass: less memory, about a fifth slower."
    )
    gradient_checkpointing_kwargs: GradientCheckpointing | None = Field(
        None, description="Which layers are recomputed, and where what that needs is kept; null: all, on the device."
    )
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="Peak learning rate.")
    lr_scheduler_type: Scheduler = Field(
        "constant",
        description="How the learning rate falls over the run. reduce_lr_on_plateau and greedy follow the held-out loss.",
    )
    lr_scheduler_kwargs: dict[str, Any] | None = Field(
        None, description='Further settings of the scheduler, such as {"min_lr": 1e-6}.'
    )
    warmup_steps: float = Field(
        0, ge=0, description="Steps over which the learning rate rises from 0; below 1, a fraction of all steps."
    )
    optim: Optimizer = Field(
        "adamw_torch_fused",
        description="Optimizer. The AdamW of bitsandbytes (paged, 8bit) needs CUDA; elsewhere plain AdamW is taken, and it is said.",
    )
    optim_args: Annotated[str, Field(pattern=r"^\s*\w+\s*=[^,=]+(,\s*\w+\s*=[^,=]+)*$")] | None = Field(
        None, description="Further settings of the optimizer, as `name=value, name=value`.", examples=["beta3=0.999"]
    )
    optim_target_modules: Annotated[
        Annotated[str, Tag("constrained-str"), Field(min_length=1)]
        | Annotated[list[str], Tag("a list"), Field(min_length=1)]
        | Annotated[None, Tag("nullable")],
        Discriminator(_modules_shape),
    ] = Field(
        None,
        description="galore_… and apollo_…: the linear modules whose gradients are kept in few dimensions, by the end of their name; "
        "or all-linear, or a regular expression.",
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled weight decay of AdamW.")
    max_grad_norm: float = Field(
        1.0, ge=0, description="Gradients with a larger norm are scaled down to it; 0 switches it off."
    )
    adam_beta1: Fraction = Field(0.9, description="Decay of AdamW's first moment.")
    adam_beta2: Fraction = Field(0.999, description="Decay of AdamW's second moment.")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    label_smoothing_factor: Fraction = Field(
        0.0, description="Share of each token's probability that is spread evenly over the vocabulary in training."
    )
    neftune_noise_alpha: float | None = Field(
        None, gt=0, description="Noise on the embeddings while training: https://arxiv.org/abs/2310.05914."
    )
    logging_strategy: Literal["no", "steps", "epoch"] = Field(
        "steps", description="When a line of the loss log is written."
    )
    logging_steps: Steps = Field(
        10, description="Steps between two lines of the loss log; below 1, a fraction of all steps."
    )
    logging_first_step: bool = Field(False, description="Log the first step too.")
    eval_strategy: Literal["no", "steps", "epoch"] | None = Field(
        None,
        description="When the held-out loss is measured; null: every eval_steps if these are given, else once an epoch. Only with "
        "held-out rows.",
    )
    eval_steps: Steps | None = Field(
        None,
        description="Steps between two measurements of the held-out loss; below 1, a fraction of all steps; null: logging_steps.",
    )
    eval_delay: float = Field(
        0, ge=0, description="Steps, or epochs as eval_strategy counts, before the first measurement."
    )
    eval_on_start: bool = Field(False, description="Measure the held-out loss before the first step too.")
    save_strategy: Literal["no", "steps", "epoch", "best"] = Field(
        "steps",
        description="When a checkpoint is written; best: whenever the held-out metric is the best so far. A run that is stopped "
        "saves in any case.",
    )
    save_steps: Steps | None = Field(
        None, description="Steps between two checkpoints; below 1, a fraction of all steps; null: ten a run."
    )
    save_total_limit: Count = Field(1, description="Checkpoints that are kept, the best one besides.")
    load_best_model_at_end: bool = Field(
        False,
        description="Keep the weights that were best on the held-out rows instead of the last. Whatever save_steps says, a "
        "checkpoint is written at each new best.",
    )
    metric_for_best_model: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="What best means: `loss`, or a metric that `metrics` of hooks.py gives; null: loss, on the held-out rows.",
        examples=["loss"],
    )
    greater_is_better: bool | None = Field(
        None, description="Whether more of the metric is better; null: no where its name ends in `loss`, else yes."
    )
    seed: Whole = Field(42, ge=0, description="Seed of the weights that start at random, and of dropout.")
    data_seed: Annotated[Whole, Field(ge=0)] | None = Field(
        None, description="Seed of the order of rows and of the held-out split; null: seed."
    )

    @property
    def order_seed(self) -> int:
        """data_seed, or what stands for it."""
        return self.seed if self.data_seed is None else self.data_seed
