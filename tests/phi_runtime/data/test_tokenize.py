"""Rows become exactly the tokens that inference will see, with the requested training mask."""

from __future__ import annotations

import copy
import json
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from phi_runtime.config.schema import PreProcess
from phi_runtime.data.sequences import IGNORED, Sequences, build_sequences
from phi_runtime.data.template import Piece, PromptTemplate
from phi_runtime.data.tokenize import Encoded, EncodedBatch, Encoder, prompt_ids
from tests.phi_runtime.data.stores import as_lists, encoded, mask
from tests.tokenizer_kinds import LLAMA_3

ROW = {"phrase": "we won the game", "tone": "joy"}
PLAIN = PromptTemplate.from_text("### Text: {phrase}\n### The tone is:\n{tone}")
CHAT = PromptTemplate.from_text("<|im_start|>user\n{phrase}<|im_end|>\n<|im_start|>assistant\n{tone}<|im_end|>")
TEXTS = ["we won the game 1", "dark cold noise 2", "a lovely party 3"]


@pytest.fixture
def bos_tokenizer(tiny_tokenizer: Any) -> Any:
    """One that puts a BOS before every text, as Llama's and Phi-3's once did."""
    from tokenizers.processors import TemplateProcessing

    adding = copy.deepcopy(tiny_tokenizer)
    bos = adding.bos_token
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, adding.bos_token_id)]
    )
    return adding


def one(row: dict[str, str], template: PromptTemplate, tokenizer: Any, *, completion_only: bool, **how: Any) -> Encoded:
    return Encoder(tokenizer, **how).encode([template.row(row, completion_only=completion_only).pieces])[0]


def learned(tokenizer: Any, row: Encoded) -> str:
    return str(tokenizer.decode([i for i, trained in zip(row.ids, mask(row), strict=True) if trained]))


# -- one row ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [PLAIN, CHAT])
def test_the_prompt_is_masked_and_the_answer_with_one_end_token_is_trained(
    template: PromptTemplate, tiny_tokenizer: Any
) -> None:
    row = one(ROW, template, tiny_tokenizer, completion_only=True)
    prompt = prompt_ids(tiny_tokenizer, template.render_prompt(ROW))
    assert row.ids[: len(prompt)] == prompt
    assert mask(row) == [False] * len(prompt) + [True] * (len(row.ids) - len(prompt))
    assert learned(tiny_tokenizer, row) == "joy<|im_end|>"
    assert sum(mask(row)) == len(row.ids) - len(prompt)
    assert not row.endless


def test_on_request_the_prompt_is_trained_too(tiny_tokenizer: Any) -> None:
    assert all(mask(one(ROW, PLAIN, tiny_tokenizer, completion_only=False)))


def test_a_bos_that_the_prompt_spells_out_is_not_doubled(bos_tokenizer: Any) -> None:
    bos, bos_id = bos_tokenizer.bos_token, bos_tokenizer.bos_token_id
    assert prompt_ids(bos_tokenizer, "hello")[0] == bos_id
    assert prompt_ids(bos_tokenizer, f"{bos}user").count(bos_id) == 1
    assert prompt_ids(bos_tokenizer, "hello", special=False)[0] != bos_id
    for template in (PLAIN, CHAT):
        assert one(ROW, template, bos_tokenizer, completion_only=True).ids.count(bos_id) == (
            1 if template is PLAIN else 2
        )


@pytest.mark.parametrize("completion_only", [True, False])
def test_rows_with_and_without_a_spelled_bos_may_stand_in_one_batch(bos_tokenizer: Any, completion_only: bool) -> None:
    template = PromptTemplate.from_text("{q}\n{a}")
    rows = [{"q": f"{bos_tokenizer.bos_token if i % 3 else ''}the game", "a": f"joy {i}"} for i in range(7)]
    pieces = [template.row(r, completion_only=completion_only).pieces for r in rows]
    found = Encoder(bos_tokenizer).encode(pieces)
    assert [bos_tokenizer.decode(r.ids) for r in found] == [
        f"<|im_start|>the game\njoy {i}<|im_end|>" for i in range(7)
    ]
    assert found == [Encoder(bos_tokenizer).encode([p])[0] for p in pieces]


