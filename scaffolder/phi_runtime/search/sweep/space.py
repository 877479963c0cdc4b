"""The search space in Optuna's words, and the combinations of a grid."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

from phi_runtime.config.schema import Choice, FloatRange, IntRange

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler

Space = Mapping[str, FloatRange | IntRange | Choice]
Values = dict[str, Any]


def suggest(trial: optuna.Trial, space: Space) -> Values:
    """The values of `trial` for the config, by key: what it has already, and what its sampler draws for the rest."""
    return decoded(space, {key: _suggested(trial, key, values) for key, values in space.items()})


def _suggested(trial: optuna.Trial, key: str, values: FloatRange | IntRange | Choice) -> Any:
    if isinstance(values, Choice):
        return trial.suggest_categorical(key, [_stored(value) for value in values.values])
    if isinstance(values, IntRange):
        high = values.high - (values.high - values.low) % values.step  # Optuna warns of a last step that is cut
        return trial.suggest_int(key, values.low, high, step=values.step, log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)


def _stored(value: Any) -> Any:
    """A choice as Optuna can store it: lists and objects are text there."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def decoded(space: Space, stored: Mapping[str, Any]) -> Values:
    """The values for the config of what Optuna has stored."""
    found = {}
    for key, values in space.items():
        value = stored[key]
        if isinstance(values, Choice):
            value = next(v for v in values.values if _stored(v) == value and type(_stored(v)) is type(value))
        found[key] = value
    return found


def grid(space: Space, seed: int | None) -> list[Values]:
    """All combinations, as Optuna stores them: the last key changes first, or in an order by chance where there is a seed."""
    axes = [[(key, value) for value in _axis(values)] for key, values in space.items()]
    found = [dict(pairs) for pairs in product(*axes)]
    if seed is not None:
        Random(seed).shuffle(found)
    return found


def grid_size(space: Space) -> int:
    """How many combinations there are."""
    return math.prod(len(list(_axis(values))) for values in space.values())


def _axis(values: FloatRange | IntRange | Choice) -> Iterator[Any]:
    if isinstance(values, Choice):
        yield from dict.fromkeys(_stored(value) for value in values.values)
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
    """What draws the values of the trial `number`. It has a seed of its own, so that a search which was interrupted goes on with the
    values that it would have drawn anyway."""
    import numpy as np
    from optuna.samplers import RandomSampler, TPESampler

    own = None if seed is None else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return TPESampler(seed=own) if kind == "tpe" else RandomSampler(seed=own)


def given(values: Values) -> BaseSampler:
    """What draws these values, for a combination of a grid."""
    from optuna.samplers import BaseSampler

    class Given(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return values[param_name]

    return Given()
