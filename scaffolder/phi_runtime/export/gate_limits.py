"""How far an ONNX model may be from its source, and what to export in place of one that is too far."""

from __future__ import annotations

import math
from dataclasses import dataclass

from phi_runtime.config.schema.export import ExportPass
from phi_runtime.config.supported_precisions import RUNNABLE

# By precision: KL in nats and the growth of the perplexity. Sound builds of an untuned model of 135 million weights, which rounding
# hurts more than a larger one, reach 0.000 and 0 % (fp32), 0.007 and 1 % (int8), 0.5 and 40 % (int4 as the builder makes it).
_LIMITS = {"fp32": (0.02, 0.05), "fp16": (0.05, 0.05), "bf16": (0.05, 0.05), "int8": (0.1, 0.15), "int4": (1.0, 1.0)}


@dataclass(frozen=True)
class Limits:
    """The largest KL (nats), the smallest share of equal likeliest tokens (None: any), the largest growth of the perplexity."""

    max_kl: float
    min_top1: float | None
    max_perplexity_increase: float

    def broken_by(self, kl: float, top1: float, increase: float) -> str | None:
        """What is beyond a limit, in words; None where all hold. What is no number is beyond all."""
        if not math.isfinite(kl):
            return "its logits are no numbers"
        if kl > self.max_kl:
            return f"KL {kl:.3g} is above {self.max_kl:g}"
        if increase > self.max_perplexity_increase:
            return (
                f"the perplexity grew by {100 * increase:.0f} %, more than {100 * self.max_perplexity_increase:.0f} %"
            )
        if self.min_top1 is not None and top1 < self.min_top1:
            return f"the likeliest token is the same in {100 * top1:.0f} %, less than {100 * self.min_top1:.0f} %"
        return None


def limits_of(step: ExportPass) -> Limits:
    """The limits that the pass names, and those of its precision for what it leaves open."""
    gate, (kl, increase) = step.gate, _LIMITS[step.precision]
    if gate is None:
        return Limits(math.inf, None, math.inf)
    return Limits(gate.max_kl or kl, gate.min_top1, gate.max_perplexity_increase or increase)


def next_better(step: ExportPass, provider: str) -> str:
    """The next setting or precision up that this execution provider runs, as advice."""
    runnable = RUNNABLE[provider]
    mixed = {"last_matmul", "mixed_layers"} <= set(step.other_bits)
    if step.precision == "int4" and provider == "DmlExecutionProvider" and not mixed:  # whose builder is older
        return 'give the weights that rounding hurts most 8 bits: "int4_algo_config": "k_quant_mixed"'
    if step.precision == "int4" and provider != "DmlExecutionProvider" and not (mixed and step.base_algorithm != "rtn"):
        return (
            'round as the builder does by itself, and give the weights that this hurts most 8 bits: "int4_algo_config": null '
            'and "extra_options": {"matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"}'
        )
    if step.precision == "int4" and step.int4_block_size not in (16, None):
        return 'let fewer weights share a scale: "int4_block_size": 16'
    order = ("int4", "int8", "bf16", "fp16", "fp32")
    better = next((name for name in order[order.index(step.precision) + 1 :] if name in runnable), None)
    if better:
        return f'take the next better precision: "precision": "{better}"'
    return "use the model that it was made of, through transformers, and tell the makers of the builder"