def test_a_token_across_the_border_does_not_change_the_prompt(tiny_tokenizer: Any) -> None:
    row = one({"q": "so hap", "a": "py song"}, PromptTemplate.from_text("{q}{a}"), tiny_tokenizer, completion_only=True)
    prompt = prompt_ids(tiny_tokenizer, "so hap")
    assert row.ids[: len(prompt)] == prompt
    assert tiny_tokenizer.decode(row.ids) == "so happy song<|im_end|>"


def test_a_text_that_is_trained_whole_is_tokenised_whole(tiny_tokenizer: Any) -> None:
    template, row = PromptTemplate.from_text("{q}{a}"), {"q": "sunny hap", "a": "py song"}
    whole = tiny_tokenizer("sunny happy song", add_special_tokens=False).input_ids
    apart = [t for part in ("sunny hap", "py song") for t in tiny_tokenizer(part, add_special_tokens=False).input_ids]
    assert whole != apart
    end = tiny_tokenizer.eos_token_id
    assert one(row, template, tiny_tokenizer, completion_only=False).ids == [*whole, end]
    assert one(row, template, tiny_tokenizer, completion_only=True).ids == [*apart, end]


@pytest.mark.parametrize("completion_only", [True, False])
def test_free_text_has_its_own_bos_once_one_end_and_no_blank_between(bos_tokenizer: Any, completion_only: bool) -> None:
    row = one({"text": TEXTS[0]}, PromptTemplate.from_text("{text}"), bos_tokenizer, completion_only=completion_only)
    assert bos_tokenizer.decode(row.ids) == f"<|im_start|>{TEXTS[0]}<|im_end|>"
    assert all(mask(row)[1:])


def test_without_an_end_token_a_text_ends_as_it_is_written(tiny_tokenizer: Any) -> None:
    for template, said in ((PLAIN, "joy"), (CHAT, "joy<|im_end|>")):
        row = one(ROW, template, tiny_tokenizer, completion_only=True, end_token=False)
        assert learned(tiny_tokenizer, row) == said


def test_rows_that_end_without_a_special_token_are_known(tiny_tokenizer: Any) -> None:
    def endless(template: str, **how: Any) -> bool:
        return one(ROW, PromptTemplate.from_text(template), tiny_tokenizer, completion_only=False, **how).endless

    assert not endless("{phrase} {tone}")
    assert endless("{phrase} {tone}", end_token=False)
    assert not endless("{phrase} {tone}<|im_end|>", end_token=False)
    assert endless("{phrase} {tone}<|im_end|>\n", end_token=False)


# -- conversations ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([("<|im_start|>a\n", False), ("joy<|im_end|>", True), ("\n", False)], "joy<|im_end|>"),
        ([("<|im_start|>a\n", False), ("joy<|im_end|>\n", True)], "joy<|im_end|>\n"),
        ([("<|im_start|>a\n", False), ("joy<|im_end|>\n<|endoftext|>", True)], "joy<|im_end|>\n<|endoftext|>"),
        ([("user: hi\n", False), ("joy", True), ("\n", False)], "joy<|im_end|>"),
        ([("<|im_start|>", False), ("1", True), ("\n", False)], "1<|im_end|>"),  # what begins a turn does not end it
        ([("hi", False), ("1<|endoftext|>2", True), ("\n", False)], "1<|endoftext|>2<|im_end|>"),
        ([("user: hi\nassistant: joy", True)], "user: hi\nassistant: joy<|im_end|>"),
    ],
)
def test_a_conversation_ends_in_the_marker_of_its_last_turn_or_in_the_end_token(
    bos_tokenizer: Any, pieces: list[Piece], expected: str
) -> None:
    row = Encoder(bos_tokenizer, chat=True).encode([pieces])[0]
    assert learned(bos_tokenizer, row) == expected
    assert not row.endless
    assert row.ids[0] != bos_tokenizer.bos_token_id or pieces[0][0].startswith("<|im_start|>")


