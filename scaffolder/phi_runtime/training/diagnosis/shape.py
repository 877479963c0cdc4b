"""What the curves of a run have to say: a look for each problem, in the order in which they explain one another."""

from __future__ import annotations

import math

from phi_runtime.training.diagnosis.curves import (
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
from phi_runtime.training.diagnosis.problem import Diagnosis
from phi_runtime.training.diagnosis.run import LEARNT, MIN_LINES, MIN_VALIDATION, Run, rate_text, short

RISE = 0.10  # of the minimum: how far the validation loss must rise to be overfitting …
RISE_AT_ONCE = 0.25  # … and how far where one measurement alone says so
RISE_NATS = 0.02  # … and at least this much, or a loss of 0.01 would overfit by 0.001
RISING_PAIRS = 0.7  # of pairs after the minimum, the later of which is the higher; noise around a plateau has 0.5
DIVERGED = 0.25  # of the lowest level: how far the training loss must end above it …
DIVERGED_NATS = 0.1  # … and at least this much
APART = 0.95  # of pairs of lines from two times of the run, in which the later is the higher, before that is no chance
SHAKEN = 3.0  # neighbours this many times as far apart as at the start, without progress: an oscillation …
SHAKEN_PAIRS = 0.75  # … of pairs of distances, early and late, the later of which is the larger
EXPLODED = 10.0  # gradient norms this many times those of before, and of the norm that they are clipped to
SKIPPED = 0.01  # of all steps, at least two: float16 skips some while it finds its scale, hence five times that there
FLAT = 0.02  # of the first level: a smaller fall over the whole run is none
CREEPING = 0.10  # of the first level: a smaller fall, still going on at the end, is slow
LOW_RATE = {"adapter": 5e-5, "full": 2e-6}  # learning rates below which slowness is the rate's fault
USUAL_RATE = {"adapter": 2e-4, "full": 1e-5}  # the ones to try then
STEEP = 0.10  # of the whole fall, over the last third: still falling …
STEEP_NATS = 0.05  # … and at least this much
FALLING_PAIRS = 0.8  # of the lines of the last third, the later of which is the lower
IDLE = 0.6  # of the run without progress, and a whole epoch of it, before fewer epochs are advised
PROGRESS = 0.02  # of the whole fall: less is none …
CERTAIN = 0.05  # of the loss: … if it is known to within this


def learning_rate_too_high(run: Run) -> Diagnosis | None:
    found = [evidence for look in (_rising, _oscillating, _exploding, _skipping) if (evidence := look(run))]
    if not found:
        return None
    advice = run.rate(0.5)
    if not run.facts.get("warmup_steps", 1):
        advice += ", or warmup_steps 0 → 0.1"
    if not run.facts.get("max_grad_norm", 1):
        advice += ", and max_grad_norm 0 → 1"
    if run.facts.get("dtype") == "float16":
        advice += "; torch_dtype bfloat16 overflows less where the device has it"
    return Diagnosis("learning rate too high", "; ".join(found), "training_args.learning_rate", advice)


def _rising(run: Run) -> str:
    """The loss ends well above the lowest level that it had."""
    if not run.readable:
        return ""
    width = max(5, len(run.loss) // 6)
    before, end = lowest(run.loss[:-width], width), run.loss[-width:]
    least, last = level(before), level(end)
    if last < least + max(DIVERGED * least, DIVERGED_NATS) or above(end, before) < APART:
        return ""
    return f"training loss {short(least)} around step {before[width // 2].step}, {short(last)} at the end"


def _oscillating(run: Run) -> str:
    """Neighbouring lines come to lie ever further apart, and the loss does not fall."""
    if not run.readable:
        return ""
    before, after = part(run.loss, 0, 0.3), part(run.loss, 0.5, 1)
    shaken = wobble(after)
    if level(after) < 0.95 * level(before) or above(before, after) > 0.5:
        return ""
    grown = shaken >= SHAKEN * wobble(before) and above(distances(after), distances(before)) >= SHAKEN_PAIRS
    if not grown or shaken < max(DIVERGED_NATS, 0.2 * level(after)):
        return ""
    return f"training loss moves by {short(shaken)} from line to line, by {short(wobble(before))} at the start, and does not fall"


def _exploding(run: Run) -> str:
    """Gradient norms grow by an order of magnitude, and the loss does not fall."""
    if not run.readable or len(run.norms) < MIN_LINES:
        return ""
    before, after = level(part(run.norms, 0.1, 0.5)), level(part(run.norms, 0.75, 1))
    clip = run.facts.get("max_grad_norm") or 1.0
    if after < EXPLODED * max(before, clip) or run.last < level(part(run.loss, 0.1, 0.5)):
        return ""
    return f"gradient norm {short(before)} in the first half, {short(after)} in the last quarter"


def _skipping(run: Run) -> str:
    """Gradients were not finite more often than now and then."""
    skipped = run.facts.get("skipped_steps", 0)
    allowed = SKIPPED * (5 if run.facts.get("dtype") == "float16" else 1)
    if not run.long_enough or skipped < 2 or skipped < allowed * run.steps:
        return ""
    return f"{skipped} of {run.steps} steps were skipped, their gradients being no numbers"


def overfitting(run: Run) -> Diagnosis | None:
    """The validation loss rises from its minimum while the training loss goes on falling."""
    points = run.validation
    if not run.long_enough or len(points) < MIN_VALIDATION:
        return None
    at = min(range(len(points)), key=lambda i: points[i].value)
    least, after = points[at], points[at + 1 :]
    if not after or least.step == 0:
        return None
    risen = after[-1].value - least.value
    needed = RISE_AT_ONCE if len(after) == 1 else RISE
    if risen < max(needed * least.value, RISE_NATS) or not _goes_on_rising(after) or not _fell_after(run.loss, least):
        return None
    evidence = f"validation loss {short(least.value)} at step {least.step}, {short(after[-1].value)} at the end"
    setting, shorter = run.length(least.step / max(after[-1].step, 1))
    if run.facts.get("load_best_model_at_end"):
        if run.facts.get("early_stopping_patience"):
            return None  # it stopped there and kept the best: all is done
        return Diagnosis(
            "overfitting",
            f"{evidence}; the model of step {least.step} was kept",
            "training_args.early_stopping_patience",
            f"early_stopping_patience 2 saves the rest of the run, as does {shorter}",
        )
    milder = f"a lower learning_rate, weight_decay 0.01{', lora_dropout 0.1' if run.kind == 'adapter' else ''}"
    stopping = "early_stopping_patience 2 with load_best_model_at_end true"
    return Diagnosis("overfitting", evidence, setting, f"{shorter}, or {stopping}; more rows, {milder} help as well")


def _goes_on_rising(after: Curve) -> bool:
    """Whether what follows the minimum has a direction, as noise around a plateau has not."""
    return len(after) < 3 or rising_share(after) >= RISING_PAIRS


def _fell_after(loss: Curve, least: Point) -> bool:
    """Whether the training loss is lower at the end than around the minimum of the validation loss."""
    around = sorted(loss, key=lambda p: abs(p.step - least.step))[: max(3, len(loss) // 10)]
    end = loss[-max(3, len(loss) // 10) :]
    return len(loss) >= 4 and level(end) < 0.95 * level(around)


def nothing_learnt(run: Run) -> Diagnosis | None:
    """The loss stays where it was, or creeps at a learning rate that explains it."""
    validation = run.validation
    if (
        len(validation) > 1 and validation[0].step == 0 and run.long_enough
    ):  # measured before training: the best witness
        first, last = validation[0].value, validation[-1].value
        if last >= (1 - FLAT / 2) * first and first > LEARNT:
            return _learnt_nothing(run, f"validation loss {short(first)} before training, {short(last)} after it")
    if not run.readable or run.first <= LEARNT:
        return None
    fall, noise = run.first - run.last, wobble(run.loss) / math.sqrt(max(3, len(run.loss) // 10))
    if noise > CREEPING * run.first / 2:  # too noisy to tell
        return None
    evidence = f"training loss {short(run.first)} at the start, {short(run.last)} at the end"
    if fall < FLAT * run.first:
        if len(validation) > 1 and validation[-1].value < (1 - FLAT / 2) * validation[0].value:
            return None
        return _learnt_nothing(run, evidence)
    rate, low = run.facts.get("learning_rate", math.inf), LOW_RATE[run.kind]
    going_on = -slope(part(run.loss, 2 / 3, 1)) * run.steps >= 0.5 * fall
    if fall < CREEPING * run.first and rate < low and going_on:
        advice = f"learning_rate {rate_text(rate)} → {rate_text(USUAL_RATE[run.kind])}"
        return Diagnosis("learning rate too low", f"{evidence}, still falling", "training_args.learning_rate", advice)
    return None


def _learnt_nothing(run: Run, evidence: str) -> Diagnosis:
    rate, low = run.facts.get("learning_rate", math.inf), LOW_RATE[run.kind]
    if rate < low:
        advice = f"learning_rate {rate_text(rate)} → {rate_text(USUAL_RATE[run.kind])}"
        return Diagnosis("nothing learnt", evidence, "training_args.learning_rate", advice)
    wider = f", a larger r (now {run.facts['r']})" if "r" in run.facts else ""
    advice = (
        f"see what is trained on with `phi-scaffold data preview`; then try {run.rate(0.5)} or {run.rate(2)}{wider}"
    )
    return Diagnosis("nothing learnt", evidence, "training_args.learning_rate", advice)


def not_finished(run: Run) -> Diagnosis | None:
    """The loss falls at the end as it did before."""
    if not run.readable or run.facts.get("early_stopping_patience"):
        return None
    if len(run.validation) > 1 and run.validation[-1].value >= run.validation[-2].value:
        return None
    end = part(run.loss, 2 / 3, 1)
    span = end[-1].step - end[0].step
    fall, last_fall = -slope(end) * span, -slope(part(run.loss, 5 / 6, 1)) * span
    whole = run.first - run.last
    needed = max(STEEP * whole, STEEP_NATS, RISE * run.last, 2 * wobble(end))
    if fall < needed or last_fall < fall / 2:
        return None
    setting, longer = run.length(2)
    if len(end) < 6 or rising_share(end) > 1 - FALLING_PAIRS:
        return None
    before, after = level(end[:3]), level(end[-3:])
    evidence = f"training loss fell from {short(before)} to {short(after)} over the last third, no slower at its end"
    return Diagnosis("not finished", evidence, setting, f"{longer}, or {run.rate(2)}")


def plateau(run: Run) -> Diagnosis | None:
    """Most of the run brought nothing, a whole epoch of it at least: it was done early."""
    epochs = max((p.epoch for p in (*run.loss, *run.validation)), default=0.0)
    if not run.readable or IDLE * epochs < 1 or run.facts.get("early_stopping_patience"):
        return None
    rest = part(run.loss, 1 - IDLE, 1)
    before, after = level(part(rest, 0, 1 / 3)), level(part(rest, 2 / 3, 1))
    if run.last <= LEARNT or run.first - run.last < CREEPING * run.first:
        return None
    if before - after >= min(PROGRESS * (run.first - run.last), PROGRESS * run.last):
        return None
    if wobble(rest) / math.sqrt(len(rest) / 3) > CERTAIN * run.last:
        return None
    idle_from = rest[0].step
    validation = [p for p in run.validation if p.step >= idle_from]
    if run.validation and (len(validation) < 2 or validation[-1].value < (1 - PROGRESS / 2) * validation[0].value):
        return None
    setting, shorter = run.length(1 - IDLE)
    evidence = f"training loss {short(before)} around step {idle_from}, {short(after)} at the end (step {run.steps})"
    advice = f"{shorter} or early_stopping_patience 2 would have done; if the result is not good enough, {run.rate(2)}"
    return Diagnosis("plateau", evidence, setting, advice)
