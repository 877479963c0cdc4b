"""Adapters that start from a changed base: PiSSA, OLoRA, LoftQ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeProject

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from phi_runtime.training.starting_weights import save_plain  # noqa: E402
from tests.phi_runtime.training.test_methods import (  # noqa: E402
    base_model,
    context_of,
    log_probabilities,
    step_of,
    train_with,
    trained_weights,
)


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"rank_pattern": {"o_proj": 2}, "layers_to_transform": [0]}]
)
@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_that_starts_from_the_weights_is_saved_as_one_on_the_original_base(
    tiny_phi3: Path, tmp_path: Path, start: str, options: dict[str, Any]
) -> None:
    import peft

    expected = log_probabilities(base_model(tiny_phi3))
    model = step_of("LoRA", init_lora_weights=start, **options).with_adapter(base_model(tiny_phi3))
    assert torch.allclose(log_probabilities(model), expected, atol=1e-4)
    for weight in trained_weights(model).values():
        weight.data += 0.02 * torch.randn_like(weight)
    trained = log_probabilities(model)
    assert not torch.allclose(trained, expected, atol=1e-3)
    model.save_pretrained(tmp_path)
    save_plain(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(base_model(tiny_phi3), tmp_path)
    assert torch.allclose(log_probabilities(loaded), trained, atol=1e-4)
    saved = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (saved["r"], saved["init_lora_weights"]) == (8, True)


def test_loftq_starts_closer_to_the_base_in_full_precision(make_project: MakeProject, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    project = make_project()

    def started(start: Any) -> Any:
        train_with(project, "QLoRA", alpha=32, init_lora_weights=start)
        context = context_of(project, tmp_path)
        return context.config.load_trainable(context)[0]

    plain, loftq = started(True), started("loftq")
    original = base_model(Path(loftq.base_model.model.name_or_path))
    layer = "model.layers.0.self_attn.o_proj"
    weight = original.get_submodule(layer).weight.detach()

    def error(model: Any) -> float:
        from bitsandbytes.functional import dequantize_4bit

        module = model.base_model.model.get_submodule(layer)
        change = module.get_delta_weight("default").float()
        return float((dequantize_4bit(module.weight.data, module.weight.quant_state).float() + change - weight).norm())

    assert error(loftq) < error(plain)
