"""Models and tokenizers from disk into memory."""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

from phi_runtime.errors import MissingDependency
from phi_runtime.models.reference import ModelRef

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def quiet_libraries() -> None:
    """No telemetry, no progress bars and no known harmless warnings from the libraries; what the user set stays."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "TQDM_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)
    # Its CPU path looks for a prebuilt kernel on the hub at import and warns that there is none: it has its own (seen in 0.50.2).
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=r".*gradient_checkpointing.*", category=FutureWarning)
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError as e:
        raise missing_runtime(e) from e
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def missing_runtime(error: ImportError) -> MissingDependency:
    return MissingDependency(
        f"the runtime is not installed in this environment ({error})",
        fix="run `bash setup/setup.sh` (Windows: setup\\setup.ps1)",
    )


def load_tokenizer(ref: ModelRef) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ref.path, local_files_only=True, trust_remote_code=ref.trust_remote_code)


def load_model(ref: ModelRef, dtype: torch.dtype | str, device: str = "cpu", **kwargs: Any) -> PreTrainedModel:
    """A full causal language model, on `device`. `dtype` "auto" keeps the type it is stored in."""
    from transformers import AutoModelForCausalLM

    trust = ref.trust_remote_code  # said also where it is off: transformers would ask on the terminal
    model = AutoModelForCausalLM.from_pretrained(
        ref.path, dtype=dtype, local_files_only=True, trust_remote_code=trust, **kwargs
    )
    return model if "quantization_config" in kwargs else model.to(device)


def load_reference(ref: ModelRef, dtype: torch.dtype | str, device: str = "cpu", **kwargs: Any) -> Any:
    """The model that `ref` names: a full one, or a base with its adapter on it."""
    if ref.kind != "adapter":
        return load_model(ref, dtype, device, **kwargs)
    from peft import PeftModel

    assert ref.base is not None
    return PeftModel.from_pretrained(load_model(ref.base, dtype, device, **kwargs), ref.path)
