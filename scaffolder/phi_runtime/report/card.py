"""The card of a model: README.md with metadata for the Hub, from the facts of its training and evaluation. No path is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from phi_runtime.config.schema import DataConfig, FinetunePass
from phi_runtime.core.hub_id import HUB_ID
from phi_runtime.core.signed_text import signed
from phi_runtime.core.units import count, interval, percent, percents
from phi_runtime.evaluation.metrics import main_result
from phi_runtime.report.differences import flattened
from phi_runtime.report.facts import Facts, Model
from phi_runtime.report.text import inert
from phi_runtime.report.verdict import judge

_TASKS = {
    "classification": "to classify text with one of the labels below",
    "chat": "to answer messages in a conversation",
    "question-answering": "to answer questions",
    "summarization": "to summarize text",
    "extraction": "to extract fields from text as JSON",
    "generation": "to write text for a prompt",
}
_METRIC_TYPES = {
    "accuracy": "accuracy",
    "rouge_l": "rouge",
    "token_f1": "f1",
    "field_f1": "f1",
    "perplexity": "perplexity",
}
_RELATIONS = {"adapter": "adapter", "hf": "finetune", "onnx": "quantized"}
_LIBRARIES = {"adapter": "peft", "hf": "transformers", "onnx": "onnxruntime-genai"}
_USUAL_SETTINGS = (
    "r",
    "alpha",
    "training_args.num_train_epochs",
    "training_args.learning_rate",
    "training_args.per_device_train_batch_size",
    "training_args.gradient_accumulation_steps",
    "training_args.seed",
)
_TRAINING_FACTS = ("steps", "best_step", "dtype", "torch_threads")
_LABELS = 20  # that are listed


@dataclass(frozen=True)
class ModelOrigin:
    """Origin of a base model.

    Attributes:
        name: Name that is shown.
        hub_id: Its id on the Hub; "" if it is unknown.
        commit: Commit of the repository; "" if it is unknown.
        note: How the weights came here, if not from the Hub.
        license: Identifier of the license in lower case; "" if it is unknown.
    """

    name: str
    hub_id: str = ""
    commit: str = ""
    note: str = ""
    license: str = ""


@dataclass(frozen=True)
class CardModel:
    """A model that gets a card.

    Attributes:
        title: Name of the model.
        kind: adapter, hf or onnx.
        precision: Of an ONNX model.
        base: The base model.
        trainings: Facts of each training that it comes from.
        names: Name of the model in the comparison of each training.
        prompt: The prompt template, in which columns are in braces; "" for a chat template or free text.
        is_chat: The model has a chat template, which its rows used.
        run: Id of the run that built it; "" if it is not recorded.
        commit: Git commit of the project then; "" if there was none.
        versions: Versions of libraries.
    """

    title: str
    kind: str
    base: ModelOrigin
    trainings: Sequence[Facts]
    names: Sequence[str]
    precision: str = ""
    prompt: str = ""
    is_chat: bool = False
    run: str = ""
    commit: str = ""
    versions: Mapping[str, str] | None = None


def model_card(model: CardModel) -> str:
    """Return the text of README.md, signed so that a user's edit is noticed."""
    sections = (
        _introduction(model),
        _use(model),
        _data(model),
        *(_results(facts, name) for facts, name in zip(model.trainings, model.names, strict=True)),
        _training(model),
        _reproduction(model),
    )
    return signed(f"---\n{metadata(model)}---\n\n" + "\n\n".join(section for section in sections if section) + "\n\n")


