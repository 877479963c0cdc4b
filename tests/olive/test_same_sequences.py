"""Our sequences are Olive's, but for what Olive loses: the end of joined rows, and a last block that is exactly full.

Without special tokens on both sides: Olive writes them into the text, with spaces around them and "None" for a missing BOS.
The rows are fewer than processing_batch_size, between whose batches its sliding window would lose its place.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from phi_runtime.config.schema import PreProcess

pytestmark = [pytest.mark.olive, pytest.mark.timeout(1800)]  # the first makes the environment

ROWS = [
    {"note": f"{subject} {verb} {place}", "reply": reply * (1 + i % 3)}
    for i, ((subject, verb), (place, reply)) in enumerate(
        product(
            [
                ("the red kettle", "boils"),
                ("Oma", "sings loudly, off key,"),
                ("no one", "whispers"),
                ("a cat named Ünal", "sleeps"),
                ("Room 12", "is booked for {two}"),
                ("It", "rains"),
                ("our bus driver", "waited nearly half an hour"),
                ("x", "="),
            ],
            [
                ("in the kitchen.", "Quick, take it off! "),
                ("\ton the stairs", "Hush."),
                ("under a bridge at night, far from here", "Why?\nBecause. "),
                ("", "No."),
                ("— see page 7", "I have read it twice and I still do not know. "),
            ],
        )
    )
]
TEMPLATE = {"text_template": "Note: {note}\nReply: {reply}"}
ODD_LENGTH = 19

LINES: dict[str, dict[str, Any]] = {
    "as they are": {},
    "some cut off": {"max_seq_len": 24},
    "the first few": {"max_seq_len": 32, "max_samples": 5},
    "more than there are": {"max_samples": 500},
    "padded": {"max_seq_len": 40, "pad_to_max_len": True},
    "short ones dropped": {"max_seq_len": 24, "drop_short_sequences": True},
    "short ones dropped, the first few": {"max_seq_len": 24, "drop_short_sequences": True, "max_samples": 4},
    "columns": {"text_template": None, "text_cols": ["note", "reply"]},
}
DRAWN: dict[str, dict[str, Any]] = {
    f"{strategy}, seed {seed}": {"strategy": strategy, "max_seq_len": 24, "max_samples": 15, "random_seed": seed}
    for strategy in ("line-by-line-random", "join-random")
    for seed in (0, 1, 42)
} | {
    "line-by-line-random, more draws than rows": {
        "strategy": "line-by-line-random",
        "max_samples": 90,
        "random_seed": 7,
    },
    "line-by-line-random, short ones drawn again": {
        "strategy": "line-by-line-random",
        "max_seq_len": 24,
        "drop_short_sequences": True,
        "random_retries": 50,
        "max_samples": 15,
        "random_seed": 3,
    },
    "join-random, long": {"strategy": "join-random", "max_seq_len": 700, "max_samples": 20, "random_seed": 5},
    "join-random, one try each": {
        "strategy": "join-random",
        "max_seq_len": 700,
        "max_samples": 20,
        "random_seed": 5,
        "random_retries": 1,
    },
    "join-random, no joiner": {
        "strategy": "join-random",
        "joiner": "",
        "max_seq_len": 32,
        "max_samples": 9,
        "random_seed": 11,
    },
}
JOINED: dict[str, dict[str, Any]] = {
    f"join, {length} tokens, joiner {joiner!r}": {"strategy": "join", "max_seq_len": length, "joiner": joiner}
    for length in (8, ODD_LENGTH, 64, 100_000)
    for joiner in ("\n\n", "", " ### ")
} | {
    f"window of {length} every {stride}, joiner {joiner!r}": {
        "strategy": "join-sliding-window",
        "max_seq_len": length,
        "stride": stride,
        "joiner": joiner,
    }
    for length, stride in ((16, 4), (32, 31), (32, 32), (ODD_LENGTH, 7), (64, 1))
    for joiner in ("\n\n", "")
}
LIMITED: dict[str, dict[str, Any]] = {
    "join, the first few": {"strategy": "join", "max_seq_len": 16, "max_samples": 3},
    "window, the first few": {"strategy": "join-sliding-window", "max_seq_len": 16, "stride": 8, "max_samples": 5},
}


def settings(case: dict[str, Any]) -> dict[str, Any]:
    plain = {"strategy": "line-by-line", "max_seq_len": 1024, "pad_to_max_len": False, "add_special_tokens": False}
    return {k: v for k, v in (plain | TEMPLATE | case).items() if v is not None}


Made = list[dict[str, list[int]]]


@pytest.fixture(scope="module")
def olives(ask_olive: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """What Olive makes of the rows, by case."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer.save_pretrained(folder)
    requests = {
        name: {"rows": ROWS, "tokenizer": str(folder), "params": settings(case)}
        for name, case in (LINES | DRAWN | JOINED | LIMITED).items()
    }
    answers = ask_olive({"sequences": requests})["sequences"]
    assert {name: a["error"] for name, a in answers.items() if a["error"]} == {}
    return {name: [_unpadded(made) for made in a["answer"]] for name, a in answers.items()}


def ours(case: dict[str, Any], tokenizer: Any) -> Made:
    import numpy as np

    from phi_runtime.data.sequences import build_sequences
    from phi_runtime.data.template import PromptTemplate
    from tests.phi_runtime.data.stores import as_lists, encoded

    config = PreProcess.model_validate(settings(case))
    store = encoded(ROWS, PromptTemplate.from_text(config.template), tokenizer, end_token=config.add_special_tokens)
    joiner = tokenizer(config.joiner, add_special_tokens=False).input_ids if "join" in config.strategy else []
    return as_lists(build_sequences(store, np.arange(len(store)), config, joiner=joiner))


@pytest.mark.parametrize("name", LINES | DRAWN | LIMITED)
def test_our_sequences_are_those_of_olive(name: str, olives: dict[str, Made], tiny_tokenizer: Any) -> None:
    assert olives[name], "the case must make something"
    assert ours((LINES | DRAWN | LIMITED)[name], tiny_tokenizer) == olives[name]


@pytest.mark.parametrize("name", JOINED)
def test_joined_sequences_are_those_of_olive_and_one_more_that_holds_the_end(
    name: str, olives: dict[str, Made], tiny_tokenizer: Any
) -> None:
    case = JOINED[name]
    *first, last = ours(case, tiny_tokenizer)
    assert first == olives[name]
    whole = [i for row in ROWS for i in _ids(row, case, tiny_tokenizer)]
    step = case.get("stride", case["max_seq_len"])
    assert last["input_ids"] == whole[len(first) * step :]


def _ids(row: dict[str, str], case: dict[str, Any], tokenizer: Any) -> list[int]:
    text = TEMPLATE["text_template"].format(**row)
    return [i for part in (text, case["joiner"]) for i in tokenizer(part, add_special_tokens=False).input_ids]


def _unpadded(made: dict[str, list[int]]) -> dict[str, list[int]]:
    """Without the padding behind, whose labels are masked; we pad batches."""
    size = len(made["labels"])
    while size and made["labels"][size - 1] == -100:
        size -= 1
    return {name: ids[:size] for name, ids in made.items()}
