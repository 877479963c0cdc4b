"""The config of `accelerate launch` that a run corresponds to."""

from __future__ import annotations

from typing import Any

import yaml

from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.config.schema.training_args import FsdpConfig

_HEAD = "# How accelerate starts the processes of a training: https://huggingface.co/docs/accelerate/package_reference/cli\n"


def accelerate_config(workflow: Workflow, step: FinetunePass, processes: int) -> dict[str, Any]:
    """How `processes` processes are started for `step`.

    What is trained and how, mixed precision too, the worker takes from the workflow and not from here; FSDP is named because
    accelerate chooses by it what the processes talk over.
    """
    cpu = workflow.host_device == "cpu"
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        # accelerate starts several processes for MULTI_GPU alone; with use_cpu they are of the CPU and talk over gloo
        "distributed_type": "MULTI_GPU",
        "use_cpu": cpu,
        "mixed_precision": "no",
        "num_machines": 1,
        "num_processes": processes,
        "machine_rank": 0,
        "main_process_port": 0,  # a free one
        "rdzv_backend": "static",
        "same_network": True,
        "debug": False,
    }
    if step.training_args.fsdp and not cpu:
        config |= {"distributed_type": "FSDP", "fsdp_config": _fsdp(step.training_args.fsdp_config or FsdpConfig())}
    return config


def _fsdp(given: FsdpConfig) -> dict[str, Any]:
    """In accelerate's words. All are said: it would let only the first process read the weights where that is left open."""
    layers = given.transformer_layer_cls_to_wrap
    named = given.model_dump(exclude={"cpu_offload", "transformer_layer_cls_to_wrap"})
    named |= {"offload_params": given.cpu_offload, "transformer_layer_cls_to_wrap": layers and ",".join(layers)}
    return {f"fsdp_{name}": value for name, value in named.items() if value is not None}


def as_yaml(config: dict[str, Any]) -> str:
    """The file that accelerate reads."""
    return _HEAD + yaml.safe_dump(config, sort_keys=False)
