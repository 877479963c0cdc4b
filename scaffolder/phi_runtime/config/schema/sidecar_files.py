"""The files beside the config: what Olive would not take in it."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from phi_runtime.config.schema.common import Count, Strict, Whole

Task = Literal["classification", "chat", "question-answering", "summarization", "extraction", "generation"]


class EvaluationOfPass(Strict):
    """What is measured otherwise for one pass that trains; null: as for all."""

    task: Task | None = Field(None, description="What its answers are.")
    max_rows: Count | None = Field(None, description="Held-out rows that are scored at most.")
    max_new_tokens: Count | None = Field(None, description="Longest answer, in tokens.")
    batch_size: Count | None = Field(None, description="Prompts that are answered at once.")


class Constraints(Strict):
    """What a model must keep to, to be chosen by `phi-scaffold optimize`; null: its target says, or nothing does."""

    max_size_mb: float | None = Field(
        None, gt=0, description="Largest size of the ONNX model's folder, in MB (1,000,000 bytes)."
    )
    max_accuracy_drop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="How much lower the task's first metric on the held-out rows may be than that of the full-precision model, as a "
        "fraction: 0.02 lets 0.95 become 0.93. Of free text, which has no metric: how much the mean probability of a token may fall. "
        "1 lets everything pass.",
    )
    min_tokens_per_s: float | None = Field(
        None, gt=0, description="Least speed at which one answer is written on this machine, in tokens a second."
    )
    max_memory_mb: float | None = Field(
        None,
        gt=0,
        description="Largest peak memory of a process that answers with a context of 2,048 tokens, in MB (1,000,000 bytes).",
    )


class Evaluation(Strict):
    """evaluation.json: what the quality ladder measures."""

    task: Task = Field(
        "generation",
        description="What the answers are, which says how they are scored. classification: one of a few labels (accuracy). chat, "
        "generation: free text (token F1). question-answering: a short text (SQuAD's token F1). summarization: ROUGE-L. extraction: "
        "a JSON object (F1 of its fields).",
    )
    max_rows: Count = Field(200, description="Held-out rows that are scored at most; the first of the shuffled split.")
    max_new_tokens: Count = Field(64, description="Longest answer, in tokens.")
    batch_size: Count = Field(16, description="Prompts that are answered at once.")
    passes: dict[str, EvaluationOfPass] = Field(
        default_factory=dict,
        description="Where several passes train: what is other for one of them, by its name.",
        examples=[{"style": {"task": "generation"}}],
    )
    # Left out of what is dumped: they shape no stage's output.
    constraints: Constraints = Field(
        default_factory=Constraints,
        exclude=True,
        description="What `phi-scaffold optimize` looks for; its flags go before.",
    )

    def of(self, training: str) -> Self:
        """The settings for what the pass `training` makes."""
        own = self.passes.get(training)
        return self.model_copy(update=own.model_dump(exclude_none=True)) if own else self


class SearchStrategy(Strict):
    """How the search space is walked."""

    type: Literal["random", "tpe", "grid"] = Field(
        "random",
        description="Sampler. random: by chance. tpe: where the trials before were good. grid: every combination, and then it ends.",
    )
    num_trials: Count = Field(20, description="Trials to run in all; a grid takes all of its own unless this is given.")
    seed: Whole | None = Field(None, ge=0, description="Seed of the sampler; null: another search each time.")
    metric: str = Field(
        "validation_loss",
        description="What tells a good trial: validation_loss, perplexity, or a metric of the task in evaluation.json, such as "
        "accuracy, for which each trial answers the held-out rows.",
        examples=["validation_loss", "accuracy"],
    )
    pruner: Literal["median", "none"] = Field(
        "median",
        description="median: a trial whose best so far is worse than the median of the others at the same share of the run is ended. "
        "none: all go to the end.",
    )


class FloatRange(Strict):
    """Real numbers from `low` to `high`."""

    type: Literal["float"] = Field(description="Real numbers.")
    low: float = Field(description="Least value.", examples=[1e-5])
    high: float = Field(description="Largest value.", examples=[1e-3])
    log: bool = Field(False, description="Sample the logarithm evenly, as suits learning rates.")
    points: Count = Field(5, description="Values that a grid takes of it, evenly apart.")


class IntRange(Strict):
    """Whole numbers from `low` to `high`, both included."""

    type: Literal["int"] = Field(description="Whole numbers.")
    low: Whole = Field(description="Least value.", examples=[8])
    high: Whole = Field(description="Largest value.", examples=[64])
    log: bool = Field(False, description="Sample the logarithm evenly; a grid doubles from the least value on.")
    step: Count = Field(1, description="Distance between two values; not with log.")


class Choice(Strict):
    """One of the values."""

    type: Literal["choice"] = Field(description="One of a few values.")
    values: list[Any] = Field(min_length=1, description="The values.", examples=[[8, 16, 32]])


class Sweep(Strict):
    """sweep.yaml: a search over values of the config.

    A key of the search space is one of the pass that trains (`r`, `training_args.learning_rate`) or a dotted path from the top
    of the config (`passes.finetune.r`, `data_configs.train_data.pre_process_data_config.max_seq_len`).
    """

    search_strategy: SearchStrategy = Field(default_factory=SearchStrategy, description="How the space is walked.")
    search_space: dict[str, Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]] = Field(
        min_length=1, description="The values to try, by key."
    )


class CondaEnvironment(Strict):
    """conda.yaml: the environment of an Azure ML job, in conda's own format."""

    name: str | None = Field(None, description="Name of the environment.")
    channels: list[str] = Field(default_factory=list, description="Where conda looks for packages.")
    dependencies: list[str | dict[Literal["pip"], list[str]]] = Field(
        min_length=1, description="conda packages, and under `pip` those from the package index."
    )
