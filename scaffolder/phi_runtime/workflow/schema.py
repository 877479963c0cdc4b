"""The canonical workflow: what Olive 0.13.0 accepts, plus our own keys where Olive passes over them.

Every field says what it does; the JSON Schema, the docs and the error messages come from here. Defaults are Olive's.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Kind = Literal["hf", "adapter", "onnx"]
Dtype = Literal["bfloat16", "float16", "float32"]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    """Unknown keys are errors, and a loaded value never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=True)


class LoadKwargs(Strict):
    """How the base model is loaded, in the words of transformers' `from_pretrained`."""

    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Obeyed only together with --trust-remote-code."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of the hub repository.")
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = Field(
        None, description="Attention kernel; null lets transformers choose."
    )


class InputModel(Strict):
    """The base model."""

    type: Literal["HfModel"] = Field(description="Only Hugging Face models can be fine-tuned.")
    model_path: str = Field(
        min_length=1,
        description="Folder of the model, relative to this file, or a hub id. A folder under model-cache/ that does not exist yet "
        "is fetched: `../model-cache/smollm2-135m`, `../model-cache/microsoft/Phi-3-mini-4k-instruct`.",
    )
    task: Literal["text-generation", "text-generation-with-past"] = Field(
        "text-generation", description="Task of the model."
    )
    load_kwargs: LoadKwargs = Field(default_factory=LoadKwargs, description="How the model is loaded.")


ExecutionProvider = Literal[
    "CPUExecutionProvider", "CUDAExecutionProvider", "DmlExecutionProvider", "WebGpuExecutionProvider"
]


class Accelerator(Strict):
    """A device and the ONNX Runtime execution provider that drives it."""

    device: Literal["cpu", "gpu"] = Field(description="Kind of processor.")
    execution_providers: list[ExecutionProvider] = Field(
        min_length=1, max_length=1, description="Exactly one ONNX Runtime execution provider."
    )


class System(Strict):
    """A machine that passes run on, or that the model is made for."""

    type: Literal["LocalSystem"] = Field(description="This machine.")
    accelerators: list[Accelerator] = Field(min_length=1, max_length=1, description="Exactly one accelerator.")


class LoadDataset(Strict):
    """Which rows are read."""

    data_name: Literal["json", "csv"] = Field(
        description="Format of the file: json (an array, or one object a line) or csv."
    )
    data_files: str = Field(min_length=1, description="The data file, relative to this file.")
    split: Literal["train"] = Field("train", description="A local file has one split, `train`.")


class PreProcess(Strict):
    """How a row becomes tokens."""

    text_template: str = Field(
        min_length=1,
        description="Text of one row; `{column}` stands for a column's value. What follows the last but one column, up to the last "
        "column, ends the prompt; the last column and all after it is the completion.",
    )
    strategy: Literal["line-by-line"] = Field(
        description="One sequence a row. To be written out: Olive's own default is another."
    )
    max_seq_len: int = Field(
        1024, ge=8, description="Longest sequence, in tokens. A longer row is dropped and counted."
    )
    pad_to_max_len: bool = Field(
        True, description="Olive only: pad each row to max_seq_len. Here, rows are padded to their batch."
    )
    add_special_tokens: bool = Field(
        True,
        description="Olive only: put the texts of the BOS and EOS tokens around each row. Here both are always exactly right.",
    )


class DataConfig(Strict):
    """A data set, named so that passes can refer to it."""

    name: str = Field(pattern=r"^[A-Za-z0-9_]+$", description="Letters, digits and underscores.")
    type: Literal["HuggingfaceContainer"] = Field(description="The one container type for text.")
    load_dataset_config: LoadDataset = Field(description="Which rows are read.")
    pre_process_data_config: PreProcess = Field(description="How a row becomes tokens.")


class TrainingArgs(Strict):
    """Settings of transformers' Trainer. Defaults are Olive's."""

    num_train_epochs: float = Field(3.0, gt=0, description="Passes over the training rows.")
    max_steps: int = Field(-1, ge=-1, description="Optimizer steps; -1 lets num_train_epochs decide.")
    per_device_train_batch_size: PositiveInt = Field(8, description="Rows per step and device.")
    per_device_eval_batch_size: PositiveInt = Field(8, description="Rows per evaluation step and device.")
    gradient_accumulation_steps: PositiveInt = Field(1, description="Batches per optimizer step.")
    gradient_checkpointing: bool = Field(
        True, description="Recompute activations in the backward pass: less memory, about a fifth slower."
    )
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="Peak learning rate.")
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        "constant", description="How the learning rate falls over the run."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises from 0.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled weight decay of AdamW.")
    max_grad_norm: float = Field(
        1.0, ge=0, description="Gradients with a larger norm are scaled down to it; 0 switches it off."
    )
    adam_beta1: Fraction = Field(0.9, description="Decay of AdamW's first moment.")
    adam_beta2: Fraction = Field(0.999, description="Decay of AdamW's second moment.")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    logging_steps: PositiveInt = Field(10, description="Steps between two lines of the loss log.")
    eval_steps: PositiveInt | None = Field(
        None, description="Steps between two measurements of the held-out loss; null: once an epoch."
    )
    save_steps: PositiveInt | None = Field(None, description="Steps between two checkpoints; null: ten a run.")
    save_total_limit: PositiveInt = Field(1, description="Checkpoints that are kept.")
    seed: int = Field(42, ge=0, description="Seed of the weights that start at random, and of dropout.")
    data_seed: int = Field(42, ge=0, description="Seed of the order of rows and of the held-out split.")
    report_to: Literal["none"] = Field(
        "none", description="Experiment trackers; the run's own metrics.jsonl is always written."
    )


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
    train_data_config: str = Field(description="Name of the data config to train on.")
    eval_data_config: str | None = Field(None, description="Name of the data config that holds the held-out rows.")
    eval_dataset_size: float = Field(
        0.0,
        ge=0,
        description="Rows held out of the training data: a fraction below 1, or a count. They are chosen by content, evenly over "
        "the answers where these are labels, and never trained on. Olive ignores this key.",
    )
    completion_only_loss: bool = Field(
        True,
        description="Train on the completion alone and not on the prompt. Olive ignores this key and trains on all.",
    )
    training_args: TrainingArgs = Field(default_factory=TrainingArgs, description="Settings of the trainer.")