def test_a_conversation_without_an_end_is_endless_where_no_token_is_put_there(tiny_tokenizer: Any) -> None:
    encoder = Encoder(tiny_tokenizer, chat=True, end_token=False)
    rows = encoder.encode([[("user: hi\n", False), (f"joy{end}", True)] for end in ("", "<|im_end|>")])
    assert [row.endless for row in rows] == [True, False]


# -- tokenizers of other kinds ------------------------------------------------------------------------------------------------

CORPUS = [
    "we won the game", "sunny happy song", "  two  blanks", "one\n\ntwo\n\n\nthree", "12345 678", "it's we'll", "naïve café",
    "日本語 テキスト", "👩‍👩‍👧 fine", "e\u0301t", "a...b!!", "    x = 1\n        y = 2\n\n", "a  \n  \n b", "\r\n\r\n",
]  # fmt: skip
PARTS = [
    " ", "  ", "\n", "\n\n", "a", "b", "won", "game", " happy", "12", "3", "'", "s", "é", "e\u0301", "\u0301", "日", "👩", "\u200d",
    "👩‍👧", "<|end|>", "<s>", ".", "!!", "\t", "ing", "  b", " 日", "\r\n",
]  # fmt: skip
KINDS = ["gpt2", "llama3", "nfc", "metaspace", "sentencepiece", "clip", "unigram"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: Any) -> Any:
    return trained_tokenizer(request.param)


