"""Rows are tokenized once: a store is reused while nothing changes, and an interrupted one is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi_runtime.config.schema import DataConfig
from phi_runtime.core.artifacts import MANIFEST
from phi_runtime.core.errors import DataError
from phi_runtime.data import prepare as module
from phi_runtime.data import selection
from phi_runtime.data import store as stores
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.hooks import Hooks
from phi_runtime.data.prepare import Recipe, prepare, tokenizer_key
from phi_runtime.data.store import Store
from phi_runtime.data.template import PromptTemplate
from tests.conftest import Listener

GOOD = [{"q": f"the game {i}", "a": "joy" if i % 3 else "fear"} for i in range(40)]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path, tiny_tokenizer: Any) -> Recipe:
    return made(tiny_tokenizer, write(tmp_path / "a.jsonl", *GOOD))


def made(tokenizer: Any, *files: Path, data_name: str = "json", hooks: Hooks | None = None, **process: Any) -> Recipe:
    data = DataConfig.model_validate(
        {
            "name": "train",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": data_name, "data_files": "not read here"},
            "pre_process_data_config": process or {"text_template": "{q}\n{a}"},
        }
    )
    settings = data.pre_process_data_config

    def template() -> Any:
        if settings.chat_template:
            return ChatTemplate.from_config(tokenizer, settings.chat_template, settings.message_col)
        return PromptTemplate.from_text(settings.template)

    return Recipe(data, list(files), hooks or Hooks(), True, template(), lambda: tokenizer, "tokenizer", {})


def changed(recipe: Recipe, **process: Any) -> Recipe:
    settings = recipe.data.pre_process_data_config.model_copy(update=process)
    return replace(recipe, data=recipe.data.model_copy(update={"pre_process_data_config": settings}))


def prepared(recipe: Recipe, cache: Path) -> Store:
    return prepare(recipe, cache, Listener(), "finetune")


def texts(store: Store, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(store.row(i)[0]) for i in range(len(store))]


def folders(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


def content(cache: Path) -> dict[str, Any]:
    """Return the files of the only store, the manifest without the times of the others."""
    files: dict[str, Any] = {path.name: path.read_bytes() for path in next(cache.iterdir()).iterdir()}
    manifest = json.loads(files.pop(MANIFEST))
    return {**files, MANIFEST: {key: value for key, value in manifest.items() if key != "states"}}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "work" / "data"


# -- what a store holds -------------------------------------------------------------------------------------------------------


def test_each_row_is_stored_with_its_tokens_its_place_and_what_is_trained(
    recipe: Recipe, cache: Path, tiny_tokenizer: Any
) -> None:
    store = prepared(recipe, cache)
    assert texts(store, tiny_tokenizer) == [f"{r['q']}\n{r['a']}<|im_end|>" for r in GOOD]
    said = [tiny_tokenizer.decode(ids[learned]) for ids, learned in (store.row(i) for i in range(len(store)))]
    assert said == [f"{r['a']}<|im_end|>" for r in GOOD]
    assert store.rows["line"].tolist() == list(range(1, 41))
    assert store.rows["number"].tolist() == list(range(40))
    assert (store.rows["trained"].sum(), store.rows["tokens"].sum()) == (store.trained.sum(), len(store.tokens))
    assert not store.rows["endless"].any()
    assert len(np.unique(store.rows["question"], axis=0)) == 40
    assert len(np.unique(store.rows["answer"])) == 2


def test_the_same_words_have_the_same_hash_whatever_their_case(
    cache: Path, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    path = write(tmp_path / "a.jsonl", *({"q": q, "a": "x"} for q in ("The game!", "the  GAME", "the games")))
    rows = prepared(made(tiny_tokenizer, path), cache).rows
    assert [len(np.unique(rows[name], axis=0)) for name in ("question", "words")] == [3, 2]


def test_what_is_seen_on_the_way_is_counted_with_its_place(tmp_path: Path, cache: Path, tiny_tokenizer: Any) -> None:
    one = write(tmp_path / "one.jsonl", GOOD[0], '{"q": ', {"q": "x", "a": " "}, {"q": "x"}, {"q": "\ud83d", "a": "x"})
    two = write(
        tmp_path / "two.jsonl", {"q": "", "a": "x"}, {"q": "ask jo@example.org", "a": "fear"}, {"q": "no", "a": "x"}
    )
    hooks = Hooks(filter=lambda row: bool(row["q"] != "no"), key="k")
    store = prepared(made(tiny_tokenizer, one, two, hooks=hooks), cache)
    survey = store.survey
    assert (survey.read, len(store), survey.broken, survey.empty, survey.filtered) == (8, 2, 3, 2, 1)
    assert [place[:3] for place in survey.broken_at] == [
        [0, 2, "this row is not valid JSON (Expecting value)"],
        [0, 4, "this row has no column `a`"],
        [0, 5, "this row contains a lone surrogate, which is not text"],
    ]
    assert survey.broken_at[0][3] == 7
    assert survey.empty_at == [[0, 3, "`a` is empty in this row"], [1, 1, "`q` is empty in this row"]]
    assert (survey.personal, survey.personal_at) == ({"email": 1}, [[1, 2, "email"]])
    assert survey.labels == {"fear": 2}
    assert survey.columns == {"a, q": 6, "q": 1}


def test_half_of_a_surrogate_pair_anywhere_in_a_row_is_its_fault(
    tmp_path: Path, cache: Path, tiny_tokenizer: Any
) -> None:
    question = {"role": "user", "content": "Hi"}
    calls = [{"function": {"name": "\ud83d"}}]
    path = write(
        tmp_path / "a.jsonl",
        {"messages": [question, {"role": "assistant", "content": "Ho"}]},
        {"messages": [question, {"role": "assistant", "content": "Ho", "tool_calls": calls}]},
        {"messages": [question, {"role": "assistant", "content": "Ho"}], "tools": calls},
        {"\ud83d": 1},
        {"messages": [{"role": "\ud83d", "content": "x"}]},
    )
    template = "{{ tools | tojson }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    template += "{{ m.tool_calls | default([]) | tojson }}\n{% endfor %}"
    store = prepared(made(tiny_tokenizer, path, chat_template=template), cache)
    assert (len(store), store.survey.broken) == (1, 4)


def test_rows_that_are_all_empty_make_a_store_of_none(tmp_path: Path, cache: Path, tiny_tokenizer: Any) -> None:
    recipe = made(tiny_tokenizer, write(tmp_path / "a.jsonl", *[{"q": "x", "a": ""}] * 3))
    for store in (prepared(recipe, cache), prepared(recipe, cache)):
        assert (len(store), len(store.tokens), store.survey.empty) == (0, 0, 3)


def test_doubled_bos_and_end_tokens_are_counted(tmp_path: Path, cache: Path, tiny_tokenizer: Any) -> None:
    rows = [
        {"q": "<|im_start|><|im_start|>x", "a": "y"},
        {"q": "x", "a": "y<|im_end|><|im_end|>"},
        {"q": "x", "a": "y<|im_end|>"},
    ]
    survey = prepared(made(tiny_tokenizer, write(tmp_path / "a.jsonl", *rows)), cache).survey
    assert (survey.double_bos, survey.double_end) == (1, 1)


def test_the_memory_map_is_of_the_store_and_the_progress_is_told(
    recipe: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", 3)
    monkeypatch.setattr(module.time, "monotonic", iter(range(1000)).__next__)
    heard = Listener()
    store = prepare(recipe, cache, heard, "finetune")
    assert isinstance(store.tokens.base, np.memmap)
    reported = [event["done"] for event in heard.of("progress")]
    assert reported == sorted(reported)
    assert reported[-1] <= 40
    assert heard.of("progress")[0] == {"stage": "finetune", "done": 0, "total": None, "unit": "rows"}


# -- when it is built again -----------------------------------------------------------------------------------------------------


def test_the_second_time_nothing_is_read_and_no_tokenizer_loaded(
    recipe: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(recipe, cache)

    def unexpected(*_: Any) -> Any:
        raise AssertionError("this is not to be called")

    monkeypatch.setattr(module, "select", unexpected)
    second = prepared(replace(recipe, tokenizer=unexpected, template=unexpected), cache)
    assert (second.tokens == first.tokens).all()
    assert (second.rows == first.rows).all()
    assert second.survey == first.survey


@pytest.mark.parametrize(
    "what", ["data", "order", "split", "template", "hooks", "tokenizer", "completion", "end", "versions"]
)
def test_whatever_shapes_the_tokens_makes_another_store(recipe: Recipe, cache: Path, what: str) -> None:
    other = write(recipe.files[0].with_name("b.jsonl"), *GOOD[:5])
    recipe = replace(recipe, files=[*recipe.files, other])
    prepared(recipe, cache)
    before = folders(cache)
    if what == "data":
        write(other, *GOOD[:6])
    load = recipe.data.load_dataset_config.model_copy(update={"split": "train[:5]"})
    prepared(
        {
            "data": recipe,
            "order": replace(recipe, files=recipe.files[::-1]),
            "split": replace(recipe, data=recipe.data.model_copy(update={"load_dataset_config": load})),
            "template": changed(recipe, text_template="{q}: {a}"),
            "hooks": replace(recipe, hooks=Hooks(key="other")),
            "tokenizer": replace(recipe, tokenizer_key="other"),
            "completion": replace(recipe, completion_only=False),
            "end": changed(recipe, add_special_tokens=False),
            "versions": replace(recipe, versions={"tokenizers": "0"}),
        }[what],
        cache,
    )
    assert len(folders(cache) - before) == 1


def test_what_shapes_the_sequences_alone_and_where_the_file_lies_changes_nothing(recipe: Recipe, cache: Path) -> None:
    prepared(recipe, cache)
    before = folders(cache)
    prepared(
        changed(recipe, strategy="line-by-line", max_seq_len=8, over_long="split", joiner="|", random_seed=3), cache
    )
    moved = recipe.files[0].rename(recipe.files[0].with_name("moved.jsonl"))
    os.utime(moved, (1, 1))
    prepared(replace(recipe, files=[moved]), cache)
    assert folders(cache) == before


def test_a_table_that_is_given_another_ending_is_read_anew(tmp_path: Path, cache: Path, tiny_tokenizer: Any) -> None:
    path = tmp_path / "a.csv"
    path.write_text('q\ta\t"x,y"\nthe game\tjoy\t"1,2"\n', encoding="utf-8")  # a comma and a tab divide it alike
    assert prepared(made(tiny_tokenizer, path, data_name="csv"), cache).survey.broken == 1
    renamed = path.rename(tmp_path / "a.tsv")
    assert prepared(made(tiny_tokenizer, renamed, data_name="csv"), cache).survey.broken == 0


def test_a_store_that_is_not_whole_is_made_anew(recipe: Recipe, cache: Path) -> None:
    whole = prepared(recipe, cache).rows.copy()
    for name in ("manifest.json", "tokens.npy"):
        (cache / next(iter(folders(cache))) / name).unlink()
        assert (prepared(recipe, cache).rows == whole).all()


def test_the_key_of_a_tokenizer_follows_its_files_and_no_others(tmp_path: Path) -> None:
    keys = []
    for name in (
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "chat_template.jinja",
        "spiece.model",
        "README.md",
    ):
        (tmp_path / name).write_text(name, encoding="utf-8")
        keys.append(tokenizer_key(tmp_path))
    assert [key == before for before, key in pairwise(keys)] == [False, True, False, False, True]


# -- when it is stopped -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What stops a process in the middle."""


