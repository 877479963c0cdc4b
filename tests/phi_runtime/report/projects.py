"""Projects after a run, without one: real data, split, data report, baselines, summaries and diagnosis; simulated answers."""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from phi_runtime.config.stage_names import evaluation_stages
from phi_runtime.core.artifacts import seal, write_json
from phi_runtime.core.events import silent
from phi_runtime.core.project import ProjectFolder, find_project
from phi_runtime.data.dataset import data_context, load_dataset
from phi_runtime.data.report import examine
from phi_runtime.data.report_file import report_file
from phi_runtime.evaluation.baselines import Baseline, baselines
from phi_runtime.evaluation.metrics import row_scores
from phi_runtime.evaluation.questions import sample_questions
from phi_runtime.evaluation.row_results import ROWS, Measured, RowResult, write_rows
from phi_runtime.evaluation.summary import summarize
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.stage import model_folder
from phi_runtime.report.changes import value_at
from phi_runtime.report.verdict import Verdict, judge_trainings
from phi_runtime.training.diagnosis import diagnose

Row = dict[str, Any]
Log = list[dict[str, Any]]
LABELS = ("joy", "fear", "anger", "surprise")
TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
CONFIG = "fine-tuning/olive-config.json"


# -- rows -------------------------------------------------------------------------------------------------------------


def _words(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choice("bcdfgklmnprstvz") + chance.choice("aeiou") for _ in range(3)) for _ in range(count)]


_NEUTRAL = _words(800, 0)


def phrases(
    count: int, *, vocabulary: int = 150, labels: Sequence[str] = LABELS, seed: int = 1, words: int = 8
) -> list[Row]:
    """Rows whose label is that of one of their words.

    Each label has `vocabulary` words: the more, the fewer of them a baseline has seen.
    """
    chance = random.Random(seed)
    own = {label: _words(vocabulary, 10 + i) for i, label in enumerate(LABELS)}
    rows = []
    for i in range(count):
        label = labels[i % len(labels)]
        text = [*chance.sample(_NEUTRAL, words), chance.choice(own[label])]
        chance.shuffle(text)
        rows.append({"phrase": " ".join(text), "tone": label})
    return rows


def spelled_differently(row: Row) -> Row:
    """The row with its words in other case and punctuation."""
    return {**row, "phrase": f"{row['phrase'].capitalize()}!"}


# -- logs -------------------------------------------------------------------------------------------------------------


def a_log(loss: Callable[[float], float], validation: Sequence[float] = (), steps: int = 200) -> Log:
    """A loss log of two epochs: the training loss by the share of the run that is done, and validation losses at even distances."""
    log: Log = [
        {"step": round(steps * i / 40), "epoch": i / 20, "loss": loss(i / 40), "grad_norm": 1.0} for i in range(1, 41)
    ]
    for i, value in enumerate(validation, start=1):
        share = i / len(validation)
        log.append({"step": round(steps * share), "epoch": 2 * share, "eval_loss": value})
    return sorted(log, key=lambda entry: entry["step"])


def falling(share: float) -> float:
    return 0.02 + 2 * math.exp(-8 * share)


FINE = a_log(falling, [0.3, 0.2, 0.18, 0.18])
OVERFITTED = a_log(falling, [0.9, 0.42, 0.47, 0.53, 0.61])
UNFINISHED = a_log(lambda share: 3 - 2 * share, [2.4, 1.7, 1.1])


# -- models -----------------------------------------------------------------------------------------------------------


class Question(NamedTuple):
    """A test row: its number, its columns and the expected answer."""

    number: int
    row: Row
    reference: str


CUT = "…"
"""End of an answer that max_new_tokens has ended."""
Answer = Callable[[Question], tuple[str, float]]
"""The answer of a model to a question, and its loss of the reference."""


def right(share: float, loss_of_wrong: float = 1.5) -> Answer:
    """A model that has a share of the rows right, and answers the others with another label."""

    def answer(question: Question) -> tuple[str, float]:
        if (question.number * 0.6180339887) % 1 < share:
            return question.reference, 0.05
        return next(label for label in LABELS if label != question.reference), loss_of_wrong

    return answer


def always(label: str) -> Answer:
    return lambda question: (label, 0.1 if question.reference == label else 3.0)


def perplexity(value: float) -> Answer:
    """A model of free text."""
    return lambda question: ("", math.log(value) + (question.number % 2 - 0.5) / 20)


BASE: Answer = lambda _: ("- a tone", 17.0)  # noqa: E731


def models_of(adapter: Answer, int4: Answer | None = None, base: Answer = BASE) -> dict[str, Answer]:
    return {"base": base, "adapter": adapter, "merged": adapter, "onnx-int4": int4 or adapter}


# -- projects ---------------------------------------------------------------------------------------------------------


def a_config(model: Path, **changes: Any) -> dict[str, Any]:
    """The config of a small project; `changes` are values by dotted path, with __ for the dots."""
    config: dict[str, Any] = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "data_configs": [data_config("train_data", "train.jsonl")],
        "passes": {
            "finetune": {
                "type": "LoRA",
                "train_data_config": "train_data",
                "eval_dataset_size": 0.2,
                "training_args": {"num_train_epochs": 2, "learning_rate": 7e-4},
            },
            "merge": {"type": "MergeAdapterWeights"},
            "export": {"type": "ModelBuilder", "precision": "int4"},
        },
        "systems": {
            "local_system": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "host": "local_system",
        "target": "local_system",
    }
    for path, value in changes.items():
        *outer, last = path.split("__")
        part: Any = config
        for key in outer:
            part = part[int(key)] if isinstance(part, list) else part.setdefault(key, {})
        part[last] = value
    return config


