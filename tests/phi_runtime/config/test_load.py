"""A config is valid, or each of its errors is located."""

from __future__ import annotations

import copy
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.stage_names import stage_order
from phi_runtime.core.errors import ConfigError
from phi_runtime.pipeline.load import check_file, load_workflow

CONFIG: dict[str, Any] = {
    "input_model": {"type": "HfModel", "model_path": "../model-cache/smollm2-135m"},
    "systems": {
        "local": {
            "type": "LocalSystem",
            "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
        }
    },
    "data_configs": [
        {
            "name": "train",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": "../datasets/train.jsonl"},
            "pre_process_data_config": {"text_template": "{q}\n{a}", "strategy": "line-by-line", "max_seq_len": 128},
        }
    ],
    "passes": {
        "lora": {"type": "LoRA", "r": 8, "alpha": 16, "train_data_config": "train", "training_args": {"max_steps": 3}},
        "merge": {"type": "MergeAdapterWeights"},
        "build": {"type": "ModelBuilder", "precision": "int4"},
    },
    "host": "local",
    "target": "local",
}

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    (tmp_path / "fine-tuning").mkdir()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "train.jsonl").write_text('{"q": "x", "a": "y"}\n')

    def put(config: dict[str, Any]) -> Path:
        path = tmp_path / "fine-tuning" / "olive-config.json"
        path.write_text(json.dumps(config, indent=2))
        return path

    return put


def findings(write: Callable[[dict[str, Any]], Path], change: Change) -> list[Finding]:
    config = copy.deepcopy(CONFIG)
    change(config)
    return [f for f in check_file(write(config)).findings if f.severity == "error"]


def test_a_search_names_what_can_be_searched(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "search_space:\n"
        "  lora_rr: [8, 16]\n"
        "  learning_rate: {type: float, low: 1e-3, high: 1e-6, log: true}\n"
        "  passes.tune.r: {type: int, low: 1, high: 4}\n"
    )
    found = [f for f in check_file(path).findings if f.severity == "error"]
    assert [(f.where.line, f.rule) for f in found] == [(2, "unknown-key"), (3, "out-of-range")]


