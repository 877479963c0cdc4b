"""`training_args`: settings of transformers' Trainer that have an effect here. config/dialects/training_keys.py lists the others."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from phi_runtime.config.schema.common import Count, Names, Strict, Whole, list_or_one, no_effect
from phi_runtime.config.schema.training_basics import TrainingBasics

Tracker = Literal["none", "all", "tensorboard", "mlflow", "trackio", "wandb"]


def _fsdp_shape(value: Any) -> str:
    return "nothing" if value is None else "flags" if isinstance(value, str) else "switch"


class FsdpConfig(Strict):
    """Settings of fully sharded data parallel (FSDP2): https://huggingface.co/docs/accelerate/usage_guides/fsdp."""

    version: Literal[2] = Field(2, description="Version of FSDP; only 2 is supported.")
    reshard_after_forward: bool = Field(
        True,
        description="Free gathered weights after the forward pass. Default true: less memory; false saves one all-gather per "
        "layer.",
    )
    auto_wrap_policy: Literal["TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"] = Field(
        "TRANSFORMER_BASED_WRAP",
        description="Unit of sharding: each transformer layer (default), modules of min_num_params parameters "
        "(SIZE_BASED_WRAP), or the model as a whole (NO_WRAP).",
    )
    transformer_layer_cls_to_wrap: Names | None = Field(
        None, description=("TRANSFORMER_BASED_WRAP: classes of the layers to shard. Default null: those that the model names."),
        examples=[["Phi3DecoderLayer"]],
    )  # fmt: skip
    min_num_params: Annotated[Whole, Field(ge=0)] = Field(
        0, description=("SIZE_BASED_WRAP: minimum number of parameters of a sharded unit. Default 0.")
    )
    cpu_offload: bool = Field(
        False,
        description="Keep the shards in host memory. Default false; set true if they do not fit into GPU memory, at a large "
        "cost in speed.",
    )
    cpu_ram_efficient_loading: bool = Field(
        False,
        description="Read the weights from disk in the first process only. Default false; saves host memory with many "
        "processes.",
    )
    activation_checkpointing: bool = Field(
        False,
        description=("FSDP's own recomputation of activations, instead of gradient_checkpointing. Default false."),
    )
    state_dict_type: Literal["FULL_STATE_DICT", "SHARDED_STATE_DICT"] = Field(
        "FULL_STATE_DICT",
        description="Layout of a checkpoint: the complete model (FULL_STATE_DICT, default), or one file per process "
        "(SHARDED_STATE_DICT), faster for large models.",
    )