def metadata(model: CardModel) -> str:
    """Return the metadata for the Hub, in YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=_data_type(facts),
            dataset_name=", ".join(_data_names(facts)) or "rows of the project",
            dataset_split=facts.evaluation["rows_of"],
            metric_type=_METRIC_TYPES.get(metric, metric),
            metric_value=value,
            metric_name=_metric_name(metric, interval, facts),
        )
        for facts, name in zip(model.trainings, model.names, strict=True)
        for metric, value, interval in _scores(facts, name)
    ]
    data = ModelCardData(
        base_model=model.base.hub_id or None,
        base_model_relation=_RELATIONS[model.kind] if model.base.hub_id else None,
        license=model.base.license or None,
        datasets=list(dict.fromkeys(name for facts in model.trainings for name in _data_names(facts))) or None,
        library_name=_LIBRARIES[model.kind],
        pipeline_tag="text-generation",
        tags=_tags(model),
        model_name=model.title if results else None,
        eval_results=results or None,
    )
    return f"{data.to_yaml()}\n"


def _tags(model: CardModel) -> list[str]:
    tags = [facts.step.type.lower() for facts in model.trainings if facts.step]
    tags += [str(facts.evaluation["task"]) for facts in model.trainings if facts.evaluation]
    tags += ["onnx", model.precision] if model.kind == "onnx" else []
    if model.kind == "adapter" and model.base.hub_id:
        tags.append(f"base_model:adapter:{model.base.hub_id}")
    return list(dict.fromkeys(tag for tag in [*tags, "phi-scaffold"] if tag))


# -- facts ------------------------------------------------------------------------------------------------------------


def _data_configs(facts: Facts) -> list[DataConfig]:
    names = facts.step.data_names if facts.step else ()
    return [facts.workflow.data_config(name) for name in names]


def _data_names(facts: Facts) -> list[str]:
    """Return Hub ids of data sets and names of files, without folders."""
    names: list[str] = []
    for data in _data_configs(facts):
        load = data.load_dataset_config
        if load.format is None and HUB_ID.fullmatch(load.data_name):
            names.append(load.data_name)
        else:
            reported = [entry["files"] for entry in facts.data.get("datasets", ()) if entry["name"] == data.name]
            names += [PurePath(file.replace("\\", "/")).name for files in reported for file in files] or [data.name]
    return list(dict.fromkeys(names))


def _data_type(facts: Facts) -> str:
    return next((name for name in _data_names(facts) if HUB_ID.fullmatch(name)), "private")


def _scores(facts: Facts, name: str) -> Iterator[tuple[str, float, Sequence[float] | None]]:
    """Yield name, value and interval of each metric of a model; the main metric first."""
    model = facts.models.get(name)
    if model is None or not facts.measured:
        return
    metrics = model["metrics"]
    for metric in sorted(metrics, key=lambda metric: metric != facts.metric):
        yield metric, metrics[metric], model["interval"] if metric == facts.metric else None
    if model.get("perplexity") is not None:
        yield "perplexity", model["perplexity"], model["perplexity_interval"]


def _metric_name(metric: str, interval: Sequence[float] | None, facts: Facts) -> str:
    ends = f", 95 % interval {interval[0]:.4g} to {interval[1]:.4g}" if interval else ""
    return f"{_words(metric)} ({count(facts.measured, 'row')}{ends})"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(metric: str, value: float) -> str:
    return f"{value:.2f}" if metric == "perplexity" else percent(value)


def _interval(metric: str, ends: Sequence[float] | None) -> str:
    return interval(ends) if metric == "perplexity" else percents(ends)


# -- sections ---------------------------------------------------------------------------------------------------------


def _introduction(model: CardModel) -> str:
    base = (
        f"[{model.base.hub_id}](https://huggingface.co/{model.base.hub_id})"
        if model.base.hub_id
        else f"`{model.base.name}`"
    )
    methods = " and ".join(dict.fromkeys(facts.step.type for facts in model.trainings if facts.step))
    made = {
        "adapter": f"{methods} adapter for {base}",
        "hf": f"{base}, fine-tuned with {methods}",
        "onnx": f"{base}, fine-tuned with {methods} and exported to {model.precision} ONNX",
    }[model.kind]
    lines = [f"# {_text(model.title)}", "", f"{made}."]
    if model.base.note:
        lines.append(f"The weights of the base model were {model.base.note}.")
    if model.base.commit:
        lines.append(f"Revision of the base model: `{model.base.commit}`.")
    if not model.base.license:
        lines.append("The license of the base model is unknown here; it also applies to this model.")
    sentences = [judge(facts).sentence for facts in model.trainings if facts.evaluation]
    return "\n".join(lines) + "".join(f"\n\n> {_text(sentence)}." for sentence in sentences)


def _use(model: CardModel) -> str:
    tasks = dict.fromkeys(
        _TASKS.get(str(facts.workflow.evaluation.of(facts.training).task), "") for facts in model.trainings
    )
    goal = " and ".join(task for task in tasks if task)
    lines = [
        "## Use",
        "",
        f"It was trained {goal}, on inputs like those of its training data, in the prompt format below."
        if goal
        else "",
        "Other languages, topics and formats were not measured. Do not use it where a wrong answer harms someone, unless a person"
        " checks each answer.",
        "",
        _example(model),
    ]
    return "\n".join(lines)


def _example(model: CardModel) -> str:
    """Return the code that runs a model."""
    if model.kind == "onnx":
        return _code("bash", "pip install -r requirements.txt\npython chat_onnx.py --prompt '…'")
    prompt = json.dumps(model.prompt or "…", ensure_ascii=False)
    call = '[{"role": "user", "content": "…"}]' if model.is_chat else prompt
    if model.kind == "hf":
        return _code(
            "python",
            "from transformers import pipeline\n"
            'generate = pipeline("text-generation", model=".")  # the folder or the id of this model\n'
            f"print(generate({call}, return_full_text=False))",
        )
    base = json.dumps(model.base.hub_id if model.base.hub_id and not model.base.note else "FOLDER OF THE BASE MODEL")
    return _code(
        "python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline\n"
        f"model = AutoModelForCausalLM.from_pretrained({base})\n"
        'model.load_adapter(".")  # the folder or the id of this adapter\n'
        'generate = pipeline("text-generation", model=model, tokenizer=AutoTokenizer.from_pretrained("."))\n'
        f"print(generate({call}, return_full_text=False))",
    )


def _data(model: CardModel) -> str:
    lines = ["## Training data", ""]
    for facts in model.trainings:
        lines += [f"- {line}" for line in _data_lines(facts)]
    limits = [f"- {_text(line)}" for facts in model.trainings if facts.evaluation for line in _limits(facts)]
    return "\n".join([*lines, *(["", "Known limits:", "", *limits] if limits else [])])


def _data_lines(facts: Facts) -> Iterator[str]:
    names = ", ".join(f"`{_text(name)}`" for name in _data_names(facts)) or "not recorded"
    counts = facts.counts
    rows = f": {count(counts['rows'], 'training row')}" if "rows" in counts else ""
    validation = f", {count(counts['validation_rows'], 'validation row')}" if counts.get("validation_rows") else ""
    yield f"{names}{rows}{validation}"
    data = facts.training_data or {}
    if labels := data.get("labels"):
        shown = ", ".join(f"{_text(label)} {number:,}" for label, number in list(labels.items())[:_LABELS])
        more = f" and {len(labels) - _LABELS} more" if len(labels) > _LABELS else ""
        yield f"labels: {shown}{more}"
    if personal := data.get("personal_data"):
        found = ", ".join(f"{_words(kind)} {number:,}" for kind, number in personal.items())
        yield f"likely personal data: {found}; a model can repeat it"


def _limits(facts: Facts) -> Iterator[str]:
    for finding in judge(facts).findings:
        yield f"{finding.problem}: {finding.evidence.partition(', such as ')[0]}"  # examples name rows


def _results(facts: Facts, name: str) -> str:
    if not facts.measured or name not in facts.models:
        return "## Results\n\nThe model was not evaluated yet."
    evaluation = facts.evaluation
    metric, _, _ = main_result(evaluation["task"], facts.models[name])
    rows = f"{evaluation['rows']:,} of {evaluation['total_rows']:,} {evaluation['rows_of']} rows"
    lines = [
        "## Results",
        "",
        f"On {rows}; training did not learn from them." if evaluation["rows_of"] == "test" else f"On {rows}.",
        "",
        f"| model | {_words(metric)} | 95 % interval | compared with |",
        "|---|---:|---:|---|",
    ]
    lines += [_result(model, evaluation["task"], name) for model in facts.models.values()]
    others = [f"{_words(m)} {_number(m, v)}" for m, v, _ in _scores(facts, name) if m not in (metric, "perplexity")]
    return "\n".join(lines) + (f"\n\nOther metrics of `{name}`: {', '.join(others)}." if others else "")


def _result(model: Model, task: str, name: str) -> str:
    metric, value, ends = main_result(task, model)
    shown = _text(model["name"])
    versus = model["versus"]
    compared = (
        f"{_text(versus['model'])}: {versus['outcome']} ({versus['lost']} lost, {versus['gained']} gained)"
        if versus
        else ""
    )
    number = _number(metric, value) if value is not None else ""
    title = f"**{shown}** (this model)" if model["name"] == name else shown
    return f"| {title} | {number} | {_interval(metric, ends)} | {compared} |"


def _training(model: CardModel) -> str:
    lines = ["## Training", "", "| setting | value |", "|---|---|"]
    for facts in model.trainings:
        if facts.step is None:
            continue
        for key, value in _settings(facts, facts.step).items():
            lines.append(f"| {_words(key.removeprefix('training_args.'))} | {_text(_shown(value))} |")
    lines += [f"| {_text(name)} | {_text(version)} |" for name, version in (model.versions or {}).items()]
    return "\n".join(lines)


def _settings(facts: Facts, step: FinetunePass) -> dict[str, Any]:
    """Return the method, the main settings, those that are not defaults, and facts of the training; none that holds a path."""
    chosen = flattened(step.model_dump(mode="json", exclude_defaults=True))
    usual = {key: value for key, value in flattened(step.model_dump(mode="json")).items() if key in _USUAL_SETTINGS}
    counts = {_words(key): facts.counts[key] for key in _TRAINING_FACTS if facts.counts.get(key) is not None}
    settings = {"method": step.type, **usual, **chosen, **counts}
    skipped = ("type", "train_data_config", "eval_data_config", "test_data_config")
    return {key: value for key, value in settings.items() if key not in skipped and not _has_path(value)}


def _reproduction(model: CardModel) -> str:
    again = f"phi-scaffold runs reproduce {model.run}" if model.run else "phi-scaffold run"
    at = f"git checkout {model.commit}\n" if model.commit else ""
    return "## Reproduce\n\nIn the project, with its data:\n\n" + _code("bash", f"{at}{again}")


def _has_path(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and re.search(r"[/\\]", text) for text in texts)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text(text: str) -> str:
    """Return text of the user or of data so that Markdown and HTML do not interpret it."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", inert(" ".join(text.split())))


def _code(language: str, code: str) -> str:
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", code)), 3)
    return f"{fence}{language}\n{code}\n{fence}"
