"""Build the config that a command line of Olive describes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi_runtime.config.dialects.systems import PROVIDER_OF
from phi_runtime.config.overrides import set_value
from phi_runtime.config.pass_graph import INPUT_ADAPTER
from phi_runtime.config.reading.source import KeyPath, Source, parse_source, read_source
from phi_runtime.core.errors import UsageError
from phi_runtime.core.suggestions import one_of
from phi_runtime.hardware.device import has_nvidia_gpu
from phi_scaffold.olive.arguments import OliveArguments, typed

_OUTPUT = {  # Olive's defaults of --output_path
    "finetune": "finetuned-adapter",
    "auto-opt": "auto-opt-output",
    "optimize": "optimized-model",
    "quantize": "quantized-model",
    "capture-onnx-graph": "onnx-model",
    "generate-adapter": "optimized-model",
}
_GPU_PRECISIONS = ("fp16", "bf16")
_ACCELERATOR = "systems.local_system.accelerators.0"
_FOUR_BITS = ("int4", "uint4")
_PRECISION_OF = {"float16": "fp16", "bfloat16": "bf16"}
_METHODS = {"lora": "LoRA", "qlora": "QLoRA"}
_ALGORITHMS = {"awq": "AutoAWQQuantizer", "gptq": "Gptq", "rtn": "Rtn", "quarot": "QuaRot", "spinquant": "SpinQuant"}
# Defaults of Olive's finetune, the same from 0.7 to 0.13.
_PROCESS = {"add_special_tokens": False, "max_seq_len": 1024, "max_samples": 256}
_DATA_CONFIG = {"name": "train_data", "type": "HuggingfaceContainer"}


@dataclass(frozen=True)
class OliveProject:
    """The project that a command line of Olive describes.

    Attributes:
        source: Its config, in which values are located at the flags that set them.
        output: Folder of the project.
        adapters: Further adapters for the graph, in addition to that of the config.
        only_write: Write the project without running it.
        trust_remote_code: The command line allows Python code of the model to run.
        notes: Flags that are ignored, or mean something else here.
    """

    source: Source
    output: Path
    adapters: tuple[Path, ...]
    only_write: bool
    trust_remote_code: bool
    notes: tuple[str, ...]


def build(arguments: OliveArguments, folder: Path) -> OliveProject:
    """Build the project of a command line that was typed in `folder`.

    Raises:
        UsageError: A flag that the command needs is missing, or a value is unknown.
    """
    only_write = bool(arguments.pop("write_only"))
    trust = arguments.values.get("input_model.load_kwargs.trust_remote_code") is True
    output = Path(arguments.pop("output_path") or _OUTPUT.get(arguments.command, f"{arguments.command}-output"))
    adapters = [Path(adapter) for adapter in arguments.pop("adapter_path", [])]
    if arguments.command == "run":
        return _run(arguments, folder, output, adapters, only_write, trust=trust)
    if arguments.command == "convert-adapters" and "input_model.model_path" not in arguments.values:
        arguments.values["input_model.model_path"] = _base_of(adapters, folder)
    _require(arguments, "input_model.model_path", "--model_name_or_path MODEL")
    config: dict[str, Any] = {"input_model": {"type": "HfModel"}, "passes": {}}
    if adapters:
        config["input_model"]["adapter_path"] = str(adapters[0])
    _BUILDERS[arguments.command](arguments, config)
    options = _apply(arguments, config)
    text = json.dumps(config, ensure_ascii=False)
    source = replace(parse_source(folder / "olive-command.json", text), options=options)
    return OliveProject(source, output, tuple(adapters[1:]), only_write, trust, tuple(arguments.notes))


def _run(
    arguments: OliveArguments, folder: Path, output: Path, adapters: list[Path], only_write: bool, *, trust: bool
) -> OliveProject:
    _require(arguments, "config", "--config FILE")
    source = read_source(folder / arguments.pop("config"))
    value = copy.deepcopy(source.value)
    if not isinstance(value, dict):
        return OliveProject(source, output, (), only_write, trust, tuple(arguments.notes))
    model = value.setdefault("input_model", {})
    path = arguments.values.get("input_model.model_path")
    if path and (folder / path).exists():
        arguments.values["input_model.model_path"] = str(folder / path)
    if adapters:
        model["adapter_path"] = str(folder / adapters[0])
    source = replace(source, value=value, options=_apply(arguments, value))
    return OliveProject(source, output, tuple(adapters[1:]), only_write, trust, tuple(arguments.notes))


def _finetune(arguments: OliveArguments, config: dict[str, Any]) -> None:
    _require(arguments, "data_configs.0.load_dataset_config.data_name", "--data_name DATA")
    method = one_of("--method", arguments.pop("method", "lora"), _METHODS)
    step = {
        "type": _METHODS[method],
        "r": 64,
        "alpha": 16,
        "torch_dtype": "bfloat16",
        "train_data_config": "train_data",
    }
    config["passes"]["finetune"] = step
    _system(config, "gpu" if has_nvidia_gpu() else "cpu")
    if method == "qlora":
        step["save_quant_config"] = False
    if "data_configs.0.pre_process_data_config.max_samples" not in arguments.values:
        arguments.notes.append("at most 256 rows are used, as in Olive: add --max_samples N for more")
    data: dict[str, Any] = {
        **_DATA_CONFIG,
        "load_dataset_config": {"split": "train"},
        "pre_process_data_config": {**_PROCESS},
    }
    config["data_configs"] = [data]
    load = data["load_dataset_config"]
    if files := arguments.pop("data_files"):
        load["data_files"] = files if len(files) > 1 else files[0]
    evaluation = {name: arguments.pop(f"eval.{name}") for name in ("split", "subset")}
    evaluation = {name: value for name, value in evaluation.items() if value is not None}
    if evaluation:
        step["eval_data_config"] = "eval_data"
        _apply(arguments, config)  # the second data config has the flags of the first
        config["data_configs"].append({**data, "name": "eval_data", "load_dataset_config": {**load, **evaluation}})


def _optimize(arguments: OliveArguments, config: dict[str, Any]) -> None:
    one_of("--modality", arguments.pop("modality", "text"), ("text",))
    provider, device = arguments.pop("provider"), arguments.pop("device")
    for key, flag in (("device", "device"), ("execution_providers.0", "provider")):
        if flag in arguments.written:
            arguments.written[f"{_ACCELERATOR}.{key}"] = arguments.written[flag]
    device = device or ("cpu" if provider in (None, PROVIDER_OF["cpu"]) else "gpu")
    if device == "gpu" and "precision" not in arguments.values:  # Olive's help says fp16, its code has always been fp32
        arguments.notes.append("the precision is fp32, as in Olive: add --precision fp16 for a smaller model")
    precision = arguments.pop("precision", "fp32")
    _system(config, device, provider)
    if arguments.command == "optimize" and precision in _FOUR_BITS:
        _quantize_first(arguments, config, precision)
    _export(arguments, config, precision)
    _ignore_data(arguments)
    if "adapter_path" in config["input_model"]:
        config["passes"]["export"]["adapters"] = [INPUT_ADAPTER]


def _quantize_first(arguments: OliveArguments, config: dict[str, Any], precision: str) -> None:
    """Set what `optimize` of Olive 0.13 sets for 4 bits. An adapter keeps the weights as they are until the export."""
    block_size = arguments.values.get("passes.export.int4_block_size")
    if "adapter_path" not in config["input_model"]:
        group = {} if block_size is None else {"group_size": block_size}
        config["passes"]["quantize"] = {"type": "Gptq", "bits": 4, "sym": precision == "int4", **group}
        arguments.written["passes.quantize"] = f"--precision {precision}"
    defaults = {"int4_block_size": 32, "int4_accuracy_level": 4, "int4_op_types_to_quantize": ["MatMul", "Gather"]}
    for key, value in defaults.items():
        arguments.values.setdefault(f"passes.export.{key}", value)


def _quantize(arguments: OliveArguments, config: dict[str, Any]) -> None:
    algorithm = one_of("--algorithm", arguments.pop("algorithm", "rtn"), _ALGORITHMS)
    precision = arguments.pop("precision") or ("int8" if algorithm == "rtn" else "int4")
    _merge(config)
    if precision in _FOUR_BITS:
        config["passes"]["quantize"] = {"type": _ALGORITHMS[algorithm]}
        arguments.written["passes.quantize"] = f"--algorithm {algorithm}"
    _system(config, "cpu")
    _export(arguments, config, precision)
    _ignore_data(arguments)
    arguments.notes.append("the quantized model is an ONNX model, not one of PyTorch")


def _capture(arguments: OliveArguments, config: dict[str, Any]) -> None:
    dtype = _PRECISION_OF.get(arguments.pop("torch_dtype", ""), "fp32")
    requested = arguments.pop("precision")
    precision = (requested or "fp16") if arguments.pop("use_model_builder") else dtype
    if requested and requested != precision:
        arguments.notes.append(f"`--precision` ignored: Olive uses it with --use_model_builder; the graph is {dtype}")
    _merge(config)
    _system(config, "gpu" if precision in _GPU_PRECISIONS else "cpu")
    _export(arguments, config, precision)


def _generate_adapter(arguments: OliveArguments, config: dict[str, Any]) -> None:
    if "adapter_path" not in config["input_model"]:
        raise UsageError(
            "`olive generate-adapter` needs an adapter",
            fix="name the base model, not its graph, and add --adapter_path FOLDER",
        )
    _system(config, "cpu")
    _export(arguments, config, "fp32")
    config["passes"]["export"]["adapters"] = [INPUT_ADAPTER]
    arguments.notes.append(f"`{config['input_model']['adapter_path']}` is the adapter `{INPUT_ADAPTER}` of the graph")


def _convert_adapters(arguments: OliveArguments, config: dict[str, Any]) -> None:
    precision = _PRECISION_OF.get(arguments.pop("torch_dtype", ""), "fp32")
    _system(config, "gpu" if precision in _GPU_PRECISIONS else "cpu")
    _export(arguments, config, "int4" if arguments.pop("quantize_int4") else precision)
    config["passes"]["export"]["adapters"] = [INPUT_ADAPTER]
    arguments.notes.append("the base model is exported too: an .onnx_adapter file is for one ONNX model")


def _base_of(adapters: list[Path], folder: Path) -> str:
    """Return the base model that the config of the first adapter names."""
    try:
        config = json.loads((folder / adapters[0] / "adapter_config.json").read_text(encoding="utf-8"))
        return str(config["base_model_name_or_path"])
    except (IndexError, OSError, ValueError, KeyError):
        raise UsageError(
            "`olive convert-adapters` finds no adapter of peft in a folder that names its base model",
            fix="add --model_name_or_path with the base model of --adapter_path",
        ) from None


_BUILDERS: Mapping[str, Callable[[OliveArguments, dict[str, Any]], None]] = {
    "finetune": _finetune,
    "auto-opt": _optimize,
    "optimize": _optimize,
    "quantize": _quantize,
    "capture-onnx-graph": _capture,
    "generate-adapter": _generate_adapter,
    "convert-adapters": _convert_adapters,
}


def _require(arguments: OliveArguments, key: str, flag: str) -> None:
    if key not in arguments.values:
        raise UsageError(f"`olive {arguments.command}` needs {flag.split()[0]}", fix=f"add {flag}")


def _system(config: dict[str, Any], device: str, provider: str | None = None) -> None:
    accelerator = {"device": device, "execution_providers": [provider or PROVIDER_OF.get(device, PROVIDER_OF["cpu"])]}
    config["systems"] = {"local_system": {"type": "LocalSystem", "accelerators": [accelerator]}}
    config["host"] = config["target"] = "local_system"


def _merge(config: dict[str, Any]) -> None:
    if "adapter_path" in config["input_model"]:
        config["passes"]["merge"] = {"type": "MergeAdapterWeights"}


def _export(arguments: OliveArguments, config: dict[str, Any], precision: str) -> None:
    if precision == "uint4":
        arguments.notes.append("`--precision uint4` becomes int4: the model builder has one 4-bit type")
        precision = "int4"
    step = config["passes"]["export"] = {"type": "ModelBuilder", "precision": precision}
    arguments.written["passes.export.precision"] = f"--precision {precision}"
    if not arguments.pop("use_model_builder", True):
        arguments.notes.append("the model builder exports the graph")
    if options := arguments.pop("extra_options"):
        pairs = (option.partition("=") for option in options.split(","))
        step["extra_options"] = {key.strip(): _option(value.strip()) for key, _, value in pairs}  # type: ignore[assignment]


def _option(text: str) -> Any:
    value = typed(text)
    return value.split("/") if value is text and "/" in text else value


def _ignore_data(arguments: OliveArguments) -> None:
    for key in [key for key in arguments.values if key.startswith("data_")]:
        arguments.pop(key)
        flag = arguments.written[key].partition(" ")[0]
        arguments.notes.append(f"`{flag}` ignored: this command reads no data")


def _apply(arguments: OliveArguments, config: dict[str, Any]) -> dict[KeyPath, str]:
    """Set the remaining values of the flags in the config; return the flags as they were written, by the key they set."""
    for dotted, value in arguments.values.items():
        set_value(config, _path(dotted), value)
    return {_path(dotted): flag for dotted, flag in arguments.written.items() if "." in dotted}


def _path(dotted: str) -> KeyPath:
    return tuple(int(key) if key.isdecimal() else key for key in dotted.split("."))
