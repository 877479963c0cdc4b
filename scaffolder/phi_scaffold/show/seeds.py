"""Output of `evaluate --seeds` before it starts, on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from phi_runtime.core.units import count, duration

if TYPE_CHECKING:
    from phi_runtime.search.seeds import SeedPlan


def before(plan: SeedPlan) -> None:
    """Print the trainings to come with their expected time; nothing if all are done."""
    missing = plan.missing
    if not missing:
        return
    names = ", ".join(str(run.seed) for run in missing)
    times = f", about {duration(plan.expected_s)} as the last run and the evaluation" if plan.expected_s else ""
    trainings = count(len(missing), "more training")
    folder = plan.project.shown(missing[0].project.gen_model.parent)
    print(f"Seeds {names}: {trainings}{times}; Ctrl-C keeps what is done in {folder}", file=sys.stderr)
