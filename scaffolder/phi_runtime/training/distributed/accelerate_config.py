"""The config of `accelerate launch` for the processes of a training."""

from __future__ import annotations

from typing import Any

import yaml

from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.config.schema.training_args import FsdpConfig
from phi_runtime.training.distributed.nodes import ALONE, Rendezvous

_HEAD = "# How accelerate starts the processes of a training: https://huggingface.co/docs/accelerate/package_reference/cli\n"


def accelerate_config(
    workflow: Workflow, step: FinetunePass, processes: int, machines: Rendezvous = ALONE
) -> dict[str, Any]:
    """Return the config that starts the processes of `step` on this one of `machines`: `processes` on all of them together.

    The workers take all training settings, mixed precision too, from the workflow. FSDP is included because accelerate
    chooses the communication backend by it.
    """
    cpu = workflow.host_device == "cpu"
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        # accelerate starts several processes for MULTI_GPU only; with use_cpu they run on the CPU and communicate over gloo
        "distributed_type": "MULTI_GPU",
        "use_cpu": cpu,
        "mixed_precision": "no",
        "num_machines": machines.count,
        "num_processes": processes,
        "machine_rank": machines.rank,
        "main_process_port": machines.port,
        "rdzv_backend": "static",
        "same_network": True,
        "debug": False,
    }
    if machines.address:
        config["main_process_ip"] = machines.address
    if step.training_args.fsdp and not cpu:
        config |= {"distributed_type": "FSDP", "fsdp_config": _fsdp(step.training_args.fsdp_config or FsdpConfig())}
    return config


def _fsdp(settings: FsdpConfig) -> dict[str, Any]:
    """Return all settings by accelerate's names, defaults too: its own default reads the weights in the first process only."""
    layers = settings.transformer_layer_cls_to_wrap
    named = settings.model_dump(exclude={"cpu_offload", "transformer_layer_cls_to_wrap"})
    named |= {"offload_params": settings.cpu_offload, "transformer_layer_cls_to_wrap": layers and ",".join(layers)}
    return {f"fsdp_{name}": value for name, value in named.items() if value is not None}


def as_yaml(config: dict[str, Any]) -> str:
    """Return `config` as the YAML file that accelerate reads."""
    return _HEAD + yaml.safe_dump(config, sort_keys=False)
