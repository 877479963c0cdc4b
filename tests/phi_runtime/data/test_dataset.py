"""Which rows are trained on and which are held out, and how each side becomes sequences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.schema import DataConfig, PreProcess, Workflow
from phi_runtime.core.errors import DataError, UsageError
from phi_runtime.data.dataset import (
    DataContext,
    Dataset,
    DataSplit,
    completion_only,
    load_dataset,
    load_split,
)
from phi_runtime.data.fingerprint import fingerprint
from phi_runtime.data.template import PromptTemplate
from phi_runtime.models.reference import ModelRef
from phi_runtime.passes.lora import LoRA
from tests.conftest import Listener
from tests.phi_runtime.data.stores import as_lists

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


@pytest.fixture(scope="module")
def model(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A model of which the tokenizer alone is there."""
    path = tmp_path_factory.mktemp("model")
    tiny_tokenizer.save_pretrained(path)
    return ModelRef(path, "hf", "key")


@pytest.fixture
def place(folder: Path, model: ModelRef) -> DataContext:
    return DataContext(folder / "config.json", model, folder / "cache")


def loaded(place: DataContext, configs: list[DataConfig], **training: Any) -> Dataset:
    workflow = Workflow.model_construct(data_configs=configs)
    return load_dataset(workflow, lora(**training), place, Listener(), "finetune")


def values(side: DataSplit, name: str = "text") -> list[str]:
    return [row[name] for row in side.values()]


def append(path: Path, *lines: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


def fingerprints(folder: Path, *configs: DataConfig) -> dict[str, str]:
    names = [config.name for config in configs]
    return fingerprint(Workflow.model_construct(data_configs=list(configs)), names, folder / "config.json")


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
    place: DataContext, pre_process: dict[str, Any]
) -> None:
    found = loaded(place, [data(FILES, **pre_process)], eval_dataset_size=10)
    held_out = set(values(found.validation))
    everything = [f"text {number}.{i}" for number in (1, 2) for i in range(20)]
    assert len(held_out) == 10
    assert values(found.training) == [text for text in everything if text not in held_out]


def test_line_by_line_the_order_depends_on_the_content_alone(place: DataContext) -> None:
    one_way = loaded(place, [data(FILES, **PAIRS)]).training
    other_way = loaded(place, [data(FILES[::-1], **PAIRS)]).training
    assert values(one_way, "q") == values(other_way, "q")
    assert values(one_way, "q") != values(loaded(place, [data(FILES, **PAIRS)], **SEED_7).training, "q")


SEED_7: dict[str, Any] = {"training_args": {"data_seed": 7}}


@pytest.mark.parametrize(
    ("strategy", "sibling"), [("join-random", "join"), ("line-by-line-random", "line-by-line"), ("join", "join")]
)
def test_rows_held_out_of_the_training_data_are_all_taken_and_none_drawn(
    place: DataContext, strategy: str, sibling: str
) -> None:
    pre_process = {"strategy": strategy, "max_samples": 5, "max_seq_len": 32}
    found = loaded(place, [data(FILES, **pre_process)], eval_dataset_size=10)
    held_out = found.validation.settings
    assert (held_out.strategy, held_out.max_samples, held_out.max_seq_len) == (sibling, None, 32)
    assert found.training.settings.max_samples == 5
    assert found.validation.store is found.training.store


def test_held_out_rows_with_a_config_of_their_own_are_encoded_as_it_says(place: DataContext) -> None:
    own = data("2.jsonl", "held_out", "train[:4]", text_template="{q} {a}", strategy="join", max_seq_len=64)
    found = loaded(place, [data("1.jsonl", **PAIRS), own], eval_data_config="held_out")
    assert (len(found.training), len(found.validation)) == (20, 4)
    assert found.validation.settings == own.pre_process_data_config
    prompts = [side.template.render_prompt({"q": "x"}) for side in (found.training, found.validation)]
    assert prompts == ["x\n", "x "]
    assert (found.training.completion_only, found.validation.completion_only) == (True, False)