class AcceleratorConfig(Strict):
    """Distribution of batches by accelerate."""

    even_batches: bool = Field(
        True,
        description="Several processes: fill the last batch with rows from the start, so that all have the same number. "
        "Default true.",
    )
    non_blocking: bool = Field(
        False, description=("Copy batches to the GPU while it computes. Default false; needs dataloader_pin_memory.")
    )


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
    """Fields that training/ converts, instead of passing them to the Trainer."""

    report_to: Annotated[
        Annotated[Tracker, Tag("one")] | Annotated[list[Tracker], Tag("a list")],
        Discriminator(list_or_one),
    ] = Field(
        "none",
        description="Experiment trackers, one or a list; all: every installed one. Default none. metrics.jsonl of the run is "
        "always written.",
    )
    run_name: Annotated[str, Field(min_length=1)] | None = Field(
        None, description=("Name of the run in the trackers. Default null: the name of the run folder.")
    )
    project: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description=("Project name under which trackers group runs. Default null: the name of the project folder."),
    )
    trackio_space_id: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="trackio: Hugging Face Space that shows the run to others. Default null: the run stays on this machine.",
    )
    trackio_bucket_id: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="trackio: storage bucket of that Space. Default null: trackio chooses."
    )
    trackio_static_space_id: Annotated[str, Field(min_length=1)] | Literal[False] | None = Field(
        None, description=("trackio: read-only Space for the finished run. Default null: trackio chooses; false: none.")
    )
    output_dir: str | None = no_effect(
        None, "No effect here: checkpoints are kept in gen-model/.work until the stage is finished."
    )

    # -- speed and memory ------------------------------------------------------------------------------------------------

    torch_compile: bool = Field(
        False,
        description="Compile the model with torch.compile: minutes of startup for faster steps. Default false; pays off in "
        "long runs with padded rows of one length.",
    )
    torch_compile_backend: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Backend of torch.compile. Default null: inductor.", examples=["inductor"]
    )
    torch_compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = (
        Field(
            None,
            description=("Optimization mode of torch.compile. Default null: default; max-autotune compiles longest."),
        )
    )
    use_liger_kernel: bool = Field(
        False,
        description="CUDA: use Liger's fused kernels (pip install liger-kernel), which are faster and need less memory. "
        "Default false.",
    )
    liger_kernel_config: dict[str, bool] | None = Field(
        None, description=('Liger kernels to use, such as {"rope": false}. Default null: all that support the model.')
    )
    torch_empty_cache_steps: Count | None = Field(
        None,
        description="Steps between two releases of unused GPU memory: about 10 % slower, less fragmentation. Default null: "
        "never; set it if memory runs out late in a run.",
    )
    dataloader_num_workers: Annotated[Whole, Field(ge=0)] = Field(
        0,
        description="Processes that prepare batches. Default 0: none, which is usually fastest since rows are tokenized "
        "before training.",
    )
    dataloader_prefetch_factor: Count | None = Field(
        None, description="Batches that each worker prepares in advance. Default null: 2."
    )
    dataloader_persistent_workers: bool = Field(
        False, description="Keep the workers from one epoch to the next. Default false."
    )
    dataloader_multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = Field(
        None, description=("Start method of the workers. Default null: that of the operating system.")
    )
    dataloader_in_order: Literal[True] = Field(
        True, description=("Return batches in order. Always true, so that a run resumes exactly where it stopped.")
    )
    dataloader_pin_memory: bool | None = Field(
        None,
        description="Keep batches in page-locked memory, which a GPU copies faster. Default null: true if there is a GPU.",
    )
    dataloader_drop_last: bool = Field(
        False, description="Skip the last batch of an epoch if it is incomplete. Default false."
    )
    full_determinism: bool = Field(
        False,
        description="CUDA: use deterministic kernels, so that two runs give identical weights; slower. Default false. CPU "
        "runs are always deterministic.",
    )
    debug: Literal["", "underflow_overflow"] = Field(
        "",
        description="underflow_overflow: stop at the first layer with a non-finite output and print it. Default empty: off.",
    )

    # -- several processes and devices -------------------------------------------------------------------------------------

    average_tokens_across_devices: bool = Field(
        True,
        description="Weight every trained token equally across processes, so that the number of processes does not change "
        "the loss. Default true.",
    )
    ddp_backend: Literal["nccl", "gloo", "mpi", "xccl", "hccl"] | None = Field(
        None,
        description=("Communication backend of several processes. Default null: nccl between GPUs, gloo between CPUs."),
    )
    ddp_timeout: Count = Field(
        1800, description=("Seconds after which a process that does not respond ends the run. Default 1800.")
    )
    ddp_find_unused_parameters: bool | None = Field(
        None, description=("Search for weights without a gradient at each step. Default null: transformers decides.")
    )
    ddp_bucket_cap_mb: Count | None = Field(None, description="Size of a gradient transfer, in MB. Default null: 25.")
    ddp_broadcast_buffers: bool | None = Field(
        None,
        description=("Send the buffers of the first process to all at each step. Default null: transformers decides."),
    )
    ddp_static_graph: bool | None = Field(
        None,
        description="Declare that each step uses the same weights, which lets DDP communicate less. Default null: "
        "transformers decides.",
    )
    fsdp: Annotated[
        Annotated[str, Tag("flags"), Field(pattern=r"^(full_shard|shard_grad_op|offload|auto_wrap| )+$")]
        | Annotated[bool, Tag("switch")]
        | Annotated[None, Tag("nothing")],
        Discriminator(_fsdp_shape),
    ] = Field(
        None,
        description="Shard the model over the processes with FSDP2: true, or the options of older transformers, such as "
        "`full_shard auto_wrap`. Default null: every process holds the complete model.",
    )
    fsdp_config: FsdpConfig | None = Field(
        None, description=("How FSDP shards the model. Default null: one unit per transformer layer.")
    )
    deepspeed: Annotated[str, Field(min_length=1)] | dict[str, Any] | None = Field(
        None,
        description="DeepSpeed settings (pip install deepspeed), or the path of the file that holds them. Default null: "
        "DeepSpeed is not used.",
    )
    accelerator_config: AcceleratorConfig | None = Field(
        None, description="How accelerate distributes batches. Default null: its defaults."
    )
    log_on_each_node: bool = Field(
        True, description="Several machines: each one logs, not only the first. Default true."
    )
    save_on_each_node: bool = Field(
        False, description=("Several machines: each one saves checkpoints, not only the first. Default false.")
    )
