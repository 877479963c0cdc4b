"""Where a model that is trained is loaded to."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi_runtime.models.reference import ModelRef
from phi_runtime.models.shape import shape_of
from phi_runtime.passes.full_finetune import FullFinetune
from phi_runtime.passes.lora import LoRA
from phi_runtime.passes.qlora import QLoRA
from phi_runtime.training.placement import exceeds_one, placement, trained_bytes

torch = pytest.importorskip("torch")

CARD = 24_000_000_000


def test_a_model_is_spread_only_where_there_are_several_cards_and_one_is_too_small() -> None:
    assert exceeds_one([CARD, CARD], 0.9 * CARD)
    assert not exceeds_one([CARD, CARD], 0.7 * CARD)
    assert not exceeds_one([CARD], 10 * CARD)
    assert not exceeds_one([], CARD)


def test_what_a_method_needs_of_a_card_is_counted_from_the_weights_on_the_disk(tiny_phi3: Path) -> None:
    from safetensors.torch import load_file

    parameters = sum(tensor.numel() for tensor in load_file(tiny_phi3 / "model.safetensors").values())
    shape = shape_of(tiny_phi3)
    needed = {
        step: trained_bytes(step(type=step.__name__, train_data_config="rows"), shape, torch.bfloat16.itemsize)
        for step in (LoRA, QLoRA, FullFinetune)
    }
    assert needed == {LoRA: 2 * parameters, QLoRA: 0.6 * parameters, FullFinetune: 16 * parameters}
    aware = QLoRA(type="QLoRA", int4_aware=True, train_data_config="rows")
    assert trained_bytes(aware, shape, torch.bfloat16.itemsize) == pytest.approx(1.1 * parameters)
    assert trained_bytes(LoRA(type="LoRA", train_data_config="rows"), shape_of(tiny_phi3 / "absent"), 2) == 0


def test_on_a_cpu_the_model_lies_there(tiny_phi3: Path) -> None:
    step = LoRA(type="LoRA", train_data_config="rows", device_map="auto")
    assert placement(step, ModelRef(tiny_phi3, "hf", ""), torch.float32, "cpu") == {"device": "cpu"}
