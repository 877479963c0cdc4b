"""Prompts and figures of the test rows."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from phi_runtime.config.schema import DataConfig, Evaluation, Workflow
from phi_runtime.data.dataset import DataContext
from phi_runtime.evaluation import comparison
from phi_runtime.evaluation.row_results import Measured, read_rows
from phi_runtime.evaluation.worker import ModelResults, Performance, work_on
from phi_runtime.inference.generator import SamplingParams, TokenPair
from phi_runtime.models.reference import ModelRef
from phi_runtime.passes.lora import LoRA
from tests.conftest import Listener


class Recorder:
    """Answers "joy" to everything, finds every token as likely as one of e, and keeps what it was given."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.measured: list[tuple[list[int], list[int]]] = []

    def stream(self, prompt: str, sampling: SamplingParams) -> Iterator[str]:
        yield "joy"

    def answers(self, prompts: Sequence[str], max_new_tokens: int, batch_size: int) -> Iterator[str]:
        self.prompts += prompts
        yield from ("joy" for _ in prompts)

    def completion_losses(self, pairs: Sequence[TokenPair], batch_size: int) -> list[float]:
        self.measured += pairs
        return [float(len(completion)) for _, completion in pairs]


PERFORMANCE = Performance(1, (1, 1), 1, (1, 1), 1, (1, 1), 1, 1, None, 72)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(comparison, "work_apart", lambda task, *_: ModelResults(*work_on(found, task), PERFORMANCE))  # type: ignore[arg-type]
    return found


def evaluated(
    folder: Path,
    model: Path,
    rows: list[dict[str, str]],
    *,
    evaluation: Evaluation | None = None,
    training: dict[str, Any] | None = None,
    rows_of: Literal["test", "validation"] = "validation",
    **pre_process: Any,
) -> tuple[dict[str, Any], Any, Listener]:
    """The content of evaluation.json, the lines of rows.jsonl, and the events."""
    (folder / "out").mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    data = {
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"},
        "pre_process_data_config": pre_process,
    }
    training = training or {"eval_data_config": "held_out"}
    step = LoRA.model_validate({"type": "LoRA", "train_data_config": "train", **training})
    workflow = Workflow.model_construct(
        data_configs=[DataConfig.model_validate({"name": name, **data}) for name in ("train", "held_out")],
        passes={"finetune": step},
        evaluation=evaluation or Evaluation(),
    )
    listener = Listener()
    base = ModelRef(model, "hf", "key")
    place = DataContext(folder / "config.json", base, folder / "cache")
    content = comparison.evaluate(
        workflow, "finetune", [("base", base)], place, folder / "out", "cpu", listener, "evaluate", rows_of=rows_of
    )
    return content, read_rows(folder / "out" / "rows.jsonl"), listener


def test_free_text_has_no_prompts_and_its_perplexity_counts_from_the_second_token_on(
    tmp_path: Path, recorder: Recorder, tiny_phi3: Path, tiny_tokenizer: Any
) -> None:
    texts = ["we won the game", "dark " * 50]
    content, answers, listener = evaluated(tmp_path, tiny_phi3, [{"text": t} for t in texts], max_seq_len=16)
    assert (content["rows"], content["models"][0]["metrics"], recorder.prompts) == (2, {}, [])
    assert [(row.line, row.prompt, row.models["base"].answer) for row in answers] == [(1, None, None), (2, None, None)]
    assert content["models"][0]["perplexity"] == pytest.approx(math.e)
    whole = [[*tiny_tokenizer(t, add_special_tokens=False).input_ids, tiny_tokenizer.eos_token_id] for t in texts]
    assert recorder.measured == [(ids[:1], ids[1:16]) for ids in whole]
    assert listener.of("metric") == [{"stage": "evaluate", "model": "base", "perplexity": pytest.approx(math.e)}]


def test_of_questions_the_answers_alone_are_measured(
    tmp_path: Path, recorder: Recorder, tiny_phi3: Path, tiny_tokenizer: Any
) -> None:
    rows = [{"q": "we won", "a": "joy"}, {"q": "run away", "a": "fear"}]
    content, answers, listener = evaluated(tmp_path, tiny_phi3, rows, text_template="{q}\n{a}", strategy="line-by-line")
    assert recorder.prompts == ["we won\n", "run away\n"]
    assert [tiny_tokenizer.decode(completion) for _, completion in recorder.measured] == [
        "joy<|im_end|>",
        "fear<|im_end|>",
    ]
    scores = {"exact_match": 0.0, "token_f1": 0.0, "rouge_l": 0.0}
    assert answers[1].models == {"base": Measured("joy", scores, loss=3.0, tokens=3)}
    assert (answers[1].line, answers[1].prompt, answers[1].reference) == (2, "run away\n", "fear")
    assert content["models"][0]["metrics"]
    assert "perplexity" not in listener.of("metric")[0]


