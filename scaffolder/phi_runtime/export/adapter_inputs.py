"""The inputs for adapters in the graph of a base model.

Beside each product of the builder's graph that an adapter changes goes x @ A @ B, where A and B are inputs with a default of rank 0:
without an adapter the graph computes what it did, to the bit, and its weights stay as they were quantised. The builder's own
`adapter_path` makes one adapter's weights part of the graph instead, takes query, key and value apart, and quantises the adapter too
(seen in onnxruntime-genai 0.18).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.core.errors import WorkFailed
from phi_runtime.models.onnx_adapters import Place, cuts_of, module_parts, place_parts
from phi_runtime.models.peft_lora import MERGE

if TYPE_CHECKING:
    import onnx

    from phi_runtime.models.shape import Shape

# /model/layers.0/attn/qkv_proj/MatMul, with _Q4 or _Q8 where its weight is quantised
_PRODUCT = re.compile(r"/model/layers\.(\d+)/(attn|mlp)/(\w+)/MatMul(?:_\w+)?")
_TYPES = {1: "float32", 10: "float16", 16: "bfloat16"}
_ALONE = "_without_adapter"


def add_inputs(file: Path, modules: Collection[str], shape: Shape) -> dict[str, Place]:
    """Gives the graph in `file`, of a model whose sizes are `shape`, inputs for adapters on its `modules` (full names), where it has
    none yet. Returns all places with such inputs. Weights beside the graph are not touched. Raises WorkFailed.
    """
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    products = {_place(node.name): node for node in model.graph.node if _is_product(node)}
    parts = {part: place for place in products for part in place_parts(place)}
    wanted = {part for module in modules for part in module_parts(module)}
    lost = sorted(
        module for module in modules if not module_parts(module) or not set(module_parts(module)) <= set(parts)
    )
    if lost:
        raise WorkFailed(f"the builder's graph has no place for an adapter on `{lost[0]}`", fix=MERGE)
    types = {info.name: info.type.tensor_type for info in model.graph.value_info}
    there = {place for place in products if f"{place}.lora_A.MatMul.weight" in {i.name for i in model.graph.input}}
    chosen = {parts[part] for part in wanted} | there
    linear = [module.name for module in shape.linear]
    found, nodes = {}, []
    for node in model.graph.node:
        nodes.append(node)
        place = _place(node.name) if _is_product(node) else ""
        if place in chosen:
            found[place] = _described(place, types[node.output[0].removesuffix(_ALONE)], linear, shape)
            nodes += [] if place in there else _beside(model.graph, node, place, found[place])
    if chosen != there:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        aside = file.with_name(f".{file.name}.partial")
        onnx.save(model, str(aside))
        aside.replace(file)
    return dict(sorted(found.items()))


def _is_product(node: onnx.NodeProto) -> bool:
    return node.op_type in ("MatMul", "MatMulNBits") and bool(_PRODUCT.fullmatch(node.name))


def _place(node: str) -> str:
    """model.layers.0.attn.qkv_proj"""
    found = _PRODUCT.fullmatch(node)
    return f"model.layers.{found[1]}.{found[2]}.{found[3]}" if found else ""


def _described(place: str, output: Any, linear: list[str], shape: Shape) -> Place:
    cuts = cuts_of(place, linear, shape)
    sizes = {module.name: module for module in shape.linear}
    width = output.shape.dim[-1].dim_value
    if not cuts or sum(cut.stop - cut.start for cut in cuts) != width or output.elem_type not in _TYPES:
        raise WorkFailed(
            f"`{place}` of the builder's graph is not made of the model's modules as is known here", fix=MERGE
        )
    return Place(sizes[cuts[0].module].inputs, width, _TYPES[output.elem_type], cuts)


def _beside(graph: onnx.GraphProto, node: onnx.NodeProto, place: str, sizes: Place) -> list[onnx.NodeProto]:
    """x @ A @ B, added to the output of `node`, whose readers read the sum."""
    import numpy as np
    from onnx import helper

    path = node.name.rpartition("/")[0]
    output, alone = node.output[0], f"{node.output[0]}{_ALONE}"
    a, b = f"{place}.lora_A.MatMul.weight", f"{place}.lora_B.MatMul.weight"
    number = {name: kind for kind, name in _TYPES.items()}[sizes.dtype]
    rank = f"rank of {place}"  # one name for all would let the runtime reuse buffers of one rank for another
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
