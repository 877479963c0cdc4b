"""A base in bytes that hold the codes of the int4 export: the weights that ship, gradients through them, and trainings over them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from phi_runtime.config.schema.export import Int4Rounding  # noqa: E402
from phi_runtime.core.errors import ConfigError  # noqa: E402
from phi_runtime.passes.qlora import QLoRA  # noqa: E402
from phi_runtime.pipeline.engine import run  # noqa: E402
from phi_runtime.training.rounded_base import RoundedBase, RoundedBaseConfig, RoundedLinear, dequantize  # noqa: E402
from phi_runtime.training.rounding import round_to_int4, rounded_modules  # noqa: E402
from tests.conftest import Listener, MakeProject, edit_config  # noqa: E402


def loaded(folder: Path, rounding: Int4Rounding, dtype: Any = torch.float32, **options: Any) -> Any:
    config = RoundedBaseConfig(rounding=rounding, **options)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config)


def weight_of(module: Any, *, is_rounded: bool) -> Any:
    return dequantize(module.weight, module.scale, module.zero, module.bits, is_rounded, module.in_features)


def held(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, RoundedLinear)}


@pytest.mark.parametrize(
    "rounding",
    [
        Int4Rounding(),
        Int4Rounding(block_size=64, symmetric=False),
        Int4Rounding(block_size=16, sensitive_in_8_bits=False, excluded=("/model/layers.1/mlp/down_proj/MatMul",)),
    ],
)
def test_it_holds_the_weights_that_the_export_rounds_to(tiny_phi3: Path, rounding: Int4Rounding) -> None:
    exact = transformers.AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32)
    modules = held(loaded(tiny_phi3, rounding))
    expected = {name: (module.weight, bits) for name, module, bits in rounded_modules(exact, rounding)}
    assert len(expected) == 8 - len(rounding.excluded)
    assert {name: module.bits for name, module in modules.items()} == {
        name: bits for name, (_, bits) in expected.items()
    }
    for name, (weight, bits) in expected.items():
        rounded = round_to_int4(weight, rounding.block_size, symmetric=rounding.symmetric, bits=bits)
        assert torch.equal(weight_of(modules[name], is_rounded=True), rounded), name
        remaining = weight_of(modules[name], is_rounded=False) - weight
        assert remaining.std() < (0.15 if bits == 4 else 1.01) * (rounded - weight).std(), name


def test_a_weight_takes_a_byte_and_what_is_trained_fully_stays_exact(tiny_phi3: Path) -> None:
    modules = held(loaded(tiny_phi3, Int4Rounding(), torch.bfloat16, skipped=("o_proj",)))
    assert not any(name.endswith("o_proj") for name in modules)
    for module in modules.values():
        blocks = -(-module.in_features // 32)
        assert module.weight.numel() == module.out_features * blocks * 32
        assert module.weight.element_size() == 1
        assert module.scale.dtype == torch.bfloat16
        assert not list(module.buffers())
        assert not any(part.requires_grad for part in module.parameters())


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True)])
def test_products_and_gradients_are_those_of_the_rounded_weight(bits: int, symmetric: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(40, 12)
    module = RoundedLinear(40, 12)
    module.bits = bits
    module.bias = linear.bias
    module.is_rounded = True
    module.weight = module.hold(linear.weight.detach(), Int4Rounding(symmetric=symmetric))
    linear.weight.data = round_to_int4(linear.weight.detach(), symmetric=symmetric, bits=bits)
    x = torch.randn(2, 5, 40, generator=generator)
    results = []
    for each in (linear, module):
        inputs = x.clone().requires_grad_(True)
        output = each(inputs)
        output.square().sum().backward()
        results.append((output, inputs.grad))
    torch.testing.assert_close(results[1], results[0])


def test_the_model_switches_between_its_exact_and_its_rounded_weights(tiny_phi3: Path) -> None:
    exact = transformers.AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32)
    model = loaded(tiny_phi3, Int4Rounding())
    base = RoundedBase(model)
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        expected = exact(ids).logits
        differences = []
        for rounded in (False, True, False):
            base.use_rounded(rounded)
            differences.append(float((model(ids).logits - expected).abs().max()))
    assert differences[0] == differences[2]
    assert differences[0] < 0.2 * differences[1]


def test_a_base_without_known_layers_is_refused(tiny_phi3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phi_runtime.training.rounded_base.rounded_modules", lambda *_: iter(()))
    with pytest.raises(ConfigError, match="int4_aware"):
        loaded(tiny_phi3, Int4Rounding())


def test_a_qlora_pass_trains_over_the_rounding_of_its_export(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(method="qlora", max_steps=3)

    def change(config: dict[str, Any]) -> None:
        config["passes"]["finetune"]["int4_aware"] = True
        config["passes"]["export"]["int4_block_size"] = 16

    edit_config(project, change)
    models = []
    with_adapter = QLoRA.with_adapter

    def seen(self: Any, base: Any, *sources: Any) -> Any:
        models.append(base)
        return with_adapter(self, base, *sources)

    monkeypatch.setattr(QLoRA, "with_adapter", seen)
    rounded = []
    monkeypatch.setattr(RoundedBase, "use_rounded", lambda _, value: rounded.append(value))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    heard = Listener()
    run(project, heard, until="finetune")
    modules = held(models[0])
    assert len(modules) == 8
    assert all(module.scale.shape[1] == -(-module.in_features // 16) for module in modules.values())
    assert rounded[:3] == [False, True, False]
    norms = [m["grad_norm"] for m in heard.of("metric") if "grad_norm" in m]
    assert len(norms) == 3
    assert all(norm > 0 for norm in norms)
    assert (project.gen_model / "adapter" / "adapter_model.safetensors").is_file()
