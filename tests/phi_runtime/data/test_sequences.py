"""Tokenized rows become sequences by Olive's strategies, and nothing is lost silently."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from phi_runtime.config.schema import PreProcess
from phi_runtime.core.errors import DataError
from phi_runtime.data import sequences as module
from phi_runtime.data.sequences import IGNORED, Sequences, build_sequences, over_long
from phi_runtime.data.store import Store
from tests.phi_runtime.data.stores import as_lists, marked, store_of

X = IGNORED
JOINER = [0]
Example = dict[str, list[int]]


def row(*ids: int, prompt: int = 0) -> Example:
    return {"input_ids": list(ids), "labels": [X] * prompt + list(ids[prompt:])}


def settings(strategy: str, max_seq_len: int = 8, **others: Any) -> PreProcess:
    return PreProcess.model_validate({"strategy": strategy, "max_seq_len": max_seq_len, **others})


def store(rows: list[Example]) -> Store:
    return store_of([marked(r["input_ids"], [label != X for label in r["labels"]]) for r in rows])


def made(
    rows: list[Example],
    *,
    completion_only: bool = False,
    data_seed: int = 0,
    scratch: Path | None = None,
    **chosen: Any,
) -> Sequences:
    return build_sequences(
        store(rows),
        np.arange(len(rows)),
        settings(**chosen),
        joiner=JOINER,
        completion_only=completion_only,
        data_seed=data_seed,
        scratch=scratch,
    )


def ids(sequences: Sequences) -> list[list[int]]:
    return [e["input_ids"] for e in as_lists(sequences)]


def some_rows(seed: int, count: int = 30, longest: int = 20) -> list[Example]:
    rng = Random(seed)
    return [row(*(rng.randint(1, 99) for _ in range(rng.randint(2, longest)))) for _ in range(count)]


def joined(rows: list[Example]) -> list[int]:
    return [token for r in rows for token in (*r["input_ids"], *JOINER)]


# -- line-by-line -----------------------------------------------------------------------------------------------------------


def test_line_by_line_makes_each_row_a_sequence() -> None:
    rows = [row(1, 2, 3), row(4, 5, prompt=1)]
    found = made(rows, strategy="line-by-line")
    assert (as_lists(found), found.rows, found.cut, found.too_long, found.remarks) == (rows, 2, 0, 0, ())


def test_the_rows_that_are_chosen_come_in_the_order_that_is_asked_for() -> None:
    rows = store([row(i, i) for i in range(1, 6)])
    for strategy, expected in (("line-by-line", [[4, 4], [2, 2]]), ("join", [[4, 4, 0, 2, 2, 0]])):
        assert ids(build_sequences(rows, np.array([3, 1]), settings(strategy), joiner=JOINER)) == expected


def test_sequences_copy_nothing_of_the_store_and_may_be_changed() -> None:
    rows = store([row(1, 2, 3)])
    found = build_sequences(rows, np.arange(1), settings("line-by-line"))
    assert found.tokens is rows.tokens
    found[0]["input_ids"][:] = 9
    assert as_lists(found) == [row(1, 2, 3)]


def test_a_long_text_is_cut_off_and_counted() -> None:
    found = made([row(*range(1, 12)), row(1, 2)], strategy="line-by-line")
    assert as_lists(found) == [row(1, 2, 3, 4, 5, 6, 7, 8), row(1, 2)]
    assert (found.cut, found.too_long) == (1, 0)
    assert found.remarks == ("1 of 2 rows have more than 8 tokens and are truncated",)


def test_a_row_whose_completion_would_be_cut_off_is_left_out_and_counted() -> None:
    found = made([row(*range(1, 12), prompt=4), row(1, 2, prompt=1)], strategy="line-by-line", completion_only=True)
    assert as_lists(found) == [row(1, 2, prompt=1)]
    assert (found.cut, found.too_long) == (0, 1)
    assert found.remarks == ("1 of 2 rows have more than 8 tokens and are dropped",)


def test_a_row_of_exactly_the_longest_length_stays_whole() -> None:
    full = row(*range(1, 9))
    for completion_only in (True, False):
        assert as_lists(made([full], strategy="line-by-line", completion_only=completion_only)) == [full]


def test_max_samples_takes_the_first_rows() -> None:
    assert ids(made([row(i, i) for i in range(1, 6)], strategy="line-by-line", max_samples=2)) == [[1, 1], [2, 2]]


def test_drop_short_sequences_leaves_full_ones_and_max_samples_counts_these() -> None:
    rows = [row(1, 2), row(*range(8)), row(3, 4), row(*range(10, 20)), row(*range(20, 30))]
    chosen: dict[str, Any] = {"strategy": "line-by-line", "drop_short_sequences": True}
    assert ids(made(rows, **chosen)) == [list(range(8)), list(range(10, 18)), list(range(20, 28))]
    assert "2 of 5 rows have fewer than 8 tokens and are dropped" in made(rows, **chosen).remarks
    assert ids(made(rows, **chosen, max_samples=2)) == [list(range(8)), list(range(10, 18))]


@pytest.mark.parametrize(
    ("over_long", "completion_only", "expected"),
    [
        ("drop", False, [[1, 2]]),
        ("truncate", True, [[*range(1, 9)], [1, 2]]),
        ("split", False, [[*range(1, 9)], [*range(9, 17)], [17, 18, 19], [1, 2]]),
        ("split", True, [[*range(1, 9)], [*range(9, 17)], [17, 18, 19], [1, 2]]),
    ],
)
def test_what_becomes_of_a_long_row_can_be_chosen(over_long: str, completion_only: bool, expected: Any) -> None:
    chosen = {"strategy": "line-by-line", "over_long": over_long, "completion_only": completion_only}
    found = made([row(*range(1, 20), prompt=3), row(1, 2)], **chosen)  # type: ignore[arg-type]
    assert ids(found) == expected
    assert found.token_count == sum(map(len, expected))
    assert found.trained_count == sum(label != X for e in as_lists(found) for label in e["labels"][1:])


def test_rows_that_are_split_are_counted_and_a_part_of_prompt_alone_is_left_out() -> None:
    found = made(
        [row(*range(20), prompt=9), row(1, 2)], strategy="line-by-line", over_long="split", completion_only=True
    )
    assert ids(found) == [[*range(8, 16)], [*range(16, 20)], [1, 2]]
    assert (found.cut, found.too_long) == (1, 0)
    assert found.remarks == (
        "1 of 2 rows have more than 8 tokens and are split into 3 sequences",
        "1 of 4 sequences have no token to train on and are dropped",
    )


def test_max_samples_counts_the_sequences_of_rows_that_are_split() -> None:
    found = made([row(*range(1, 20)), row(1, 2)], strategy="line-by-line", over_long="split", max_samples=2)
    assert ids(found) == [[*range(1, 9)], [*range(9, 17)]]


def test_long_rows_are_left_out_by_default_where_the_completion_alone_is_trained() -> None:
    assert over_long(settings("line-by-line"), completion_only=True) == "drop"
    assert over_long(settings("line-by-line"), completion_only=False) == "truncate"
    assert over_long(settings("line-by-line", over_long="split"), completion_only=True) == "split"


# -- the -random strategies -------------------------------------------------------------------------------------------------


def olive_lines(rows: list[Example], max_seq_len: int, max_samples: int, seed: int) -> list[list[int]]:
    """What Olive 0.13.0 draws line by line."""
    rng = Random(seed)
    return [rows[rng.randint(0, len(rows) - 1)]["input_ids"][:max_seq_len] for _ in range(max_samples)]


def olive_joins(rows: list[Example], max_seq_len: int, max_samples: int, seed: int, retries: int) -> list[list[int]]:
    """What Olive 0.13.0 draws with join-random: its own loop, without the tokenizer."""
    rng, drawn = Random(seed), []
    for _ in range(max_samples):
        resamples = 0
        while resamples < retries:
            begin = rng.randint(0, len(rows) - 1)
            tokens: list[int] = []
            for i in range(begin, len(rows)):
                tokens += rows[i]["input_ids"] + JOINER
                if len(tokens) >= max_seq_len:
                    break
            if len(tokens) >= max_seq_len:
                drawn.append(tokens[:max_seq_len])
                break
            resamples += 1
    return drawn


def test_line_by_line_random_draws_the_rows_that_olive_draws() -> None:
    rows = [row(i, i) for i in range(10)]
    found = made(rows, strategy="line-by-line-random", max_samples=12, random_seed=42)
    assert [s[0] for s in ids(found)] == [1, 0, 4, 3, 3, 2, 1, 8, 1, 9, 6, 0]
    long = some_rows(1)
    assert ids(made(long, strategy="line-by-line-random", max_samples=50, random_seed=7)) == olive_lines(long, 8, 50, 7)


@pytest.mark.parametrize("retries", [1, 10])
@pytest.mark.parametrize("seed", range(5))
def test_join_random_draws_the_places_that_olive_draws(seed: int, retries: int) -> None:
    rows = some_rows(seed, count=12)
    found = made(rows, strategy="join-random", max_seq_len=40, max_samples=30, random_seed=seed, random_retries=retries)
    expected = olive_joins(rows, 40, 30, seed, retries)
    assert ids(found) == expected
    if missed := 30 - len(expected):
        assert f"{missed} of 30 samples found no start with 40 tokens after it and are dropped" in found.remarks


def test_join_random_on_six_rows_draws_these_very_blocks() -> None:
    rows = [row(*range(10 * i, 10 * i + 4)) for i in range(1, 7)]
    found = made(rows, strategy="join-random", max_samples=3, random_seed=1)
    assert ids(found) == [
        [20, 21, 22, 23, 0, 30, 31, 32],
        [50, 51, 52, 53, 0, 60, 61, 62],
        [10, 11, 12, 13, 0, 20, 21, 22],
    ]


@pytest.mark.parametrize("strategy", ["line-by-line-random", "join-random"])
def test_without_a_random_seed_the_data_seed_draws(strategy: str) -> None:
    rows, chosen = some_rows(3), {"strategy": strategy, "max_samples": 20}
    drawn = ids(made(rows, **chosen, random_seed=5))  # type: ignore[arg-type]
    assert ids(made(rows, **chosen, data_seed=5)) == drawn  # type: ignore[arg-type]
    assert ids(made(rows, **chosen, data_seed=6)) != drawn  # type: ignore[arg-type]


def test_a_short_row_is_drawn_again_and_a_draw_without_end_is_given_up() -> None:
    rows = [row(i, i) for i in range(1, 8)] + [row(*range(100, 108))]
    chosen: dict[str, Any] = {"strategy": "line-by-line-random", "drop_short_sequences": True, "max_samples": 6}
    found = made(rows, **chosen, random_retries=100, random_seed=0)
    assert ids(found) == [list(range(100, 108))] * 6
    assert not found.remarks
    few = made(rows, **chosen, random_retries=3, random_seed=0)
    assert 0 < len(few) < 6
    assert few.remarks == (f"{6 - len(few)} of 6 samples found no row of 8 tokens and are dropped",)


# -- join -------------------------------------------------------------------------------------------------------------------


def test_join_cuts_all_rows_with_their_joiners_every_max_seq_len_tokens_and_keeps_the_end() -> None:
    found = made([row(1, 2, 3), row(4, 5, 6, 7), row(8, 9)], strategy="join")
    assert as_lists(found) == [row(1, 2, 3, 0, 4, 5, 6, 7), row(0, 8, 9, 0)]
    assert (found.rows, found.token_count) == (3, 12)


def test_join_takes_a_last_block_that_is_exactly_full() -> None:
    assert ids(made([row(1, 2, 3), row(4, 5, 6)], strategy="join")) == [[1, 2, 3, 0, 4, 5, 6, 0]]


def test_join_of_a_small_data_set_is_one_short_sequence() -> None:
    assert ids(made([row(1, 2)], strategy="join", max_seq_len=1024)) == [[1, 2, 0]]


def test_join_keeps_prompts_and_the_joiner_after_a_completion_masked() -> None:
    found = made([row(1, 2, 3, prompt=2), row(4, 5, 6, 7, prompt=1)], strategy="join", completion_only=True)
    assert [e["labels"] for e in as_lists(found)] == [
        [X, X, 3, X, X, 5, 6, 7]
    ]  # the joiner that is left trains nothing
    assert "1 of 2 sequences have no token to train on and are dropped" in found.remarks


def test_join_without_a_joiner_puts_rows_end_to_end() -> None:
    rows = store([row(1, 2), row(3, 4)])
    assert ids(build_sequences(rows, np.arange(2), settings("join"))) == [[1, 2, 3, 4]]


def test_a_long_join_lies_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_rows(0)
    in_memory = as_lists(made(rows, strategy="join", scratch=tmp_path / "scratch"))
    assert not (tmp_path / "scratch").exists()
    monkeypatch.setattr(module, "_IN_MEMORY_TOKENS", 10)
    on_disk = made(rows, strategy="join", scratch=tmp_path / "scratch")
    assert isinstance(on_disk.tokens, np.memmap)
    assert as_lists(on_disk) == in_memory


def test_max_samples_takes_the_first_blocks() -> None:
    rows = some_rows(0)
    assert as_lists(made(rows, strategy="join", max_samples=2)) == as_lists(made(rows, strategy="join"))[:2]


@pytest.mark.parametrize("seed", range(10))
def test_joined_sequences_hold_every_token_in_order_once(seed: int) -> None:
    rows = some_rows(seed, count=5 + seed)
    found = made(rows, strategy="join", max_seq_len=13 + seed)
    sizes = [len(s) for s in ids(found)]
    everything = joined(rows)
    lone = len(everything) % (13 + seed) == 1  # a last token on its own has nothing before it to learn from
    assert [t for s in ids(found) for t in s] == (everything[:-1] if lone else everything)
    assert all(size == 13 + seed for size in sizes[:-1])
    assert all(e["labels"] == e["input_ids"] for e in as_lists(found))


# -- join-sliding-window ----------------------------------------------------------------------------------------------------


def test_windows_start_every_stride_tokens_and_train_what_the_one_before_has_not_seen() -> None:
    found = made([row(*range(1, 6)), row(*range(6, 11))], strategy="join-sliding-window", stride=3)
    assert [(e["input_ids"], e["labels"]) for e in as_lists(found)] == [
        ([1, 2, 3, 4, 5, 0, 6, 7], [X, X, X, X, X, 0, 6, 7]),
        ([4, 5, 0, 6, 7, 8, 9, 10], [X, X, X, X, X, 8, 9, 10]),
        ([6, 7, 8, 9, 10, 0], [X, X, X, X, X, 0]),
    ]


@pytest.mark.parametrize("stride", [1, 4, 9, 16])
@pytest.mark.parametrize("seed", range(4))
def test_every_token_after_the_first_context_is_trained_exactly_once(seed: int, stride: int) -> None:
    rows = some_rows(seed)
    found = made(rows, strategy="join-sliding-window", max_seq_len=16, stride=stride)
    trained = [label for e in as_lists(found) for label in e["labels"] if label != X]
    expected = joined(rows)[16 - stride :]
    assert trained == (expected[:-1] if stride == 16 and len(expected) % 16 == 1 else expected)  # a lone last token
    assert all(len(s) == 16 for s in ids(found)[:-1])


@pytest.mark.parametrize("seed", range(4))
def test_full_windows_are_those_of_olive(seed: int) -> None:
    rows = some_rows(seed)
    everything = joined(rows)
    olive = [everything[b : b + 16] for b in range(0, len(everything) - 16, 6)]
    assert ids(made(rows, strategy="join-sliding-window", max_seq_len=16, stride=6))[: len(olive)] == olive


# -- nothing left -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "chosen", "message", "fix"),
    [
        (
            [row(*range(9), prompt=1), row(*range(12), prompt=1)],
            {"strategy": "line-by-line", "completion_only": True},
            "every row is longer than max_seq_len = 8 tokens (the shortest has 9)",
            "raise pre_process_data_config.max_seq_len, or set over_long to truncate or split",
        ),
        (
            [row(1, 2), row(1, 2, 3)],
            {"strategy": "line-by-line", "drop_short_sequences": True},
            "drop_short_sequences leaves none of 2 rows: the longest has 3 of max_seq_len = 8 tokens",
            "lower max_seq_len, or set drop_short_sequences to false",
        ),
        (
            [row(1, 2), row(1, 2, 3)],
            {"strategy": "join-random", "max_samples": 5},
            "join-random samples sequences of max_seq_len = 8 tokens, but all 2 rows together have 7",
            "lower max_seq_len, or set strategy to join",
        ),
        (
            [row(*range(10)), *[row(1)] * 6],
            {"strategy": "join-random", "max_samples": 1, "random_retries": 1, "max_seq_len": 20, "random_seed": 1},
            "none of 1 samples, each tried 1 times, has max_seq_len = 20 tokens",
            "lower max_seq_len, or raise random_retries",
        ),
        (
            [row(1, 2)],
            {"strategy": "join-sliding-window", "stride": 2},
            "all 1 rows together have 3 tokens, but the first max_seq_len - stride = 6 "
            "of a sequence are context, which is not trained",
            "lower max_seq_len, or raise stride",
        ),
        ([row(1), row(2)], {"strategy": "line-by-line"}, "no sequence of 2 rows", "use longer rows"),
    ],
)
def test_where_nothing_is_left_the_counts_and_what_to_do_are_said(
    rows: list[Example], chosen: dict[str, Any], message: str, fix: str
) -> None:
    with pytest.raises(DataError) as caught:
        made(rows, **chosen)
    assert message in caught.value.what
    assert caught.value.fix == fix


@pytest.mark.parametrize("strategy", ["line-by-line", "join"])
def test_no_rows_make_no_sequences(strategy: str) -> None:
    found = made([], strategy=strategy)
    assert (len(found), found.rows, found.token_count, found.trained_count) == (0, 0, 0, 0)


def test_the_first_token_of_a_sequence_is_never_trained() -> None:
    found = made([row(1, 2, 3), row(4, 5, prompt=1)], strategy="line-by-line")
    assert (found.token_count, found.trained_count) == (5, 3)
