"""Sidecar files of the config, with settings that Olive would reject in it."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from phi_runtime.config.schema.common import Count, Strict, Whole
from phi_runtime.config.tasks import METRICS, Task

_COST_KEYS = {"propertyNames": {"pattern": ".(→|->)."}}
_METRICS = {
    "properties": {metric: {"type": "number"} for metric in dict.fromkeys(sum(METRICS.values(), ("mean_cost",)))}
}

Costs = Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(json_schema_extra=_COST_KEYS)]
Combinations = dict[str, Annotated[dict[str, float], Field(min_length=1, json_schema_extra=_METRICS)]]


class EvaluationOfPass(Strict):
    """Evaluation settings of one training pass; null: as for all passes."""

    task: Task | None = Field(None, description="Kind of the answers, which selects the metrics. Default null: `task`.")
    max_rows: Count | None = Field(None, description="Maximum number of measured rows. Default null: `max_rows`.")
    max_new_tokens: Count | None = Field(
        None, description="Maximum length of an answer, in tokens. Default null: `max_new_tokens`."
    )
    batch_size: Count | None = Field(None, description="Prompts answered at once. Default null: `batch_size`.")
    # Excluded from dumps, as in `Evaluation`.
    cost: Costs | None = Field(
        None,
        exclude=True,
        description="Costs of confusions of this pass. Default null: `cost`.",
        examples=[{"fear→joy": 5}],
    )
    combined: Combinations | None = Field(
        None,
        exclude=True,
        description="Weighted sums of metrics of this pass. Default null: `combined`.",
        examples=[{"my_score": {"accuracy": 0.7, "macro_f1": 0.3}}],
    )


class Constraints(Strict):
    """Limits that a model chosen by `phi-scaffold optimize` must meet; null: the limit of the target, or none."""

    max_size_mb: float | None = Field(
        None,
        gt=0,
        description="Maximum size of the folder of the ONNX model, in MB (1,000,000 bytes). Default null: no limit. An int4 "
        "model takes about 0.6 MB per million parameters.",
    )
    max_accuracy_drop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Maximum loss of the task's first metric on the validation rows against the full-precision model, as a fraction: "
        "0.05 allows 0.90 after 0.95; 1 allows everything. The upper end of the paired 95 % interval decides: 120 rows show "
        "a loss below 0.031 at best, 200 rows 0.019. For rows without answers, which have no metric, the drop of the mean "
        "probability of a token. Default null: 0.05.",
    )
    min_tokens_per_s: float | None = Field(
        None,
        gt=0,
        description="Minimum speed of generating one answer on this machine, in tokens per second. Default null: no limit; 10 "
        "reads fluently.",
    )
    max_memory_mb: float | None = Field(
        None,
        gt=0,
        description="Maximum peak memory of a process that generates with a context of 2,048 tokens, in MB (1,000,000 bytes). "
        "Default null: no limit.",
    )


class Evaluation(Strict, defer_build=False):
    """evaluation.json: how models are compared on the test rows, or on the validation rows if there are none."""

    task: Task = Field(
        "generation",
        description="Kind of the answers, which selects the metrics: classification (one of a few labels): accuracy; chat and "
        "generation (free text): token F1; question-answering (short text): SQuAD F1; summarization: ROUGE-L; "
        "extraction (a JSON object): F1 of its fields. Default generation.",
    )
    max_rows: Count = Field(
        200,
        description="Maximum number of rows to score, sampled evenly over labels. Default 200; more rows narrow the confidence "
        "intervals and take proportionally longer.",
    )
    max_new_tokens: Count = Field(
        64,
        description="Maximum length of an answer, in tokens. Default 64; raise it if expected answers are longer, as in "
        "summaries.",
    )
    batch_size: Count = Field(
        16, description="Prompts answered at once. Default 16; lower it if memory runs out, raise it on a large GPU."
    )
    passes: dict[str, EvaluationOfPass] = Field(
        default_factory=dict,
        description="Settings of single training passes that differ, by the name of the pass. Default: none.",
        examples=[{"style": {"task": "generation"}}],
    )
    # Excluded from dumps: they do not shape what any stage trains or measures.
    cost: Costs = Field(
        default_factory=dict,
        exclude=True,
        description="Costs of confusions of a classification, by expected and predicted label: `fear→joy`, or `fear->joy`. Any "
        "other wrong answer costs 1, a right one 0; the metric `mean_cost` is the mean over the rows. Default: none.",
        examples=[{"fear→joy": 5}],
    )
    combined: Combinations = Field(
        default_factory=dict,
        exclude=True,
        description="Metrics of your own, by name: weighted sums of the metrics of the task, `mean_cost` and those of hooks.py. "
        "Default: none.",
        examples=[{"my_score": {"accuracy": 0.7, "macro_f1": 0.3}}],
    )
    constraints: Constraints = Field(
        default_factory=Constraints,
        exclude=True,
        description="Limits for `phi-scaffold optimize`; its flags override them.",
    )

    def of(self, training: str) -> Self:
        """Return the settings for the training pass `training`."""
        own = self.passes.get(training)
        return self.model_copy(update={key: value for key, value in own if value is not None}) if own else self

    @property
    def own_metrics(self) -> dict[str, Any]:
        """The metrics that this file defines, which are computed from the results of the rows."""
        return {key: value for key, value in (("cost", self.cost), ("combined", self.combined)) if value}


class SearchStrategy(Strict):
    """Sampler, budget and objective of a search."""

    type: Literal["random", "tpe", "grid"] = Field(
        "random",
        description="Sampler. random (default): independent samples. tpe: samples near good trials, worth it from about 20 "
        "trials. grid: every combination once.",
    )
    num_trials: Count = Field(
        20,
        description="Number of trials. Default 20; a grid runs all its combinations unless this is set. Each trial is one "
        "training.",
    )
    seed: Whole | None = Field(
        None, ge=0, description="Seed of the sampler. Default null: a different search each time."
    )
    metric: str = Field(
        "validation_loss",
        description="Objective: validation_loss (default) or perplexity, or a metric for which each trial answers the validation "
        "rows: one of the task in evaluation.json, such as accuracy, `mean_cost` of its `cost`, or one of its `combined`. "
        "Perplexity, `mean_cost` and names that end in `loss` are minimized, others maximized.",
        examples=["validation_loss", "accuracy", "mean_cost"],
    )
    pruner: Literal["median", "none"] = Field(
        "median",
        description="median (default): stop a trial whose best value is worse than the median of the other trials at the same "
        "progress. none: run every trial to the end.",
    )


class FloatRange(Strict):
    """Real numbers from `low` to `high`."""

    type: Literal["float"] = Field(description="A range of real numbers.")
    low: float = Field(description="Smallest value.", examples=[1e-5])
    high: float = Field(description="Largest value.", examples=[1e-3])
    log: bool = Field(False, description="Sample the logarithm uniformly. Default false; set true for learning rates.")
    points: Count = Field(5, description="Number of evenly spaced values in a grid search. Default 5.")


class IntRange(Strict):
    """Whole numbers from `low` to `high`, both included."""

    type: Literal["int"] = Field(description="A range of whole numbers.")
    low: Whole = Field(description="Smallest value.", examples=[8])
    high: Whole = Field(description="Largest value, included.", examples=[64])
    log: bool = Field(
        False,
        description="Sample the logarithm uniformly; a grid search doubles the value from `low` on. Default false; set true for "
        "ranks and batch sizes.",
    )
    step: Count = Field(1, description="Distance between two values. Default 1; not allowed with `log`.")


class Choice(Strict):
    """One of several values."""

    type: Literal["choice"] = Field(description="One of several values.")
    values: list[Any] = Field(min_length=1, description="Values to choose from.", examples=[[8, 16, 32]])


class Sweep(Strict):
    """sweep.yaml: a search over values of the config.

    A key of the search space is an option of the training pass (`r`, `training_args.learning_rate`) or a dotted path from the
    top of the config (`passes.finetune.r`, `data_configs.train_data.pre_process_data_config.max_seq_len`).
    """

    search_strategy: SearchStrategy = Field(
        default_factory=SearchStrategy, description="Sampler, number of trials, objective and pruning."
    )
    search_space: dict[str, Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]] = Field(
        min_length=1,
        description="Values to try, by key: an option of the training pass (`r`, `training_args.learning_rate`), or a dotted "
        "path from the top of the config.",
    )


class CondaEnvironment(Strict):
    """conda.yaml: the environment of an Azure ML job, in conda's own format."""

    name: str | None = Field(None, description="Name of the environment. Default null: conda chooses.")
    channels: list[str] = Field(
        default_factory=list, description="Channels that conda searches for packages, in order."
    )
    dependencies: list[str | dict[Literal["pip"], list[str]]] = Field(
        min_length=1, description="conda packages, and under `pip` packages of the Python package index."
    )
