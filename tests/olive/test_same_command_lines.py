"""A command line of Olive describes the same config here as there, read by the same rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.parse import parse_config
from phi_runtime.config.reading.source import parse_source
from phi_runtime.config.schema import Workflow
from phi_scaffold.olive.arguments import parse
from phi_scaffold.olive.build import build

pytestmark = [pytest.mark.olive, pytest.mark.timeout(1800)]  # the first makes the environment

FINETUNE = ("finetune", "-d", "acme/rows", "--text_template", "{ask}\\n{reply}")
CAPTURE = ("capture-onnx-graph", "--use_model_builder")
CASES = [
    FINETUNE,
    (*FINETUNE, "--method", "qlora", "--lora_r", "8", "--lora_alpha", "32", "--torch_dtype", "float32"),
    (*FINETUNE, "--target_modules", "q_proj,v_proj", "--trust_remote_code", "--max_seq_len", "256"),
    (*FINETUNE, "--train_split", "train[:90%]", "--eval_split", "train[90%:]", "--train_subset", "small"),
    (
        *FINETUNE,
        "--max_steps",
        "9",
        "--learning_rate",
        "1e-4",
        "--logging_steps",
        "3",
        "--gradient_checkpointing",
        "true",
    ),
    ("finetune", "-d", "acme/rows", "--text_field", "text", "--max_samples", "100"),
    ("auto-opt", "--use_model_builder"),
    ("auto-opt", "--use_model_builder", "--device", "gpu", "--provider", "CUDAExecutionProvider"),
    ("auto-opt", "--use_model_builder", "--precision", "int4"),
    (
        "auto-opt",
        "--use_model_builder",
        "--precision",
        "fp16",
        "--device",
        "gpu",
        "--provider",
        "CUDAExecutionProvider",
    ),
    ("optimize", "--precision", "int4"),
    ("optimize", "--precision", "int4", "--block_size", "64"),
    ("optimize", "--precision", "fp16", "--provider", "CUDAExecutionProvider"),
    (*CAPTURE, "--precision", "int4", "--int4_block_size", "64"),
    (*CAPTURE, "--precision", "fp16"),
    (*CAPTURE, "--precision", "fp32"),
    ("auto-opt", "--use_ort_genai", "--precision", "int4"),
]
NAMES = [" ".join(words) for words in CASES]


# Not options of what is trained or built: places, the log, and the implementation of attention, which computes the same.
ELSEWHERE: Any = {
    **dict.fromkeys(("output_dir", "cache_dir", "workflow_id", "log_severity_level", "passes", "data_configs"), True),
    "input_model": {"load_kwargs": {"attn_implementation"}},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a model, which is all that Olive's commands read of it."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return folder


@pytest.fixture(scope="module")
def answers(model: Path, ask_olive: Any) -> Any:
    commands = {name: [*words, "-m", str(model)] for name, words in zip(NAMES, CASES, strict=True)}
    return ask_olive({"commands": commands})["commands"]


def options(workflow: Workflow | None) -> dict[str, Any]:
    """The options of a config, apart from the names of its parts."""
    assert workflow is not None
    found = workflow.model_dump(mode="json", exclude=ELSEWHERE)
    if "train" in {data.name.partition("_")[0] for data in workflow.data_configs}:
        del found["systems"]  # of `finetune`, Olive always writes a GPU, which it does not use
    found["passes"] = [step.model_dump(mode="json") for step in workflow.passes.values()]
    found["data_configs"] = [data.model_dump(mode="json") for data in workflow.data_configs]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_command_line_describes_the_config_that_olive_writes(
    name: str, model: Path, answers: Any, tmp_path: Path
) -> None:
    answer = answers[name]
    assert answer["error"] is None
    theirs = parse_config(parse_source(tmp_path / "olive.json", json.dumps(answer["answer"])))
    assert [str(e) for e in theirs.errors] == []
    ours = parse_config(build(parse([*CASES[NAMES.index(name)], "-m", str(model)]), tmp_path).source)
    assert options(ours.workflow) == options(theirs.workflow)