@pytest.mark.parametrize("stop", [1, 7, 15, 26, 33, 39])
def test_a_tokenisation_that_is_stopped_goes_on_and_makes_the_very_same_store(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    write(recipe.files[0], *(r if i % 9 else {"q": "x", "a": ""} for i, r in enumerate(GOOD)), "broken", *GOOD[:5])
    monkeypatch.setattr(module, "BATCH_ROWS", 4)
    monkeypatch.setattr(stores, "PART_TOKENS", 50)
    prepared(recipe, tmp_path / "at once")
    select, rendered = selection.select, module._rendered
    read: list[int] = []

    def stopped(*of: Any) -> Iterator[Any]:
        for i, row in enumerate(select(*of)):
            if i == stop:
                raise Killed
            yield row

    cache = tmp_path / "in two"
    monkeypatch.setattr(module, "select", stopped)
    with pytest.raises(Killed):
        prepared(recipe, cache)
    assert not [name for name in folders(cache) if not name.startswith(".")]
    monkeypatch.setattr(module, "select", select)
    monkeypatch.setattr(module, "_rendered", lambda item, *of: read.append(item.number) or rendered(item, *of))
    prepared(recipe, cache)
    assert content(cache) == content(tmp_path / "at once")
    assert len(folders(cache)) == 1
    if stop >= 26:
        assert read[0] > 0, "what is in whole parts is not encoded again"


def test_a_part_that_was_being_written_is_written_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", 4)
    monkeypatch.setattr(stores, "PART_TOKENS", 50)
    prepared(recipe, tmp_path / "at once")
    savez, calls = np.savez, []

    def torn(path: Path, **arrays: Any) -> None:
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"half of it")
            raise Killed
        savez(path, **arrays)

    cache = tmp_path / "in two"
    monkeypatch.setattr(np, "savez", torn)
    with pytest.raises(Killed):
        prepared(recipe, cache)
    prepared(recipe, cache)
    assert content(cache) == content(tmp_path / "at once")


