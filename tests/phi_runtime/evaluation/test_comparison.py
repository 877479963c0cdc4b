"""Prompts and figures of the test rows."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from phi_runtime.config.schema import DataConfig, Evaluation, Workflow
from phi_runtime.data.dataset import DataContext
from phi_runtime.data.tokenize import prompt_ids
from phi_runtime.evaluation import comparison
from phi_runtime.evaluation.model_processes import ModelProcesses
from phi_runtime.evaluation.row_results import Measured, read_rows
from phi_runtime.evaluation.worker import ModelResults, ModelTask, Performance, work_on
from phi_runtime.inference.generator import PromptResult, PromptTask
from phi_runtime.models.reference import ModelRef
from phi_runtime.passes.lora import LoRA
from tests.conftest import Listener


class Recorder:
    """Answers "joy" to everything, finds every token as likely as one of e, and keeps what it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.prompts: list[str] = []
        self.stops: list[tuple[str, ...]] = []
        self.measured: list[tuple[list[int], list[int]]] = []

    def encode(self, prompt: str) -> list[int]:
        return prompt_ids(self.tokenizer, prompt)

    def run_prompts(self, tasks: Sequence[PromptTask], batch_size: int) -> list[PromptResult]:
        for task in tasks:
            self.measured += [(task.ids, completion) for completion in task.completions]
            if task.max_new_tokens:
                self.prompts.append(self.tokenizer.decode(task.ids, skip_special_tokens=True))
                self.stops.append(task.stop)
        return [PromptResult("joy", "stop", [[-1.0] * len(ids) for ids in task.completions]) for task in tasks]