@pytest.mark.usefixtures("recorder")
def test_the_users_own_metrics_stand_among_the_others(tmp_path: Path, tiny_phi3: Path) -> None:
    hook = "def metrics(predictions, references):\n    return {'said_joy': sum(p == 'joy' for p in predictions) / 3}\n"
    (tmp_path / "hooks.py").write_text(hook, encoding="utf-8")
    rows = [{"q": "we won", "a": "joy"}, {"q": "run away", "a": "fear"}]
    content, _, _ = evaluated(tmp_path, tiny_phi3, rows, text_template="{q}\n{a}", strategy="line-by-line")
    metrics = content["models"][0]["metrics"]
    assert (metrics["exact_match"], metrics["said_joy"]) == (0.5, pytest.approx(2 / 3))


def test_the_answers_alone_are_measured_also_where_the_questions_were_trained_too(
    tmp_path: Path, recorder: Recorder, tiny_phi3: Path, tiny_tokenizer: Any
) -> None:
    rows = [{"q": "we won", "a": "joy"}]
    evaluated(tmp_path, tiny_phi3, rows, text_template="{q}\n{a}", strategy="join")
    assert [tuple(map(tiny_tokenizer.decode, pair)) for pair in recorder.measured] == [("we won\n", "joy<|im_end|>")]


LABELED = {"text_template": "{q}\n{a}", "strategy": "line-by-line"}


def test_a_file_that_is_sorted_by_label_is_sampled_evenly_and_its_size_is_said(
    tmp_path: Path, recorder: Recorder, tiny_phi3: Path
) -> None:
    rows = [{"q": f"said {i}", "a": "joy" if i < 100 else "fear" if i < 150 else "anger"} for i in range(200)]
    twenty = Evaluation(task="classification", max_rows=20)
    content, answers, _ = evaluated(tmp_path, tiny_phi3, rows, evaluation=twenty, **LABELED)
    assert (content["rows"], content["total_rows"], content["rows_of"]) == (20, 200, "validation")
    assert Counter(answer.reference for answer in answers) == {"joy": 10, "fear": 5, "anger": 5}
    assert content["models"][0]["metrics"]["accuracy"] == 0.5
    assert len(recorder.measured) == 20


def test_the_perplexity_is_that_of_the_same_rows_as_the_answers(
    tmp_path: Path, recorder: Recorder, tiny_phi3: Path
) -> None:
    rows = [{"q": f"said {i}", "a": "joy" if i < 64 else "fear"} for i in range(128)]
    evaluated(tmp_path, tiny_phi3, rows, **LABELED)
    assert len(recorder.prompts) == len(recorder.measured) == 128


@pytest.mark.usefixtures("recorder")
def test_baselines_answer_the_test_rows_from_the_training_rows_alone(tmp_path: Path, tiny_phi3: Path) -> None:
    rows = [{"q": f"{'dark night' if i % 4 else 'bright day'} {i}", "a": "fear" if i % 4 else "joy"} for i in range(40)]
    task, sizes = Evaluation(task="classification"), {"test_dataset_size": 12}
    content, found, _ = evaluated(tmp_path, tiny_phi3, rows, evaluation=task, training=sizes, rows_of="test", **LABELED)
    by_name = {baseline["name"]: baseline["metrics"]["accuracy"] for baseline in content["baselines"]}
    assert by_name == {"majority label": 0.75, "logistic regression": 1.0, "nearest row": 1.0}
    assert list(found[0].models) == [*by_name, "base"]
    assert [model["name"] for model in content["models"]] == ["base"]


def test_a_question_that_exceeds_the_context_is_excluded_and_counted(
    tmp_path: Path, recorder: Recorder, tiny_phi3: Path
) -> None:
    rows = [{"q": "we won", "a": "joy"}, {"q": "dark " * 5000, "a": "fear"}, {"q": "run away", "a": "fear"}]
    content, answers, listener = evaluated(tmp_path, tiny_phi3, rows, **LABELED)
    assert (content["rows"], content["total_rows"], content["too_long"]) == (2, 3, 1)
    assert recorder.prompts == ["we won\n", "run away\n"] == [answer.prompt for answer in answers]
    assert [event["message"].split(":")[0] for event in listener.of("warning")] == ["1 of 3 rows are not measured"]


def test_test_rows_are_read_by_the_final_comparison_alone(tmp_path: Path, recorder: Recorder, tiny_phi3: Path) -> None:
    rows = [{"q": f"said {i}", "a": "joy"} for i in range(20)]
    sizes = {"eval_dataset_size": 5, "test_dataset_size": 3}
    measured = {}
    for side in ("validation", "test"):
        recorder.prompts.clear()
        content, _, _ = evaluated(tmp_path, tiny_phi3, rows, training=sizes, rows_of=side, **LABELED)  # type: ignore[arg-type]
        measured[side] = set(recorder.prompts)
        assert (content["rows_of"], content["rows"]) == (side, len(recorder.prompts))
    assert (len(measured["validation"]), len(measured["test"])) == (5, 3)
    assert not measured["validation"] & measured["test"]
    content, _, _ = evaluated(tmp_path, tiny_phi3, rows, training={"eval_dataset_size": 5}, rows_of="test", **LABELED)
    assert (content["rows_of"], content["rows"]) == ("validation", 5)