def test_a_file_that_changes_while_it_is_read_is_refused_and_nothing_of_it_is_kept(
    recipe: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: Any
) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", 4)
    monkeypatch.setattr(stores, "PART_TOKENS", 50)
    path, select = recipe.files[0], selection.select
    before, state = path.read_bytes(), path.stat()

    def changing(*of: Any) -> Iterator[Any]:
        write(path, *({"q": "other", "a": f"{i}"} for i in range(40)))
        yield from select(*of)

    monkeypatch.setattr(module, "select", changing)
    with pytest.raises(DataError, match="the data changed while it was read") as caught:
        prepared(recipe, cache)
    assert caught.value.fix
    monkeypatch.setattr(module, "select", select)
    path.write_bytes(before)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert texts(prepared(recipe, cache), tiny_tokenizer)[0] == "the game 0\nfear<|im_end|>"


def test_a_file_that_is_not_there_is_said_so(recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    for absent in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match=f"{absent}: error: the data file does not exist"):
            prepared(replace(recipe, files=[*recipe.files, absent]), cache)


# -- how many are kept --------------------------------------------------------------------------------------------------------


def test_the_stores_that_were_used_last_are_kept(recipe: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "KEPT_STORES", 3)
    recipes = [changed(recipe, text_template=f"{{q}} {i} {{a}}") for i in range(5)]
    names: list[str] = []
    for i, one in enumerate(recipes[:3]):
        prepared(one, cache)
        names += folders(cache) - set(names)
        os.utime(cache / names[i] / "survey.json", (i + 1, i + 1))
    prepared(recipes[0], cache)  # used again, so not the oldest any more
    prepared(recipes[3], cache)
    assert folders(cache) == {names[0], names[2], *(folders(cache) - set(names))}
    assert len(folders(cache)) == 3
    prepared(recipes[4], cache)
    assert len(folders(cache)) == 3
    assert names[0] in folders(cache)