def trained_tokenizer(kind: str) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "<|end|>"]
    how: dict[str, Any] = {"vocab_size": 600, "special_tokens": special, "show_progress": False}
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    if kind == "gpt2":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    elif kind in ("llama3", "nfc"):
        made = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    elif kind in ("metaspace", "unigram"):
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    elif kind == "sentencepiece":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "clip":
        made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        how["end_of_word_suffix"] = "</w>"
    if kind == "nfc":
        made.normalizer = normalizers.NFC()
    if kind == "unigram":
        made.model = models.Unigram()
        trainer: Any = trainers.UnigramTrainer(**how | {"vocab_size": 200}, unk_token="<unk>")
    else:
        trainer = trainers.BpeTrainer(**how, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(CORPUS * 5, trainer)
    if kind == "unigram":  # a piece that is likelier than the two that it is made of
        state = json.loads(made.to_str())
        state["model"]["vocab"] += [["▁g", -3.0], ["am", -0.5]]
        made = Tokenizer.from_str(json.dumps(state))
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<|end|>", unk_token="<unk>")


def some_rows(seed: int, count: int, turns: int) -> list[list[Piece]]:
    """Rows of random pieces, in which every answer but the last ends in a marker."""
    rng = random.Random(seed)

    def text(least: int) -> str:
        return "".join(rng.choices(PARTS, k=rng.randint(least, 4)))

    return [
        [piece for i in range(turns) for piece in ((text(1), False), (text(1) + "<|end|>" * (i < turns - 1), True))]
        for _ in range(count)
    ]


def encoders(tokenizer: Any) -> tuple[Encoder, Encoder, Encoder]:
    """Encoders by words where that is possible, by the offsets of tokens, and by trial."""
    by_words, by_offsets, by_trial = (Encoder(tokenizer, end_token=False) for _ in range(3))
    by_offsets.words = by_trial.words = None
    by_trial.exact = False
    return by_words, by_offsets, by_trial


@pytest.mark.parametrize("count", [300, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("turns", [1, 3])
def test_words_and_the_places_of_the_tokens_tell_what_trying_tells(tokenizer: Any, turns: int, count: int) -> None:
    by_words, by_offsets, by_trial = encoders(tokenizer)
    rows = some_rows(turns, count, turns)
    found = zip(by_words.encode(rows), by_offsets.encode(rows), by_trial.encode(rows), strict=True)
    for pieces, (one, other, tried) in zip(rows, found, strict=True):
        assert one == other == tried, pieces


def test_long_prompts_are_cut_at_words_where_trying_finds_no_token_across(tokenizer: Any) -> None:
    rng = random.Random(5)
    rows = [
        [("".join(rng.choices(PARTS, k=40)), False), ("".join(rng.choices(PARTS, k=rng.randint(1, 3))), True)]
        for _ in range(400)
    ]
    by_words, _, by_trial = encoders(tokenizer)
    for pieces, found, tried in zip(rows, by_words.encode(rows), by_trial.encode(rows), strict=True):
        assert found == tried, pieces


@pytest.mark.parametrize("end_token", [True, False])
@pytest.mark.parametrize("chat", [False, True])
def test_the_columns_of_a_batch_are_its_rows(tokenizer: Any, chat: bool, end_token: bool) -> None:
    rows = [
        *some_rows(11, 200, 3),
        *some_rows(12, 100, 1),
        [("<s>won", False), (" game", True)],
        [("won<|end|>", True)],
    ]
    encoder, by_trial = (Encoder(tokenizer, end_token=end_token, chat=chat) for _ in range(2))
    by_trial.words, by_trial.exact = None, False
    for found, expected in zip(encoder.encode_batch(rows), EncodedBatch.of(by_trial.encode(rows)), strict=True):
        assert np.array_equal(found, expected)


def test_a_batch_without_rows_has_empty_columns(tokenizer: Any) -> None:
    assert [len(column) for column in Encoder(tokenizer).encode_batch([])] == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_common_byte_level_tokenizers_encode_by_words_and_no_others(kind: str) -> None:
    assert (Encoder(trained_tokenizer(kind)).words is not None) == (kind in ("gpt2", "llama3", "nfc"))


@pytest.mark.parametrize("count", [300, pytest.param(1500, marks=pytest.mark.slow)])
def test_the_model_learns_to_go_on_from_the_very_prompt_that_it_is_given(tokenizer: Any, count: int) -> None:
    rows = some_rows(7, count, 1)
    for ((prompt, _), answer), row in zip(rows, Encoder(tokenizer).encode(rows), strict=True):
        prompt_tokens = prompt_ids(tokenizer, prompt)
        assert row.ids[: len(prompt_tokens)] == prompt_tokens, (prompt, answer)
        assert not any(mask(row)[: len(prompt_tokens)])
        assert all(mask(row)[len(prompt_tokens) :])
        assert row.ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("kind", "prompt", "answer"),
    [
        ("gpt2", "two\n\n", "won"),  # two line breaks are one token, but the second would go to the word
        ("gpt2", "won ", "game"),  # the blank would go to the word
        ("llama3", "x =  ", "日"),
        ("nfc", "cafe", "\u0301t"),  # the accent would go onto the letter
        ("gpt2", "👩\u200d👩\u200d", "👧 fine"),
        ("clip", "ga", "me"),
        ("unigram", "ga", "me"),
        ("sentencepiece", "sunny hap", "py song"),
    ],
)
def test_what_would_cross_the_border_is_encoded_apart(kind: str, prompt: str, answer: str) -> None:
    tokenizer = trained_tokenizer(kind)
    whole = tokenizer(prompt + answer).input_ids
    row = Encoder(tokenizer, end_token=False).encode([[(prompt, False), (answer, True)]])[0]
    prompt_tokens = prompt_ids(tokenizer, prompt)
    assert whole[: len(prompt_tokens)] != prompt_tokens
    assert row.ids == prompt_tokens + tokenizer(answer, add_special_tokens=False).input_ids


def test_a_tokenizer_without_a_fast_backend_is_asked_itself(bos_tokenizer: Any) -> None:
    class Slow:
        """All that a tokenizer written in Python has in common with the others."""

        bos_token, bos_token_id = bos_tokenizer.bos_token, bos_tokenizer.bos_token_id
        eos_token_id, all_special_ids = bos_tokenizer.eos_token_id, bos_tokenizer.all_special_ids
        decode = bos_tokenizer.decode

        def get_added_vocab(self) -> dict[str, int]:
            return dict(bos_tokenizer.get_added_vocab())

        def __call__(self, text: str, add_special_tokens: bool) -> Any:
            return SimpleNamespace(input_ids=bos_tokenizer(text, add_special_tokens=add_special_tokens).input_ids)

    rows = [PLAIN.row(ROW | {"phrase": text}, completion_only=only).pieces for text in TEXTS for only in (True, False)]
    rows.append([("so hap", False), ("py song", True)])
    assert Encoder(Slow()).encode(rows) == Encoder(bos_tokenizer).encode(rows)


# -- the rows of a side -----------------------------------------------------------------------------------------------------

ALL = "we won the game 1<|im_end|>\n\ndark cold noise 2<|im_end|>\n\na lovely party 3<|im_end|>\n\n"


def sequences(tokenizer: Any, template: str = "{text}", rows: Any = None, **chosen: Any) -> Sequences:
    settings = PreProcess.model_validate(chosen)
    rows, alone = rows or [{"text": t} for t in TEXTS], template != "{text}"
    made = PromptTemplate.from_text(template)
    end = settings.add_special_tokens
    store = encoded(rows, made, tokenizer, completion_only=alone, end_token=end)
    joiner = tokenizer(settings.joiner, add_special_tokens=False).input_ids if settings.joiner else ()
    return build_sequences(store, np.arange(len(store)), settings, joiner=joiner, completion_only=alone)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"strategy": "line-by-line"}, [f"{t}<|im_end|>" for t in TEXTS]),
        ({"strategy": "line-by-line", "max_samples": 2}, [f"{t}<|im_end|>" for t in TEXTS[:2]]),
        (
            {"strategy": "line-by-line-random", "max_samples": 4, "random_seed": 1},
            [f"{TEXTS[i]}<|im_end|>" for i in (0, 2, 0, 1)],
        ),
        ({"strategy": "join"}, [ALL]),
        ({"strategy": "join", "joiner": ""}, [ALL.replace("\n", "")]),
        ({"strategy": "join", "joiner": " | "}, [ALL.replace("\n\n", " | ")]),
        ({"strategy": "join", "add_special_tokens": False}, [ALL.replace("<|im_end|>", "")]),
    ],
)
def test_each_strategy_makes_these_very_texts(tiny_tokenizer: Any, chosen: dict[str, Any], expected: list[str]) -> None:
    found = as_lists(sequences(tiny_tokenizer, **chosen))
    assert [tiny_tokenizer.decode(e["input_ids"]) for e in found] == expected
    assert all(e["labels"] == e["input_ids"] for e in found)