class LoRA(FinetunePass):
    """Low-rank adaptation: https://arxiv.org/abs/2106.09685."""

    produces: ClassVar[Kind] = "adapter"

    type: Literal["LoRA"] = Field(description="Low-rank adaptation.")
    r: PositiveInt = Field(64, description="Rank of the adapter.")
    alpha: float = Field(16, gt=0, description="Scale of the adapter: its output is multiplied by alpha / r.")
    lora_dropout: Fraction = Field(0.05, description="Dropout on the adapter's input.")
    int4_aware: bool = Field(
        False,
        description="Every other step sees the base rounded to 4 bits, as an export with mixed_layers:int8 leaves it, so that the "
        "adapter fits both. Takes the memory of one more copy of the base. Olive ignores this key.",
    )
    target_modules: list[str] | None = Field(
        None,
        min_length=1,
        description="Linear modules that get an adapter, by the end of their name; null: those of the attention.",
    )


class QLoRA(LoRA):
    """LoRA over a base in 4 bits: https://arxiv.org/abs/2305.14314. Merging goes back to the full-precision base."""

    type: Literal["QLoRA"] = Field(description="Low-rank adaptation over a 4-bit base.")  # type: ignore[assignment]
    quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit number format of the base.")
    double_quant: bool = Field(
        False, description="Quantise the quantisation constants as well: 0.4 bits less per weight."
    )
    compute_dtype: Dtype | None = Field(None, description="Type of the matrix products; null: torch_dtype.")


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
    int4_block_size: Literal[16, 32, 64, 128, 256] | None = Field(
        None, description="Weights that share one scale; null: 32."
    )
    int4_accuracy_level: Literal[1, 2, 3, 4] | None = Field(
        None, description="Type of the activations in 4-bit products: 1 fp32, 2 fp16, 3 bf16, 4 int8; null: 4 on a CPU."
    )
    int4_is_symmetric: bool | None = Field(None, description="Symmetric quantisation, without zero points; null: true.")
    int4_algo_config: Literal["default", "rtn", "rtn_last", "k_quant", "k_quant_last", "k_quant_mixed"] | None = Field(
        None,
        description="How weights are rounded; the names that end in _last and _mixed keep the head or more in 8 bits.",
    )
    extra_options: BuilderOptions = Field(default_factory=BuilderOptions, description="Further options of the builder.")


AnyPass = Annotated[LoRA | QLoRA | FullFinetune | MergeAdapterWeights | ModelBuilder, Field(discriminator="type")]


class Evaluation(Strict):
    """evaluation.json, beside the config: what the quality ladder measures. Olive would reject these keys, so they have a file."""

    task: Literal["classification", "generation"] = Field(
        "generation", description="classification: the completion is one of a few labels. generation: it is free text."
    )
    max_rows: PositiveInt = Field(
        200, description="Held-out rows that are scored at most; the first of the shuffled split."
    )
    max_new_tokens: PositiveInt = Field(64, description="Longest answer, in tokens.")
    batch_size: PositiveInt = Field(16, description="Prompts that are answered at once.")


class Workflow(Strict):
    """The whole config. Flat, as Olive takes it since 0.7."""

    input_model: InputModel = Field(description="The base model.")
    systems: dict[str, System] = Field(min_length=1, description="Machines, by name.")
    data_configs: list[DataConfig] = Field(default_factory=list, description="Data sets that passes refer to.")
    passes: dict[str, AnyPass] = Field(min_length=1, description="Stages, in the order in which they run.")
    host: str = Field(description="System that the passes run on.")
    target: str = Field(description="System that the model is made for.")
    cache_dir: str = Field("cache", description="Olive only: where it keeps its own cache.")
    output_dir: str = Field("output", description="Olive only: where it writes its last model. Ours go to gen-model/.")
    log_severity_level: int = Field(1, ge=0, le=4, description="Olive only: 0 verbose … 4 fatal.")
    search_strategy: Literal[False] = Field(False, description="Search over pass options is not run from this file.")
    evaluate_input_model: bool = Field(
        False, description="Olive only: here `evaluate` always measures the base model too."
    )

    evaluation: Evaluation = Field(
        default_factory=Evaluation, exclude=True, description="Read from evaluation.json beside this file."
    )

    def data_config(self, name: str) -> DataConfig:
        """The data config called `name`; the loader has made sure that it exists."""
        return next(d for d in self.data_configs if d.name == name)

    @property
    def finetune(self) -> tuple[str, FinetunePass] | None:
        """The first pass that trains, with its name."""
        return next(((n, p) for n, p in self.passes.items() if isinstance(p, FinetunePass)), None)

    @property
    def execution_provider(self) -> str:
        return self.systems[self.target].accelerators[0].execution_providers[0]

    @property
    def host_device(self) -> str:
        return self.systems[self.host].accelerators[0].device


def canonical(value: BaseModel) -> dict[str, Any]:
    """A model as plain JSON values, every default written out."""
    return value.model_dump(mode="json")
