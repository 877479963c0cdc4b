"""What a stage of the workflow is, and what all stages that train share."""

from typing import ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Count, Dtype, Kind, Strict
from phi_runtime.config.schema.training_args import TrainingArgs


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
    early_stopping_patience: Count | None = Field(
        None,
        description="Measurements of the held-out rows without a better one after which training stops; null: it never does. Olive "
        "ignores this key.",
    )
    early_stopping_threshold: float = Field(
        0.0,
        ge=0,
        description="By how much a measurement must be better to count as better. Olive ignores this key.",
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