NOT_STARTED = "cuda"  # a device for which no process is started before there is work
PERFORMANCE = Performance(1, (1, 1), 1, (1, 1), 1, (1, 1), 1, 1, None, 72)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: Any) -> Recorder:
    found = Recorder(tiny_tokenizer)

    def results(_: ModelProcesses, task: ModelTask, *__: Any) -> ModelResults:
        return ModelResults(work_on(found, task), PERFORMANCE)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelProcesses, "work", results)
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
    out = folder / "out"
    content = comparison.evaluate(
        workflow, "finetune", [("base", base)], place, out, NOT_STARTED, listener, "evaluate", rows_of=rows_of
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
    assert answers[1].models == {"base": Measured("joy", scores, 3.0, 3, 1.0, 1, "stop")}
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
    models = ["base", "base, labels scored", "base, few-shot"]
    assert list(found[0].models) == [*by_name, *models]
    assert [model["name"] for model in content["models"]] == models


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
        content, answers, _ = evaluated(tmp_path, tiny_phi3, rows, training=sizes, rows_of=side, **LABELED)  # type: ignore[arg-type]
        measured[side] = {answer.prompt for answer in answers}
        assert (content["rows_of"], content["rows"]) == (side, len(answers))
    assert len(recorder.prompts) == 5 + 3 + 3  # few-shot prompts of the test rows
    assert (len(measured["validation"]), len(measured["test"])) == (5, 3)
    assert not measured["validation"] & measured["test"]
    content, _, _ = evaluated(tmp_path, tiny_phi3, rows, training={"eval_dataset_size": 5}, rows_of="test", **LABELED)
    assert (content["rows_of"], content["rows"]) == ("validation", 5)


def tones(count: int) -> list[dict[str, str]]:
    return [{"q": f"said {i}", "a": ("joy", "fear", "anger")[i % 3]} for i in range(count)]


def compared(folder: Path, model: Path, rows: list[dict[str, str]], **options: Any) -> tuple[dict[str, Any], Any]:
    """The content of evaluation.json and the lines of rows.jsonl of a final comparison with six test rows."""
    options = {"evaluation": Evaluation(task="classification"), **LABELED} | options
    content, found, _ = evaluated(folder, model, rows, training={"test_dataset_size": 6}, rows_of="test", **options)
    return content, found


@pytest.mark.usefixtures("recorder")
def test_each_label_has_the_likelihood_of_its_tokens_without_the_end_token(
    tmp_path: Path, tiny_phi3: Path, tiny_tokenizer: Any
) -> None:
    tokens = {word: len(tiny_tokenizer(word, add_special_tokens=False).input_ids) for word in ("joy", "fear", "anger")}
    assert len(set(tokens.values())) > 1
    content, found = compared(tmp_path, tiny_phi3, tones(30))
    assert [row.near_duplicate for row in found] == [False] * 6
    for row in found:
        base = row.models["base"]
        assert base.label_logprobs == {word: -float(count) for word, count in tokens.items()}
        count = tokens[row.reference]
        assert (base.loss, base.tokens, base.end_loss, base.end_tokens) == (count + 1, count + 1, 1, 1)
        assert row.text_bytes == len(row.reference)
        scored = row.models["base, labels scored"]
        assert (scored.answer, scored.finish_reason) == (min(tokens, key=lambda word: (tokens[word], word)), None)
        assert (base.answer, base.finish_reason) == ("joy", "stop")
    free = content["models"][0]
    assert free["label_loss"] == pytest.approx(sum(tokens[row.reference] for row in found) / 6)
    assert (free["bits_per_byte"], free["label_loss_interval"] is None) == (None, False)
    assert content["models"][1]["acc_norm"] is not None


@pytest.mark.usefixtures("recorder")
def test_the_end_token_counts_where_one_label_begins_another(
    tmp_path: Path, tiny_phi3: Path, tiny_tokenizer: Any
) -> None:
    rows = [{"q": f"said {i}", "a": ("1", "10")[i % 2]} for i in range(30)]
    _, found = compared(tmp_path, tiny_phi3, rows)
    tokens = {word: len(tiny_tokenizer(word, add_special_tokens=False).input_ids) for word in ("1", "10")}
    assert found[0].models["base"].label_logprobs == {word: -float(count + 1) for word, count in tokens.items()}


def test_examples_of_a_few_shot_prompt_are_training_rows_one_per_label(
    tmp_path: Path, recorder: Recorder, tiny_phi3: Path
) -> None:
    rows = tones(30)
    _, found = compared(tmp_path, tiny_phi3, rows)
    prompts = [prompt for prompt, stop in zip(recorder.prompts, recorder.stops, strict=True) if stop]
    assert len(prompts) == 6
    assert set(recorder.stops) == {(), ("\n\n",)}
    test_questions = {row.prompt for row in found}
    for prompt in prompts:
        *examples, question = prompt.split("\n\n")
        assert question in test_questions
        assert sorted(example.split("\n")[1] for example in examples) == ["anger", "fear", "joy"]
        assert all({"q": example.split("\n")[0], "a": example.split("\n")[1]} in rows for example in examples)
        assert not test_questions & {example.split("\n")[0] + "\n" for example in examples}
    first = list(prompts)
    recorder.prompts.clear()
    compared(tmp_path, tiny_phi3, rows)
    assert set(first) <= set(recorder.prompts)


def test_answers_that_are_no_labels_have_four_examples_and_no_label_scores(
    tmp_path: Path, recorder: Recorder, tiny_phi3: Path
) -> None:
    rows = [{"q": f"said {i}", "a": f"answer {i}"} for i in range(30)]
    content, found = compared(tmp_path, tiny_phi3, rows, evaluation=Evaluation())
    assert {len(prompt.split("\n\n")) for prompt in recorder.prompts} == {1, 5}
    assert [model["name"] for model in content["models"]] == ["base", "base, few-shot"]
    assert {row.models["base"].label_logprobs for row in found} == {None}
    tokens = sum(row.models["base"].tokens - 1 for row in found)
    characters = sum(len(row.reference) for row in found)
    assert content["models"][0]["bits_per_byte"] == pytest.approx(tokens / math.log(2) / characters)


@pytest.mark.usefixtures("recorder")
def test_too_many_labels_and_examples_that_do_not_fit_are_said(tmp_path: Path, tiny_phi3: Path) -> None:
    rows = [{"q": f"said {'dark ' * 130}{i}", "a": f"label {i % 40}"} for i in range(120)]
    training = {"test_dataset_size": 6}
    task = Evaluation(task="classification")
    content, found, listener = evaluated(
        tmp_path, tiny_phi3, rows, evaluation=task, training=training, rows_of="test", **LABELED
    )
    assert [event["message"].split(":")[0] for event in listener.of("warning")] == [
        "labels are not scored",
        "no few-shot prompt",
    ]
    assert [model["name"] for model in content["models"]] == ["base"]
    assert found[0].models["base"].label_logprobs is None


@pytest.mark.usefixtures("recorder")
def test_rows_have_their_group_and_a_group_counts_as_one(tmp_path: Path, tiny_phi3: Path) -> None:
    rows = [{"q": f"said {i}", "a": "joy" if i % 10 < 5 else "fear", "speaker": f"s{i // 5}"} for i in range(40)]
    content, found, _ = evaluated(tmp_path, tiny_phi3, rows, group_by="speaker", **LABELED)
    assert [row.group for row in found] == [row["speaker"] for row in rows]
    alone, _, _ = evaluated(tmp_path, tiny_phi3, rows, **LABELED)
    for key in ("exact_match", "token_f1"):
        wide, narrow = (c["models"][0]["intervals"][key] for c in (content, alone))
        assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert content["models"][0]["interval"] == content["models"][0]["intervals"]["token_f1"]


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_in_conversations_examples_are_earlier_turns_and_labels_are_answers(
    tmp_path: Path, recorder: Recorder, tiny_phi3: Path, tiny_tokenizer: Any
) -> None:
    system = {"role": "system", "content": "Name the tone."}
    rows: Any = [
        {"messages": [system, {"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]}
        for row in tones(30)
    ]
    _, found = compared(tmp_path, tiny_phi3, rows, text_template=None, chat_template=CHAT)
    tokens = {word: len(tiny_tokenizer(word, add_special_tokens=False).input_ids) for word in ("joy", "fear", "anger")}
    base = found[0].models["base"]
    assert base.label_logprobs == {word: -float(count) for word, count in tokens.items()}
    assert base.end_tokens == 1
    [text] = {prompt.count("assistant\n") for prompt in recorder.prompts if prompt.count("assistant") > 1}
    assert text == 4
    assert {prompt.count("Name the tone.") for prompt in recorder.prompts} == {1}
    assert set(recorder.stops) == {()}
