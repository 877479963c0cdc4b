"""Sequences and batches with a sliding window, or with rotary factors that depend on the length (LongRoPE)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.inference import onnx_folder
from phi_runtime.inference.generator import GeneratorOptions, PromptTask
from phi_runtime.inference.onnx import OnnxGenerator
from phi_runtime.inference.sequences import prompt_chunks
from phi_runtime.inference.transformers import TransformersGenerator
from tests.phi_runtime.export.tiny_adapters import build_graph
from tests.phi_runtime.inference.answers import CONFIGS, generated, phi3, said

IDS = list(range(40, 100))
LongRope = tuple[TransformersGenerator, OnnxGenerator]


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


@pytest.fixture(scope="module")
def long_rope(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongRope]:
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
