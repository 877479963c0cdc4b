"""Add inputs for LoRA adapters to the ONNX graph of a base model.

The output of each MatMul that an adapter changes becomes x @ W + x @ A @ B, where A and B are graph inputs with a default of
rank 0: without an adapter the graph computes the same bits, and its quantized weights are unchanged. The builder's own
`adapter_path` instead makes one adapter part of the graph, splits query, key and value, and quantizes the adapter too (seen
in onnxruntime-genai 0.18).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.core.artifacts import staged
from phi_runtime.core.errors import WorkFailed
from phi_runtime.models.onnx_adapters import TYPES, AdapterSlot, cuts_of, module_parts, place_parts
from phi_runtime.models.peft_lora import MERGE

if TYPE_CHECKING:
    import onnx

    from phi_runtime.models.shape import Shape

# /model/layers.0/attn/qkv_proj/MatMul, with _Q4 or _Q8 if its weight is quantized
_PRODUCT = re.compile(r"/model/layers\.(\d+)/(attn|mlp)/(\w+)/MatMul(?:_\w+)?")
_NAMES = {number: name for name, number in TYPES.items()}
_ALONE = "_without_adapter"


def add_inputs(file: Path, modules: Collection[str], shape: Shape) -> dict[str, AdapterSlot]:
    """Add adapter inputs for `modules` to the graph in `file`; external weights are not touched.

    Args:
        file: The ONNX graph.
        modules: Full names of the modules that adapters change.
        shape: Sizes of the model.

    Returns:
        All sites of the graph that have adapter inputs now, by name.

    Raises:
        WorkFailed: The graph has no MatMul for a module.
    """
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    products = {_place(node.name): node for node in model.graph.node if _is_product(node)}
    parts = {part: place for place in products for part in place_parts(place)}
    required = {part for module in modules for part in module_parts(module)}
    missing = sorted(
        module for module in modules if not module_parts(module) or not set(module_parts(module)) <= set(parts)
    )
    if missing:
        raise WorkFailed(f"the ONNX graph has no MatMul for an adapter on `{missing[0]}`", fix=MERGE)
    types = {info.name: info.type.tensor_type for info in model.graph.value_info}
    inputs = {i.name for i in model.graph.input}
    existing = {place for place in products if f"{place}.lora_A.MatMul.weight" in inputs}
    chosen = {parts[part] for part in required} | existing
    linear = [module.name for module in shape.linear]
    sites, nodes = {}, []
    for node in model.graph.node:
        nodes.append(node)
        place = _place(node.name) if _is_product(node) else ""
        if place in chosen:
            sites[place] = _site(place, types.get(node.output[0].removesuffix(_ALONE)), linear, shape)
            nodes += [] if place in existing else _add_adapter(model.graph, node, place, sites[place])
    if chosen != existing:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        with staged(file) as partial:
            onnx.save(model, str(partial))
    return dict(sorted(sites.items()))


def _is_product(node: onnx.NodeProto) -> bool:
    return node.op_type in ("MatMul", "MatMulNBits") and bool(_PRODUCT.fullmatch(node.name))


def _place(node: str) -> str:
    """Return the name of a MatMul node as a module: model.layers.0.attn.qkv_proj."""
    match = _PRODUCT.fullmatch(node)
    return f"model.layers.{match[1]}.{match[2]}.{match[3]}" if match else ""


def _site(place: str, output: Any, linear: list[str], shape: Shape) -> AdapterSlot:
    cuts = cuts_of(place, linear, shape)
    sizes = {module.name: module for module in shape.linear}
    width = output.shape.dim[-1].dim_value if output is not None else 0
    if not cuts or sum(cut.stop - cut.start for cut in cuts) != width or output.elem_type not in _NAMES:
        raise WorkFailed(f"`{place}` of the ONNX graph does not match the modules of the model", fix=MERGE)
    return AdapterSlot(sizes[cuts[0].module].inputs, width, _NAMES[output.elem_type], cuts)


def _add_adapter(graph: onnx.GraphProto, node: onnx.NodeProto, place: str, sizes: AdapterSlot) -> list[onnx.NodeProto]:
    """Return nodes that add x @ A @ B to the output of `node`; their sum takes the name of that output."""
    import numpy as np
    from onnx import helper

    path = node.name.rpartition("/")[0]
    output, alone = node.output[0], f"{node.output[0]}{_ALONE}"
    a, b = f"{place}.lora_A.MatMul.weight", f"{place}.lora_B.MatMul.weight"
    number = TYPES[sizes.dtype]
    rank = f"rank of {place}"  # with one name for all, the runtime would reuse a buffer of another rank
    for name, dims in ((a, (sizes.inputs, rank)), (b, (rank, sizes.outputs))):
        graph.input.append(helper.make_tensor_value_info(name, number, dims))
        empty = [0 if dim == rank else dim for dim in dims]
        graph.initializer.append(helper.make_tensor(name, number, empty, np.zeros(0, np.uint8).tobytes(), raw=True))
    node.output[0] = alone
    low, change = f"{path}/lora_A/MatMul", f"{path}/lora_B/MatMul"
    return [
        helper.make_node("MatMul", [node.input[0], a], [f"{low}/output_0"], name=low),
        helper.make_node("MatMul", [f"{low}/output_0", b], [f"{change}/output_0"], name=change),
        helper.make_node("Add", [alone, f"{change}/output_0"], [output], name=f"{path}/lora/Add"),
    ]
