"""`training_args`: every setting of transformers' Trainer that has a meaning here; workflow/spellings.py says what becomes of the
others."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from phi_runtime.config.schema.common import Count, Strict, Whole
from phi_runtime.config.schema.training_basics import TrainingBasics

Tracker = Literal["none", "all", "tensorboard", "mlflow", "trackio", "wandb"]


def _trackers_shape(value: Any) -> str:
    return "a list" if isinstance(value, list | tuple) else "literal[tracker]"


def _fsdp_shape(value: Any) -> str:
    return "nullable" if value is None else "constrained-str" if isinstance(value, str) else "bool"


class FsdpConfig(Strict):
    """How fully sharded data parallel (FSDP2) cuts the model: https://huggingface.co/docs/accelerate/usage_guides/fsdp."""

    version: Literal[2] = Field(2, description="The version of FSDP.")
    reshard_after_forward: bool = Field(
        True, description="Give weights back after the forward pass: less memory, more traffic."
    )
    auto_wrap_policy: Literal["TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"] = Field(
        "TRANSFORMER_BASED_WRAP", description="What is sharded as one piece."
    )
    transformer_layer_cls_to_wrap: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="TRANSFORMER_BASED_WRAP: classes of the layers; null: as the model says.",
        examples=[["Phi3DecoderLayer"]],
    )  # fmt: skip
    min_num_params: Annotated[Whole, Field(ge=0)] = Field(0, description="SIZE_BASED_WRAP: parameters of a piece.")
    cpu_offload: bool = Field(False, description="Keep the shards in the host's memory.")
    cpu_ram_efficient_loading: bool = Field(False, description="Only the first process reads the weights from disk.")
    activation_checkpointing: bool = Field(False, description="FSDP's own way to recompute activations.")
    state_dict_type: Literal["FULL_STATE_DICT", "SHARDED_STATE_DICT"] = Field(
        "FULL_STATE_DICT", description="Whether a checkpoint holds the whole model or a file for each process."
    )


class AcceleratorConfig(Strict):
    """What accelerate does with the batches."""

    even_batches: bool = Field(True, description="Several processes: fill the last batch up with rows from the start.")
    non_blocking: bool = Field(False, description="Copy batches to the GPU while it computes.")


