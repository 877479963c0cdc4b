"""Answers of a generator as text, and tiny models whose attention depends on the length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phi_runtime.inference.generator import Generator, GeneratorOptions, SamplingParams
from phi_runtime.inference.loading import open_generator
from phi_runtime.inference.transformers import TransformersGenerator
from phi_runtime.models.reference import ModelRef

PROMPT = "we won the game 7 and a lovely party 9"


def said(model: Generator, prompt: str = PROMPT, **how: Any) -> str:
    return "".join(piece.text for piece in model.answer(prompt, SamplingParams(**({"max_new_tokens": 12} | how))))


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
