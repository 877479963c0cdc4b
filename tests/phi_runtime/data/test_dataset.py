"""Which rows are trained on and which are held out, and how each side becomes sequences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.data.dataset import Dataset, completion_only, fingerprint, load_dataset
from phi_runtime.data.template import PromptTemplate
from phi_runtime.errors import DataError
from phi_runtime.workflow.schema import DataConfig, LoRA, PreProcess, Workflow

DATASTORE = {"type": "azureml_datastore", "datastore_name": "blobs", "relative_path": "a.jsonl"}


def data(files: Any, name: str = "train", split: str = "train", **pre_process: Any) -> DataConfig:
    return DataConfig.model_validate(
        {
            "name": name,
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": files, "split": split},
            "pre_process_data_config": pre_process,
        }
    )


def lora(**others: Any) -> LoRA:
    return LoRA.model_validate({"type": "LoRA", "train_data_config": "train", **others})


def loaded(folder: Path, configs: list[DataConfig], **training: Any) -> Dataset:
    return load_dataset(Workflow.model_construct(data_configs=configs), lora(**training), folder / "config.json")


def fingerprints(folder: Path, *configs: DataConfig) -> dict[str, str]:
    training = lora(eval_data_config=configs[1].name if configs[1:] else None)
    return fingerprint(Workflow.model_construct(data_configs=list(configs)), training, folder / "config.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (1, 2):
        rows = [{"q": f"question {number}.{i}", "a": f"answer {i}", "text": f"text {number}.{i}"} for i in range(20)]
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return tmp_path


FILES = ["1.jsonl", "2.jsonl"]
PAIRS = {"text_template": "{q}\n{a}", "strategy": "line-by-line"}


@pytest.mark.parametrize(
    "pre_process",
    [
        {},
        {"strategy": "join-random", "max_samples": 3},
        {"strategy": "join-sliding-window", "stride": 512},
        {"strategy": "line-by-line-random", "max_samples": 3},
        {"strategy": "line-by-line", "max_samples": 3},
    ],
)
def test_rows_that_are_joined_drawn_or_counted_keep_the_order_of_their_files(
    folder: Path, pre_process: dict[str, Any]
) -> None:
    found = loaded(folder, [data(FILES, **pre_process)], eval_dataset_size=10)
    texts = [row.values["text"] for row in found.training.rows]
    held_out = {row.values["text"] for row in found.held_out.rows}
    everything = [f"text {number}.{i}" for number in (1, 2) for i in range(20)]
    assert len(held_out) == 10
    assert texts == [text for text in everything if text not in held_out]


def test_line_by_line_the_order_depends_on_the_content_alone(folder: Path) -> None:
    one_way = loaded(folder, [data(FILES, **PAIRS)]).training.rows
    other_way = loaded(folder, [data(FILES[::-1], **PAIRS)]).training.rows
    assert [r.values["q"] for r in one_way] == [r.values["q"] for r in other_way]


@pytest.mark.parametrize(
    ("strategy", "sibling"), [("join-random", "join"), ("line-by-line-random", "line-by-line"), ("join", "join")]
)
def test_rows_held_out_of_the_training_data_are_all_taken_and_none_drawn(
    folder: Path, strategy: str, sibling: str
) -> None:
    pre_process = {"strategy": strategy, "max_samples": 5, "max_seq_len": 32}
    found = loaded(folder, [data(FILES, **pre_process)], eval_dataset_size=10)
    held_out = found.held_out.settings
    assert (held_out.strategy, held_out.max_samples, held_out.max_seq_len) == (sibling, None, 32)
    assert found.training.settings.max_samples == 5


def test_held_out_rows_with_a_config_of_their_own_are_encoded_as_it_says(folder: Path) -> None:
    own = data("2.jsonl", "held_out", "train[:4]", text_template="{q} {a}", strategy="join", max_seq_len=64)
    found = loaded(folder, [data("1.jsonl", **PAIRS), own], eval_data_config="held_out")
    assert (len(found.training.rows), len(found.held_out.rows)) == (20, 4)
    assert found.held_out.settings == own.pre_process_data_config
    assert (found.training.template.prompt, found.held_out.template.prompt) == ("{q}\n", "{q} ")
    assert (found.training.completion_only, found.held_out.completion_only) == (True, False)


@pytest.mark.parametrize(
    ("pre_process", "expected"),
    [
        (PAIRS, True),
        ({**PAIRS, "strategy": "line-by-line-random", "max_samples": 1}, True),
        ({**PAIRS, "strategy": "join"}, False),
        ({"strategy": "line-by-line"}, False),
        ({"text_cols": ["q", "a"], "strategy": "line-by-line"}, False),
        ({"text_template": "{a}", "strategy": "line-by-line"}, False),
    ],
)
def test_the_completion_alone_is_trained_where_a_template_asks_line_by_line(
    pre_process: dict[str, Any], expected: bool
) -> None:
    settings = PreProcess.model_validate(pre_process)
    template = PromptTemplate.from_text(settings.template)
    assert completion_only(lora(), settings, template) is expected
    for chosen in (True, False):
        assert completion_only(lora(completion_only_loss=chosen), settings, template) is chosen


def test_columns_that_are_named_are_the_text_with_blanks_between(folder: Path) -> None:
    found = loaded(folder, [data("1.jsonl", text_cols=["q", "a"])]).training
    assert (found.template.prompt, found.template.completion) == ("{q} ", "{a}")


def test_only_the_rows_that_are_chosen_must_be_usable(folder: Path) -> None:
    with (folder / "1.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": ""}\n')
    assert len(loaded(folder, [data("1.jsonl", split="train[:20]")]).training.rows) == 20
    with pytest.raises(DataError, match=r"1\.jsonl:21:1: error: `text` is empty"):
        loaded(folder, [data("1.jsonl")])


def test_where_all_rows_are_held_out_it_is_said(folder: Path) -> None:
    with pytest.raises(DataError, match="all 20 rows are held out"):
        loaded(folder, [data("1.jsonl")], eval_dataset_size=20)


@pytest.mark.parametrize(
    ("files", "split", "says"),
    [
        (DATASTORE, "train", "lies in Azure ML"),
        ({"train": "1.jsonl", "test": "2.jsonl"}, "dev[:5]", "no files for the split `dev`"),
    ],
)
def test_data_that_is_not_on_this_machine_is_said_to_be_elsewhere(
    folder: Path, files: Any, split: str, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        loaded(folder, [data(files, split=split)])


def test_the_fingerprint_follows_the_content_of_every_file_and_their_order(folder: Path) -> None:
    both = fingerprints(folder, data(FILES))["train"]
    assert fingerprints(folder, data({"train": FILES, "test": "1.jsonl"}))["train"] == both
    assert fingerprints(folder, data(FILES[::-1]))["train"] != both
    assert fingerprints(folder, data("1.jsonl"), data("2.jsonl", "dev")).keys() == {"train", "dev"}
    (folder / "2.jsonl").write_text('{"text": "other"}\n', encoding="utf-8")
    assert fingerprints(folder, data(FILES))["train"] != both


def test_data_in_a_datastore_is_known_by_its_address(folder: Path) -> None:
    assert fingerprints(folder, data(DATASTORE)) == {"train": "azureml://datastores/blobs/paths/a.jsonl"}