@pytest.mark.parametrize(
    ("pre_process", "expected"),
    [
        (PAIRS, True),
        ({**PAIRS, "strategy": "line-by-line-random", "max_samples": 1}, True),
        ({**PAIRS, "strategy": "join"}, False),
        ({"strategy": "line-by-line"}, False),
        ({"text_cols": ["q", "a"], "strategy": "line-by-line"}, False),
        ({"text_template": "{a}", "strategy": "line-by-line"}, False),
        ({"chat_template": True, "strategy": "join"}, True),
        ({"user_script": "x.py", "text_formatting_func": "f", "strategy": "line-by-line"}, False),
    ],
)
def test_the_completion_alone_is_trained_of_conversations_and_where_a_template_asks_line_by_line(
    pre_process: dict[str, Any], expected: bool
) -> None:
    settings = PreProcess.model_validate(pre_process)
    assert completion_only(lora(), settings) is expected
    for chosen in (True, False):
        assert completion_only(lora(completion_only_loss=chosen), settings) is chosen


def test_columns_that_are_named_are_the_text_with_blanks_between(place: DataContext) -> None:
    found = loaded(place, [data("1.jsonl", text_cols=["q", "a"])]).training
    assert isinstance(found.template, PromptTemplate)
    assert (found.template.prompt, found.template.completion) == ("{q} ", "{a}")


def test_each_row_knows_its_file_and_its_line(folder: Path, place: DataContext) -> None:
    found = loaded(place, [data(FILES)], eval_dataset_size=10)
    for side in (found.training, found.validation):
        for where, text in zip(side.places(), values(side), strict=True):
            number, index = text.removeprefix("text ").split(".")
            assert (where.path, where.line) == (folder / f"{number}.jsonl", int(index) + 1)
    assert values(found.training.first(3)) == values(found.training)[:3]
    assert found.training.path == folder / "1.jsonl"
    assert found.training.first(0).values() == []


def test_a_side_becomes_the_sequences_of_its_settings(place: DataContext) -> None:
    found = loaded(place, [data("1.jsonl", "train", "train[:2]", strategy="join", joiner=" | ", max_seq_len=64)])
    (example,) = as_lists(found.training.sequences(place.tokenizer, data_seed=0))
    assert place.tokenizer.decode(example["input_ids"]) == "text 1.0<|im_end|> | text 1.1<|im_end|> | "


def test_where_no_sequence_is_left_the_file_is_named(place: DataContext) -> None:
    side = loaded(place, [data("1.jsonl", **PAIRS, max_seq_len=8)]).training
    with pytest.raises(DataError, match=r"1\.jsonl: error: every row is longer than max_seq_len = 8") as caught:
        side.sequences(place.tokenizer, data_seed=0)
    assert caught.value.fix


# -- rows that cannot be used -------------------------------------------------------------------------------------------------


def test_a_broken_row_is_refused_with_its_line_and_how_to_leave_such_rows_out(folder: Path, place: DataContext) -> None:
    append(folder / "2.jsonl", '{"text": "x"', '{"other": "x"}')
    with pytest.raises(
        DataError, match=r"2\.jsonl:21:13: error: this row is not valid JSON .*\(2 bad rows in all\)"
    ) as caught:
        loaded(place, [data(FILES)])
    assert "--skip-bad-rows" in caught.value.fix
    assert str(place.skipping_bad_rows().overrides) == str(Overrides(skip_bad_rows=True))


def test_where_all_rows_are_bad_skipping_them_is_no_way_out(folder: Path, place: DataContext) -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}
    turns = [image, {"role": "assistant", "content": "a cat"}]
    (folder / "c.jsonl").write_text(f"{json.dumps({'messages': turns})}\n" * 3, encoding="utf-8")
    with pytest.raises(DataError, match=r"c\.jsonl:1:1: error: .*image_url in message 1.*as all 3 rows") as caught:
        loaded(place, [data("c.jsonl", chat_template="{{ messages[0].content }}", strategy="line-by-line")])
    assert "--skip-bad-rows" not in caught.value.fix


