"""Configs, data rows and Python in the docs: each is valid, a part of a config within the config of a new project."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from phi_runtime.config.reading.source import parse_source
from phi_runtime.pipeline.load import check_file
from phi_scaffold.new.answers import Answers
from phi_scaffold.new.generate import new
from tests.docs.pages import PAGES, Code, code

CONFIG, EVALUATION, SWEEP = "olive-config.json", "evaluation.json", "sweep.yaml"
OTHER_TITLES = {"train.jsonl", "output"}
BLOCKS = [block for page in PAGES for block in code(page) if block.language in ("json", "jsonc", "yaml")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = new(tmp_path_factory.mktemp("snippets") / "p", Answers("smollm2-135m")).folder
    (folder / "datasets" / "calls.csv").write_text("speaker,question,answer\n1,Where?,There.\n2,When?,Now.\n")
    adapter = folder / "my-adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["o_proj"], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    module = "base_model.model.model.layers.0.self_attn.o_proj"
    shapes = {f"{module}.lora_A.weight": (8, 576), f"{module}.lora_B.weight": (576, 8)}
    save_file(
        {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, adapter / "adapter_model.safetensors"
    )
    return folder


def errors(project: Path, block: Code) -> list[str]:
    """Return the errors of a config or of a part of one, which is joined with the config of `project`."""
    path = project / "fine-tuning" / block.title
    text = block.text
    if not text.lstrip().startswith(("{", "//")) and block.language != "yaml":
        text = f"{{{text}}}"
    if block.title == CONFIG:
        value = parse_source(path, text).value
        if not {"input_model", "passes", "systems"} <= set(value):
            value = joined(json.loads(path.read_text(encoding="utf-8")), value)
            text = json.dumps(value)
    return [f"{block.place}: {found.message}" for found in check_file(path, text).findings if found.severity == "error"]


def joined(config: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return `config` with a part: passes that all have a type replace all, other objects are joined key by key."""
    result = dict(config)
    for key, value in part.items():
        complete = key == "passes" and all("type" in inner for inner in value.values())
        known = isinstance(value, dict) and isinstance(config.get(key), dict) and not complete
        result[key] = joined(config[key], value) if known else value
    return result


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.title in (CONFIG, EVALUATION, SWEEP)], ids=lambda b: b.place)
def test_configs_are_valid(project: Path, block: Code) -> None:
    assert not (faults := errors(project, block)), "\n".join(faults)


def test_a_config_that_is_not_valid_is_found(project: Path) -> None:
    page = PAGES[0]
    part = Code(page, 1, '"passes": {"finetune": {"rank": 8}}', "json", CONFIG)
    complete = Code(page, 1, '{"task": "poetry"}', "json", EVALUATION)
    assert len(errors(project, part)) == len(errors(project, complete)) == 1


def test_each_snippet_says_which_file_it_belongs_to() -> None:
    unknown = [b.place for b in BLOCKS if b.title not in {CONFIG, EVALUATION, SWEEP, *OTHER_TITLES}]
    assert not unknown, 'no title="FILE" that the tests know: ' + ", ".join(unknown)


def values(block: Code) -> Iterator[Any]:
    if block.title.endswith(".jsonl"):
        yield from map(json.loads, block.text.splitlines())
    elif block.language == "json":
        yield json.loads(re.sub(r": …", ": null", re.sub(r",\s*…|(?<=\[)…", "", block.text)))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.title in OTHER_TITLES], ids=lambda b: b.place)
def test_other_json_parses(block: Code) -> None:
    assert list(values(block))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles(page: Path) -> None:
    for block in code(page):
        if block.language == "python":
            compile(block.text, block.place, "exec")