def test_rows_that_are_cut_into_blocks_join_again_to_the_whole_text(tiny_tokenizer: Any) -> None:
    found = [e["input_ids"] for e in as_lists(sequences(tiny_tokenizer, strategy="join", max_seq_len=10))]
    assert [len(ids) for ids in found][:-1] == [10] * (len(found) - 1)
    assert tiny_tokenizer.decode([i for ids in found for i in ids]) == ALL


def test_windows_overlap_and_train_the_text_after_the_first_context_once(tiny_tokenizer: Any) -> None:
    found = as_lists(sequences(tiny_tokenizer, strategy="join-sliding-window", max_seq_len=8, stride=3))
    context = tiny_tokenizer.decode(found[0]["input_ids"][:5])
    assert context + tiny_tokenizer.decode([i for e in found for i in e["labels"] if i != IGNORED]) == ALL


def test_each_row_of_a_join_has_its_own_bos(bos_tokenizer: Any) -> None:
    (example,) = as_lists(sequences(bos_tokenizer, strategy="join"))
    assert bos_tokenizer.decode(example["input_ids"]) == "".join(f"<|im_start|>{t}<|im_end|>\n\n" for t in TEXTS)


def test_a_join_of_questions_trains_the_answers_and_their_ends_alone(tiny_tokenizer: Any) -> None:
    rows = [{"q": "the game", "a": "joy"}, {"q": "the fire", "a": "fear"}]
    (example,) = as_lists(sequences(tiny_tokenizer, "{q}\n{a}", rows, strategy="join"))
    assert tiny_tokenizer.decode(example["input_ids"]) == "the game\njoy<|im_end|>\n\nthe fire\nfear<|im_end|>\n\n"
    said = [i for i in example["labels"] if i != IGNORED]
    assert tiny_tokenizer.decode(said) == "joy<|im_end|>fear<|im_end|>"
