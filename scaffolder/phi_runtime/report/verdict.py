"""The verdict on a training: one sentence, a light with its rule, the findings behind it and the next commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from phi_runtime.config.schema import Workflow
from phi_runtime.core.project import ProjectFolder
from phi_runtime.evaluation.summary import BASE, FEW_SHOT, LABELS_SCORED
from phi_runtime.report.facts import Facts, Model, read_facts
from phi_runtime.report.figures import loss_is_open, points, quality, short_quality
from phi_runtime.report.findings import find
from phi_runtime.training.diagnosis import Diagnosis
from phi_runtime.training.diagnosis.problem import Light, ProblemKind

SHOWN = 3
"""Findings that are shown; those after them matter less."""

RULES: dict[Light, str] = {
    "ready": "better than each simple baseline and the base model, no loss by rounding, and no doubt about the rows",
    "check": "the rows cannot show that it is good enough, or something about them or the model needs a look first",
    "not ready": "no better than a simple baseline or the base model, or an exported model that lost at least 5 points",
}
_BASE_NAMES = {BASE: "base model", LABELS_SCORED: "base model, labels scored,", FEW_SHOT: "base model, few-shot,"}
_LEADS: dict[Light, str] = {"ready": "Ready to try", "check": "Check first", "not ready": "Not ready"}
_IN_DATA: set[ProblemKind] = {  # that `data check` shows with their rows
    "leakage",
    "near duplicates",
    "contradictory labels",
    "inconsistent labels",
    "rows too long",
    "duplicate rows",
}
_NOTICEABLE = 1.2  # times faster or slower, smaller or larger


@dataclass(frozen=True)
class Verdict:
    """The judgment of a training and its models.

    Attributes:
        light: ready, check or not ready.
        sentence: The result with its rows and interval, as one sentence.
        rule: Condition for which the light was given; the problem that decided it, if one did.
        findings: Problems, the most important first.
        commands: Commands that make sense next.
    """

    light: Light
    sentence: str
    rule: str
    findings: tuple[Diagnosis, ...] = ()
    commands: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the object `verdict` of `--json` outputs."""
        return asdict(self)


def judge(facts: Facts) -> Verdict:
    """Judge the models of a training by its facts. Nothing is measured here."""
    findings = find(facts)
    light: Light = findings[0].light if findings else "ready"
    decisive = findings[0] if light != "ready" else None
    rule = f"{light}: {RULES[light]}" + (f" ({decisive.problem})" if decisive else "")
    return Verdict(light, _sentence(facts, light, decisive), rule, findings, _commands(facts, light, findings))


def judge_trainings(
    project: ProjectFolder, workflow: Workflow, evaluation: Mapping[str, Any] | None, done: Sequence[str] = ()
) -> dict[str, Verdict]:
    """Judge each training pass that was compared, or else those that have run, by name.

    Args:
        evaluation: The evaluations of a run, as in its outcome; None if nothing was compared.
        done: Stages that have run.
    """
    compared = {entry["name"]: entry for entry in (evaluation or {}).get("trainings", ())}
    names = list(compared) or [name for name in workflow.trainings if name in done]
    return {name: judge(read_facts(project, workflow, name, compared.get(name))) for name in names}


def as_json(judged: Mapping[str, Verdict]) -> dict[str, Any]:
    """Return the verdicts as keys of `run-finished`: that of the first training, and all by name."""
    if not judged:
        return {}
    entries = [{"name": name, "verdict": verdict.as_dict()} for name, verdict in judged.items()]
    return {"verdict": entries[0]["verdict"], "trainings": entries}


def with_verdicts(evaluation: Mapping[str, Any] | None, judged: Mapping[str, Verdict]) -> dict[str, Any] | None:
    """Return the output of `evaluate --json`: the evaluations of a run, each with its verdict, or None."""
    if evaluation is None:
        return None
    trainings = [
        {**entry, "verdict": verdict.as_dict() if (verdict := judged.get(entry["name"])) else None}
        for entry in evaluation["trainings"]
    ]
    return {**trainings[0], "trainings": trainings}


def _sentence(facts: Facts, light: Light, decisive: Diagnosis | None) -> str:
    lead = f"{_LEADS[light]}, {decisive.problem}" if decisive else _LEADS[light]
    if decisive and not facts.measured:
        return f"{lead}: {decisive.evidence}"
    model = facts.trained or facts.evaluation["models"][0]
    parts = [quality(model, facts.metric, facts.measured)]
    if versus := model["versus"]:
        other = facts.models[versus["model"]]
        kind = (
            "simple baseline"
            if other in facts.evaluation["baselines"]
            else _BASE_NAMES.get(other["name"], other["name"])
        )
        parts.append(f"{kind} {short_quality(other, facts.metric)}")
    parts += [_export(facts, exported) for exported in facts.exported]
    return f"{lead}: {'; '.join(parts)}"


def _export(facts: Facts, model: Model) -> str:
    """Return what an export costs and saves: `int4 costs nothing measurable, is 4.7 × smaller and 8 × faster`."""
    name, versus = model["name"].removeprefix("onnx-"), model["versus"]
    if not versus:
        return f"{name}: {quality(model, facts.metric, facts.measured)}"
    if versus["outcome"] == "no difference seen" and model["metrics"] and loss_is_open(versus):
        costs = f"shows no loss ({points(versus['interval'])} are possible)"
    elif versus["outcome"] == "no difference seen":
        costs = "costs nothing measurable"
    elif versus["outcome"] == "better":
        costs = "is better"
    elif model["metrics"]:
        costs = (
            f"costs {-100 * versus['difference']:.0f} points ({versus['lost']} rows lost, {versus['gained']} gained)"
        )
    else:
        costs = f"has perplexity {model['perplexity']:.2f}"
    ratios = list(_ratios(facts, model))
    return f"{name} {costs}" + (f", is {' and '.join(ratios)}" if ratios else "")


def _ratios(facts: Facts, model: Model) -> list[str]:
    """Return how much smaller and faster a model is than the complete model that it was made of."""
    complete = next((facts.models[name] for name in ("merged", "finetuned", "base") if name in facts.models), None)
    if complete is None:
        return []
    pairs = (
        (_ratio(complete, model, "size_bytes"), "smaller", "larger"),
        (_ratio(model, complete, "decode_tokens_per_s"), "faster", "slower"),
    )
    texts = []
    for ratio, more, less in pairs:
        if ratio and max(ratio, 1 / ratio) >= _NOTICEABLE:
            texts.append(f"{times(max(ratio, 1 / ratio))} × {more if ratio > 1 else less}")
    return texts


def times(ratio: float) -> str:
    """Return a ratio with two digits: `4.7`, `12`, `153`."""
    return f"{ratio:.2g}" if ratio < 99.5 else f"{ratio:,.0f}"  # .2g has an exponent from there on


def _ratio(one: Model, other: Model, key: str) -> float | None:
    return one[key] / other[key] if one.get(key) and other.get(key) else None


def _commands(facts: Facts, light: Light, findings: Sequence[Diagnosis]) -> tuple[str, ...]:
    """Return the commands that make sense next."""
    if not facts.measured:
        return () if facts.evaluation else ("phi-scaffold evaluate",)
    found = {diagnosis.problem for diagnosis in findings}
    commands = {
        "phi-scaffold chat": light != "not ready",
        "phi-scaffold serve": light == "ready",
        "phi-scaffold data check": bool(found & _IN_DATA),
        "phi-scaffold optimize": "loss by rounding" in found or (light == "ready" and not facts.exported),
        "phi-scaffold report --open": True,
    }
    return tuple(command for command, makes_sense in commands.items() if makes_sense)