def test_broken_rows_are_left_out_on_request_and_told(folder: Path, model: ModelRef) -> None:
    append(folder / "1.jsonl", "{", '{"text": "good"}')
    place = DataContext(folder / "config.json", model, folder / "cache", Overrides(skip_bad_rows=True))
    found = loaded(place, [data("1.jsonl")], eval_dataset_size=0)
    assert values(found.training)[-2:] == ["text 1.19", "good"]
    assert found.remarks == ["1 of 22 rows cannot be used and are skipped"]


def test_only_the_rows_that_are_chosen_must_be_usable(folder: Path, place: DataContext) -> None:
    append(folder / "1.jsonl", "{")
    assert len(loaded(place, [data("1.jsonl", split="train[:20]")], eval_dataset_size=0).training) == 20
    with pytest.raises(DataError, match=r"1\.jsonl:21:"):
        loaded(place, [data("1.jsonl")])


def test_empty_rows_and_doubled_tokens_are_told_and_no_fault(folder: Path, place: DataContext) -> None:
    append(folder / "1.jsonl", '{"text": ""}', '{"text": " "}', '{"text": "x<|im_end|><|im_end|>"}')
    found = loaded(place, [data("1.jsonl")], eval_dataset_size=0)
    assert len(found.training) == 21
    assert found.remarks == ["2 of 23 rows are empty and are skipped", "1 of 23 rows end with two end tokens"]
    assert loaded(place, [data("2.jsonl")]).remarks == []


def test_where_no_row_can_be_used_the_counts_are_said(folder: Path, place: DataContext) -> None:
    (folder / "hooks.py").write_text("def filter(row):\n    return row['text'] != 'no'\n", encoding="utf-8")
    append(folder / "3.jsonl", '{"text": ""}', '{"text": "no"}', '{"text": "no"}', "{")
    with pytest.raises(DataError, match=r"3\.jsonl: error: none of 4 rows can be used: 1 bad, 1 empty, 2 dropped"):
        loaded(place.skipping_bad_rows(), [data("3.jsonl")])


def test_held_out_rows_of_their_own_must_be_usable_too(folder: Path, place: DataContext) -> None:
    append(folder / "3.jsonl", '{"text": ""}')
    with pytest.raises(DataError, match=r"3\.jsonl: error: none of 1 rows can be used: 1 empty"):
        loaded(place, [data("1.jsonl"), data("3.jsonl", "dev")], eval_data_config="dev")


# -- functions of the user ----------------------------------------------------------------------------------------------------


def test_hooks_beside_the_config_make_the_rows_that_are_trained(folder: Path, place: DataContext) -> None:
    code = "def transform(row):\n    return {'said': row['text'].upper()} if row['text'] != 'text 1.3' else None\n"
    (folder / "hooks.py").write_text(code, encoding="utf-8")
    found = loaded(place, [data("1.jsonl", text_template="Text: {said}")], eval_dataset_size=0).training
    assert values(found, "said") == [f"TEXT 1.{i}" for i in range(20) if i != 3]
    assert place.tokenizer.decode(found.store.row(0)[0]) == "Text: TEXT 1.0<|im_end|>"


def test_a_user_script_runs_only_where_that_is_asked_for(folder: Path, place: DataContext, model: ModelRef) -> None:
    (folder / "make.py").write_text("def both(row):\n    return row['q'] + '!' + row['a']\n", encoding="utf-8")
    config = data("1.jsonl", user_script="make.py", text_formatting_func="both")
    with pytest.raises(UsageError, match=r"the config runs Python code: `both` of make\.py") as caught:
        loaded(place, [config])
    assert "--trust-project" in caught.value.fix
    willing = DataContext(place.config, model, place.cache, Overrides(run_user_script=True))
    assert "question 1.0!answer 0" in values(loaded(willing, [config], eval_dataset_size=0).training)


