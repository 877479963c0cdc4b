"""A base in 8 bits, of which four are the codes of the int4 export, for QLoRA: it learns over the rounding that ships.

An adapter over one rounding alone fits neither the exact base nor the rounding of the merged weights. As with LoRA, every other
step sees the rounded base and the others the exact one, but for a tenth of the error of rounding. transformers rounds each
weight as it reads it, so that the base is never in memory in full precision.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.quantizers_utils import get_module_from_name
from transformers.utils.quantization_config import QuantizationConfigMixin

from phi_runtime.config.schema.export import Int4Rounding
from phi_runtime.core.errors import ConfigError
from phi_runtime.training.rounding import quantize, rounded_modules

_METHOD = "phi_int4_export"


class RoundedLinear(torch.nn.Linear):
    """A frozen linear module that holds its weight in bytes and dequantizes it for each product.

    `weight` are the bytes (N, blocks, block_size): codes in 8 bits; or in the upper half those in 4, and in
    the lower their residuals in sixteenths of a rounding step, from -8.

    Attributes:
        bits: 4 or 8, of the export.
        scale: (N, blocks, 1).
        zero: Zero points as bytes, (N, blocks, 1); None if each is in the middle of the codes.
        is_rounded: Compute without residuals.
    """

    bits: int
    scale: torch.nn.Parameter
    zero: torch.nn.Parameter | None
    is_rounded = False

    def hold(self, weight: torch.Tensor, rounding: Int4Rounding) -> torch.nn.Parameter:
        """Keep the scales and zero points of `weight` (N, K), and return its bytes."""
        symmetric = rounding.symmetric
        values, zero, scale = quantize(weight, rounding.block_size, symmetric=symmetric, bits=self.bits)
        codes = (values + 2 ** (self.bits - 1) if symmetric else values).to(torch.uint8)
        if self.bits == 4:
            exact = functional.pad(weight.float(), (0, codes[0].numel() - weight.shape[1])).view_as(values)
            residual = torch.where(scale == 0, 0.0, exact / scale - (values - zero))
            codes = (codes << 4) | (16 * residual + 8).round().clamp(0, 15).to(torch.uint8)
        self.scale = _frozen(scale.to(weight.dtype))
        self.zero = None if symmetric else _frozen(zero.to(torch.uint8))
        return _frozen(codes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x · weightᵀ + bias, in the type of the scales."""
        form = (self.bits, self.is_rounded, self.in_features)
        output = _Product.apply(x.to(self.scale.dtype), self.weight, self.scale, self.zero, form)
        return output if self.bias is None else output + self.bias


def _frozen(values: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(values, requires_grad=False)  # no buffer: several processes would send it in each step


class _Product(torch.autograd.Function):
    """x · weightᵀ that dequantizes the weight again for the gradient instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Any, codes: Any, scale: Any, zero: Any, form: tuple[int, bool, int]) -> torch.Tensor:
        ctx.save_for_backward(codes, scale, zero)
        ctx.form = form
        return functional.linear(x, dequantize(codes, scale, zero, *form))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        weight = dequantize(*ctx.saved_tensors, *ctx.form)
        return gradients[0].to(weight.dtype) @ weight, None, None, None, None


def dequantize(
    codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, bits: int, is_rounded: bool, columns: int
) -> torch.Tensor:
    """Return the weight (N, K) of the bytes of a `RoundedLinear`; K is `columns`."""
    values = (codes >> 4 if bits == 4 and is_rounded else codes).to(scale.dtype)
    middle = 2 ** (bits - 1) if zero is None else zero.to(scale.dtype)
    if bits == 4 and not is_rounded:
        middle, scale = 16 * middle + 8, scale / 16
    values -= middle
    values *= scale
    return values.view(len(codes), -1)[:, :columns]  # (N, K)


class RoundedBase:
    """The rounded modules of a model, to switch between the codes of the export and the exact weights.

    Attributes:
        is_rounded: The model computes with the codes alone.
    """

    def __init__(self, model: Any) -> None:
        self._modules = [module for module in model.modules() if isinstance(module, RoundedLinear)]
        self.is_rounded = False

    def use_rounded(self, rounded: bool) -> None:
        """Compute with the codes alone, or with their residuals."""
        self.is_rounded = rounded
        for module in self._modules:
            module.is_rounded = rounded


@register_quantization_config(_METHOD)
@dataclass
class RoundedBaseConfig(QuantizationConfigMixin):
    """Quantization config for `from_pretrained`.

    Attributes:
        rounding: Rounding of the export.
        skipped: Ends of the names of modules that keep full precision.
    """

    rounding: Int4Rounding = field(default_factory=Int4Rounding)
    skipped: tuple[str, ...] = ()
    quant_method: str = _METHOD

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@register_quantizer(_METHOD)
class _Quantizer(HfQuantizer):
    """Rounds weights while transformers loads them."""

    quantization_config: RoundedBaseConfig

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        module, name = get_module_from_name(model, param_name)
        return isinstance(module, RoundedLinear) and name == "weight"

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        config = self.quantization_config
        modules = [m for m in rounded_modules(model, config.rounding) if not m[0].endswith(config.skipped)]
        if not modules:
            raise ConfigError(
                "`int4_aware` finds no linear module that an int4 export rounds", fix="set int4_aware to false"
            )
        for name, old, bits in modules:
            has_bias = old.bias is not None
            with torch.device("meta"):
                new = RoundedLinear(old.in_features, old.out_features, has_bias, dtype=old.weight.dtype)
            new.bits = bits
            model.set_submodule(name, new)

    def get_quantize_ops(self) -> ConversionOps:
        return _Hold(self)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class _Hold(ConversionOps):
    """Replaces a weight by its codes."""

    def __init__(self, quantizer: _Quantizer) -> None:
        self._rounding = quantizer.quantization_config.rounding

    def convert(self, input_dict: dict[str, Any], *, model: Any = None, **_: Any) -> dict[str, Any]:
        held = {}
        for name, value in input_dict.items():
            module = get_module_from_name(model, name)[0]
            held[name] = module.hold(value[0] if isinstance(value, list) else value, self._rounding)
            module._is_hf_initialized = True
        return held
