"""Checks of the training loss, validation loss and gradient norms, one function for each problem."""

from __future__ import annotations

import math

from phi_runtime.training.diagnosis.curve_statistics import (
    Curve,
    Point,
    above,
    distances,
    level,
    lowest,
    part,
    rising_share,
    slope,
    wobble,
)
from phi_runtime.training.diagnosis.problem import Adjustment, Diagnosis
from phi_runtime.training.diagnosis.run import LEARNED, MIN_LINES, MIN_VALIDATION, TrainingRecord, short

# Overfitting
RISE = 0.10  # of the minimum: rise of the validation loss …
RISE_AT_ONCE = 0.25  # … or this much where a single evaluation shows it
RISE_NATS = 0.02  # … and at least this much, or a loss of 0.01 would overfit by 0.001
RISING_PAIRS = 0.7  # of pairs after the minimum whose later point is higher; noise around a plateau has 0.5
# Learning rate too high
DIVERGED = 0.25  # of the lowest level: rise of the training loss above it at the end …
DIVERGED_NATS = 0.1  # … and at least this much
APART = 0.95  # of pairs of early and late entries whose later one is higher
OSCILLATING = 3.0  # times the early distance of consecutive entries, without progress …
OSCILLATING_PAIRS = 0.75  # … in this share of pairs of early and late distances
EXPLODED = 10.0  # times the early gradient norm, and the norm that gradients are clipped to
SKIPPED = 0.01  # of all steps, at least two; 5 times that in float16, which skips some to find its loss scale
# Nothing learned, learning rate too low
FLAT = 0.02  # of the first level: a smaller fall over the run is none
CREEPING = 0.10  # of the first level: a smaller fall that continues at the end is slow
LOW_RATE = {"adapter": 5e-5, "full": 2e-6}  # learning rates below which the rate explains slowness
USUAL_RATE = {"adapter": 2e-4, "full": 1e-5}  # the ones to try then
# Not finished
STEEP = 0.10  # of the total fall, over the last third …
STEEP_NATS = 0.05  # … and at least this much
FALLING_PAIRS = 0.8  # of pairs of the last third whose later entry is lower
# Plateau
IDLE = 0.6  # of the run without progress, at least one epoch
PROGRESS = 0.02  # of the total fall: less is none …
CERTAIN = 0.05  # of the loss: … if the level is known this precisely


def learning_rate_too_high(run: TrainingRecord) -> Diagnosis | None:
    """Check for a loss or gradients that grow, oscillate or overflow."""
    evidence = [text for check in (_diverged, _oscillating, _exploding, _skipping) if (text := check(run))]
    if not evidence:
        return None
    change = run.rate_change(0.5)
    advice = change.text
    if not run.facts.get("warmup_steps", 1):
        advice += ", or warmup_steps 0 → 0.1"
    if not run.facts.get("max_grad_norm", 1):
        advice += ", and max_grad_norm 0 → 1"
    if run.facts.get("dtype") == "float16":
        advice += "; torch_dtype float16 → bfloat16 overflows less, if the device supports it"
    return Diagnosis.of("learning rate too high", "; ".join(evidence), change, advice)


