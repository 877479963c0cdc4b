"""The common interface of both kinds of models: sampling parameters, and reuse of the KV cache."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import WorkFailed
from phi_runtime.inference import batches, decoding, onnx_folder
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
from phi_runtime.inference.sampler import log_softmax
from phi_runtime.inference.sequences import prompt_chunks
from phi_runtime.inference.transformers import TorchSequence, TransformersGenerator
from phi_runtime.models.reference import ModelRef
from tests.phi_runtime.export.tiny_adapters import build_graph, make_adapter
from tests.phi_runtime.inference.conftest import build_onnx

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


def generated(model: TransformersGenerator, prompt: str, max_new_tokens: int) -> str:
    """The greedy answer of transformers' `generate` to one prompt."""
    import torch

    ids = torch.tensor([model.encode(prompt)])
    options = {"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": model.pad_id}
    output = model.model.generate(
        ids, attention_mask=torch.ones_like(ids), eos_token_id=list(model.stop_ids), **options
    )
    return str(model.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


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


CONFIGS: dict[str, dict[str, Any]] = {
    "sliding window": {"max_position_embeddings": 512, "original_max_position_embeddings": 512, "sliding_window": 16},
    "longrope": {
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
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
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
        assert said(model, prompt, max_new_tokens=24) == generated(model, prompt, 24)


# -- prompt tasks --------------------------------------------------------------------------------------------------------------


def tasks_of(model: Generator) -> list[PromptTask]:
    """Prompts of several lengths, with completions that begin alike, and one that the model itself would write."""
    tasks = []
    for text in (
        "we won",
        "we won the game",
        "we won the game and",
        "we ran in the dark",
        "we won the game and a lovely party",
    ):
        ids = model.encode(text)
        own = model.encode(text + said(model, text, max_new_tokens=3))[len(ids) :] or [5]
        tasks.append(PromptTask(ids, [[7], [7, 8, 9, 2], [7, 8, 10], own, [11, 12, 13, 14, 15, 16, 17]], 12))
    return tasks


def plain_logprobs(model: TransformersGenerator, task: PromptTask) -> list[list[float]]:
    """Teacher forcing: the log-probabilities of each completion, in one call of the model each, without cache and padding."""
    import torch

    found = []
    for completion in task.completions:
        ids = torch.tensor([task.ids + completion])
        with torch.no_grad():
            logprobs = model.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        found.append([float(logprobs[len(task.ids) + i - 1, token]) for i, token in enumerate(completion)])
    return found


def check_tasks(model: TransformersGenerator, tasks: list[PromptTask], batch_size: int) -> None:
    results = model.run_prompts(tasks, batch_size)
    for task, result in zip(tasks, results, strict=True):
        assert result.answer == generated(model, model.tokenizer.decode(task.ids), task.max_new_tokens)
        for values, expected in zip(result.logprobs, plain_logprobs(model, task), strict=True):
            assert values == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_log_probabilities_and_answers_of_a_batch_are_those_of_each_prompt_alone(
    torch_model: TransformersGenerator, batch_size: int
) -> None:
    check_tasks(torch_model, tasks_of(torch_model), batch_size)


def test_completions_are_read_with_their_prompt_and_what_they_begin_with_once(
    torch_model: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, forward = [], torch_model.forward

    def count(rows: Any, *args: Any, **options: Any) -> Any:
        calls.append((len(rows), len(rows[0])))
        return forward(rows, *args, **options)

    monkeypatch.setattr(torch_model, "forward", count)
    ids = torch_model.encode("we won the game")
    torch_model.run_prompts([PromptTask(ids, [[7], [7, 8, 9, 2], [7, 8, 10], [11, 12]])], 1)
    assert calls == [(1, len(ids) - 1), (1, 1 + len([7, 8, 9, 11]))]


def test_the_mask_of_a_long_completion_is_built_from_that_of_its_beginning(
    torch_model: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = 0

    class Counted(tuple[int, ...]):
        __slots__ = ()

        def __getitem__(self, place: Any) -> Any:
            nonlocal copied
            values = super().__getitem__(place)
            copied += len(values) if isinstance(place, slice) else 0
            return values

    inner_paths = batches._inner_paths
    monkeypatch.setattr(batches, "_inner_paths", lambda completions: [*map(Counted, inner_paths(completions))])
    task = PromptTask(torch_model.encode("we won the game"), [list(range(7, 107))])
    [result] = torch_model.run_prompts([task], 1)
    assert result.logprobs[0] == pytest.approx(plain_logprobs(torch_model, task)[0], abs=1e-4)
    assert copied < 100**2  # a copy of each beginning, and not of each beginning of each


def test_the_output_head_is_multiplied_once_for_all_rows_of_a_batch_when_its_weights_are_frozen(
    torch_model: TransformersGenerator,
) -> None:
    from torch.profiler import ProfilerActivity, profile

    torch_model.model.requires_grad_(False)
    tasks = [PromptTask(torch_model.encode(text), [[7, 8, 9]]) for text in ("we won the game", "dark cold noise now")]
    with profile(activities=[ProfilerActivity.CPU]) as calls:
        torch_model.run_prompts(tasks, 2)
    products = {event.key: event.count for event in calls.key_averages()}
    assert products["aten::mm"] > 0
    assert "aten::bmm" not in products  # by a copy of the weights for each row


def test_a_model_without_masks_for_each_token_reads_the_completions_after_the_prompts(
    torch_model: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_model.model.config, "_attn_implementation", "eager")
    assert not torch_model.reads_trees(1)
    check_tasks(torch_model, tasks_of(torch_model), 16)


@pytest.mark.parametrize(("limit_bytes", "groups"), [(1 << 29, 1), (0, 5)])
def test_answers_of_all_batches_are_continued_together_within_the_limit_of_the_cache(
    torch_model: TransformersGenerator, monkeypatch: pytest.MonkeyPatch, limit_bytes: int, groups: int
) -> None:
    texts = [
        "we won",
        "we won the game",
        "we won the game and",
        "we ran in the dark",
        "we won the game and a lovely party",
    ]
    tasks = [PromptTask(torch_model.encode(text), max_new_tokens=12) for text in texts]
    monkeypatch.setattr(torch_model, "stop_ids", set())
    monkeypatch.setattr(decoding, "_JOINED_BYTES", limit_bytes)
    expected = [torch_model.run_prompts([task], 1) for task in tasks]
    calls, forward = [], torch_model.forward

    def count(rows: Any, *args: Any, **options: Any) -> Any:
        calls.append(len(rows))
        return forward(rows, *args, **options)

    monkeypatch.setattr(torch_model, "forward", count)
    assert [[result] for result in torch_model.run_prompts(tasks, 1)] == expected
    prompts = 1 + len(tasks)  # with what all begin with
    assert len(calls) == prompts + groups * 11
    assert calls.count(len(tasks)) == (11 if groups == 1 else 0)


@pytest.mark.parametrize("batch_size", [2, 16])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_prompts_in_a_batch_keep_their_window_and_their_rotary_factors(
    config: dict[str, Any], batch_size: int, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = phi3(tmp_path / "model", tiny_tokenizer, **config)
    texts = ["we won the game and a lovely party was there in the sun " * n for n in (1, 2, 3)]
    longer = [PromptTask(model.encode(text), [[7, 8, 9, 10, 11, 12, 13, 14]], 8) for text in texts]
    check_tasks(model, [*tasks_of(model), *longer], batch_size)


def test_the_choices_of_a_question_read_its_context_once(onnx: OnnxGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    context, other = onnx.encode(PROMPT), onnx.encode("we won the dark")
    likeliest = onnx.encode(PROMPT + said(onnx, max_new_tokens=3))[len(context) :]
    pairs = [(context, [7, 8, 9]), (context, likeliest), (context, [11, 12]), (other, [7, 8])]
    alone = [onnx.completion_scores([pair])[0] for pair in pairs]
    read, prefill = [], OnnxSequence.prefill

    def count(self: OnnxSequence, ids: Any) -> None:
        read.append(len(ids))
        prefill(self, ids)

    monkeypatch.setattr(OnnxSequence, "prefill", count)
    assert onnx.completion_scores(pairs) == alone
    assert read[:3] == [len(context), 2, 2]
    assert read[3] < len(other)
    results = onnx.run_prompts([PromptTask(prompt, [completion]) for prompt, completion in pairs], 1)
    assert [score for score, _ in alone] == pytest.approx([sum(result.logprobs[0]) for result in results], abs=1e-4)
    assert [greedy for _, greedy in alone] == [False, True, False, False]
    assert onnx.completion_scores([]) == []


# -- rotary factors that depend on the length, in ONNX ----------------------------------------------------------------------------

IDS = list(range(40, 100))


@pytest.fixture(scope="module")
def long_rope(
    tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TransformersGenerator, OnnxGenerator]]:
    """A model with other factors above 32 tokens, and its ONNX graph."""
    folder = tmp_path_factory.mktemp("longrope")
    rope = CONFIGS["longrope"]["rope_parameters"] | {"type": "longrope"}  # the builder reads this name
    model = phi3(folder / "model", tiny_tokenizer, **CONFIGS["longrope"] | {"rope_parameters": rope})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_folder, "_ROPE_SWITCH", model.rope_switch)
        yield (
            model,
            OnnxGenerator(build_graph(folder / "model", folder / "graph", "fp32"), GeneratorOptions(conversations=1)),
        )


LongRope = tuple[TransformersGenerator, OnnxGenerator]


def logits_of(model: TransformersGenerator, ids: list[int]) -> Any:
    return model.forward([ids], None, None)[0][0, -1].numpy()


def test_a_context_with_other_rotary_factors_is_read_again(long_rope: LongRope) -> None:
    model, onnx = long_rope
    pairs = [(IDS[:count], [7, 8]) for count in (60, 20, 60, 50, 32, 31)]
    expected = [sum(result.logprobs[0]) for result in model.run_prompts([PromptTask(p, [c]) for p, c in pairs], 1)]
    assert [score for score, _ in onnx.completion_scores(pairs)] == pytest.approx(expected, abs=1e-4)


def test_what_was_read_with_other_rotary_factors_is_read_again(long_rope: LongRope) -> None:
    model, onnx = long_rope
    sequence = onnx.create_sequence(128, None)
    for part in (IDS[:20], IDS[20:31], IDS[31:50]):
        sequence.prefill(part)
        assert sequence.logits() == pytest.approx(logits_of(model, sequence.ids), abs=1e-4)
    sequence.rewind(25)
    for token in IDS[25:40]:
        sequence.append(token)
        assert sequence.logits() == pytest.approx(logits_of(model, sequence.ids), abs=1e-4)


def test_a_prompt_is_read_past_the_switch_in_one_step(long_rope: LongRope, monkeypatch: pytest.MonkeyPatch) -> None:
    _, onnx = long_rope
    sequence = onnx.create_sequence(128, None)
    monkeypatch.setattr(sequence, "rope_switch", 300)
    assert [len(part) for part in prompt_chunks(sequence, range(900))] == [301, 256, 256, 87]
    assert [len(part) for part in prompt_chunks(sequence, range(301))] == [301]
    assert [len(part) for part in prompt_chunks(sequence, range(300))] == [256, 44]


def test_answers_of_a_conversation_that_passes_the_switch_are_those_of_transformers(long_rope: LongRope) -> None:
    model, onnx = long_rope
    prompts = ["we won the game", "we won the game and a lovely party was there in the sun " * 2, "we won the game and"]
    for prompt in prompts:
        assert said(onnx, prompt, max_new_tokens=30) == generated(model, prompt, 30)


def test_results_of_prompts_and_completions_that_pass_the_switch_are_those_of_transformers(long_rope: LongRope) -> None:
    model, onnx = long_rope
    tasks = [PromptTask(IDS[:count], [[7, 8, 9, 2], [7, 9, 10], [11, 12]], 8) for count in (20, 29, 31, 32, 33, 50)]
    for ours, expected in zip(onnx.run_prompts(tasks, 4), model.run_prompts(tasks, 4), strict=True):
        assert ours.answer == expected.answer
        for got, right in zip(ours.logprobs, expected.logprobs, strict=True):
            assert got == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize("count", [31, 32, 33])
def test_tokens_chosen_from_given_logits_are_kept_at_the_switch(long_rope: LongRope, count: int) -> None:
    import numpy as np

    model, onnx = long_rope
    sequence = onnx.create_sequence(128, None)
    sequence.prefill(IDS[:count])
    chosen = np.full(onnx.vocab_size, -10.0, dtype=np.float32)
    chosen[77] = 10.0
    for _ in range(2):
        sequence.logits()
        assert sequence.step(chosen) == 77
    assert sequence.logits() == pytest.approx(logits_of(model, [*IDS[:count], 77, 77]), abs=1e-4)


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


def test_an_onnx_model_gives_what_the_same_prompts_give_one_by_one(onnx: OnnxGenerator) -> None:
    tasks = tasks_of(onnx)
    for task, result in zip(tasks, onnx.run_prompts(tasks, 16), strict=True):
        assert onnx.run_prompts([task], 1) == [result]
        assert result.answer == said(onnx, onnx.tokenizer.decode(task.ids), max_new_tokens=12)
        first, *_, longest = result.logprobs
        sequence = onnx.create_sequence(64, None)
        sequence.prefill(task.ids)
        for token, value in zip(task.completions[-1], longest, strict=True):
            assert value == pytest.approx(float(log_softmax(sequence.logits())[token]), abs=1e-6)
            sequence.append(token)
        assert len(first) == 1


def test_the_end_of_an_answer_is_told_by_stop_token_stop_text_and_length(model: Generator) -> None:
    ids = model.encode(PROMPT)
    [whole] = model.run_prompts([PromptTask(ids, max_new_tokens=12)], 1)
    assert len(whole.answer) > 4
    stop = whole.answer[2:4]
    [cut, none] = model.run_prompts([PromptTask(ids, max_new_tokens=12, stop=("§", stop)), PromptTask(ids, [[3]])], 2)
    assert (cut.answer, cut.finish) == (whole.answer.split(stop)[0], "stop")
    assert (none.answer, none.finish, len(none.logprobs)) == ("", None, 1)
    model.stop_ids.add(model.encode(PROMPT + whole.answer)[len(ids) + 1])  # type: ignore[attr-defined]
    [ended] = model.run_prompts([PromptTask(ids, max_new_tokens=12)], 1)
    assert (whole.finish, ended.finish) == ("length", "stop")
    assert whole.answer.startswith(ended.answer)


@pytest.mark.slow
def test_the_perplexity_of_a_fp32_export_is_that_of_torch(
    torch_model: TransformersGenerator, tiny_phi3: Path, tmp_path: Path
) -> None:
    exported = OnnxGenerator(build_onnx(tiny_phi3, tmp_path / "fp32"))
    found = []
    for model in (torch_model, exported):
        logprobs = [values for result in model.run_prompts(tasks_of(torch_model), 4) for values in result.logprobs]
        found.append(math.exp(-sum(map(sum, logprobs)) / sum(map(len, logprobs))))
    assert found[1] == pytest.approx(found[0], rel=1e-3)
