"""A search against what can be searched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import Choice, FinetunePass, FloatRange, IntRange, Sweep, TrainingArgs, Workflow
from phi_runtime.core.errors import UsageError
from phi_runtime.core.suggestions import nearest

PARTS = ("input_model", "data_configs", "passes")


def trained_pass(workflow: Workflow, keys: Sequence[str]) -> str | None:
    """The pass that the search over `keys` trains: the one whose options they name, else the first that trains."""
    names = {part[1] for key in keys if (part := key.split("."))[0] == "passes" and len(part) > 2}
    return next((name for name in workflow.trainings if name in names), next(iter(workflow.trainings), None))


def full_key(key: str, trained: str) -> str:
    """The dotted path, from the top of the config, of a key of the search space."""
    return key if key.partition(".")[0] in PARTS else f"passes.{trained}.{key}"


def check_search(draft: Draft, sweep: Sweep, at: KeyPath = ()) -> list[Finding]:
    """Keys of the search space that name nothing, and ranges without a value in them, as far as that shows without a config."""
    known = list(_options_of(FinetunePass)) + [f"training_args.{key}" for key in TrainingArgs.model_fields]
    found = []
    for key, values in sweep.search_space.items():
        here = (*at, "search_space", key)
        outer = key.split(".")
        named = ".".join(outer[: 2 if outer[0] == "training_args" else 1])  # what it holds, its own type tells
        if named not in known and outer[0] not in PARTS:
            message = f"`{key}` is no option of a pass that trains, nor a path that starts with {', '.join(PARTS)}"
            found.append(draft.finding(here, "unknown-key", message, nearest(key, known)))
        if not isinstance(values, Choice):
            found += [draft.finding((*here, key), rule, message) for key, rule, message in _faults(values)]
    return found


def _options_of(kind: type[FinetunePass]) -> dict[str, None]:
    """What can be set of passes of this kind, whichever."""
    own = dict.fromkeys(key for key in kind.model_fields if key not in ("type", "training_args"))
    return own | {key: None for more in kind.__subclasses__() for key in _options_of(more)}


def _faults(values: FloatRange | IntRange) -> Iterator[tuple[str, str, str]]:
    """(key, rule, message)"""
    if values.low > values.high:
        yield "low", "out-of-range", f"`low` is {values.low}, above `high`, which is {values.high}"
    if values.log and values.low <= 0:
        yield "low", "out-of-range", f"`low` is {values.low}: only what is above 0 has a logarithm"
    if values.log and isinstance(values, IntRange) and values.step > 1:
        yield "step", "contradiction", "`step` and `log` exclude each other; take one out"


def check_values(
    draft: Draft, sweep: Sweep, at: KeyPath, trained: str, faults: Callable[[str, Any], list[Finding]]
) -> list[Finding]:
    """Values of the search that the config cannot take, each put into it alone; `faults` says what is wrong with it then."""
    found = []
    for key, values in sweep.search_space.items():
        here = (*at, "search_space", key)
        for value in values.values if isinstance(values, Choice) else (values.low, values.high):
            try:
                fault = next(iter(faults(full_key(key, trained), value)), None)
            except UsageError as e:
                found.append(draft.finding(here, "unknown-key", e.what))
                break
            if fault:
                message = fault.message if fault.rule == "unknown-key" else f"with {value!r}: {fault.message}"
                found.append(draft.finding(here, fault.rule, message, fault.suggestion))
                break
    return found
