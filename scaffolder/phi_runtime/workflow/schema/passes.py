"""The stages of a workflow, by Olive's names. Defaults are Olive's."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.workflow.schema.common import Count, Dtype, Fraction, Kind, NoSwitch, Strict, Whole


class TrainingArgs(Strict):
    """Settings of transformers' Trainer. Defaults are Olive's."""

    num_train_epochs: float = Field(3.0, gt=0, description="Passes over the training rows.")
    max_steps: Whole = Field(-1, ge=-1, description="Optimizer steps; -1 lets num_train_epochs decide.")
    per_device_train_batch_size: Count = Field(8, description="Rows per step and device.")
    per_device_eval_batch_size: Count = Field(8, description="Rows per evaluation step and device.")
    gradient_accumulation_steps: Count = Field(1, description="Batches per optimizer step.")
    gradient_checkpointing: bool = Field(
        True, description="Recompute activations in the backward pass: less memory, about a fifth slower."
    )
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="Peak learning rate.")
    lr_scheduler_type: Literal[
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "polynomial",
        "inverse_sqrt",
        "warmup_stable_decay",
    ] = Field("constant", description="How the learning rate falls over the run.")
    lr_scheduler_kwargs: dict[str, Any] | None = Field(
        None, description='Further settings of the scheduler, such as {"min_lr": 1e-6}.'
    )
    warmup_steps: float = Field(
        0, ge=0, description="Steps over which the learning rate rises from 0; below 1, a fraction of all steps."
    )
    optim: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_bnb_8bit",
        "adamw_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "adafactor",
        "sgd",
    ] = Field(
        "adamw_torch_fused",
        description="Optimizer. Those of bitsandbytes (paged, 8bit) need CUDA; elsewhere plain AdamW is taken, and it is said.",
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled weight decay of AdamW.")
    max_grad_norm: float = Field(
        1.0, ge=0, description="Gradients with a larger norm are scaled down to it; 0 switches it off."
    )
    adam_beta1: Fraction = Field(0.9, description="Decay of AdamW's first moment.")
    adam_beta2: Fraction = Field(0.999, description="Decay of AdamW's second moment.")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    neftune_noise_alpha: float | None = Field(
        None, gt=0, description="Noise on the embeddings while training: https://arxiv.org/abs/2310.05914."
    )
    logging_steps: Count = Field(10, description="Steps between two lines of the loss log.")
    logging_first_step: bool = Field(False, description="Log the first step too.")
    eval_strategy: Literal["no", "steps", "epoch"] | None = Field(
        None,
        description="When the held-out loss is measured; null: every eval_steps if these are given, else once an epoch. Only with "
        "held-out rows.",
    )
    eval_steps: Count | None = Field(
        None, description="Steps between two measurements of the held-out loss; null: logging_steps."
    )
    save_steps: Count | None = Field(None, description="Steps between two checkpoints; null: ten a run.")
    save_total_limit: Count = Field(1, description="Checkpoints that are kept.")
    seed: Whole = Field(42, ge=0, description="Seed of the weights that start at random, and of dropout.")
    data_seed: Annotated[Whole, Field(ge=0)] | None = Field(
        None, description="Seed of the order of rows and of the held-out split; null: seed."
    )
    report_to: Literal["none"] = Field(
        "none", description="Experiment trackers; the run's own metrics.jsonl is always written."
    )
    output_dir: str | None = Field(
        None,
        description="Olive only: where it keeps checkpoints. Here they lie in gen-model/.work until the stage is done.",
    )

    @property
    def order_seed(self) -> int:
        """data_seed, or what stands for it."""
        return self.seed if self.data_seed is None else self.data_seed


class Pass(Strict):
    """One stage of the workflow: a model goes in, a model comes out."""

    accepts: ClassVar[Kind]
    produces: ClassVar[Kind]


class FinetunePass(Pass):
    """What all kinds of fine-tuning share."""

    accepts: ClassVar[Kind] = "hf"

    torch_dtype: Dtype = Field(
        "bfloat16",
        description="Type of the frozen weights. On a CPU without bfloat16 instructions float32 is taken, and said.",
    )
    device_map: Literal["auto", "current_device"] | None = Field(
        "auto", description="Olive only: the model goes to the device of `host`."
    )
    allow_tf32: bool = Field(True, description="CUDA: multiply float32 matrices in TF32.")
    train_data_config: str = Field(description="Name of the data config to train on.", examples=["train_data"])
    eval_data_config: str | None = Field(None, description="Name of the data config that holds the held-out rows.")
    eval_dataset_size: float = Field(
        0.0,
        ge=0,
        description="Rows held out of the training data: a fraction below 1, or a count. They are chosen by content, evenly over "
        "the answers where these are labels, and never trained on. Olive ignores this key.",
    )
    completion_only_loss: bool | None = Field(
        None,
        description="Train on the completion alone and not on the prompt. null: yes for a text_template line by line, no where rows "
        "are joined or columns are named. Olive ignores this key and trains on all.",
    )
    packing: bool | None = Field(
        None,
        description="Lay several rows of a batch into one line, each seeing itself alone, instead of padding them to the longest. "
        "null: where the lengths of the rows make that faster. The loss is the same. Olive ignores this key.",
    )
    training_args: TrainingArgs = Field(default_factory=TrainingArgs, description="Settings of the trainer.")

    @property
    def data_names(self) -> tuple[str, ...]:
        """The data configs that it reads, the one that it trains on first."""
        held_out = self.eval_data_config
        return (
            (self.train_data_config,)
            if held_out in (None, self.train_data_config)
            else (self.train_data_config, held_out)
        )


class LoRA(FinetunePass):
    """Low-rank adaptation: https://arxiv.org/abs/2106.09685."""

    produces: ClassVar[Kind] = "adapter"

    type: Literal["LoRA"] = Field(description="Low-rank adaptation.")
    r: Count = Field(64, description="Rank of the adapter.")
    alpha: float = Field(16, gt=0, description="Scale of the adapter: its output is multiplied by alpha / r.")
    lora_dropout: Fraction = Field(0.05, description="Dropout on the adapter's input.")
    target_modules: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Linear modules that get an adapter, by the end of their name; null: those of the attention.",
    )
    modules_to_save: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="Modules that are trained whole and saved with the adapter, by the end of their name."
    )
    int4_aware: bool = Field(
        False,
        description="Every other step sees the base rounded to 4 bits, as an export with mixed_layers:int8 leaves it, so that the "
        "adapter fits both. Takes the memory of one more copy of the base. Olive ignores this key.",
    )
    ephemeral_gpu_offload: bool = Field(False, description="Olive only: for DoRA.")


