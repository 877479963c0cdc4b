"""A search against what can be searched."""

from __future__ import annotations

from phi_runtime.suggest import nearest
from phi_runtime.workflow.diagnostics import Finding
from phi_runtime.workflow.draft import Draft
from phi_runtime.workflow.schema import Choice, FullFinetune, QLoRA, Sweep, TrainingArgs
from phi_runtime.workflow.source import KeyPath

PARTS = ("input_model", "data_configs", "passes")


def check_search(draft: Draft, sweep: Sweep, at: KeyPath = ()) -> list[Finding]:
    """Keys of the search space that name nothing, and ranges without a value in them."""
    known = [k for k in {**QLoRA.model_fields, **FullFinetune.model_fields} if k not in ("type", "training_args")]
    known += [f"training_args.{key}" for key in TrainingArgs.model_fields]
    found = []
    for key, values in sweep.search_space.items():
        here = (*at, "search_space", key)
        if key not in known and key.partition(".")[0] not in PARTS:
            message = f"`{key}` is no option of a pass that trains, nor a path that starts with {', '.join(PARTS)}"
            found.append(draft.finding(here, "unknown-key", message, nearest(key, known)))
        if not isinstance(values, Choice) and values.low > values.high:
            message = f"`low` is {values.low}, above `high`, which is {values.high}"
            found.append(draft.finding((*here, "low"), "out-of-range", message))
    return found
