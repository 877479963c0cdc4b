"""The search space as Optuna distributions and samplers, and the combinations of a grid."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice, product
from random import Random
from typing import TYPE_CHECKING, Any

from phi_runtime.config.schema import Choice, FloatRange, IntRange

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler

Space = Mapping[str, FloatRange | IntRange | Choice]
Values = dict[str, Any]
MOST_COMBINATIONS = 100_000  # of a grid, which is a list in memory


def suggest(trial: optuna.Trial, space: Space) -> Values:
    """Return the config values of `trial` by key; its sampler draws those that it does not have yet."""
    return decoded(space, {key: _suggested(trial, key, values) for key, values in space.items()})


def _suggested(trial: optuna.Trial, key: str, values: FloatRange | IntRange | Choice) -> Any:
    if isinstance(values, Choice):
        return trial.suggest_categorical(key, [_encoded(value) for value in values.values])
    if isinstance(values, IntRange):
        high = values.high - (values.high - values.low) % values.step  # Optuna warns of a shorter last step
        return trial.suggest_int(key, values.low, high, step=values.step, log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)


def _encoded(value: Any) -> Any:
    """Return a choice in a form that Optuna can store: lists and objects as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def decoded(space: Space, params: Mapping[str, Any]) -> Values:
    """Return the config values for the parameters that Optuna stores."""
    decoded_values = {}
    for key, values in space.items():
        value = params[key]
        if isinstance(values, Choice):
            value = next(v for v in values.values if _encoded(v) == value and type(_encoded(v)) is type(value))
        decoded_values[key] = value
    return decoded_values


def grid(space: Space, seed: int | None) -> list[Values]:
    """Return all combinations as Optuna parameters; the last key varies fastest, or they are shuffled with `seed`."""
    axes = [[(key, value) for value in _axis(values)] for key, values in space.items()]
    combinations = [dict(pairs) for pairs in product(*axes)]
    if seed is not None:
        Random(seed).shuffle(combinations)
    return combinations


def grid_size(space: Space) -> int:
    """Return the number of combinations; of a key with more than `MOST_COMBINATIONS` values, only one more are counted."""
    return math.prod(sum(1 for _ in islice(_axis(values), MOST_COMBINATIONS + 1)) for values in space.values())


def _axis(values: FloatRange | IntRange | Choice) -> Iterator[Any]:
    if isinstance(values, Choice):
        yield from dict.fromkeys(_encoded(value) for value in values.values)
    elif isinstance(values, IntRange):
        number = values.low
        while number <= values.high:
            yield number
            number = 2 * number if values.log else number + values.step
    elif values.points == 1 or values.low == values.high:
        yield values.low
    else:
        low, high = (math.log(v) if values.log else v for v in (values.low, values.high))
        for i in range(values.points):
            between = low + (high - low) * i / (values.points - 1)
            value = float(f"{math.exp(between):.12g}") if values.log else between  # 0.001, not 0.0010000000000000002
            yield min(max(value, values.low), values.high)


def sampler(kind: str, seed: int | None, number: int) -> BaseSampler:
    """Return the sampler for the trial `number`.

    Each trial has its own seed, so that a resumed search draws the values that it would have drawn anyway.
    """
    import numpy as np
    from optuna.samplers import RandomSampler, TPESampler

    trial_seed = None if seed is None else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return TPESampler(seed=trial_seed) if kind == "tpe" else RandomSampler(seed=trial_seed)


def fixed_sampler(values: Values) -> BaseSampler:
    """Return a sampler that always draws `values`, a combination of a grid."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import PartialFixedSampler, RandomSampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # experimental since Optuna 2.4, seen in 5.0
        return PartialFixedSampler(values, RandomSampler())
