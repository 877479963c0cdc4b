"""The folder of an ONNX model: loaded with ONNX Runtime GenAI, once its config names nothing that it may not."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.supported_precisions import PROVIDER_NAMES
from phi_runtime.core.artifacts import read_json
from phi_runtime.core.errors import MissingDependency, WorkFailed, first_line
from phi_runtime.hardware.device import has_nvidia_gpu, usable_cores
from phi_runtime.inference.stored_tokenizer import open_tokenizer

# Keys of a session.
_LOADS_OR_WRITES = re.compile(r"(?i)library|profiling|backend_path|lib_paths|optimized_model|file_?path")

_ROPE_SWITCH = (
    4096  # of all models with LongRoPE that the runtime knows, Phi-3 to Phi-4-mini; genai_config.json does not have it
)


@dataclass(frozen=True)
class OnnxFacts:
    """Facts of genai_config.json.

    Attributes:
        context_length: Tokens of prompt and answer together.
        vocab_size: Number of tokens.
        stop_ids: Tokens that end an answer.
        token_bytes: Size of the keys and values of a token in float32.
        rope_switch: Length in tokens above which the model may use other rotary factors; None if they never change.
    """

    context_length: int
    vocab_size: int
    stop_ids: frozenset[int]
    token_bytes: int
    rope_switch: int | None

    @classmethod
    def from_config(cls, genai_config: dict[str, Any]) -> OnnxFacts:
        """Read them. Raises KeyError, TypeError."""
        model = genai_config["model"]
        decoder, eos = model["decoder"], model["eos_token_id"]
        token_bytes = 8 * decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"]
        stop_ids = frozenset(eos if isinstance(eos, list) else [eos])
        context_length = model["context_length"]
        switches = str(model.get("type")).startswith("phi") and context_length > _ROPE_SWITCH
        rope_switch = _ROPE_SWITCH if switches else None
        return cls(context_length, model["vocab_size"], stop_ids, token_bytes, rope_switch)


def runtime() -> Any:
    """Import ONNX Runtime GenAI, with its telemetry off unless the user has set it.

    Raises:
        MissingDependency: It is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime_genai
    except ImportError as e:
        from phi_runtime.models.load import missing_runtime

        raise missing_runtime(e) from e
    return onnxruntime_genai


def provider_available(provider: str) -> bool:
    """Return True if the installed runtime and this machine support the execution provider."""
    if provider == "CPUExecutionProvider":
        return True
    og = runtime()
    if provider == "CUDAExecutionProvider":
        return bool(og.is_cuda_available()) and has_nvidia_gpu()
    if provider == "DmlExecutionProvider":
        return bool(og.is_dml_available())
    import onnxruntime  # type: ignore[import-untyped]

    # og.is_webgpu_available returns True even in builds without it (0.18).
    return provider in onnxruntime.get_available_providers()


def open_model(path: Path) -> Any:
    """Load the model in the folder `path` with ONNX Runtime GenAI, whose errors (mostly RuntimeError) are raised."""
    og = runtime()
    refuse_libraries(read_json(path / "genai_config.json"), path)
    config = og.Config(str(path))
    # By default the runtime uses fewer threads than this process may; more threads than that are four times slower.
    threads = {"session_options": {"intra_op_num_threads": usable_cores()}}
    config.overlay(json.dumps({"model": {"decoder": threads}}))
    return og.Model(config)


def refuse_libraries(value: Any, path: Path) -> None:
    """Raise WorkFailed if genai_config.json names a program library, a provider with its own, or a file elsewhere."""
    if isinstance(value, list):
        for item in value:
            refuse_libraries(item, path)
    elif isinstance(value, dict):
        providers = [name for option in value.get("provider_options") or () for name in option]
        unsafe = [f"provider `{name}`" for name in providers if name.lower() not in PROVIDER_NAMES.values()]
        unsafe += [f"`{key}`" for key in value if _LOADS_OR_WRITES.search(key)]
        unsafe += [f"`{key}`" for key, name in value.items() if key.endswith("filename") and _leaves_folder(name)]
        if unsafe:
            raise WorkFailed(
                f"genai_config.json of {path} has {', '.join(unsafe)}, which a model may not name",
                fix="remove it from that file, or use another model",
            )
        for item in value.values():
            refuse_libraries(item, path)


def _leaves_folder(name: Any) -> bool:
    return isinstance(name, str) and (
        ".." in re.split(r"[/\\]", name) or re.match(r"[/\\]|[A-Za-z]:", name) is not None
    )


def load_folder(path: Path) -> tuple[Any, Any, OnnxFacts]:
    """Return the model in the folder `path`, its tokenizer, and facts about it.

    Raises:
        WorkFailed: The runtime cannot load it.
        MissingDependency: The runtime is not installed, or does not support the model's device.
    """
    try:
        genai_config: dict[str, Any] = read_json(path / "genai_config.json")
        return open_model(path), open_tokenizer(path), OnnxFacts.from_config(genai_config)
    except (OSError, ValueError, KeyError, TypeError) as e:
        reason = f"genai_config.json has no `{e.args[0]}`" if isinstance(e, KeyError) else short_error(e)
        raise WorkFailed(
            f"{path} contains no ONNX model: {reason}",
            fix="build it with `phi-scaffold run`, or name another folder",
        ) from None
    except RuntimeError as e:
        for provider, name in PROVIDER_NAMES.items():
            if name in runtime_providers(genai_config) and not provider_available(provider):
                raise MissingDependency(
                    f"{path} is built for {name}, which is not available here",
                    fix="build it for this machine (`target` in the config), or run it on a machine with that device",
                ) from None
        raise WorkFailed(
            f"cannot load the ONNX model in {path}: {short_error(e)}",
            fix="a file may be incomplete or corrupt: rebuild it with `phi-scaffold run --force` and the name of its stage",
        ) from None


def runtime_providers(genai_config: dict[str, Any]) -> list[str]:
    """Return the providers of a model in the runtime's words (cuda, dml, webgpu); empty for the CPU."""
    options = genai_config.get("model", {}).get("decoder", {}).get("session_options", {}).get("provider_options", [])
    return [name.lower() for option in options for name in option]


def short_error(error: BaseException) -> str:
    """Return the first line of an error, without the C++ function names that ONNX Runtime puts before it."""
    return first_line(error).rpartition("FAIL : ")[2].rpartition("GetExtDataFromTensorProto ")[2]