class TrainingArgs(TrainingBasics):
    """Settings of transformers' Trainer. Defaults are Olive's."""

    OURS: ClassVar[frozenset[str]] = frozenset(
        {
            "output_dir",
            "data_seed",
            "auto_find_batch_size",
            "eval_strategy",
            "eval_steps",
            "eval_on_start",
            "optim",
            "save_strategy",
            "save_steps",
            "load_best_model_at_end",
            "report_to",
            "project",
        }
    )
    """Fields that training/ makes something of before, or instead of, handing them to the Trainer."""

    report_to: Annotated[
        Annotated[Tracker, Tag("literal[tracker]")] | Annotated[list[Tracker], Tag("a list")],
        Discriminator(_trackers_shape),
    ] = Field(
        "none",
        description="Experiment trackers, one or a list; all: those that are installed. metrics.jsonl is always written.",
    )
    run_name: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Name of the run at the trackers; null: that of the run's folder."
    )
    project: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Name under which trackers group the runs; null: that of the project's folder."
    )
    trackio_space_id: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="trackio: a Hugging Face Space that shows the run to others; null: it stays on this machine."
    )
    trackio_bucket_id: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="trackio: the bucket of that Space; null: trackio's choice."
    )
    trackio_static_space_id: Annotated[str, Field(min_length=1)] | Literal[False] | None = Field(
        None, description="trackio: a read-only Space with the finished run; false: none."
    )
    output_dir: str | None = Field(
        None,
        description="Olive only: where it keeps checkpoints. Here they lie in gen-model/.work until the stage is done.",
    )

    # -- speed and memory ------------------------------------------------------------------------------------------------

    torch_compile: bool = Field(
        False, description="Compile the model with torch.compile: minutes at the start for faster steps."
    )
    torch_compile_backend: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Backend of torch.compile; null: inductor.", examples=["inductor"]
    )
    torch_compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = (
        Field(None, description="What torch.compile aims at; null: default.")
    )
    use_liger_kernel: bool = Field(
        False, description="CUDA: Liger's fused layers (pip install liger-kernel): faster, in less memory."
    )
    liger_kernel_config: dict[str, bool] | None = Field(
        None, description='Which of Liger\'s layers are used, such as {"rope": false}; null: all that suit the model.'
    )
    torch_empty_cache_steps: Count | None = Field(
        None, description="Steps after which unused GPU memory is given back: a tenth slower, fewer gaps in memory."
    )
    dataloader_num_workers: Annotated[Whole, Field(ge=0)] = Field(
        0, description="Processes that lay out batches beside the training; 0: none, as rows are tokenised beforehand."
    )
    dataloader_prefetch_factor: Count | None = Field(None, description="Batches that each worker has ready; null: 2.")
    dataloader_persistent_workers: bool = Field(False, description="Workers stay from one epoch to the next.")
    dataloader_multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = Field(
        None, description="How workers are started; null: as is usual on the system."
    )
    dataloader_in_order: Literal[True] = Field(
        True, description="Batches come in their order, without which a run could not go on exactly where it stopped."
    )
    dataloader_pin_memory: bool | None = Field(
        None, description="Keep batches where a GPU can fetch them by itself; null: where there is a GPU."
    )
    dataloader_drop_last: bool = Field(False, description="Leave out the last batch of an epoch if it is not full.")
    full_determinism: bool = Field(
        False, description="CUDA: the same sums in the same order at every run; slower. A CPU always does so."
    )
    debug: Literal["", "underflow_overflow"] = Field(
        "", description="underflow_overflow: stop at the first layer whose output is not finite, and show it."
    )

    # -- several processes and devices -------------------------------------------------------------------------------------

    average_tokens_across_devices: bool = Field(
        True,
        description="Weigh every trained token alike over all processes, so that their number does not change the loss.",
    )
    ddp_backend: Literal["nccl", "gloo", "mpi", "xccl", "hccl"] | None = Field(
        None, description="How processes talk; null: nccl between GPUs, gloo between CPUs."
    )
    ddp_timeout: Count = Field(1800, description="Seconds after which a process that does not answer ends the run.")
    ddp_find_unused_parameters: bool | None = Field(
        None, description="Look for weights without a gradient at each step; null: transformers decides."
    )
    ddp_bucket_cap_mb: Count | None = Field(None, description="Gradients, in MB, that are sent at once; null: 25.")
    ddp_broadcast_buffers: bool | None = Field(
        None, description="Send buffers from the first process at each step; null: transformers decides."
    )
    ddp_static_graph: bool | None = Field(
        None, description="Promise that each step does the same, which lets DDP send less; null: transformers decides."
    )
    fsdp: Annotated[
        Annotated[str, Tag("constrained-str"), Field(pattern=r"^(full_shard|shard_grad_op|offload|auto_wrap| )+$")]
        | Annotated[bool, Tag("bool")]
        | Annotated[None, Tag("nullable")],
        Discriminator(_fsdp_shape),
    ] = Field(None, description="Shard the model over the processes (FSDP2): true, or the words of older transformers.")
    fsdp_config: FsdpConfig | None = Field(None, description="How FSDP shards; null: by the layers of the model.")
    deepspeed: Annotated[str, Field(min_length=1)] | dict[str, Any] | None = Field(
        None, description="Settings of DeepSpeed (pip install deepspeed), or the file that holds them."
    )
    accelerator_config: AcceleratorConfig | None = Field(None, description="What accelerate does with the batches.")
    log_on_each_node: bool = Field(True, description="Several machines: each logs, and not the first alone.")
    save_on_each_node: bool = Field(False, description="Several machines: each saves, and not the first alone.")

    @property
    def trackers(self) -> list[str]:
        """The trackers of `report_to` without `none`; `all` stays as it is."""
        named = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return [name for name in named if name != "none"]