def test_a_search_alone_knows_the_options_of_every_pass(tmp_path: Path) -> None:
    """In an interpreter that has loaded no pass yet, as for `phi-scaffold validate sweep.yaml`."""
    path = tmp_path / "sweep.yaml"
    path.write_text("search_space:\n  r: [8, 16]\n  init_weights: [true, false]\n")
    code = "import runpy; runpy.run_module('phi_scaffold', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, "validate", path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("metric", "evaluation", "message", "fix"),
    [
        ("eval_loss", {}, "", ""),
        ("token_f1", {}, "", ""),
        ("accuracy", {"task": "classification"}, "", ""),
        ("mean_cost", {"task": "classification", "cost": {"joy→fear": 5}}, "", ""),
        ("score", {"combined": {"score": {"bleu": 1}}}, "", ""),
        ("acuracy", {"task": "classification"}, "no metric `acuracy` in the task", "write `accuracy`"),
        ("accuracy", {}, "no metric `accuracy` in the task `generation`", ""),
        ("mean_cost", {"task": "classification"}, "`mean_cost` needs `cost`", "set it in evaluation.json"),
    ],
)
def test_a_metric_of_a_search_that_nothing_measures_is_a_warning_at_its_place(
    write: Callable[[dict[str, Any]], Path], metric: str, evaluation: dict[str, Any], message: str, fix: str
) -> None:
    config = write(CONFIG)
    config.with_name("evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    sweep = config.with_name("sweep.yaml")
    sweep.write_text(f"search_space:\n  r: [8, 16]\nsearch_strategy:\n  metric: {metric}\n")
    found = [f for f in check_file(config).findings if f.where.path == sweep and f.key.endswith(".metric")]
    assert [(f.severity, f.where.line) for f in found] == [("warning", 4)] * bool(message)
    assert all(message in f.message and f.fix.startswith(fix) for f in found)
    config.with_name("hooks.py").write_text("def metrics(predictions, references):\n    return {}\n")
    assert not [f for f in check_file(config).findings if f.key.endswith(".metric")]  # it may return any name


def test_a_long_list_of_values_is_checked_at_its_ends_and_between(write: Callable[[dict[str, Any]], Path]) -> None:
    config = write(CONFIG)
    sweep = config.with_name("sweep.yaml")
    for values, error in ((range(1, 3001), False), ([0, *range(1, 3001)], True), ([*range(1, 3001), -1, 7], True)):
        sweep.write_text(json.dumps({"search_space": {"r": list(values)}}))
        assert bool([f for f in check_file(config).findings if f.severity == "error"]) is error


def test_of_many_faulty_keys_of_a_search_the_first_are_listed_and_the_others_counted(
    write: Callable[[dict[str, Any]], Path],
) -> None:
    config = write(CONFIG)
    space = {f"passes.lora.no_such_key_{number}": [1] for number in range(60)}
    config.with_name("sweep.yaml").write_text(json.dumps({"search_space": space}))
    *faulty, last = [f for f in check_file(config).findings if f.severity == "error"]
    assert [f.key for f in faulty] == [f"search_space.passes.lora.no_such_key_{number}" for number in range(20)]
    assert last.message.startswith("40 more keys")


def test_a_search_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("search_strategy:\n  sampler: tpe\n  type: grid\nsearch_space:\n  r: [8, 16]\n")
    found = [f for f in check_file(path).findings if f.severity == "error"]
    assert [(f.where.line, f.rule) for f in found] == [(2, "contradiction")]


def test_a_valid_config_loads_with_olives_defaults(write: Callable[[dict[str, Any]], Path]) -> None:
    workflow = load_workflow(write(CONFIG))
    assert stage_order(workflow) == ["fetch", "lora", "merge", "build", "evaluate"]
    assert workflow.finetune is not None
    assert workflow.finetune[1].training_args.learning_rate == 2e-4
    assert workflow.data_config("train").load_dataset_config.split == "train"


def test_evaluation_json_beside_it_is_read(write: Callable[[dict[str, Any]], Path]) -> None:
    path = write(CONFIG)
    (path.parent / "evaluation.json").write_text('{"task": "classification", "max_rows": 7}')
    assert load_workflow(path).evaluation.max_rows == 7
    (path.parent / "evaluation.json").write_text('{"taks": "classification"}')
    with pytest.raises(ConfigError, match=r"evaluation\.json:1:2: error: unknown key `taks`") as caught:
        load_workflow(path)
    assert "task" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "rule", "line_of", "suggestion"),
    [
        (lambda c: c["passes"]["lora"].update(alhpa=3), "unknown-key", '"alhpa"', "alpha"),
        (
            lambda c: c["passes"]["lora"]["training_args"].update(learning_rat=1),
            "unknown-key",
            '"learning_rat"',
            "learning_rate",
        ),
        (lambda c: c.update(hots="local"), "unknown-key", '"hots"', "host"),
        (
            lambda c: c["data_configs"][0]["pre_process_data_config"].update(max_seq_length=3),
            "unknown-key",
            '"max_seq_length"',
            "max_seq_len",
        ),
        (lambda c: c["passes"]["lora"].update(type="LoRRA"), "unknown-value", '"LoRRA"', "LoRA"),
        (lambda c: c["passes"]["build"].update(precision="int5"), "unknown-value", '"int5"', "int8"),
        (lambda c: c["passes"]["lora"].update(r="sixteen"), "wrong-type", '"sixteen"', ""),
        (lambda c: c["passes"]["lora"].update(r="8"), "wrong-type", '"r": "8"', "8"),
        (lambda c: c["passes"]["lora"].update(alpha="None"), "wrong-type", '"alpha"', "null"),
        (lambda c: c["passes"]["lora"].update(allow_tf32="True"), "wrong-type", '"allow_tf32"', "true"),
        (lambda c: c["passes"]["lora"].update(r=0), "out-of-range", '"r": 0', ""),
        (lambda c: c["passes"]["lora"].update(lora_dropout=1.5), "out-of-range", '"lora_dropout"', ""),
        (lambda c: c["passes"]["lora"].update(eval_dataset_size=2.5), "out-of-range", '"eval_dataset_size"', ""),
        (lambda c: c["passes"]["lora"].update(eval_dataset_size=1), "out-of-range", '"eval_dataset_size"', ""),
        (lambda c: c["passes"]["lora"].update(eval_dataset_size=100), "out-of-range", '"eval_dataset_size"', ""),
        (lambda c: c["passes"]["lora"].update(eval_dataset_size=10**30), "out-of-range", '"eval_dataset_size"', ""),
        (lambda c: c["passes"]["lora"].update(test_dataset_size=2.5), "out-of-range", '"test_dataset_size"', ""),
        (lambda c: c["passes"]["lora"].update(test_dataset_size=100), "out-of-range", '"test_dataset_size"', ""),
        (
            lambda c: c["passes"]["lora"].update(eval_dataset_size=0.5, test_dataset_size=0.5),
            "out-of-range",
            '"eval_dataset_size"',
            "",
        ),
        (lambda c: c["passes"]["lora"].update(test_data_config="tets"), "unknown-reference", '"tets"', ""),
        (
            lambda c: c["data_configs"][0]["pre_process_data_config"].update(group_by="spaeker"),
            "template-column",
            '"group_by"',
            "",
        ),
        (lambda c: c["passes"]["build"].pop("precision"), "missing-key", '"build"', ""),
        (lambda c: c["passes"]["lora"].pop("type"), "missing-key", '"lora"', ""),
        (lambda c: c.update(host="locl"), "unknown-reference", '"locl"', "local"),
        (lambda c: c.update(host=["local"]), "wrong-type", '"host"', ""),
        (
            lambda c: c["data_configs"][0]["load_dataset_config"].update(encoding="punycode"),
            "out-of-range",
            '"encoding"',
            "",
        ),
        (lambda c: c["passes"]["lora"].update(train_data_config="trian"), "unknown-reference", '"trian"', "train"),
        (lambda c: c["passes"]["build"].update(precision="fp16"), "precision", '"fp16"', ""),
        (lambda c: c["passes"].update(fetch=c["passes"].pop("lora")), "pass-name", '"fetch"', ""),
        (lambda c: c["passes"].update(Aux=c["passes"].pop("build")), "pass-name", '"Aux"', "my-Aux"),
        (lambda c: c["data_configs"].append(c["data_configs"][0]), "duplicate-name", None, ""),
        (
            lambda c: c["data_configs"][0]["pre_process_data_config"].update(text_template="{q} {anwser}"),
            "template-column",
            '"text_template"',
            "",
        ),
        (
            lambda c: c["data_configs"][0]["pre_process_data_config"].update(text_template="{q"),
            "text-template",
            '"text_template"',
            "",
        ),
        (
            lambda c: c["data_configs"][0]["load_dataset_config"].update(data_files="no.jsonl"),
            "file-not-found",
            '"no.jsonl"',
            "",
        ),
        (
            lambda c: c["passes"]["lora"].update(eval_dataset_size=5, eval_data_config="train"),
            "contradiction",
            '"eval_dataset_size"',
            "",
        ),
        (
            lambda c: c["passes"]["lora"].update(test_dataset_size=5, test_data_config="train"),
            "contradiction",
            '"test_dataset_size"',
            "",
        ),
        (
            lambda c: c["passes"]["build"].update(extra_options={"int4_block_sise": 128}),
            "unknown-key",
            '"int4_block_sise"',
            "int4_block_size",
        ),
        (lambda c: c.update(evaluation={}), "unknown-key", '"evaluation"', ""),
    ],
)
def test_a_fault_is_shown_with_its_line_and_what_was_meant(
    write: Callable[[dict[str, Any]], Path], change: Change, rule: str, line_of: str | None, suggestion: str
) -> None:
    found = [f for f in findings(write, change) if f.rule == rule]
    assert found, f"no finding of the rule {rule}"
    assert found[0].suggestion == suggestion
    if line_of:
        lines = found[0].where.path.read_text().splitlines()  # type: ignore[union-attr]
        assert line_of in lines[found[0].where.line - 1]


