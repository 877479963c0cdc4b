"""Adapters of peft that exist already: loaded, merged, trained further."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.schema.registry import pass_types
from phi_runtime.core.errors import UsageError
from phi_runtime.training.pass_bases import AdapterPass

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from phi_runtime.training.adapter import continue_adapter  # noqa: E402
from tests.phi_runtime.training.test_methods import (  # noqa: E402
    ADAPTERS,
    base_model,
    log_probabilities,
    step_of,
    trained_weights,
)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_kind_of_adapter_is_trained_further_from_its_weights(kind: str, tiny_phi3: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from phi_runtime.models.peft_folder import read_peft_folder
    from phi_runtime.models.reference import ModelRef
    from phi_runtime.training.continued import completed, differences

    base = ModelRef(tiny_phi3, "hf", "")
    model = step_of(kind).with_adapter(base_model(tiny_phi3), base)
    with torch.no_grad():
        for weight in trained_weights(model).values():
            weight += 0.05 * torch.randn_like(weight)
    expected = log_probabilities(model)
    model.save_pretrained(tmp_path)
    adapter = read_peft_folder(tmp_path)
    assert list(differences(step_of(kind), adapter, None)) == []
    bare = pass_types()[kind].model_validate({"type": kind, "train_data_config": "train"})
    assert isinstance(bare, AdapterPass)
    settings = completed(bare, adapter)
    assert [getattr(settings, key) for key in ADAPTERS[kind]] == list(ADAPTERS[kind].values())

    further = bare.with_adapter(base_model(tiny_phi3, torch.bfloat16), ModelRef(tmp_path, "adapter", "", base))
    assert {weight.dtype for weight in trained_weights(further).values()} == {torch.float32}
    further.save_pretrained(tmp_path / "further")
    first, then = (load_file(f / "adapter_model.safetensors") for f in (tmp_path, tmp_path / "further"))
    assert first.keys() == then.keys()
    assert all(torch.equal(first[name], then[name]) for name in first)
    in_float32 = bare.with_adapter(base_model(tiny_phi3), ModelRef(tmp_path, "adapter", "", base))
    assert len(trained_weights(in_float32)) == len(trained_weights(model))
    assert torch.allclose(log_probabilities(in_float32), expected, atol=1e-5)


_ON = {"target_modules": ["qkv_proj", "down_proj"], "task_type": "CAUSAL_LM"}
MERGED_KINDS: dict[str, dict[str, Any]] = {
    "LORA": {"r": 4, **_ON},
    "ADALORA": {"total_step": 10, **_ON},
    "LOHA": {"r": 4, **_ON},
    "LOKR": {"r": 4, **_ON},
    "IA3": {"feedforward_modules": ["down_proj"], **_ON},
    "OFT": {"oft_block_size": 8, "r": 0, **_ON},
    "BOFT": {"boft_block_size": 4, **_ON},
    "VERA": {"r": 4, **_ON, "target_modules": ["o_proj"]},
    "HRA": {"r": 4, **_ON},
    "MISS": {"r": 4, **_ON},
    "PEANUT": {"r": 4, **_ON},
    "FOURIERFT": {"n_frequency": 10, **_ON},
    "LN_TUNING": {"target_modules": ["input_layernorm"], "task_type": "CAUSAL_LM"},
}


def test_each_type_of_peft_that_counts_as_merged_is_tried() -> None:
    from phi_runtime.models.peft_folder import MERGED

    assert MERGED_KINDS.keys() == MERGED


@pytest.mark.parametrize("kind", MERGED_KINDS)
def test_an_adapter_of_peft_computes_the_same_once_it_is_loaded_and_merged(
    kind: str, tiny_phi3: Path, tmp_path: Path
) -> None:
    import peft

    from phi_runtime.models.load import put_adapter

    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)](**MERGED_KINDS[kind])
    model = peft.get_peft_model(base_model(tiny_phi3), config)
    with torch.no_grad():
        for weight in trained_weights(model).values():
            weight += 0.05 * torch.randn_like(weight)
    expected = log_probabilities(model)
    model.save_pretrained(tmp_path)
    merged = put_adapter(base_model(tiny_phi3), tmp_path).merge_and_unload()
    assert (log_probabilities(base_model(tiny_phi3)) - expected).abs().max() > 1e-3
    assert torch.allclose(log_probabilities(merged), expected, atol=1e-4)


def test_an_error_of_peft_without_a_text_is_named_by_its_class(
    tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    from phi_runtime.models.load import put_adapter

    def fail(*_: object, **__: object) -> None:
        raise ValueError

    monkeypatch.setattr(peft.PeftModel, "from_pretrained", fail)
    with pytest.raises(UsageError, match="does not fit this model: ValueError"):
        put_adapter(base_model(tiny_phi3), tmp_path)


def test_an_adapter_is_loaded_and_saved_without_a_look_at_the_hub(
    tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft.utils.save_and_load as saving

    from phi_runtime.models.load import put_adapter

    model = step_of("LoRA").with_adapter(base_model(tiny_phi3))
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "base_model_name_or_path": "acme/tiny"}), encoding="utf-8")
    looked_up: list[str] = []
    monkeypatch.setattr(saving, "check_file_exists_on_hf_hub", lambda name, *_: looked_up.append(name))
    put_adapter(base_model(tiny_phi3), tmp_path)
    further = continue_adapter(base_model(tiny_phi3), tmp_path, {}, 0)
    further.save_pretrained(tmp_path / "further")
    assert looked_up == []
