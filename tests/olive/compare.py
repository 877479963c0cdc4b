"""Where our reading of a config and Olive's differ, option by option."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import Workflow

OUR_KEYS = frozenset(
    {
        "activation_cache_gb",
        "adapters",
        "eval_dataset_size",
        "test_data_config",
        "test_dataset_size",
        "group_by",
        "optional_cols",
        "special_tokens_in_rows",
        "completion_only_loss",
        "gate",
        "int4_aware",
        "int4_calibration",
        "layers",
        "use_rslora",
        "early_stopping_patience",
        "early_stopping_threshold",
        "over_long",
        "packing",
    }
)
"""Keys of passes that Olive passes over, with a warning."""
OUR_KEYS_OF_LORA = frozenset(
    {"init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"}
)
"""The same for LoRA, QLoRA and DoRA; Olive's LoHa and LoKr have these keys."""


def our_keys(step_type: str | None = None) -> frozenset[str]:
    """The keys of a pass of this type, or of a data config, that Olive passes over."""
    return OUR_KEYS | OUR_KEYS_OF_LORA if step_type in ("LoRA", "QLoRA", "DoRA") else OUR_KEYS


NOT_COMPARED = {
    "output_dir": "ours are in gen-model/.work; Olive's are in a temporary folder unless the key says otherwise",
    "report_to": "Olive's `none` becomes an empty list of trackers",
    "save_total_limit": "Olive keeps one checkpoint in its temporary folder, and all of them in an output_dir",
    "debug": "transformers makes a list of it",
    "fsdp": "transformers makes true of its words, and puts their meaning into fsdp_config",
    "fsdp_config": "transformers fills it in",
    "accelerator_config": "transformers fills it in",
}
"""Keys of training_args whose value Olive changes."""

MEANT_OTHERWISE: dict[str, tuple[tuple[Any, ...], str]] = {
    "save_steps": ((None,), "ten checkpoints a run, where Olive has one every 500 steps"),
    "eval_strategy": ((None, "no"), "null follows eval_steps; Olive never leaves held-out rows unmeasured"),
    "eval_steps": ((None,), "logging_steps, which Olive fills in only where it measures"),
    "lr_scheduler_kwargs": ((None,), "Olive's is an empty object"),
    "metric_for_best_model": ((None,), "loss, which transformers fills in where it is needed"),
    "greater_is_better": ((None,), "what the metric's name says, which transformers fills in where it is needed"),
    "project": ((None,), "the project's folder, where transformers calls all projects the same"),
    "dataloader_pin_memory": ((None,), "where there is a GPU, as in transformers, whose default is true"),
}
"""Keys of training_args of which some values mean something of our own; others are compared."""

ENGINE = (
    "cache_dir",
    "evaluate_input_model",
    "clean_cache",
    "log_to_file",
    "log_severity_level",
    "ort_log_severity_level",
    "ort_py_log_severity_level",
)
IGNORED = re.compile(r"Keys (\{.*\}) are not part of \w+\. Ignoring them\.")

KeyPath = tuple[str, ...]
Pair = tuple[KeyPath, Any, Any]


@dataclass(frozen=True)
class Difference:
    """An option that both have and do not understand alike. The path names data configs by their name."""

    path: KeyPath
    ours: Any
    olive: Any

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: ours {self.ours!r}, Olive's {self.olive!r}"

    @property
    def key(self) -> str:
        """The path with `*` for the name of the pass, the data config or the system."""
        named = self.path[0] in ("passes", "data_configs", "systems")
        return ".".join((self.path[0], "*", *self.path[2:]) if named else self.path)


def differences(ours: Workflow, olive: Mapping[str, Any], folder: Path) -> list[Difference]:
    """Each option that both have and that is not equal. `folder` is that of the config."""
    return [Difference(*pair) for pair in _pairs(ours, olive, folder) if pair[1] != pair[2]]


def is_written(config: Any, path: KeyPath) -> bool:
    """True if the file of a config has the key of a difference."""
    for key in path:
        if isinstance(config, list):
            config = {entry["name"]: entry for entry in config}
        if not isinstance(config, dict) or key not in config:
            return False
        config = config[key]
    return True


def ignored_keys(warnings: list[str]) -> tuple[set[str], list[str]]:
    """The keys that Olive said it passes over, and its other warnings."""
    keys: set[str] = set()
    others = []
    for warning in warnings:
        if found := IGNORED.fullmatch(warning):
            keys |= ast.literal_eval(found[1])
        else:
            others.append(warning)
    return keys, others