def data_config(name: str, file: str, template: str = TEMPLATE, strategy: str = "line-by-line") -> dict[str, Any]:
    return {
        "name": name,
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": "json", "data_files": f"../datasets/{file}", "split": "train"},
        "pre_process_data_config": {"text_template": template, "strategy": strategy, "max_seq_len": 128},
    }


class Built:
    """A project with the files that a run leaves, and the verdict on it."""

    CHOSEN_ON: ClassVar[list[str]] = []

    def __init__(
        self,
        root: Path,
        tokenizer: Path,
        files: Mapping[str, Sequence[Row]],
        models: Mapping[str, Answer],
        *,
        log: Log = FINE,
        evaluation: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        for name, rows in files.items():
            path = root / "datasets" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (root / CONFIG).parent.mkdir(parents=True)
        write_json(root / CONFIG, dict(config or a_config(tokenizer, **changes)))
        write_json(root / "fine-tuning" / "evaluation.json", {"task": "classification", **(evaluation or {})})
        self.project: ProjectFolder = find_project(root)
        self.workflow = load_workflow(self.project.config)
        self.entries = [
            self._run(stage, training, tokenizer, models, log)
            for stage, training in evaluation_stages(self.workflow).items()
            if training
        ]

    def _run(
        self, stage: str, training: str, tokenizer: Path, models: Mapping[str, Answer], log: Log
    ) -> dict[str, Any]:
        workflow, step = self.workflow, self.workflow.trainings[training]
        place = data_context(self.project, ModelRef(tokenizer, "hf", "tiny"))
        report = examine(workflow, step, place, silent)
        record = self.project.runs / "1"
        record.mkdir(parents=True, exist_ok=True)
        write_json(record / report_file(workflow, training), report)
        dataset = load_dataset(workflow, step, place, silent, training)
        settings = {**step.training_args.model_dump(), **step.model_dump(exclude={"training_args"})}
        counts = {
            "rows": len(dataset.training),
            "validation_rows": len(dataset.validation),
            "diagnosis": [d.as_dict() for d in diagnose(log, {**settings, "steps": 200})],
        }
        adapter = model_folder(workflow, self.project, training)
        adapter.mkdir(parents=True, exist_ok=True)
        seal(adapter, key="k", kind="adapter", facts=counts)
        side, split = dataset.compared
        task = workflow.evaluation.of(training)
        questions = sample_questions(split, task, place.tokenizer, None)
        rows = _measure(task.task, dataset.training, questions, models)
        folder = self.project.gen_model / stage.replace("evaluate", "evaluation")
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / ROWS, rows)
        summaries = [
            summary | {"size_bytes": 100 if "int4" in summary["name"] else 470, "decode_tokens_per_s": 80.0}
            for summary in (summarize(task.task, rows) if rows else [])
        ]
        return {
            "name": training,
            "task": task.task,
            "rows": len(rows),
            "rows_of": side,
            "total_rows": len(split),
            "too_long": 0,
            "chosen_on": self.CHOSEN_ON,
            "baselines": [summary for summary in summaries if summary["name"] not in models],
            "models": [summary for summary in summaries if summary["name"] in models],
        }

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdicts on all trainings, which advise nothing that the config has already."""
        judged = judge_trainings(self.project, self.workflow, {**self.entries[0], "trainings": self.entries})
        for verdict in judged.values():
            for finding in verdict.findings:
                top = self.workflow.evaluation if finding.file.endswith("evaluation.json") else self.workflow
                assert not finding.value or value_at(top, finding.setting) != finding.value
        return judged


@functools.cache
def _baselines(task: str, *texts: tuple[str, ...]) -> list[Baseline]:
    """The answers of the baselines, which many projects share."""
    return baselines(task, *texts)


def _measure(task: str, training: Any, questions: Any, models: Mapping[str, Answer]) -> list[RowResult]:
    places = list(questions.rows.places())
    if not questions.references:  # free text
        return [
            RowResult(
                "datasets/" + Path(where.path).name,
                where.line,
                None,
                None,
                {name: Measured(None, {}, answer(Question(i, {}, ""))[1] * 10, 10) for name, answer in models.items()},
            )
            for i, where in enumerate(places)
        ]
    values = training.values()
    inputs = [training.template.input_text(row) for row in values]
    answers = [training.template.reference(row) for row in values]
    inputs_of_test = [questions.rows.template.input_text(row) for row in questions.values]
    simple = _baselines(task, tuple(inputs), tuple(answers), tuple(inputs_of_test))
    rows = []
    for i, (where, prompt, reference) in enumerate(zip(places, questions.prompts, questions.references, strict=True)):
        measured = {
            baseline.name: Measured(baseline.answers[i], row_scores(task, baseline.answers[i], reference))
            for baseline in simple
        }
        for name, answer in models.items():
            text, loss = answer(Question(i, questions.values[i], reference))
            finish: Any = "length" if text.endswith(CUT) else "stop"
            measured[name] = Measured(text, row_scores(task, text, reference), loss, 2, finish_reason=finish)
        rows.append(RowResult("datasets/" + Path(where.path).name, where.line, prompt, reference, measured))
    return rows
