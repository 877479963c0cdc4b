"""The base of every pass, and the settings that all passes that train have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Count, Dtype, Kind, Strict
from phi_runtime.config.schema.training_args import TrainingArgs


def _is_unset(value: Any) -> bool:
    """Return True for the default of a newer key, which is not dumped: the keys of earlier results stay valid."""
    return not value


class Pass(Strict):
    """One stage of a workflow: a model goes in, a model comes out.

    A concrete pass is one file: its fields, what it accepts and produces, the libraries that shape its output, and
    `run`. `registry.register` makes it available to configs under the value of its `type` field.
    """

    accepts: ClassVar[Kind]
    produces: ClassVar[Kind]
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions shape the output: another version makes the stage stale."""
    devices: ClassVar[tuple[Literal["cpu", "gpu"], ...]] = ("cpu", "gpu")
    """Devices that the pass can run on; `validate` refuses a `host` with another one."""
    merges: ClassVar[bool] = False
    """True if the output is an adapter that can be added to the weights of its base."""
    adds_low_rank: ClassVar[bool] = False
    """True if the output is an adapter that adds a product of two matrices to each weight, which an ONNX graph can take as
    input and which adds up with others."""
    multi_adapter: ClassVar[bool] = False
    """True if peft can load several adapters of this type on one base and switch between them."""
    depends_on_provider: ClassVar[bool] = False
    """True if the output depends on the execution provider of `target`."""
    written: ClassVar[bool] = True
    """False if the config does not list it among its passes."""

    type: str
    host: str | None = Field(
        None,
        exclude=True,  # the same model on every machine
        description="Name of the Azure ML system that this pass runs on. Default null: `host` of the config. Passes on several "
        "systems are one pipeline job.",
        examples=["build_system"],
    )

    def run(self, context: Any) -> dict[str, Any]:
        """Fill `context.out` (a `PassContext`) with the output model; return facts for its manifest."""
        raise NotImplementedError

    @property
    def rows(self) -> FinetunePass | None:
        """The pass whose rows the output and what follows from it are measured on; None if there are none of its own."""
        return None

    def inputs(self, workflow: Any) -> dict[str, Any] | None:
        """Return what shapes the output besides settings, source and libraries; None if it is not on this machine yet."""
        del workflow
        return {}

    def conflicts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield settings that contradict each other: the key path below the pass, and the message."""
        yield from ()

    def output_bytes(self, shape: Any, source_bytes: int) -> int:
        """Return about how many bytes the output takes on disk, given the `Shape` of the base model."""
        return source_bytes


class FinetunePass(Pass):
    """Settings that all kinds of fine-tuning have in common."""

    accepts: ClassVar[Kind] = "hf"
    quantized_base: ClassVar[bool] = False
    """True if the base model is held in 4 bits during training."""

    torch_dtype: Dtype = Field(
        "bfloat16",
        description="Number type of the frozen weights. Default bfloat16: half the memory of float32 and the same range. A "
        "CPU without AMX instructions computes in float32 instead, and a warning says so.",
    )
    device_map: Literal["auto", "current_device"] | None = Field(
        "auto",
        description="auto (default): on a machine with several GPUs, spread a model that exceeds one of them over all, layer "
        "by layer. current_device or null: always the first device of `host`.",
    )
    allow_tf32: bool = Field(
        True,
        description="CUDA: multiply float32 matrices in TF32, about twice as fast with 10 bits of mantissa. Default true; set "
        "false to compare losses bit by bit.",
    )
    train_data_config: str = Field(description="Name of the data config to train on.", examples=["train_data"])
    eval_data_config: str | None = Field(
        None,
        description="Name of the data config with the validation rows. Default null: take them from the training data with "
        "eval_dataset_size, or validate on nothing.",
    )
    eval_dataset_size: float = Field(
        0.0,
        ge=0,
        description="Validation rows to split off the training data: a fraction below 1, or a number of rows. Default 0: "
        "none; 0.1 to 0.2 is usual. Rows are chosen by content, stratified where the answers are labels, and "
        "never trained on. Olive ignores this key.",
    )
    test_data_config: str | None = Field(
        None,
        exclude_if=_is_unset,
        description="Name of the data config with the test rows, which only the final comparison reads. Default null: take them "
        "from the training data with test_dataset_size, or compare on the validation rows. Olive ignores this key.",
    )
    test_dataset_size: float = Field(
        0.0,
        ge=0,
        exclude_if=_is_unset,
        description="Test rows to split off the training data, which only the final comparison reads: a fraction below 1, or a "
        "number of rows. Default 0: none, and the comparison reads the validation rows, on which the best checkpoint was "
        "chosen; 0.1 is usual. Olive ignores this key.",
    )
    completion_only_loss: bool | None = Field(
        None,
        description="Compute the loss on completions only, not on prompts. Default null: true for a text_template line by "
        "line, false where rows are joined or text columns are used. Olive ignores this key and trains on all "
        "tokens.",
    )
    packing: bool | None = Field(
        None,
        description="Pack several rows of a batch into one line instead of padding each to the longest; rows do not attend to "
        "each other, and the loss is the same. Default null: whichever needs fewer tokens. Olive ignores this "
        "key.",
    )
    early_stopping_patience: Count | None = Field(
        None,
        description="Stop after this many evaluations without improvement. Default null: never; 2 to 5 is usual. Olive "
        "ignores this key.",
    )
    early_stopping_threshold: float = Field(
        0.0,
        ge=0,
        description="Smallest improvement of the metric that counts, in its own unit. Default 0: any. Olive ignores this key.",
    )
    training_args: TrainingArgs = Field(
        default_factory=TrainingArgs,
        description="Settings of the trainer: steps, batch, learning rate, evaluation, checkpoints.",
    )

    @property
    def rows(self) -> FinetunePass:
        return self

    @property
    def data_names(self) -> tuple[str, ...]:
        """Names of the data configs that shape the output of the pass, the training data first."""
        return tuple(dict.fromkeys(name for name in (self.train_data_config, self.eval_data_config) if name))

    @property
    def measured_names(self) -> tuple[str, ...]:
        """Names of the data configs that the pass and the comparison of its models read."""
        return tuple(dict.fromkeys([*self.data_names, *([self.test_data_config] if self.test_data_config else [])]))

    @property
    def has_validation_rows(self) -> bool:
        """True if a validation loss can be measured."""
        return bool(self.eval_data_config or self.eval_dataset_size)

    @property
    def compute_type(self) -> Dtype:
        """Number type that the config requests for matrix products."""
        return self.torch_dtype

    @property
    def recomputes_activations(self) -> bool:
        """True if training/recomputation.py keeps fewer activations, as no setting takes care of memory instead."""
        settings = self.training_args
        others = ("gradient_checkpointing", "torch_compile", "use_liger_kernel", "fsdp", "deepspeed")
        return not any(getattr(settings, key) for key in others)

    @property
    def rounds_base(self) -> bool:
        """True if every other step sees the base as the int4 export rounds it."""
        return False

    @property
    def virtual_tokens(self) -> int:
        """Learned tokens that are put before every row."""
        return 0