def _pairs(ours: Workflow, olive: Mapping[str, Any], folder: Path) -> Iterator[Pair]:
    yield from _input_model(ours, olive["input_model"])
    yield from _machines(ours, olive)
    for key in ENGINE:
        yield (key,), getattr(ours, key), olive["engine"][key]
    yield ("workflow_id",), ours.workflow_id, olive["workflow_id"]
    yield ("output_dir",), (folder / ours.output_dir).resolve(), Path(olive["engine"]["output_dir"])
    yield ("search_strategy",), bool(ours.search_strategy), bool(olive["engine"]["search_strategy"])
    yield ("data_configs",), {d.name for d in ours.data_configs}, set(olive["data_configs"])
    for data in ours.data_configs:
        yield from _data(ours, data.model_dump(mode="json"), olive["data_configs"][data.name])
    yield ("passes",), list(ours.passes), list(olive["passes"])
    for name, step in ours.passes.items():
        yield from _pass(("passes", name), step.model_dump(mode="json"), olive["passes"][name])


def _input_model(ours: Workflow, olive: Mapping[str, Any]) -> Iterator[Pair]:
    model, config = ours.input_model.model_dump(mode="json"), olive["config"]
    yield ("input_model", "type"), model["type"].lower(), olive["type"]
    place = model["model_path"]
    if isinstance(place, dict):  # a model of Azure ML, whose format Olive does not ask for
        place = {key: value for key, value in place.items() if key != "mlflow"}
    yield ("input_model", "model_path"), place, config["model_path"]
    yield ("input_model", "task"), model["task"], config["task"]
    given = config.get("load_kwargs") or {}
    for key, value in model["load_kwargs"].items():
        # What is not given is false to transformers.
        default = False if key == "trust_remote_code" else None
        yield ("input_model", "load_kwargs", key), value, given.get(key, default)


def _machines(ours: Workflow, olive: Mapping[str, Any]) -> Iterator[Pair]:
    for name, system in ours.systems.items():
        theirs, path = olive["systems"][name], ("systems", name)
        yield (*path, "type"), system.type, theirs["type"]
        yield (*path, "hf_token"), system.hf_token, theirs["config"]["hf_token"]
        (one,), (other,) = system.accelerators, theirs["config"]["accelerators"]
        yield (*path, "device"), one.device, other["device"]
        yield (*path, "execution_providers"), one.execution_providers, other["execution_providers"]
        # Olive turns "16GB" into bytes; we do nothing with it.
        yield (*path, "memory"), one.memory is None, other["memory"] is None
    yield ("host",), ours.host_device, olive["host"]["config"]["accelerators"][0]["device"]
    # As it is resolved: Olive puts another provider in the place of one that does not suit the device.
    yield ("target", "device"), ours.systems[ours.target].accelerators[0].device, olive["target"]["device"]
    yield ("target", "execution_provider"), ours.execution_provider, olive["target"]["execution_provider"]


def _data(workflow: Workflow, ours: dict[str, Any], olive: Mapping[str, Any]) -> Iterator[Pair]:
    path = ("data_configs", ours["name"])
    yield (*path, "type"), ours["type"].lower(), olive["container"]
    yield (*path, "component"), "text_generation_huggingface_pre_process", olive["component"]
    yield (*path, "model_name"), workflow.input_model.model_dump(mode="json")["model_path"], olive["model_name"]
    for key, value in ours["load_dataset_config"].items():
        default = "infer" if key == "header" else None  # of Hugging Face's reader
        yield (*path, "load_dataset_config", key), value, olive["load_dataset"].get(key, default)
    for key, value in ours["pre_process_data_config"].items():
        if key in OUR_KEYS:
            continue
        # In Olive too the columns count only where there is no template.
        meant = ["text"] if key == "text_cols" and value is None else value
        yield (*path, "pre_process_data_config", key), meant, olive["pre_process"][key]


def _pass(path: KeyPath, ours: dict[str, Any], olive: Mapping[str, Any]) -> Iterator[Pair]:
    for key, value in ours.items():
        if key in our_keys(ours["type"]):
            continue
        if key == "training_args":
            # Olive measures on rows of an eval_data_config alone; eval_dataset_size is ours.
            skipped = () if ours["eval_data_config"] else ("eval_strategy", "eval_steps")
            yield from _training((*path, key), {k: v for k, v in value.items() if k not in skipped}, olive[key])
        elif key == "extra_options":
            yield (*path, key), {k: v for k, v in value.items() if v is not None}, olive[key] or {}
        else:
            yield (*path, key), value, olive[key]


def _training(path: KeyPath, ours: dict[str, Any], olive: Mapping[str, Any]) -> Iterator[Pair]:
    # transformers' Trainer orders the rows by `seed` where there is no data_seed.
    olive, ours = (
        {**args, "data_seed": args["seed"] if args["data_seed"] is None else args["data_seed"]}
        for args in (olive, ours)
    )
    for key, value in ours.items():
        if key not in NOT_COMPARED and value not in MEANT_OTHERWISE.get(key, ((), ""))[0]:
            yield (*path, key), value, olive[key]