def test_conversations_are_rendered_by_the_template_of_the_config(folder: Path, place: DataContext) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    append(folder / "chat.jsonl", json.dumps({"said": turns}), json.dumps({"said": turns * 2}))
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    template += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    config = data("chat.jsonl", chat_template=template, message_col="said", strategy="line-by-line")
    side = load_split(config, lora(), place, Listener(), "finetune")
    learned = [place.tokenizer.decode(ids[flags]) for ids, flags in (side.store.row(i) for i in range(2))]
    assert learned == ["Ho<|im_end|>", "Ho<|im_end|>Ho<|im_end|>"]
    with pytest.raises(DataError, match="the model has no chat template"):
        load_split(data("chat.jsonl", chat_template=True, message_col="said"), lora(), place, Listener(), "finetune")


# -- nothing to train on ------------------------------------------------------------------------------------------------------


def test_where_all_rows_are_held_out_it_is_said(place: DataContext) -> None:
    with pytest.raises(DataError, match="all 20 rows are validation rows"):
        loaded(place, [data("1.jsonl")], eval_dataset_size=20)


@pytest.mark.parametrize(
    ("files", "split", "says"),
    [
        (DATASTORE, "train", "is in Azure ML"),
        ({"train": "1.jsonl", "test": "2.jsonl"}, "dev[:5]", "no files for the split `dev`"),
        ("none.jsonl", "train", r"none\.jsonl: error: the data file does not exist"),
    ],
)
def test_data_that_is_not_on_this_machine_is_said_to_be_elsewhere(
    place: DataContext, files: Any, split: str, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        loaded(place, [data(files, split=split)])


def test_the_fingerprint_follows_the_content_of_every_file_and_their_order(folder: Path) -> None:
    both = fingerprints(folder, data(FILES))["train"]
    assert fingerprints(folder, data({"train": FILES, "test": "1.jsonl"}))["train"] == both
    assert fingerprints(folder, data(FILES[::-1]))["train"] != both
    assert fingerprints(folder, data("1.jsonl"), data("2.jsonl", "dev")).keys() == {"train", "dev"}
    (folder / "2.jsonl").write_text('{"text": "other"}\n', encoding="utf-8")
    assert fingerprints(folder, data(FILES))["train"] != both


def test_data_in_a_datastore_is_known_by_its_address(folder: Path) -> None:
    assert fingerprints(folder, data(DATASTORE)) == {"train": "azureml://datastores/blobs/paths/a.jsonl"}


def test_the_fingerprint_follows_the_functions_that_change_the_rows(folder: Path) -> None:
    plain = fingerprints(folder, data("1.jsonl"))["train"]
    script = {"user_script": "hooks_of_olive.py", "text_formatting_func": "f"}
    append(folder / "hooks_of_olive.py", "def f(row): ...")
    scripted = fingerprints(folder, data("1.jsonl", **script))["train"]
    append(folder / "hooks.py", "# nothing yet")
    assert fingerprints(folder, data("1.jsonl"))["train"] == plain
    append(folder / "hooks.py", "def filter(row): return True")
    hooked = fingerprints(folder, data("1.jsonl"))["train"]
    append(folder / "hooks_of_olive.py", "# changed")
    assert len({plain, scripted, hooked, fingerprints(folder, data("1.jsonl", **script))["train"]}) == 4


# -- three sides, and what stays together -------------------------------------------------------------------------------------


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    append(folder / name, *map(json.dumps, rows))
    return name


def test_rows_of_one_value_of_group_by_are_on_one_side(folder: Path, place: DataContext) -> None:
    rows = [{"q": f"question {i}", "a": f"answer {i}", "speaker": i // 5} for i in range(60)]
    name = written(folder, "talk.jsonl", rows)
    for kind in (PAIRS, {"strategy": "line-by-line", "text_cols": ["q"]}):
        found = loaded(place, [data(name, group_by="speaker", **kind)], eval_dataset_size=15, test_dataset_size=10)
        sides = [{row["speaker"] for row in side.values()} for side in (found.training, found.validation, found.test)]
        assert [len(side) for side in sides] == [7, 3, 2]
        assert set.union(*sides) == set(range(12))


def test_a_row_without_the_column_of_group_by_is_bad_and_one_without_a_value_stays_alone(
    folder: Path, place: DataContext
) -> None:
    name = written(folder, "talk.jsonl", [{"text": f"text {i}", "by": None} for i in range(8)])
    found = loaded(place, [data(name, group_by="by")], eval_dataset_size=2)
    assert (len(found.training), len(found.validation)) == (6, 2)
    written(folder, "talk.jsonl", [{"text": "text 9"}])
    with pytest.raises(DataError, match=r"talk\.jsonl:9:1: error: this row has no column `by` to group by"):
        loaded(place, [data(name, group_by="by")])


def test_the_column_of_group_by_may_come_from_a_hook(folder: Path, place: DataContext) -> None:
    (folder / "hooks.py").write_text(
        "def transform(row):\n    return {**row, 'half': row['q'][:10]}\n", encoding="utf-8"
    )
    found = loaded(place, [data(FILES, group_by="half", **PAIRS)], eval_dataset_size=20)
    assert {row["q"][:10] for row in found.training.values()}.isdisjoint(
        row["q"][:10] for row in found.validation.values()
    )
    assert (len(found.training), len(found.validation)) == (20, 20)


def test_test_rows_are_split_off_and_compared_on_and_without_them_the_validation_rows_are(place: DataContext) -> None:
    found = loaded(place, [data(FILES, **PAIRS)], eval_dataset_size=10, test_dataset_size=0.1)
    assert [len(side) for side in (found.training, found.validation, found.test)] == [26, 10, 4]
    assert found.compared == ("test", found.test)
    before = loaded(place, [data(FILES, **PAIRS)], eval_dataset_size=10)
    assert before.compared == ("validation", before.validation)
    assert values(before.validation, "q") == values(found.validation, "q")
    assert set(values(before.training, "q")) == {*values(found.training, "q"), *values(found.test, "q")}


def test_test_rows_with_a_config_of_their_own_leave_the_training_rows_as_they_are(place: DataContext) -> None:
    configs = [data("1.jsonl", **PAIRS), data("2.jsonl", "final", **PAIRS)]
    found = loaded(place, configs, eval_dataset_size=5, test_data_config="final")
    before = loaded(place, configs, eval_dataset_size=5)
    assert values(found.test, "q") == [f"question 2.{i}" for i in range(20)]
    assert [values(s, "q") for s in (found.training, found.validation)] == [
        values(s, "q") for s in (before.training, before.validation)
    ]
    assert len(before.test) == 0


def test_where_all_rows_are_validation_or_test_rows_both_keys_are_named(place: DataContext) -> None:
    with pytest.raises(DataError, match="all 20 rows are validation or test rows") as caught:
        loaded(place, [data("1.jsonl")], eval_dataset_size=15, test_dataset_size=5)
    assert caught.value.fix == "lower eval_dataset_size or test_dataset_size"


def test_a_greeting_that_all_conversations_share_is_said(folder: Path, place: DataContext) -> None:
    def talk(i: int) -> dict[str, Any]:
        said = ["Hi", "Hello!", f"question {i}", f"answer {i}"]
        return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]}

    name = written(folder, "chat.jsonl", [talk(i) for i in range(40)])
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    template += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    found = loaded(place, [data(name, chat_template=template, strategy="line-by-line")], eval_dataset_size=0.2)
    assert (len(found.training), len(found.validation)) == (32, 8)
    assert found.remarks == ["40 of 40 rows begin like too many others, and are divided by their next question"]
