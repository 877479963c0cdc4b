"""Check a search against the options of a config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from phi_runtime.config.confusions import MEAN_COST
from phi_runtime.config.diagnostics import Finding, warning
from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import (
    Choice,
    Evaluation,
    FinetunePass,
    FloatRange,
    IntRange,
    Pass,
    Sweep,
    TrainingArgs,
    Workflow,
)
from phi_runtime.config.schema.registry import loaded_types, pass_types
from phi_runtime.config.tasks import METRICS
from phi_runtime.core.errors import UsageError
from phi_runtime.core.suggestions import nearest

_CHECKED = 50  # values of one key: each takes a check of the whole config
_MOST_ERRORS = 20

VALIDATION_LOSS, PERPLEXITY = "validation_loss", "perplexity"
COST_MISSING = f"`{MEAN_COST}` needs `cost`, the costs of confusions"
COST_FIX = (
    'set it in evaluation.json with labels of the data, such as `"cost": {"fear→joy": 5}`; its task is classification'
)
METRIC_ALIASES = {"loss": VALIDATION_LOSS, "eval_loss": VALIDATION_LOSS, "held_out_loss": VALIDATION_LOSS}
PARTS = ("input_model", "data_configs", "passes")


def trained_pass(workflow: Workflow, keys: Sequence[str]) -> str | None:
    """Return the training pass of a search over `keys`: the one whose options they name, else the first."""
    names = {part[1] for key in keys if (part := key.split("."))[0] == "passes" and len(part) > 2}
    return next((name for name in workflow.trainings if name in names), next(iter(workflow.trainings), None))


def metrics_of(evaluation: Evaluation) -> list[str]:
    """Return the metrics that a search can have by the settings of its training pass; functions in hooks.py may add others."""
    own = [*([MEAN_COST] if evaluation.cost else []), *evaluation.combined]
    return [VALIDATION_LOSS, PERPLEXITY, *METRICS[evaluation.task], *own]


def check_metric(draft: Draft, sweep: Sweep, at: KeyPath, evaluation: Evaluation) -> list[Finding]:
    """Return a warning if nothing measures the metric of a search: evaluation.json may change before it runs."""
    name = METRIC_ALIASES.get(sweep.search_strategy.metric, sweep.search_strategy.metric)
    known = metrics_of(evaluation)
    if name in known:
        return []
    message = f"no metric `{name}` in the task `{evaluation.task}` (known: {', '.join(known)})"
    fix = f"write `{near}`" if (near := nearest(name, known)) else ""
    if name == MEAN_COST:
        message, fix = COST_MISSING, COST_FIX
    return [warning(draft.source, (*at, "search_strategy", "metric"), "unknown-reference", message, fix)]


def full_key(key: str, trained: str) -> str:
    """Return the dotted path, from the top of the config, of a key of the search space."""
    return key if key.partition(".")[0] in PARTS else f"passes.{trained}.{key}"


def check_search(draft: Draft, sweep: Sweep, at: KeyPath = ()) -> list[Finding]:
    """Return errors that do not depend on the config: unknown keys and empty ranges."""
    findings = []
    for key, values in sweep.search_space.items():
        path = (*at, "search_space", key)
        outer = key.split(".")
        named = ".".join(outer[: 2 if outer[0] == "training_args" else 1])  # inner keys are checked with the config
        if outer[0] not in PARTS and named not in _options(loaded_types()) and named not in _options(pass_types()):
            known = _options(pass_types())
            message = f"unknown key `{key}`: neither an option of a training pass nor a path from {', '.join(PARTS)}"
            findings.append(draft.finding(path, "unknown-key", message, nearest(key, known)))
        if not isinstance(values, Choice):
            findings += [draft.finding((*path, key), rule, message) for key, rule, message in _contradictions(values)]
    return findings


def _options(types: Mapping[str, type[Pass]]) -> list[str]:
    """Return the keys of the passes that train, as a search space has them."""
    trained = [kind for kind in types.values() if issubclass(kind, FinetunePass)]
    own = dict.fromkeys(key for kind in trained for key in kind.model_fields if key not in ("type", "training_args"))
    return [*own, *(f"training_args.{key}" for key in TrainingArgs.model_fields)]


def _contradictions(values: FloatRange | IntRange) -> Iterator[tuple[str, str, str]]:
    """Yield (key, rule, message) for each contradiction in a range."""
    if values.low > values.high:
        yield "low", "out-of-range", f"`low` is {values.low}, which exceeds `high` ({values.high})"
    if values.log and values.low <= 0:
        yield "low", "out-of-range", f"`low` is {values.low}; `log` requires values above 0"
    if values.log and isinstance(values, IntRange) and values.step > 1:
        yield "step", "contradiction", "`step` and `log` exclude each other; remove one"


def check_values(
    draft: Draft, sweep: Sweep, at: KeyPath, trained: str, errors_with: Callable[[str, Any], list[Finding]]
) -> list[Finding]:
    """Return the values of the search that make the config invalid; `errors_with` returns the errors with one value set.

    Of a long list, `_CHECKED` values are checked, with the smallest and the largest; each trial checks its own again.
    After `_MOST_ERRORS` keys with an error the others are not checked, and the last finding says so.
    """
    findings: list[Finding] = []
    for number, (key, values) in enumerate(sweep.search_space.items()):
        path = (*at, "search_space", key)
        if len(findings) == _MOST_ERRORS:
            left = len(sweep.search_space) - number
            return [*findings, draft.finding(path, "too-many-errors", f"{left} more keys are not checked yet")]
        for value in _spread(values.values) if isinstance(values, Choice) else (values.low, values.high):
            try:
                error = next(iter(errors_with(full_key(key, trained), value)), None)
            except UsageError as e:
                findings.append(draft.finding(path, "unknown-key", e.what))
                break
            if error:
                message = error.message if error.rule == "unknown-key" else f"with {value!r}: {error.message}"
                findings.append(draft.finding(path, error.rule, message, error.suggestion))
                break
    return findings


def _spread(values: Sequence[Any]) -> Sequence[Any]:
    """Return all values of a short list; of a long one, `_CHECKED` at equal distances, numbers in their order."""
    if len(values) <= _CHECKED:
        return values
    if all(isinstance(value, int | float) for value in values):
        values = sorted(values)
    return [values[round(i * (len(values) - 1) / (_CHECKED - 1))] for i in range(_CHECKED)]