def test_all_faults_come_in_one_go_in_the_order_of_the_file(write: Callable[[dict[str, Any]], Path]) -> None:
    def change(c: dict[str, Any]) -> None:
        c["input_model"]["model_pth"] = c["input_model"].pop("model_path")
        c["passes"]["lora"]["alhpa"] = 1
        c["log_severity_level"] = 9

    found = findings(write, change)
    assert [f.key for f in found] == [
        "input_model.model_pth",  # and not that model_path is missing, which follows from it
        "passes.lora.alhpa",
        "log_severity_level",
    ]


@pytest.mark.parametrize(
    ("order", "both"),
    [
        (["build", "lora", "merge"], ("`lora` (LoRA)", "`build` (ModelBuilder)")),
        (["merge", "lora", "build"], ("`merge` (MergeAdapterWeights)", "the base model")),
        (["lora", "build", "merge"], ("`build` (ModelBuilder)", "`lora` (LoRA)")),
    ],
)
def test_an_impossible_order_names_both_passes(
    write: Callable[[dict[str, Any]], Path], order: list[str], both: tuple[str, str]
) -> None:
    found = findings(write, lambda c: c.update(passes={name: c["passes"][name] for name in order}))
    messages = [f.message for f in found if f.rule == "pass-order"]
    assert len(messages) == 1
    assert all(name in messages[0] for name in both)