def test_rows_that_kto_marks_as_bad_are_refused_until_they_are_filtered(
    tmp_path: Path, cache: Path, tiny_tokenizer: Any
) -> None:
    rows = [{"prompt": "q", "completion": "a", "label": True}, {"prompt": "q", "completion": "b", "label": False}]
    recipe = made(tiny_tokenizer, write(tmp_path / "a.jsonl", *rows), text_template="{prompt}\n{completion}")
    store = prepared(recipe, cache)
    assert (len(store), store.survey.broken_at[0][:2]) == (1, [0, 2])
    assert '"col_filters": {"label": true}' in store.survey.broken_at[0][4]
    load = recipe.data.load_dataset_config.model_copy(update={"col_filters": {"label": True}})
    filtered = replace(recipe, data=recipe.data.model_copy(update={"load_dataset_config": load}))
    store = prepared(filtered, cache)
    assert (store.survey.read, len(store), store.survey.broken) == (1, 1, 0)
    labels = made(tiny_tokenizer, write(tmp_path / "b.jsonl", *rows), text_template="{prompt}\n{label}{completion}")
    assert len(prepared(labels, cache)) == 2  # the template has the label: it is a part of the text


def test_optional_columns_shape_the_tokens(recipe: Recipe, cache: Path) -> None:
    prepared(recipe, cache)
    prepared(changed(recipe, optional_cols=["q"]), cache)
    assert len(folders(cache)) == 2


