"""A tiny model of random weights for each architecture of the catalog: new, LoRA, merge, int4 and an answer, or a refusal before it.

The sizes have what is special about each: grouped-query heads, heads that are not hidden / heads wide, layers without rotary
embeddings, sliding windows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.project import find_project
from phi_runtime.export.builder_process import build
from phi_scaffold.new.catalog import catalog
from tests.conftest import Cli, edit_config, states
from tests.factory import write_rows

TWINS: dict[str, dict[str, Any]] = {
    "Phi3ForCausalLM": {"original_max_position_embeddings": 512},
    "PhiForCausalLM": {"hidden_size": 128, "num_key_value_heads": 4},  # rotates half of a head, which must be 8 pairs
    "LlamaForCausalLM": {},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 32},
    "Gemma2ForCausalLM": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64},
    "SmolLM3ForCausalLM": {"num_hidden_layers": 4},
    "Gemma3ForCausalLM": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64},
    "GPT2LMHeadModel": {},
}
"""Settings of the configuration that differ from those of `save_twin`, by architecture."""
FAILING = ("Gemma3ForCausalLM", "SmolLM3ForCausalLM")
"""Architectures that the model builder of onnxruntime-genai 0.18 has, and fails on."""
REFUSED = (*FAILING, "GPT2LMHeadModel")
"""Architectures that cannot be exported; they are trained and merged."""


def save_twin(architecture: str, folder: Path, tokenizer: Any) -> Path:
    """Save a model of this architecture with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, architecture)
    config = kind.config_class(
        **{
            "vocab_size": 512,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        | ({} if architecture == "GPT2LMHeadModel" else {"intermediate_size": 128, "num_key_value_heads": 2})
        | TWINS[architecture]
    )
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_every_architecture_of_the_catalog_has_a_twin() -> None:
    assert set(TWINS) == {model.architecture for model in catalog().models.values()}


@pytest.fixture(params=TWINS)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.slow
def test_a_twin_is_trained_exported_and_answers(
    architecture: str, cli: Cli, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_twin(architecture, tmp_path / "twin", tiny_tokenizer)
    data = write_rows(tmp_path / "train.jsonl")
    created = cli("new", "p", "--yes", "--no-git", "--model", "twin", "--data", data)
    assert created.code == 0
    assert (f"cannot export {architecture}" in created.out + created.err) is (architecture in REFUSED)
    project = find_project(tmp_path / "p")
    edit_config(project, lambda c: c["passes"]["finetune"]["training_args"].update(max_steps=2))
    if architecture in REFUSED:
        refused = cli("run", "--project", project.root)
        assert refused.code == 3
        assert f"cannot export {architecture}" in refused.err
        edit_config(project, lambda c: c["passes"].pop("export"))
        assert states(project)["finetune"] == "missing"
    finished = cli(
        "run", "--json", "--until", "merge" if architecture in REFUSED else "export", "--project", project.root
    )
    assert finished.code == 0
    answer = cli("generate", "we won the game 1", "--json", "--max-new-tokens", "8", "--project", project.root).json
    assert answer["model"] == ("merged" if architecture in REFUSED else "onnx")
    assert answer["completion_tokens"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("failing", FAILING)
def test_the_installed_builder_still_fails_on_what_is_refused(
    failing: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    twin = save_twin(failing, tmp_path / "twin", tiny_tokenizer)
    request = {"source": str(twin), "out": str(tmp_path / "out"), "cache": str(tmp_path), "options": {}}
    with pytest.raises((KeyError, AttributeError, TypeError)):
        build({**request, "precision": "fp32", "execution_provider": "cpu"})