@pytest.mark.parametrize("names", [["lora"], ["build"], ["lora", "merge"], ["lora", "merge", "build"]])
def test_any_sensible_subset_of_passes_is_valid(write: Callable[[dict[str, Any]], Path], names: list[str]) -> None:
    assert findings(write, lambda c: c.update(passes={name: c["passes"][name] for name in names})) == []


def test_data_and_a_model_that_lie_under_the_root_are_found_there_and_it_is_said(
    write: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "config.json").write_text("{}")
    config = copy.deepcopy(CONFIG)
    config["input_model"]["model_path"] = "models/mine"
    config["data_configs"][0]["load_dataset_config"]["data_files"] = "datasets/train.jsonl"
    checked = check_file(write(config))
    assert checked.valid
    assert [f.message.split(" ")[0] for f in checked.findings if f.rule == "found-under-root"] == [
        "`models/mine`",
        "train.jsonl",
    ]


def test_what_is_wrong_with_one_value_does_not_hide_what_is_wrong_with_its_neighbours(
    write: Callable[[dict[str, Any]], Path],
) -> None:
    def change(c: dict[str, Any]) -> None:
        data, lora = c["data_configs"][0], c["passes"]["lora"]
        data["pre_process_data_config"].update(strategy="joined", text_template="{q} {anwser}")
        data["load_dataset_config"]["data_files"] = ["../datasets/train.jsonl", 3]
        lora.update(r="sixteen", target_modules=["q_proj"], train_data_config="trian")

    rules = [f.rule for f in findings(write, change)]
    assert rules[:3] == ["wrong-type", "unknown-value", "wrong-type"]  # of single values first
    assert sorted(rules[3:]) == ["target-module", "template-column", "unknown-reference"]


def test_many_wrong_items_of_a_list_do_not_hide_what_is_wrong_with_its_neighbors(
    write: Callable[[dict[str, Any]], Path],
) -> None:
    def change(c: dict[str, Any]) -> None:
        data = c["data_configs"][0]
        data["pre_process_data_config"]["text_template"] = "{q} {anwser}"
        data["load_dataset_config"]["data_files"] = [*["../datasets/train.jsonl"] * 9, 9, 10, "../datasets/train.jsonl"]

    assert {f.rule for f in findings(write, change)} == {"wrong-type", "template-column"}


