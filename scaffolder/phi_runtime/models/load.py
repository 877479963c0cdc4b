"""Load models and tokenizers from disk."""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

from phi_runtime.core.errors import MissingDependency, UsageError, first_line
from phi_runtime.core.project import setup_command
from phi_runtime.models.reference import ModelRef

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def quiet_libraries() -> None:
    """Switch off telemetry, progress bars and known harmless warnings of the libraries, unless the user set otherwise."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "TQDM_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)
    # At import its CPU path looks for a prebuilt kernel on the Hub and warns that it is missing; it has its own (seen in 0.50.2).
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=r".*gradient_checkpointing.*", category=FutureWarning)
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError as e:
        raise missing_runtime(e) from e
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def missing_runtime(error: ImportError) -> MissingDependency:
    """Return the error for a missing ML library."""
    return MissingDependency(
        f"the runtime is not installed in this environment ({error})",
        fix=f"run `{setup_command()}`",
    )


def load_tokenizer(ref: ModelRef) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder; that of its base for an adapter that was saved without one."""
    from transformers import AutoTokenizer

    has_own = ref.kind != "adapter" or (ref.path / "tokenizer_config.json").is_file()
    return AutoTokenizer.from_pretrained(
        ref.path if has_own else ref.full.path, local_files_only=True, trust_remote_code=ref.trust_remote_code
    )


def load_model(ref: ModelRef, dtype: torch.dtype | str, device: str = "cpu", **kwargs: Any) -> PreTrainedModel:
    """Load a full causal language model to `device`, or by a `device_map`. `dtype` "auto" keeps the stored type."""
    from transformers import AutoModelForCausalLM

    trust = ref.trust_remote_code  # passed even if false: else transformers prompts on the terminal
    model = AutoModelForCausalLM.from_pretrained(
        ref.path, dtype=dtype, local_files_only=True, trust_remote_code=trust, **kwargs
    )
    return model if "quantization_config" in kwargs or "device_map" in kwargs else model.to(device)


def load_reference(ref: ModelRef, dtype: torch.dtype | str, device: str = "cpu", **kwargs: Any) -> Any:
    """Load the model of `ref`: a full one, or a base with its adapter. Raises UsageError if the two do not fit."""
    if ref.kind != "adapter":
        return load_model(ref, dtype, device, **kwargs)
    assert ref.base is not None
    return put_adapter(load_model(ref.base, dtype, device, **kwargs), ref.path)


def put_adapter(model: Any, folder: Path, name: str = "default", **options: Any) -> Any:
    """Add the adapter in `folder` to `model` under `name`, in addition to those it has.

    `options` are those of `PeftModel.from_pretrained`.

    Raises:
        UsageError: weights do not match the model. peft ignores extra weights and leaves missing ones random.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            warnings.filterwarnings("error", message="Unexpected keyword arguments")  # settings of a newer peft
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), name)
            else:
                model = PeftModel.from_pretrained(model, folder, adapter_name=name, **options)
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            # With "auto", peft looks the base model up on the Hub (seen in 0.21.2).
            own = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=True)
            unmatched = set(file.keys()) - set(own)
        if unmatched:
            raise ValueError(f"{len(unmatched)} of its weights match no module, such as {min(unmatched)}")
    except (RuntimeError, ValueError, OSError, KeyError, UserWarning) as e:
        reason = next((line.strip() for line in str(e).splitlines() if "mismatch for" in line), first_line(e))
        raise UsageError(
            f"the adapter in {folder} does not fit this model: {reason}",
            fix="use it with the model that it was trained on",
        ) from None
    return model
