"""A pass that trains an existing adapter further: its settings are those of the adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from phi_runtime.models.modules import adapted, ends_with
from phi_runtime.models.peft_folder import PeftFolder

if TYPE_CHECKING:
    from phi_runtime.training.pass_bases import AdapterPass

DROPOUTS = ("lora_dropout", "rank_dropout", "module_dropout")
"""Settings that may differ from those of the adapter: they shape the training, not the weights."""
_STARTS = ("init_weights", "init_lora_weights", "layers")  # of new adapters
_UNSET: tuple[Any, ...] = (None, False, [], {}, "")


def completed(step: AdapterPass, adapter: PeftFolder) -> AdapterPass:
    """Return `step` with the settings of `adapter` where the config sets none."""
    stored = {key: adapter.config[name] for key, name in _names(step, adapter).items() if key not in _STARTS}
    unset = {key: value for key, value in stored.items() if key not in step.model_fields_set and value is not None}
    return step.model_copy(update=unset)


def differences(step: AdapterPass, adapter: PeftFolder, linear: Iterable[str] | None) -> Iterator[tuple[str, str]]:
    """Yield what keeps `step` from training `adapter` further: the key of the pass, and the message.

    Args:
        linear: Full names of the linear modules of the base; None if they are unknown.
    """
    uses_dora = bool(adapter.config.get("use_dora"))
    if (adapter.kind, uses_dora) != (step.peft_type, step.uses_dora):
        kind = "DORA" if uses_dora else adapter.kind
        yield "type", f"`{step.type}` cannot train the input adapter further, which is {kind}"
        return
    for key in _STARTS:
        if key in step.model_fields_set and getattr(step, key) not in (True, None):
            yield key, f"`{key}` is for a new adapter, but `{step.type}` trains the input adapter further"
    for key, name in _names(step, adapter).items():
        value, stored = getattr(step, key), adapter.config[name]
        if key not in step.model_fields_set or key in (*DROPOUTS, *_STARTS) or _same(value, stored):
            continue
        if key == "target_modules" and (value is None or linear is None or _has_modules(adapter, value, linear)):
            continue
        yield key, f"`{key}` is {_shown(value)}, but the input adapter was trained with {_shown(stored)}"


def _names(step: AdapterPass, adapter: PeftFolder) -> Mapping[str, str]:
    """Return the settings of `step` that adapter_config.json has too: the name in it by the key of the pass."""
    names = {key: step.peft_names.get(key, key) for key in type(step).model_fields}
    return {key: name for key, name in names.items() if name in adapter.config}


def _same(value: Any, stored: Any) -> bool:
    if isinstance(value, list) and isinstance(stored, list):
        return set(value) == set(stored)
    return bool(value == stored) or (value in _UNSET and stored in _UNSET)


def _has_modules(adapter: PeftFolder, setting: Any, linear: Iterable[str]) -> bool:
    """Return True if `setting`, names or a regular expression, means the modules that `adapter` is on."""
    chosen = adapted(linear, setting, all_linear=False)
    # The names in the files of a model may lack the prefix that they have in the loaded model.
    return len(chosen) == len(adapter.modules) and all(ends_with(module, chosen) for module in adapter.modules)


def _shown(value: Any) -> str:
    return ", ".join(sorted(value)) if isinstance(value, list) else str(value)
