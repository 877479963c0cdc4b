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
    PromptTask,
    PromptTooLong,
    SamplingParams,
    UnknownAdapter,
)
from phi_runtime.inference.loading import open_generator
from phi_runtime.inference.onnx import OnnxGenerator, OnnxSequence
from phi_runtime.inference.transformers import TorchSequence, TransformersGenerator
from phi_runtime.models.reference import ModelRef
from tests.phi_runtime.export.tiny_adapters import make_adapter
from tests.phi_runtime.inference.answers import PROMPT, generated, said


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
    ids = model.encode(PROMPT)
    token = model.encode(PROMPT + found[0].token)[len(ids) :]
    if len(token) == 1:
        [result] = model.run_prompts([PromptTask(ids, [token])], 1)
        assert result.logprobs == [pytest.approx([found[0].logprob], abs=2e-2)]


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


def test_an_adapter_answers_as_itself_before_and_after_another_one_on_its_base(tiny_phi3: Path, tmp_path: Path) -> None:
    own = make_adapter(tiny_phi3, tmp_path / "own", ["qkv_proj"], seed=1)
    files = {name: make_adapter(tiny_phi3, tmp_path / name, ["qkv_proj"], seed=7) for name in ("style", "default")}
    base = ModelRef(tiny_phi3, "hf", "tiny")
    model = open_generator(ModelRef(own, "adapter", "own", base), options=GeneratorOptions(adapters=files))

    def logprobs(model: Generator, adapter: str | None = None) -> list[float]:
        pieces = model.answer(PROMPT, SamplingParams(max_new_tokens=4, logprobs=0), adapter)
        return [one.logprob for piece in pieces for one in piece.logprobs]

    answers = [logprobs(model, adapter) for adapter in (None, "style", None, "default", None)]
    assert answers[0] == answers[2] == answers[4] != answers[1] == answers[3]
    assert logprobs(open_generator(base)) not in answers


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


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_guide_that_fails_only_while_it_is_followed_is_refused_with_penalties_too(
    onnx: OnnxGenerator, penalty: float
) -> None:
    guide = Guide("regex", "\u4e2d\u6587")  # bytes that this tokenizer has in no token of their own
    with pytest.raises(InvalidGuide):
        said(onnx, guide=guide, frequency_penalty=penalty)


def test_transformers_models_refuse_a_guide(torch_model: TransformersGenerator) -> None:
    with pytest.raises(InvalidGuide, match="only ONNX"):
        torch_model.answer(PROMPT, SamplingParams(guide=Guide("regex", "joy")))


@pytest.mark.parametrize(
    "fault", ["cut", "foreign", "empty", "no tokenizer", "head_size", "num_hidden_layers", "eos_token_id", "vocab_size"]
)
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
    elif fault == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    else:
        config = json.loads((folder / "genai_config.json").read_text())
        config["model"].pop(fault, None) or config["model"]["decoder"].pop(fault)
        (folder / "genai_config.json").write_text(json.dumps(config))
    with pytest.raises(WorkFailed) as caught:
        OnnxGenerator(folder)
    assert str(folder) in caught.value.what
    assert caught.value.fix


def test_streamed_answers_equal_those_of_transformers_generate(torch_model: TransformersGenerator) -> None:
    assert said(torch_model) == generated(torch_model, PROMPT, 12)


def test_the_speed_is_that_of_the_steps_of_an_answer(model: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = OnnxSequence if isinstance(model, OnnxGenerator) else TorchSequence
    calls: list[tuple[str, int]] = []
    prefill, step = kind.prefill, kind.step

    def counted_prefill(self: Any, ids: Any) -> None:
        calls.append(("prefill", len(ids)))
        prefill(self, ids)

    def counted_step(self: Any, logits: Any = None) -> int:
        calls.append(("step", len(self.ids)))
        return step(self, logits)

    monkeypatch.setattr(kind, "prefill", counted_prefill)
    monkeypatch.setattr(kind, "step", counted_step)
    speed = model.speed(300, 4)
    assert calls == [("prefill", 256), ("prefill", 44), *(("step", 300 + i) for i in range(4))]
    assert min(speed.time_to_first_token_s, speed.decode_tokens_per_s) > 0