def test_a_data_file_that_may_not_be_looked_up_does_not_hide_other_errors(
    write: Callable[[dict[str, Any]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(path: Any, *arguments: Any, **keywords: Any) -> os.stat_result:
        if "private" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *arguments, **keywords)

    def change(c: dict[str, Any]) -> None:
        c["data_configs"][0]["load_dataset_config"]["data_files"] = str(tmp_path / "private" / "rows.jsonl")
        c["host"] = "remote"

    stat = os.stat
    monkeypatch.setattr(os, "stat", look_up)
    found = {f.key: f for f in findings(write, change)}
    data = found["data_configs.0.load_dataset_config.data_files"]
    assert data.message == f"{tmp_path / 'private' / 'rows.jsonl'} cannot be read: Permission denied"
    assert found["host"].rule == "unknown-reference"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"strategy": "join-sliding-window"}, "strategy"),
        ({"strategy": "join-sliding-window", "stride": 200}, "stride"),
        ({"strategy": "join-random"}, "strategy"),
        ({"strategy": "join", "drop_short_sequences": True}, "drop_short_sequences"),
        ({"drop_short_sequences": True, "pad_to_max_len": True}, "drop_short_sequences"),
    ],
)
def test_a_strategy_without_what_it_needs_is_a_fault(
    write: Callable[[dict[str, Any]], Path], change: dict[str, Any], key: str
) -> None:
    found = findings(write, lambda c: c["data_configs"][0]["pre_process_data_config"].update(change))
    assert [f.key for f in found] == [f"data_configs.0.pre_process_data_config.{key}"]


def test_an_accelerator_that_its_provider_does_not_drive_is_a_fault(write: Callable[[dict[str, Any]], Path]) -> None:
    def change(c: dict[str, Any]) -> None:
        c["systems"]["local"]["accelerators"][0]["execution_providers"] = ["CUDAExecutionProvider"]

    assert [(f.rule, f.suggestion) for f in findings(write, change)] == [("contradiction", "CPUExecutionProvider")]


@pytest.mark.parametrize(
    ("split", "suggestion"), [("validation", "train"), ("trian[:10]", "train"), ("tset[:50%]", "test")]
)
def test_a_split_that_the_files_do_not_have_is_a_fault(
    write: Callable[[dict[str, Any]], Path], split: str, suggestion: str
) -> None:
    def change(c: dict[str, Any]) -> None:
        load = c["data_configs"][0]["load_dataset_config"]
        load["split"] = split
        if suggestion == "test":
            load["data_files"] = {"train": load["data_files"], "test": load["data_files"]}

    assert [(f.rule, f.suggestion) for f in findings(write, change)] == [("unknown-reference", suggestion)]


def test_images_next_to_a_conversation_are_a_warning(write: Callable[[dict[str, Any]], Path]) -> None:
    config = copy.deepcopy(CONFIG)
    config["data_configs"][0]["pre_process_data_config"] = {"chat_template": True, "strategy": "line-by-line"}
    path = write(config)
    rows = path.parents[1] / "datasets" / "train.jsonl"
    rows.write_text('{"images": ["a.png"], "messages": [], "id": 1}\n')
    found = [(f.severity, f.key) for f in check_file(path).findings if f.rule == "media-column"]
    assert found == [("warning", "data_configs.0.pre_process_data_config.chat_template")]
    rows.write_text('{"messages": [], "id": 1}\n')
    assert not [f for f in check_file(path).findings if f.rule == "media-column"]


def test_optional_columns_are_in_the_prompt(write: Callable[[dict[str, Any]], Path]) -> None:
    def change(config: dict[str, Any]) -> None:
        config["data_configs"][0]["pre_process_data_config"] |= {
            "text_template": "{q} {x}\n{a}",
            "optional_cols": ["x"],
        }

    assert findings(write, change) == []  # the first row has no `x`

    def wrong(config: dict[str, Any]) -> None:
        config["data_configs"][0]["pre_process_data_config"]["optional_cols"] = ["a"]

    assert [f.rule for f in findings(write, wrong)] == ["unknown-reference"]
