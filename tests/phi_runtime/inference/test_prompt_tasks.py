"""Prompts with completions, read in batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.inference import batches, decoding
from phi_runtime.inference.generator import (
    Generator,
    PromptTask,
)
from phi_runtime.inference.onnx import OnnxGenerator, OnnxSequence
from phi_runtime.inference.sampler import log_softmax
from phi_runtime.inference.transformers import TransformersGenerator
from tests.phi_runtime.inference.answers import CONFIGS, PROMPT, generated, phi3, said
from tests.phi_runtime.inference.conftest import build_onnx


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
