"""Commands of the how-to pages, in a project that ran: those without a training, a server or a second run."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Cli, MakeProject
from tests.docs.pages import PAGES, command_lines

LIGHT = {"status", "validate", "data", "runs", "models", "schema", "report", "generate", "migrate", "clean"}
WITHOUT = {
    "--adapter",
    "-2",
    "--ratings",
    "azureml",
}  # adapters, a second run, filled sheets and a workspace: not in this project
LINES = {line.arguments for page in PAGES for line in command_lines(page) if line.in_block}
OLDER = {"lora": {"type": "LoRA", "config": {"lora_r": 64, "lora_alpha": 64, "train_data_config": "train_data"}}}


def is_light(arguments: tuple[str, ...]) -> bool:
    light = arguments[0] in LIGHT or "--dry-run" in arguments
    return light and WITHOUT.isdisjoint(arguments) and arguments != ("generate",)  # reads stdin


def order(arguments: tuple[str, ...]) -> tuple[bool, bool, tuple[str, ...]]:
    """Sort what changes the project behind the others: what deletes last, and each time the same line first."""
    return arguments[0] == "clean", arguments[0] == "migrate", arguments


def test_commands_of_the_guides_run(trained_project: MakeProject, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trained_project().root
    monkeypatch.chdir(root)
    config = json.loads((root / "fine-tuning" / "olive-config.json").read_text(encoding="utf-8"))
    data = config["data_configs"][0]
    data["load_dataset_config"]["data_files"] = "datasets/train.jsonl"
    (root / "old-config.json").write_text(json.dumps(config | {"passes": OLDER, "data_configs": [data]}))
    (root / "rows.jsonl").write_text('{"q": "Where?", "a": "There."}\n')
    failed, ran = [], 0
    for arguments in sorted(filter(is_light, LINES), key=order):
        result = cli(*[word for word in arguments if word not in ("--open", "--apply")])
        ran += 1
        if result.code:
            failed.append(f"phi-scaffold {' '.join(arguments)}: {result.code}: {result.err}")
    assert not failed, "\n".join(failed)
    assert ran >= 25