class QLoRA(LoRA):
    """LoRA over a base in 4 bits: https://arxiv.org/abs/2305.14314. Merging goes back to the full-precision base."""

    type: Literal["QLoRA"] = Field(description="Low-rank adaptation over a 4-bit base.")  # type: ignore[assignment]
    target_modules: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="Linear modules that get an adapter, by the end of their name; null: all of them."
    )
    quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit number format of the base.")
    double_quant: bool = Field(
        False, description="Quantise the quantisation constants as well: 0.4 bits less per weight."
    )
    compute_dtype: Dtype | None = Field(None, description="Type of the matrix products; null: torch_dtype.")
    save_quant_config: bool = Field(True, description="Olive only: here the adapter also fits the full-precision base.")


class FullFinetune(FinetunePass):
    """All weights are trained. Ours: Olive has no such pass."""

    produces: ClassVar[Kind] = "hf"

    type: Literal["FullFinetune"] = Field(description="Train every weight.")


class MergeAdapterWeights(Pass):
    """Adds the adapter into the full-precision base."""

    accepts: ClassVar[Kind] = "adapter"
    produces: ClassVar[Kind] = "hf"

    type: Literal["MergeAdapterWeights"] = Field(description="Merge the adapter into its base.")


class BuilderOptions(Strict):
    """Options of the builder that have no key of their own in Olive."""

    matmul_mixed_precision: str | None = Field(
        None,
        pattern=r"^(last_matmul|mixed_layers):int8(,(last_matmul|mixed_layers):int8)?$",
        description="Weights that get 8 bits in a 4-bit model: last_matmul:int8 the output head, mixed_layers:int8 the layers where "
        "rounding hurts most; both with a comma between them.",
    )


class ModelBuilder(Pass):
    """Builds a quantised ONNX model for ONNX Runtime GenAI."""

    accepts: ClassVar[Kind] = "hf"
    produces: ClassVar[Kind] = "onnx"

    type: Literal["ModelBuilder"] = Field(description="Export with the ONNX Runtime GenAI model builder.")
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4"] = Field(
        description="Type of the weights in the ONNX model."
    )
    metadata_only: bool = Field(False, description="The whole model is built.")
    search: dict[str, bool | Whole | float] | None = Field(
        None, description='Generation defaults written into genai_config.json, such as {"max_length": 2048}.'
    )
    int4_block_size: Annotated[Literal[16, 32, 64, 128, 256], NoSwitch] | None = Field(
        None, description="Weights that share one scale; null: 32."
    )
    int4_accuracy_level: Annotated[Literal[1, 2, 3, 4], NoSwitch] | None = Field(
        None, description="Type of the activations in 4-bit products: 1 fp32, 2 fp16, 3 bf16, 4 int8; null: 4 on a CPU."
    )
    int4_is_symmetric: bool | None = Field(None, description="Symmetric quantisation, without zero points; null: true.")
    int4_algo_config: Literal["default", "rtn", "rtn_last", "k_quant", "k_quant_last", "k_quant_mixed"] | None = Field(
        None,
        description="How weights are rounded; the names that end in _last and _mixed keep the head or more in 8 bits.",
    )
    extra_options: BuilderOptions = Field(default_factory=BuilderOptions, description="Further options of the builder.")


AnyPass = Annotated[LoRA | QLoRA | FullFinetune | MergeAdapterWeights | ModelBuilder, Field(discriminator="type")]