def test_a_bad_row_is_described_with_the_name_that_its_column_has_in_the_file(
    tmp_path: Path, cache: Path, tiny_tokenizer: Any
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("How?,b\nx,1\ny,\n", encoding="utf-8")
    recipe = made(tiny_tokenizer, path, data_name="csv", text_template="{how} {b}")
    load = recipe.data.load_dataset_config.model_copy(update={"header": 0, "names": ["how", "b"]})
    named = replace(recipe, data=recipe.data.model_copy(update={"load_dataset_config": load}))
    assert prepared(named, cache).survey.empty_at == [[0, 3, "`b` is empty in this row"]]
    load = recipe.data.load_dataset_config.model_copy(update={"column_mapping": {"How?": "how", "b": "c"}})
    renamed = replace(made(tiny_tokenizer, path, data_name="csv", text_template="{how} {c}"))
    renamed = replace(renamed, data=renamed.data.model_copy(update={"load_dataset_config": load}))
    assert prepared(renamed, cache).survey.empty_at == [[0, 3, "`c` (`b`) is empty in this row"]]


# -- conversations ------------------------------------------------------------------------------------------------------------

TAGS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ '<call>' + (c.function | tojson) }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML = TAGS.replace("{% for c in m.tool_calls or [] %}{{ '<call>' + (c.function | tojson) }}{% endfor %}", "")


def test_the_tokens_of_calls_and_of_answers_that_count_are_trained(
    tmp_path: Path, cache: Path, tiny_tokenizer: Any
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "lamp", "arguments": '{"n": 0}'}}
    context = [{"role": "developer", "content": "Be brief."}, {"role": "User", "content": "the game"}]
    called = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "3"}]
    wrong = [{"role": "assistant", "content": "fear", "weight": 0}, {"role": "user", "content": "no"}]
    path = write(
        tmp_path / "a.jsonl", {"messages": [*context, *called, *wrong, {"role": "assistant", "content": "joy"}]}
    )
    store = prepared(made(tiny_tokenizer, path, chat_template=TAGS, strategy="line-by-line"), cache)
    ids, trained = store.row(0)
    assert tiny_tokenizer.decode(ids).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nthe game<|im_end|>"
    )
    assert tiny_tokenizer.decode(ids[trained]) == (
        '<call>{"name": "lamp", "arguments": {"n": 0}}<|im_end|>joy<|im_end|>'
    )
    assert not store.survey.untrained


def test_rows_whose_content_is_not_trained_are_counted_with_their_places(
    tmp_path: Path, cache: Path, tiny_tokenizer: Any
) -> None:
    turns = [{"role": "user", "content": "the game"}, {"role": "assistant", "content": "joy"}]
    call = {"type": "function", "function": {"name": "lamp", "arguments": {}}}
    rows = [
        {"messages": turns},
        {"messages": [*turns, turns[0]]},
        {"messages": [turns[0], {"role": "assistant", "content": "", "tool_calls": [call]}]},
        {"messages": [turns[0], turns[1] | {"reasoning_content": "hm"}], "tools": [{"name": "lamp"}]},
    ]
    path = write(tmp_path / "a.jsonl", *rows)
    store = prepared(made(tiny_tokenizer, path, chat_template=CHATML, strategy="line-by-line"), cache)
    survey = store.survey
    assert (survey.read, len(store), survey.broken) == (4, 3, 1)
    assert survey.broken_at[0][1] == 3
    assert sorted(survey.untrained.values()) == [1, 1, 1]
    assert [place[:2] for place in survey.untrained_at] == [[0, 2], [0, 4]]
