"""Benchmarks of lm-evaluation-harness: intervals and errors; with the harness, if it is installed, a local task."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phi_runtime.core.errors import Conflict, DataError, NetworkError
from phi_runtime.core.events import silent
from phi_runtime.core.locks import exclusive
from phi_runtime.evaluation import benchmarks
from phi_runtime.evaluation.intervals import wilson
from phi_runtime.inference.generator import PromptTask, SamplingParams
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.benchmarks import run_benchmarks, stored_benchmarks
from phi_runtime.pipeline.graph import existing_models
from phi_runtime.pipeline.load import load_workflow
from tests.conftest import Cli, MakeProject

TASK = """task: mood
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: TYPE
doc_to_text: "### Text: {{text}}\\n### The tone is:\\n"
doc_to_choice: ["joy", "fear"]
doc_to_target: label
target_delimiter: ""
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list: [{metric: METRIC}]
metadata: {version: 1.0}
"""


def test_a_mean_over_rows_has_the_interval_of_all_metrics_and_others_that_of_the_standard_error() -> None:
    assert benchmarks._interval(0.75, [1, 1, 1, 0], 0.25) == wilson(3, 4)
    assert benchmarks._interval(20.0, [], 1.0) == pytest.approx((18.04, 21.96), abs=0.01)
    assert benchmarks._interval(20.0, [3.0, 2.0], 1.0) == pytest.approx((18.04, 21.96), abs=0.01)  # exp of a mean
    assert benchmarks._interval(20.0, [], None) is None


class LocalEntryNotFoundError(Exception):
    """As huggingface_hub names it."""


def test_a_hub_that_cannot_be_reached_is_another_error_than_a_wrong_task_file(tmp_path: Path) -> None:
    error = ValueError("Couldn't reach the Hub")
    error.__cause__ = LocalEntryNotFoundError("no answer")
    with pytest.raises(NetworkError) as offline, benchmarks._errors_of("arc_easy", None):
        raise error
    assert offline.value.exit_code == 7
    with pytest.raises(DataError) as wrong, benchmarks._errors_of("x.yaml", tmp_path / "x.yaml"):
        raise KeyError("task")
    assert wrong.value.exit_code == 4
    assert wrong.value.where is not None


def test_without_the_harness_the_line_that_installs_it_is_shown(
    make_project: MakeProject, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = cli("evaluate", "--benchmark", "arc_easy", "--project", make_project().root)
    assert result.code == 5
    assert "lm-eval==0.4.13" in result.err


@pytest.mark.slow
def test_a_local_task_is_measured_once_with_each_model(
    trained_project: MakeProject, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    project, file = trained_project(), tmp_path / "rows.jsonl"
    rows = [{"text": f"a lovely party {i}", "label": "joy" if i % 2 else "fear"} for i in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (project.config.with_name("evaluation.json")).write_text('{"task": "classification", "max_rows": 12}')
    task = TASK.replace("FILE", str(file))
    (tmp_path / "choice.yaml").write_text(task.replace("TYPE", "multiple_choice").replace("METRIC", "acc"))
    written = task.replace("task: mood", "task: written").replace('doc_to_choice: ["joy", "fear"]\n', "")
    text = written.replace("TYPE", "generate_until").replace("METRIC", "exact_match")
    (tmp_path / "text.yaml").write_text(text)
    arguments = [part for name in ("choice", "text") for part in ("--benchmark", str(tmp_path / f"{name}.yaml"))]
    first = cli("evaluate", *arguments, "--json", "--project", project.root)
    assert first.code == 0, first.err
    entries = first.json["benchmarks"]
    models = ["base", "adapter", "merged", "onnx-int4"]
    assert [(e["task"], e["model"], e["metric"]) for e in entries] == [
        *(("mood", model, "acc") for model in models),
        *(("written", model, "exact_match") for model in models),
    ]
    for entry in entries:
        assert (entry["rows"], entry["total_rows"]) == (12, 30)
        assert entry["interval"] == pytest.approx(wilson(round(12 * entry["value"]), 12))
    values = {(e["task"], e["model"]): e["value"] for e in entries}
    assert values["mood", "adapter"] == values["mood", "merged"]
    monkeypatch.setattr(benchmarks, "open_lm", None)  # nothing is measured again
    assert cli("evaluate", *arguments, "--json", "--project", project.root).json["benchmarks"] == entries
    assert "exact_match" in (project.gen_model / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_prompt_beyond_the_context_of_an_onnx_model_is_cut_at_its_beginning(trained_project: MakeProject) -> None:
    pytest.importorskip("lm_eval")
    from tokenizers import Tokenizer, processors

    folder = trained_project().gen_model / "onnx"
    file, bos = str(folder / "tokenizer.json"), "<|im_start|>"
    tokenizer = Tokenizer.from_file(file)
    post = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    tokenizer.post_processor = post  # as Llama and Mistral, which begin each prompt with it
    tokenizer.save(file)
    lm = benchmarks.open_lm(ModelRef(folder, "onnx", "tiny"), "cpu", 1)
    generator = lm.generator

    def answer(text: str, tokens: int) -> str:
        [answer] = lm.generate_until([SimpleNamespace(args=(text, {"until": ["§"], "max_gen_toks": tokens}))])
        return str(answer)

    kept = lm.tok_encode("we won the game " * 300)[-(generator.context_length - 8) :]
    [expected] = generator.run_prompts([PromptTask(kept, max_new_tokens=8)], 1)
    assert answer("we won the game " * 300, 8) == expected.answer
    assert answer("we won", 8) == "".join(p.text for p in generator.answer("we won", SamplingParams(8)))
    with pytest.raises(DataError, match="answers of 512 tokens"):
        answer("we won", generator.context_length)


def test_the_rows_of_a_task_are_processed_once() -> None:
    class Task:
        VERSION = 1
        config = SimpleNamespace(num_fewshot=0)
        processed = 0

        @property
        def eval_docs(self) -> list[dict[str, Any]]:
            """As in the harness: each read processes all rows again."""
            self.processed += 1
            return [{"text": f"row {i}"} for i in range(30)]

    task = Task()
    found = benchmarks._benchmark("mood", task, 12, "")
    assert (len(found.rows), found.total_rows, task.processed) == (12, 30, 1)


def test_stored_results_are_those_of_the_models_as_they_are_now(trained_project: MakeProject) -> None:
    project = trained_project(until="finetune")
    workflow = load_workflow(project.config)
    models = existing_models(workflow, project)
    adapter = models["finetune"].key

    def entry(value: float, rows: int, task: str = "mood") -> dict[str, Any]:
        counts = {"rows": rows, "total_rows": 99, "stderr": None, "higher_is_better": True}
        return {"task": task, "model": "old name", "metric": "acc", "value": value, "interval": None, **counts}

    file = project.gen_model / "benchmarks.json"
    assert stored_benchmarks(workflow, project, "finetune") == []
    stored = {
        adapter: {"a": [entry(0.1, 12)], "b": [entry(0.2, 30)], "c": [entry(0.3, 20)], "d": [entry(0.4, 9, "art")]},
        models["base"].key: {"a": [entry(0.5, 12)], "e": [{"task": "of another version"}]},
        "of earlier weights": {"b": [entry(0.6, 30)]},
    }
    file.write_text(json.dumps({"results": stored}), encoding="utf-8")
    found = [(e["task"], e["model"], e["value"]) for e in stored_benchmarks(workflow, project, "finetune")]
    assert found == [("art", "adapter", 0.4), ("mood", "base", 0.5), ("mood", "adapter", 0.2)]
    for content in ("{", "[]", '{"results": {"x": []}}', f'{{"results": {{"{adapter}": []}}}}'):
        file.write_text(content, encoding="utf-8")
        assert stored_benchmarks(workflow, project, "finetune") == []


def test_benchmarks_wait_for_other_runs_and_replace_a_damaged_file(trained_project: MakeProject) -> None:
    project = trained_project(until="finetune")
    workflow = load_workflow(project.config)
    with exclusive(project.run_lock), pytest.raises(Conflict):  # both would write the results that they have read
        run_benchmarks(workflow, project, ["evaluate"], [], silent)
    (project.gen_model / "benchmarks.json").write_text("[]", encoding="utf-8")
    assert run_benchmarks(workflow, project, ["evaluate"], [], silent) == []
