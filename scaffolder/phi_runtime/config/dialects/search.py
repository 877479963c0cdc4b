"""Translate searches over the config into a sweep."""

from __future__ import annotations

from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.dialects.keys import PASSES, translate_keys
from phi_runtime.config.dialects.pass_types import training_passes
from phi_runtime.config.dialects.training_keys import TRAINING_NAMES
from phi_runtime.config.reading.source import KeyPath, Source
from phi_runtime.config.schema import SearchStrategy, TrainingArgs

_SWEEP: KeyPath = ("sweep",)
SAMPLERS = {"sequential": "grid", "exhaustive": "grid"}
_SHORT_KEYS = {
    "lora_r": "r",
    "lora_alpha": "alpha",
    **{short: f"training_args.{name}" for short, name in TRAINING_NAMES.items()},
    **{name: f"training_args.{name}" for name in TrainingArgs.model_fields},
}


def translate_search(draft: Draft) -> None:
    """Turn `search_strategy` and `search_space` into the sweep, which belongs into sweep.yaml."""
    if draft.has(_SWEEP):
        draft.refuse(_SWEEP, "`sweep` is not supported here: move it to sweep.yaml next to this file")
    strategy: KeyPath = ("search_strategy",)
    if draft.get(strategy) is True:
        draft.replace(strategy, {}, "`search_strategy` is now an object")
    if not isinstance(draft.get(strategy), dict) and not draft.has(("search_space",)):
        return
    lists = [
        (name, key)
        for name in training_passes(draft)
        for key in ("r", "alpha", "lora_dropout")
        if isinstance(draft.get((*PASSES, name, key)), list) and draft.get((*PASSES, name, key))
    ]
    for name, key in lists:
        at = (*PASSES, name, key)
        choice = {"type": "choice", "values": draft.get(at)}
        draft.set_default(
            (*_SWEEP, "search_space", f"passes.{name}.{key}"), choice, "a list of values is searched", cause=at
        )
        draft.replace(
            at, draft.get(at)[0], f"`{key}` is now the first value, used without a search", changes_result=True
        )
    if not lists and not draft.has(("search_space",)):
        draft.drop(strategy, "no option has several values")
        return
    if isinstance(draft.get(strategy), dict):
        draft.move(strategy, (*_SWEEP, "search_strategy"), "`search_strategy` moved to sweep.yaml")
    if draft.has(("search_space",)):
        draft.move(("search_space",), (*_SWEEP, "search_space"), "`search_space` moved to sweep.yaml")
    _sweep(draft, _SWEEP)


def translate_sweep(source: Source) -> Draft:
    """Translate a file that holds a search alone, such as sweep.yaml."""
    draft = Draft(source)
    if isinstance(draft.value, dict):
        _sweep(draft, ())
    return draft


def _sweep(draft: Draft, at: KeyPath) -> None:
    strategy, space = (*at, "search_strategy"), (*at, "search_space")
    draft.unnest((*strategy, "search_algorithm_config"))  # up to 0.7; `sampler_config` since
    translate_keys(draft, strategy, SearchStrategy)
    kind = draft.get((*strategy, "type"))
    if isinstance(kind, str) and kind in SAMPLERS:
        draft.replace((*strategy, "type"), SAMPLERS[kind], f"`{kind}` renamed to `{SAMPLERS[kind]}`", rule="renamed")
    for key in draft.keys(space):
        path = (*space, key)
        if isinstance(draft.get(path), list):
            draft.replace(path, {"type": "choice", "values": draft.get(path)}, f"`{key}` is now a choice")
        if key in _SHORT_KEYS:
            draft.rename(path, _SHORT_KEYS[key])
