"""The common interface of both kinds of models: sampling parameters, and reuse of the KV cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import WorkFailed
from phi_runtime.inference.generator import (
    Generator,
    GeneratorOptions,
    Guide,
    InvalidGuide,
    PromptTooLong,
    SamplingParams,
    UnknownAdapter,
)
from phi_runtime.inference.loading import open_generator
from phi_runtime.inference.onnx import OnnxGenerator
from phi_runtime.inference.transformers import TransformersGenerator
from phi_runtime.models.reference import ModelRef

PROMPT = "we won the game 7 and a lovely party 9"


@pytest.fixture(params=["onnx", "torch_model"])
def model(request: pytest.FixtureRequest) -> Generator:
    found: Generator = request.getfixturevalue(request.param)
    return found


def said(model: Generator, prompt: str = PROMPT, **how: Any) -> str:
    return "".join(piece.text for piece in model.answer(prompt, SamplingParams(**({"max_new_tokens": 12} | how))))


def test_an_answer_reports_its_usage_and_finish_reason(model: Generator) -> None:
    answer = model.answer(PROMPT, SamplingParams(max_new_tokens=5))
    assert answer.finish is None
    text = "".join(piece.text for piece in answer)
    assert text
    assert answer.usage.prompt_tokens == model.count(PROMPT)
    assert (answer.usage.completion_tokens, answer.finish) in [(5, "length"), (answer.usage.completion_tokens, "stop")]


def test_the_same_question_gets_the_same_answer_whatever_came_between(model: Generator) -> None:
    alone = said(model)
    said(model, "dark cold noise 3", temperature=1.0)
    longer = PROMPT + alone + " something moved there"
    said(model, longer)
    assert said(model) == alone


def test_a_turn_reads_only_what_is_new(model: Generator) -> None:
    first = model.answer(PROMPT, SamplingParams(max_new_tokens=6))
    text = "".join(piece.text for piece in first)
    second = model.answer(PROMPT + " 8", SamplingParams(max_new_tokens=6))
    list(second)
    assert second.usage.cached_tokens >= first.usage.prompt_tokens - 2
    assert text


def test_answers_of_one_model_can_take_turns(model: Generator) -> None:
    prompts = [PROMPT, "run from the fire 4"]
    alone = [said(model, prompt) for prompt in prompts]
    answers = [model.answer(prompt, SamplingParams(max_new_tokens=12)) for prompt in prompts]
    texts = ["", ""]
    going = {0, 1}
    while going:
        for place in sorted(going):
            piece = next(answers[place], None)
            if piece is None:
                going.discard(place)
            else:
                texts[place] += piece.text
    assert texts == alone


def test_an_answer_that_is_closed_gives_its_sequence_back(model: Generator) -> None:
    alone = said(model)
    for _ in range(5):
        answer = model.answer(PROMPT, SamplingParams(max_new_tokens=12))
        next(answer)
        next(answer)
        answer.close()
        assert list(answer) == []
    sequences = model._sequences  # type: ignore[attr-defined]
    assert sequences.busy == 0
    assert len(sequences.idle) <= 2
    assert said(model) == alone


def test_a_seed_repeats_a_sampled_answer(model: Generator) -> None:
    how = {"temperature": 1.5, "max_new_tokens": 20}
    assert said(model, seed=5, **how) == said(model, seed=5, **how) != said(model, seed=6, **how)


def test_log_probabilities_are_those_of_the_tokens(model: Generator) -> None:
    pieces = list(model.answer(PROMPT, SamplingParams(max_new_tokens=4, logprobs=3)))
    found = [one for piece in pieces for one in piece.logprobs]
    assert 1 <= len(found) <= 4
    for one in found:
        assert one.logprob == pytest.approx(max(chance for _, chance in one.top))  # greedy: the most likely token
        assert len(one.top) == 3
        assert one.logprob < 0
    ids = model.encode(PROMPT)  # type: ignore[attr-defined]
    token = model.encode(PROMPT + found[0].token)[len(ids) :]  # type: ignore[attr-defined]
    if len(token) == 1:
        assert model.completion_losses([(ids, token)], 1) == pytest.approx([-found[0].logprob], abs=2e-2)


def test_an_answer_ends_before_its_stop_string(model: Generator) -> None:
    whole = said(model)
    stop = whole[3:5]
    answer = model.answer(PROMPT, SamplingParams(max_new_tokens=12, stop=(stop,)))
    assert "".join(piece.text for piece in answer) == whole[: whole.index(stop)]
    assert answer.finish == "stop"


def test_penalties_change_an_answer_that_repeats_itself(model: Generator) -> None:
    assert said(model, max_new_tokens=20, frequency_penalty=2.0) != said(model, max_new_tokens=20)


def test_an_error_names_the_tokens_that_exceed_the_context(model: Generator) -> None:
    with pytest.raises(PromptTooLong, match=r"prompt \(\d+ tokens\) and answer \(600\) exceed the context of 512"):
        model.answer(PROMPT, SamplingParams(max_new_tokens=600))
    with pytest.raises(PromptTooLong):
        model.answer("noise " * 600, SamplingParams(max_new_tokens=1))


def test_an_unknown_adapter_is_an_error_and_not_the_base(model: Generator) -> None:
    with pytest.raises(UnknownAdapter, match="unknown adapter `style`"):
        model.answer(PROMPT, SamplingParams(), adapter="style")


SCHEMA = {
    "type": "object",
    "properties": {"tone": {"enum": ["joy", "fear"]}},
    "required": ["tone"],
    "additionalProperties": False,
}


def test_onnx_answers_follow_a_schema_or_a_regular_expression(onnx: OnnxGenerator) -> None:
    for more in ({}, {"temperature": 1.0, "seed": 2}, {"frequency_penalty": 1.0}):
        guided = said(onnx, guide=Guide("json_schema", json.dumps(SCHEMA)), max_new_tokens=40, **more)
        assert json.loads(guided)["tone"] in ("joy", "fear")
        assert said(onnx, guide=Guide("regex", "(joy|fear)"), **more) in ("joy", "fear")


@pytest.mark.parametrize(
    "guide",
    [
        Guide("json_schema", "{"),
        Guide("json_schema", "[1]"),
        Guide("json_schema", '{"type": "nonsense"}'),
        Guide("json_schema", '{"$ref": "#/nowhere"}'),
        Guide("regex", "(joy"),
        Guide("regex", "(?=joy)"),
    ],
)
def test_a_guide_that_cannot_be_followed_is_refused_at_once(onnx: OnnxGenerator, guide: Guide) -> None:
    with pytest.raises(InvalidGuide):
        onnx.answer(PROMPT, SamplingParams(guide=guide))
    assert said(onnx)


def test_transformers_models_refuse_a_guide(torch_model: TransformersGenerator) -> None:
    with pytest.raises(InvalidGuide, match="only ONNX"):
        torch_model.answer(PROMPT, SamplingParams(guide=Guide("regex", "joy")))


@pytest.mark.parametrize("fault", ["cut", "foreign", "empty", "no tokenizer"])
def test_a_corrupt_folder_is_an_error_with_a_fix(tiny_onnx: Path, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "broken onnx"
    shutil.copytree(tiny_onnx, folder)
    if fault == "cut":
        data = folder / "model.onnx.data"
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif fault == "foreign":
        (folder / "genai_config.json").write_text('{"hello": 1}')
    elif fault == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    else:
        (folder / "tokenizer.json").unlink()
    with pytest.raises(WorkFailed) as caught:
        OnnxGenerator(folder)
    assert str(folder) in caught.value.what
    assert caught.value.fix


def test_streamed_answers_equal_those_of_transformers_generate(torch_model: TransformersGenerator) -> None:
    (expected,) = torch_model.answers([PROMPT], 12, 1)
    assert said(torch_model) == expected


def phi3(folder: Path, tokenizer: Any, **config: Any) -> TransformersGenerator:
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(1)
    small = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    Phi3ForCausalLM(Phi3Config(**(small | ends | config))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    generator = open_generator(ModelRef(folder, "hf", "k"), options=GeneratorOptions(conversations=1))
    assert isinstance(generator, TransformersGenerator)
    return generator


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": 512, "original_max_position_embeddings": 512, "sliding_window": 16},
        {
            "max_position_embeddings": 128,
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 8,
                "long_factor": [4.0] * 8,
                "original_max_position_embeddings": 32,
            },
        },
    ],
    ids=["sliding window", "longrope"],
)
def test_a_rewound_sequence_gives_the_answer_of_a_fresh_one(
    config: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """A sliding window that dropped tokens, and rotary factors that depend on the length, do not affect later turns."""
    model = phi3(tmp_path / "model", tiny_tokenizer, **config)
    prompts = [
        "we won",
        "we won the game and a lovely party was there in the sun " * 1,
        "we won the",
        "we won the game and",
    ]
    for prompt in prompts:
        (fresh,) = model.answers([prompt], 24, 1)
        assert said(model, prompt, max_new_tokens=24) == fresh


def test_losses_of_a_batch_are_those_of_each_row_alone(torch_model: TransformersGenerator) -> None:
    ids = torch_model.encode(PROMPT)
    pairs = [(ids, ids[:3]), (ids[:2], ids[2:4]), (ids[:1], ids[1:]), (ids + ids, ids[:1])]
    alone = [torch_model.completion_losses([pair], 1)[0] for pair in pairs]
    assert torch_model.completion_losses(pairs, 16) == pytest.approx(alone, rel=1e-5)
