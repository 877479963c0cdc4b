"""ModelBuilder: build an ONNX model for ONNX Runtime GenAI, which must then run here and agree with its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.export import ExportPass
from phi_runtime.config.schema.registry import register
from phi_runtime.models.memory import onnx_bytes
from phi_runtime.models.shape import Shape

if TYPE_CHECKING:
    from phi_runtime.context import PassContext


@register
class ModelBuilder(ExportPass):
    """Export to ONNX with the builder of onnxruntime-genai."""

    libraries: ClassVar[tuple[str, ...]] = (
        "onnxruntime-genai",
        "onnxruntime-genai-cuda",
        "onnxruntime-genai-directml",
        "transformers",
    )

    type: Literal["ModelBuilder"] = Field(description="Export with the model builder of ONNX Runtime GenAI.")

    def run(self, context: PassContext[ModelBuilder]) -> dict[str, Any]:
        """Write the ONNX model, with its adapters if `adapters` names some, to `context.out`.

        Raises:
            WorkFailed: the builder fails, or the model does not pass the gate.
            OutOfResources: memory or disk are full.
        """
        from phi_runtime.export.adapters_on_graph import run_with_adapters
        from phi_runtime.export.build import build_pass, complete_export

        if self.adapters:
            return run_with_adapters(context)
        build_pass(context)
        return complete_export(context)

    def output_bytes(self, shape: Shape, source_bytes: int) -> int:
        in_8_bits = [group for group, bits in self.other_bits.items() if bits == "int8"]
        return onnx_bytes(shape, self.precision, self.int4_rounding.block_size, in_8_bits=in_8_bits)
