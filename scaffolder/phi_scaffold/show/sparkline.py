"""A curve in a line of text."""

from __future__ import annotations

from collections.abc import Sequence

from phi_runtime.report.scale import Scale, finite, is_wide

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Return a character for each value, or for the mean of each of `width` equal parts; the higher, the larger the value.

    The scale is logarithmic where the values spread far. Values that are not finite are skipped.
    """
    numbers = finite(values)
    parts = min(len(numbers), width)
    means = []
    for part in range(parts):
        chunk = numbers[part * len(numbers) // parts : (part + 1) * len(numbers) // parts]
        means.append(sum(chunk) / len(chunk))
    if len(means) < 2:
        return ""
    low, high = min(means), max(means)
    if low == high:
        return _BLOCKS[0] * parts
    scale = Scale(low, high, 0, len(_BLOCKS) - 1, is_wide(means))
    return "".join(_BLOCKS[round(scale.at(mean))] for mean in means)