def _diverged(run: TrainingRecord) -> str:
    """Return the evidence if the loss ends well above its lowest level."""
    if not run.readable:
        return ""
    width = max(5, len(run.loss) // 6)
    minimum, end = lowest(run.loss[:-width], width), run.loss[-width:]
    lowest_level, last_level = level(minimum), level(end)
    if last_level < lowest_level + max(DIVERGED * lowest_level, DIVERGED_NATS) or above(end, minimum) < APART:
        return ""
    return f"training loss {short(lowest_level)} around step {minimum[width // 2].step}, {short(last_level)} at the end"


def _oscillating(run: TrainingRecord) -> str:
    """Return the evidence if consecutive entries grow apart while the loss does not fall."""
    if not run.readable:
        return ""
    early, late = part(run.loss, 0, 0.3), part(run.loss, 0.5, 1)
    late_wobble = wobble(late)
    if level(late) < 0.95 * level(early) or above(early, late) > 0.5:
        return ""
    more_apart = above(distances(late), distances(early)) >= OSCILLATING_PAIRS
    if late_wobble < OSCILLATING * wobble(early) or not more_apart:
        return ""
    if late_wobble < max(DIVERGED_NATS, 0.2 * level(late)):
        return ""
    change = f"{short(late_wobble)} between log entries ({short(wobble(early))} at the start)"
    return f"training loss changes by {change} and does not fall"


def _exploding(run: TrainingRecord) -> str:
    """Return the evidence if gradient norms grow by an order of magnitude while the loss does not fall."""
    if not run.readable or len(run.norms) < MIN_LINES:
        return ""
    early, late = level(part(run.norms, 0.1, 0.5)), level(part(run.norms, 0.75, 1))
    max_norm = run.facts.get("max_grad_norm") or 1.0
    if late < EXPLODED * max(early, max_norm) or run.last < level(part(run.loss, 0.1, 0.5)):
        return ""
    return f"gradient norm {short(early)} in the first half, {short(late)} in the last quarter"


def _skipping(run: TrainingRecord) -> str:
    """Return the evidence if more than a few gradients were not finite."""
    skipped = run.facts.get("skipped_steps", 0)
    allowed = SKIPPED * (5 if run.facts.get("dtype") == "float16" else 1)
    if not run.long_enough or skipped < 2 or skipped < allowed * run.steps:
        return ""
    return f"skipped {skipped} of {run.steps} steps: their gradients were not finite"


def overfitting(run: TrainingRecord) -> Diagnosis | None:
    """Check for a validation loss that rises from its minimum while the training loss falls."""
    points = run.validation
    if not run.long_enough or len(points) < MIN_VALIDATION:
        return None
    index = min(range(len(points)), key=lambda i: points[i].value)
    minimum, after = points[index], points[index + 1 :]
    if not after or minimum.step == 0:
        return None
    last = after[-1]
    rise = last.value - minimum.value
    needed = max((RISE_AT_ONCE if len(after) == 1 else RISE) * minimum.value, RISE_NATS)
    if rise < needed or not _keeps_rising(after) or not _fell_after(run.loss, minimum):
        return None
    evidence = f"validation loss {short(minimum.value)} at step {minimum.step}, {short(last.value)} at the end"
    shorter = run.length_change(minimum.step / max(last.step, 1))
    patience, keeps_best = run.facts.get("early_stopping_patience"), run.facts.get("load_best_model_at_end")
    if keeps_best and patience:
        return None  # it stopped in time and kept the best state
    if keeps_best:
        return Diagnosis(
            "overfitting",
            f"{evidence}; the model of step {minimum.step} was kept",
            "early_stopping_patience",
            f"early_stopping_patience 2 or {shorter.text} saves the rest of the run",
            2,
        )
    stopping = ("" if patience else "early_stopping_patience 2 with ") + "load_best_model_at_end true"
    others = ["more rows", "a lower learning_rate"]
    others += ["weight_decay 0.01"] if run.facts.get("weight_decay", 0) < 0.01 else []
    others += ["lora_dropout 0.1"] if run.kind == "adapter" and run.facts.get("lora_dropout", 0) < 0.1 else []
    advice = f"{shorter.text}, or {stopping}; {', '.join(others)} help as well"
    return Diagnosis.of("overfitting", evidence, shorter, advice)


def _keeps_rising(after: Curve) -> bool:
    """Return True if the curve after the minimum has a direction, unlike noise around a plateau."""
    return len(after) < 3 or rising_share(after) >= RISING_PAIRS


def _fell_after(loss: Curve, minimum: Point) -> bool:
    """Return True if the training loss is lower at the end than at the minimum of the validation loss."""
    around = sorted(loss, key=lambda p: abs(p.step - minimum.step))[: max(3, len(loss) // 10)]
    end = loss[-max(3, len(loss) // 10) :]
    return len(loss) >= 4 and level(end) < 0.95 * level(around)


def nothing_learned(run: TrainingRecord) -> Diagnosis | None:
    """Check for a loss that does not fall, or falls slowly at a learning rate that explains it."""
    validation = run.validation
    if (
        len(validation) > 1 and validation[0].step == 0 and run.long_enough
    ):  # measured before training: the best evidence
        first, last = validation[0].value, validation[-1].value
        if last >= (1 - FLAT / 2) * first and first > LEARNED:
            evidence = f"validation loss {short(first)} before training, {short(last)} after it"
            return _nothing_learned(run, evidence)
    if not run.readable or run.first <= LEARNED:
        return None
    fall, noise = run.first - run.last, wobble(run.loss) / math.sqrt(max(3, len(run.loss) // 10))
    if noise > CREEPING * run.first / 2:  # too noisy to tell
        return None
    evidence = f"training loss {short(run.first)} at the start, {short(run.last)} at the end"
    if fall < FLAT * run.first:
        if len(validation) > 1 and validation[-1].value < (1 - FLAT / 2) * validation[0].value:
            return None
        return _nothing_learned(run, evidence)
    rate, low_rate = run.facts.get("learning_rate", math.inf), LOW_RATE[run.kind]
    still_falling = -slope(part(run.loss, 2 / 3, 1)) * run.steps >= 0.5 * fall
    if fall < CREEPING * run.first and rate < low_rate and still_falling:
        return Diagnosis.of("learning rate too low", f"{evidence}, still falling", _usual_rate(run))
    return None


def _nothing_learned(run: TrainingRecord, evidence: str) -> Diagnosis:
    rate, low_rate = run.facts.get("learning_rate", math.inf), LOW_RATE[run.kind]
    if rate < low_rate:
        return Diagnosis.of("nothing learned", evidence, _usual_rate(run))
    rank = f", a larger r (now {run.facts['r']})" if "r" in run.facts else ""
    lower, higher = run.rate_change(0.5), run.rate_change(2)
    advice = f"check the rows with `phi-scaffold data preview`; then {lower.text} or {higher.text}{rank}"
    return Diagnosis.of("nothing learned", evidence, lower, advice)


def _usual_rate(run: TrainingRecord) -> Adjustment:
    return run.rate_set_to(USUAL_RATE[run.kind])


def not_finished(run: TrainingRecord) -> Diagnosis | None:
    """Check for a training loss that falls at the end as fast as before."""
    if not run.readable or run.facts.get("early_stopping_patience"):
        return None
    if len(run.validation) > 1 and run.validation[-1].value >= run.validation[-2].value:
        return None
    end = part(run.loss, 2 / 3, 1)
    span = end[-1].step - end[0].step
    fall, late_fall = -slope(end) * span, -slope(part(run.loss, 5 / 6, 1)) * span
    needed = max(STEEP * (run.first - run.last), STEEP_NATS, RISE * run.last, 2 * wobble(end))
    if fall < needed or late_fall < fall / 2:
        return None
    if len(end) < 6 or rising_share(end) > 1 - FALLING_PAIRS:
        return None
    start_level, end_level = short(level(end[:3])), short(level(end[-3:]))
    evidence = f"training loss fell from {start_level} to {end_level} in the last third and did not slow down"
    longer = run.length_change(2)
    return Diagnosis.of("not finished", evidence, longer, f"{longer.text}, or {run.rate_change(2).text}")


def plateau(run: TrainingRecord) -> Diagnosis | None:
    """Check for a run most of which, and at least one epoch, made no progress."""
    epochs = max((p.epoch for p in (*run.loss, *run.validation)), default=0.0)
    if not run.readable or IDLE * epochs < 1 or run.facts.get("early_stopping_patience"):
        return None
    idle = part(run.loss, 1 - IDLE, 1)
    start_level, end_level = level(part(idle, 0, 1 / 3)), level(part(idle, 2 / 3, 1))
    if run.last <= LEARNED or run.first - run.last < CREEPING * run.first:
        return None
    if start_level - end_level >= min(PROGRESS * (run.first - run.last), PROGRESS * run.last):
        return None
    if wobble(idle) / math.sqrt(len(idle) / 3) > CERTAIN * run.last:
        return None
    idle_from = idle[0].step
    validation = [p for p in run.validation if p.step >= idle_from]
    if run.validation and (len(validation) < 2 or validation[-1].value < (1 - PROGRESS / 2) * validation[0].value):
        return None
    shorter = run.length_change(1 - IDLE)
    evidence = (
        f"training loss {short(start_level)} around step {idle_from}, {short(end_level)} at the end (step {run.steps})"
    )
    same = f"{shorter.text} or early_stopping_patience 2 gives the same result"
    advice = f"{same}; for a better one, {run.rate_change(2).text}"
    return Diagnosis.of("plateau", evidence, shorter, advice)
