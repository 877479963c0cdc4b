"""Olive's command lines: the config that each describes, and a project that runs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from phi_scaffold.cli.olive import _link
from phi_scaffold.olive.flags import COMMANDS, OTHER_COMMANDS
from tests.conftest import Cli, write_rows

BASE = ("-m", "acme/tiny-lm")
ROWS = ("-d", "acme/rows", "--text_template", "{ask} {reply}")


def config_of(cli: Cli, *words: str) -> dict[str, Any]:
    done = cli("migrate", "--", "olive", *words)
    assert done.code == 0, done.err
    config: dict[str, Any] = json.loads(done.out)
    return config


def test_finetune_has_olives_defaults(cli: Cli) -> None:
    config = config_of(cli, "finetune", *BASE, *ROWS, "--max_steps", "20", "--gradient_checkpointing", "true")
    assert config["passes"] == {
        "finetune": {
            "type": "LoRA",
            "r": 64,
            "alpha": 16,
            "torch_dtype": "bfloat16",
            "train_data_config": "train_data",
            "training_args": {"max_steps": 20, "gradient_checkpointing": True},
        }
    }


def test_eval_split_is_a_second_data_config(cli: Cli) -> None:
    splits = ("--train_split", "train[:100]", "--eval_split", "train[100:120]")
    config = config_of(cli, "finetune", *BASE, *ROWS, "--method", "qlora", *splits)
    assert [data["load_dataset_config"]["split"] for data in config["data_configs"]] == [
        "train[:100]",
        "train[100:120]",
    ]
    finetune = config["passes"]["finetune"]
    assert (finetune["type"], finetune["eval_data_config"]) == ("QLoRA", "eval_data")


EXPORTS = [
    (("auto-opt", "--device", "cpu", "--use_ort_genai"), {"precision": "fp32"}),
    (("auto-opt", "--device", "gpu"), {"precision": "fp32"}),
    (("auto-opt", "--precision", "int4", "--block_size", "64"), {"precision": "int4", "int4_block_size": 64}),
    (("auto-opt", "-a", "acme/adapter"), {"precision": "fp32", "adapters": ["input_adapter"]}),
    (("quantize", "--algorithm", "awq"), {"precision": "int4", "int4_algo_config": "k_quant", "int4_block_size": 128}),
    (("capture-onnx-graph", "--use_model_builder", "--precision", "int4"), {"precision": "int4"}),
    (("capture-onnx-graph", "--use_dynamo_exporter"), {"precision": "fp32"}),
    (("generate-adapter", "--adapter_paths", "acme/a,acme/b"), {"precision": "fp32", "adapters": ["input_adapter"]}),
]


@pytest.mark.parametrize(("words", "export"), EXPORTS, ids=[" ".join(words) for words, _ in EXPORTS])
def test_export_commands_become_one_model_builder(cli: Cli, words: tuple[str, ...], export: dict[str, Any]) -> None:
    config = config_of(cli, *words, *BASE)
    assert config["passes"] == {"export": {"type": "ModelBuilder", **export}}


def test_optimize_to_four_bits_has_olives_options(cli: Cli) -> None:
    export = config_of(cli, "optimize", *BASE, "--precision", "int4", "--block_size", "64")["passes"]["export"]
    assert {key: export[key] for key in ("int4_block_size", "int4_accuracy_level", "int4_op_types_to_quantize")} == {
        "int4_block_size": 64,
        "int4_accuracy_level": 4,
        "int4_op_types_to_quantize": ["MatMul", "Gather"],
    }


def test_finetune_has_olives_defaults_for_rows(cli: Cli) -> None:
    data = config_of(cli, "finetune", *BASE, *ROWS)["data_configs"][0]
    process = data["pre_process_data_config"]
    assert (process["add_special_tokens"], process["max_samples"]) == (False, 256)


LINES = [
    'finetune -m acme/one -o models/ft --data_name acme/phrases --text_template "<|user|>\\n{phrase}<|end|>{tone}"'
    " --trust_remote_code --method lora --max_steps 100 --log_level 1",
    "auto-opt -m models/ft/model --adapter_path models/ft/adapter --device cpu --provider CPUExecutionProvider --use_ort_genai"
    " -o models/onnx --log_level 1",
    'finetune --method qlora -m acme/one -d acme/codes --train_split "train[:4096]" --eval_split "train[4096:4224]"'
    ' --text_template "### {prompt} \\n### {response}" --per_device_train_batch_size 16 --per_device_eval_batch_size 16'
    " --max_steps 150 --logging_steps 50 -o adapters/codes",
    'finetune -m acme/one -d acme/rows --text_template "{q} {a}" --task_name classification -o adapters/classifier',
    "generate-adapter --base_model_path models/base --adapter_paths adapters/a,adapters/b --output_path models/multi-adapter",
    'finetune -m acme/one -d acme/rows --text_template "{q} {a}" --logging_steps 10 --eval_steps 50 --save_steps 100'
    " --logging_dir ./logs --report_to tensorboard",
    'finetune -m acme/one -d acme/rows --text_template "{q} {a}" --method qlora --gradient_checkpointing true'
    " --per_device_train_batch_size 1 --gradient_accumulation_steps 16",
    "quantize -m acme/one --algorithm awq -o out/awq",
    "capture-onnx-graph -m acme/one --use_model_builder --precision int4",
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_olives_documents_is_accepted(cli: Cli, line: str) -> None:
    assert config_of(cli, *shlex.split(line))["passes"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_each_flag(cli: Cli, command: str) -> None:
    done = cli("olive", command, "--help")
    assert done.code == 0
    assert [name for name in COMMANDS[command] if f"--{name}" not in done.out] == []


@pytest.mark.parametrize("command", OTHER_COMMANDS)
def test_another_command_of_olive_gets_what_to_do_instead(cli: Cli, command: str) -> None:
    done = cli("olive", command, *BASE)
    assert (done.code, OTHER_COMMANDS[command] in done.err) == (2, True)


def test_another_device_is_refused_at_its_flag(cli: Cli) -> None:
    done = cli("olive", "optimize", *BASE, "--provider", "QNNExecutionProvider")
    assert (done.code, done.err.startswith("--provider QNNExecutionProvider: error:")) == (3, True)


def test_convert_adapters_of_the_hub_needs_the_base_model(cli: Cli) -> None:
    words = ("convert-adapters", "--adapter_path", "acme/adapter", "-o", "out")
    assert cli("migrate", "--", "olive", *words).code == 2
    model = config_of(cli, *words, *BASE)["input_model"]
    assert (model["model_path"], model["adapter_path"]) == ("acme/tiny-lm", "acme/adapter")


@pytest.mark.parametrize(("command", "folder"), [("quantize", "quantized-model"), ("capture-onnx-graph", "onnx-model")])
def test_the_default_folder_is_olives(
    cli: Cli, command: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("olive", command, *BASE, "--dry_run").code == 0
    assert (tmp_path / folder / "fine-tuning/olive-config.json").is_file()


def test_the_name_of_the_first_adapter_is_reported(cli: Cli) -> None:
    done = cli("migrate", "--", "olive", "generate-adapter", *BASE, "--adapter_paths", "acme/a,acme/b")
    assert [name in done.err for name in ("`acme/a`", "`input_adapter`")] == [True, True]


def test_another_modality_is_refused(cli: Cli) -> None:
    assert cli("olive", "optimize", *BASE, "--modality", "image").code == 2


def test_an_adapter_is_merged_before_weights_are_quantized(cli: Cli) -> None:
    config = config_of(cli, "quantize", *BASE, "-a", "acme/adapter", "--precision", "int4")
    assert config["input_model"]["adapter_path"] == "acme/adapter"
    assert [step["type"] for step in config["passes"].values()] == ["MergeAdapterWeights", "ModelBuilder"]


def test_an_unknown_flag_gets_the_nearest(cli: Cli) -> None:
    done = cli("olive", "auto-opt", *BASE, "--adaptr_path", "x")
    assert (done.code, "`--adapter_path`" in done.err) == (2, True)


def test_a_misspelled_training_argument_is_located_at_its_flag(cli: Cli) -> None:
    done = cli("olive", "finetune", *BASE, *ROWS, "--logging_stepz", "3")
    assert done.code == 3
    assert done.err.startswith("--logging_stepz 3: error:")
    assert "`logging_steps`" in done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_model_is_a_usage_error(cli: Cli, command: str) -> None:
    assert cli("olive", command).code == 2


def test_an_olive_command_without_olive_gets_the_line_with_it(cli: Cli) -> None:
    done = cli("quantize", "-m", "acme/tiny-lm", "--algorithm", "awq")
    assert (done.code, "phi-scaffold olive quantize -m acme/tiny-lm --algorithm awq" in done.err) == (2, True)


def test_dry_run_only_creates_the_project(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", 8)
    words = ("-d", "json", "--data_files", "rows.jsonl", "--text_template", "Q: {phrase}\\nA: {tone}", "-o", "out/ft")
    done = cli("olive", "finetune", *BASE, *words, "--dry_run")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "out/ft/fine-tuning/olive-config.json").read_text(encoding="utf-8"))
    data = config["data_configs"][0]
    assert data["load_dataset_config"]["data_files"] == "../datasets/rows.jsonl"
    assert data["pre_process_data_config"]["text_template"] == "Q: {phrase}\nA: {tone}"
    assert (tmp_path / "out/ft/datasets/rows.jsonl").is_file()
    assert (tmp_path / "out/ft/setup/setup.sh").is_file()


def test_run_creates_a_project_from_a_config(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    passes = {"export": {"type": "ModelBuilder", "precision": "int4"}}
    config = {"input_model": {"type": "HfModel", "model_path": "acme/one"}, "passes": passes}
    (tmp_path / "old.json").write_text(json.dumps(config), encoding="utf-8")
    done = cli("olive", "run", "--run-config", "old.json", "-m", "acme/two", "-o", "out", "--setup", "--dry_run")
    assert done.code == 0, done.err
    written = json.loads((tmp_path / "out/fine-tuning/olive-config.json").read_text(encoding="utf-8"))
    assert written["input_model"]["model_path"] == "acme/two"


def test_auto_opt_reads_the_output_of_finetune(
    cli: Cli, tmp_path: Path, tiny_phi3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", 20)
    words = (
        "-d",
        "json",
        "--data_files",
        "rows.jsonl",
        "--text_template",
        "{phrase} {tone}",
        "--torch_dtype",
        "float32",
    )
    done = cli("olive", "finetune", "-m", str(tiny_phi3), *words, "--lora_r", "4", "--max_steps", "1", "-o", "ft")
    assert done.code == 0, done.err
    assert (tmp_path / "ft/model/config.json").is_file()
    assert (tmp_path / "ft/adapter/adapter_config.json").is_file()
    done = cli("olive", "auto-opt", "-m", "ft/model", "--adapter_path", "ft/adapter", "-o", "onnx")
    assert done.code == 0, done.err
    assert (tmp_path / "onnx/model/genai_config.json").is_file()
    assert list((tmp_path / "onnx/model/adapters").glob("*.onnx_adapter"))


def test_a_copy_of_the_outputs_replaces_the_one_of_the_last_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("links need the developer mode")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    for content in ("first", "second"):
        (tmp_path / "onnx" / "weights").write_text(content)
        _link(tmp_path / "onnx", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.bak", "onnx"]
    assert (tmp_path / "model" / "weights").read_text() == "second"
    assert (tmp_path / "model.bak" / "mine").is_file()
