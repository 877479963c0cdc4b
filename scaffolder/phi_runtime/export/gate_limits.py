"""Limits of the gate, and what to change when a model exceeds them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from phi_runtime.config.schema.export import (
    GATE_MAX_KL,
    GATE_MAX_LOST_ANSWERS,
    GATE_MAX_PERPLEXITY_INCREASE,
    ExportPass,
)
from phi_runtime.config.supported_precisions import SUPPORTED_PRECISIONS

if TYPE_CHECKING:
    from phi_runtime.export.gate_comparison import GateComparison

_BLOCK_SIZE = 32  # of the builder's default, and of int4-aware training


@dataclass(frozen=True)
class LimitViolation:
    """A limit that a model exceeds: its key, and the measured value; no key if no limit could allow it."""

    text: str
    key: str = ""
    value: float = 0.0

    @property
    def relaxed_setting(self) -> str:
        """The setting that would allow the model; empty without a key."""
        rounded = math.floor if self.key.startswith("min") else math.ceil
        return f'"gate": {{"{self.key}": {rounded(100 * self.value) / 100:g}}}' if self.key else ""


@dataclass(frozen=True)
class GateLimits:
    """Limits of one export.

    Attributes:
        max_kl: Largest mean KL divergence over decisions, in nats.
        min_top1: Smallest share of decisions with equal most likely tokens; None: any.
        max_perplexity_increase: Largest growth of the perplexity over decisions, as a share.
        max_lost_answers: Largest net loss of answers, as a share of those that the source model has right.
    """

    max_kl: float
    min_top1: float | None
    max_perplexity_increase: float
    max_lost_answers: float = 1.0

    @classmethod
    def from_pass(cls, step: ExportPass) -> GateLimits:
        """Return the limits of the pass, with the defaults of its precision."""
        if step.gate is None:
            return cls(math.inf, None, math.inf)
        return cls(
            step.gate.max_kl or GATE_MAX_KL[step.precision],
            step.gate.min_top1,
            step.gate.max_perplexity_increase or GATE_MAX_PERPLEXITY_INCREASE[step.precision],
            GATE_MAX_LOST_ANSWERS[step.precision] if step.gate.max_lost_answers is None else step.gate.max_lost_answers,
        )

    def violation(self, found: GateComparison) -> LimitViolation | None:
        """Return the first violated limit, or None. A KL that is not a finite number violates all."""
        kl, top1, increase = found.kl, found.top1, found.perplexity_increase
        if not math.isfinite(kl):
            return LimitViolation("its logits are not numbers")
        if self._loses_answers(found) and _is_shown(found):
            net = (found.lost - found.gained) / found.answers
            text = f"it loses {found.lost} of {found.answers} right answers and gains {found.gained}"
            return LimitViolation(
                f"{text} ({100 * net:.1f} %, more than {100 * self.max_lost_answers:g} %)", "max_lost_answers", net
            )
        if kl > self.max_kl:
            return LimitViolation(f"KL {kl:.3g} is above {self.max_kl:g}", "max_kl", kl)
        if increase > self.max_perplexity_increase:
            text = (
                f"the perplexity grew by {100 * increase:.0f} %, more than {100 * self.max_perplexity_increase:.0f} %"
            )
            return LimitViolation(text, "max_perplexity_increase", increase)
        if self.min_top1 is not None and top1 < self.min_top1:
            text = f"the most likely token is the same in {100 * top1:.0f} %, less than {100 * self.min_top1:.0f} %"
            return LimitViolation(text, "min_top1", top1)
        return None

    def doubt(self, found: GateComparison) -> str | None:
        """Return what the rows are too few to show, or None."""
        if self._loses_answers(found) and not _is_shown(found):
            return (
                f"{found.lost} of {found.answers} right answers are lost and {found.gained} gained, "
                f"which can be chance with {found.compared_rows} rows: more validation rows would show it"
            )
        return None

    def _loses_answers(self, found: GateComparison) -> bool:
        return found.lost - found.gained > self.max_lost_answers * found.answers


def _is_shown(found: GateComparison) -> bool:
    """Return True if the interval of the difference in right answers excludes that none is lost."""
    interval = found.right_answers.interval
    return interval is not None and interval.high < 0


class MoreExact(NamedTuple):
    """New values of an export pass, by dotted key, that round less, and their purpose."""

    values: dict[str, Any]
    purpose: str


def more_exact(step: ExportPass, provider: str, *, has_rows: bool) -> Iterator[MoreExact]:
    """Yield the changes that make an export more accurate and that `provider` runs, the cheapest first.

    None of them is made already. `has_rows` is True if a pass before the export trains.
    """
    mixed = {"last_matmul", "mixed_layers"} <= set(step.other_bits)
    if step.precision == "int4" and provider == "DmlExecutionProvider" and not mixed:  # whose builder is older
        yield MoreExact({"int4_algo_config": "k_quant_mixed"}, "keep the most sensitive weights in 8 bits")
    if step.precision == "int4" and provider != "DmlExecutionProvider":
        values: dict[str, Any] = {}
        if step.int4_algo_config not in (None, "default", "k_quant", "gptq"):
            values["int4_algo_config"] = None
        if not mixed or (values and not step.extra_options.matmul_mixed_precision):
            values["extra_options.matmul_mixed_precision"] = "last_matmul:int8,mixed_layers:int8"
        if values:
            purpose = "use the builder's default rounding" if mixed else "keep the most sensitive weights in 8 bits"
            yield MoreExact(values, purpose)
    # Smaller blocks than int4-aware training rounds to lose answers of its models (bench/gate.py: 7 of 60, 2 in blocks of 32).
    if step.precision == "int4" and (step.int4_block_size or 0) > _BLOCK_SIZE:
        yield MoreExact({"int4_block_size": _BLOCK_SIZE}, "let fewer weights share a scale")
    plain = step.base_algorithm == "default" and step.int4_is_symmetric is not False and not step.adapters
    if step.precision == "int4" and provider != "DmlExecutionProvider" and plain and has_rows:
        yield MoreExact({"int4_calibration": {"tokens": 4096}}, "calibrate the rounding on training rows")
    order = ("int4", "int8", "bf16", "fp16", "fp32")
    for name in order[order.index(step.precision) + 1 :]:
        if name in SUPPORTED_PRECISIONS[provider]:
            yield MoreExact({"precision": name}, "use the next higher precision")
            return


def better_setting(step: ExportPass, provider: str, *, has_rows: bool) -> str:
    """Return the first change of `more_exact` as advice."""
    change = next(more_exact(step, provider, has_rows=has_rows), None)
    if change is None:
        return "use the source model through transformers, and report this to onnxruntime-genai"
    return f"{change.purpose}: {' and '.join(_as_json(key, value) for key, value in change.values.items())}"


def _as_json(key: str, value: Any) -> str:
    outer, _, inner = key.partition(".")
    return f'"{outer}": {json.dumps({inner: value} if inner else value)}'
