"""Convert adapters of peft for an ONNX graph with adapter inputs. Uses numpy and onnxruntime, no torch.

The graph is that of the base model, with two optional inputs at each product that an adapter changes
(export/adapter_inputs.py): `<place>.lora_A.MatMul.weight` (inputs, r) and `<place>.lora_B.MatMul.weight` (r, outputs), of rank 0
unless an adapter is active. `adapters.json` next to the graph lists them, so that further adapters, of any rank, can be added
without a new build.

The products of the graph may differ from the model's modules: query, key and value may be one matrix in either and three in
the other, and so may gate and up. A part is what both consist of; an adapter is split or joined along the parts.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.core.artifacts import file_digest, read_json, staged, write_json
from phi_runtime.core.errors import UsageError, WorkFailed
from phi_runtime.core.wire import from_json
from phi_runtime.models.peft_folder import names_other_model, trained_on
from phi_runtime.models.peft_lora import MERGE, Lora, LowRank, read_lora

if TYPE_CHECKING:
    import numpy as np

    from phi_runtime.models.shape import Shape

RECORD, FOLDER, SUFFIX = "adapters.json", "adapters", ".onnx_adapter"
TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}
"""Number types of ONNX, by name."""
_FORM = 1


@dataclass(frozen=True)
class Cut:
    """Outputs `start` to `stop` of a module of the model are the graph product's outputs from `column` on."""

    module: str
    start: int
    stop: int
    column: int


@dataclass(frozen=True)
class AdapterSlot:
    """A product in the graph with adapter inputs: its sizes, its number type, and the modules that it covers."""

    inputs: int
    outputs: int
    dtype: str
    cuts: tuple[Cut, ...]


@dataclass(frozen=True)
class Record:
    """The content of adapters.json.

    Attributes:
        base_key, base_name: Digest and Hub id of the base model.
        graph: Digest of all inputs of the graph.
        places: Products with adapter inputs, by name.
        adapters: Adapters next to the graph: ranks, modules, and digests of source and result.
    """

    base_key: str
    base_name: str
    graph: str
    places: Mapping[str, AdapterSlot]
    adapters: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def modules(self) -> set[str]:
        """Modules of the model that an adapter may change."""
        return {cut.module for place in self.places.values() for cut in place.cuts}

    def save(self, folder: Path) -> None:
        write_json(folder / RECORD, {"form": _FORM, **asdict(self)})


def read_record(folder: Path) -> Record | None:
    """Return the adapter record of the ONNX model in `folder`; None if it accepts no adapters."""
    try:
        raw = read_json(folder / RECORD)
        return from_json(Record, raw) if raw["form"] == _FORM else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def adapter_file(folder: Path, name: str) -> Path:
    """Return the file of an adapter of an ONNX model; the folder of the same name next to it has its prompt template."""
    return folder / FOLDER / f"{name}{SUFFIX}"


def adapter_files(folder: Path) -> dict[str, Path]:
    """Return the adapter files of the ONNX model in `folder`, by name."""
    return {file.stem: file for file in sorted((folder / FOLDER).glob(f"*{SUFFIX}"))}


# -- positions of the model's modules in the graph ----------------------------------------------------------------------------------

_PARTS = {"qkv_proj": ("q", "k", "v"), "q_proj": ("q",), "k_proj": ("k",), "v_proj": ("v",),
          "gate_up_proj": ("gate", "up"), "gate_proj": ("gate",), "up_proj": ("up",), "dense": ("o_proj",)}  # fmt: skip
_MODULE = re.compile(r"(?:.*\.)?layers\.(\d+)\.(?:.*\.)?(\w*attn|attention|mlp|feed_forward)\.(\w+)")
Part = tuple[int, str, str]


def _parts(layer: int, block: str, name: str) -> list[Part]:
    """Return the parts of a product in the order of its outputs: (layer, attn or mlp, part)."""
    block = "attn" if "att" in block else "mlp"
    return [(layer, block, part) for part in _PARTS.get(name, (name,))]


def place_parts(place: str) -> list[Part]:
    """Return the parts of a product of the graph, such as model.layers.0.attn.qkv_proj."""
    _, _, layer, block, name = place.split(".")
    return _parts(int(layer), block, name)


def module_parts(module: str) -> list[Part]:
    """Return the parts of a module of the model; none if it is outside the attention and feed-forward of a layer."""
    match = _MODULE.fullmatch(module)
    return _parts(int(match[1]), match[2], match[3]) if match else []


def cuts_of(place: str, modules: Iterable[str], shape: Shape) -> tuple[Cut, ...]:
    """Return the slices of modules that a product of the graph covers, given the shape of the model."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {"q": query, "k": key, "v": key, "gate": shape.intermediate, "up": shape.intermediate}
    outputs = {linear.name: linear.outputs for linear in shape.linear}
    columns, at = {}, 0
    parts = place_parts(place)
    for part in parts:
        columns[part] = at
        at += sizes.get(part[2], 0)
    cuts = []
    for module in modules:
        start = 0
        own = module_parts(module)
        for part in own:
            size = sizes[part[2]] if part[2] in sizes else outputs[module]
            if part in columns:
                cuts.append(Cut(module, start, start + size, columns[part]))
            start += size
    return tuple(_joined(cuts))


def _joined(cuts: list[Cut]) -> list[Cut]:
    """Join adjacent cuts."""
    joined: list[Cut] = []
    for cut in cuts:
        last = joined[-1] if joined else None
        if (
            last
            and last.module == cut.module
            and last.stop == cut.start
            and last.column + last.stop - last.start == cut.column
        ):
            joined[-1] = Cut(cut.module, last.start, cut.stop, last.column)
        else:
            joined.append(cut)
    return joined


# -- fitting ---------------------------------------------------------------------------------------------------------------------


def fit_adapter(onnx_folder: Path, peft_folder: Path, out_file: Path) -> dict[str, Any]:
    """Convert the LoRA in `peft_folder` for the ONNX model in `onnx_folder`, write it to `out_file`, and return facts about it.

    Raises:
        UsageError: the model accepts no adapters, or the adapter is for another base, changes modules without inputs in the
            graph, or is more than a LoRA.
        WorkFailed: the written file differs from the adapter.
    """
    record = read_record(onnx_folder)
    if record is None:
        raise UsageError(
            f"the ONNX model in {onnx_folder} accepts no adapters",
            fix="list them as `adapters` of its ModelBuilder pass, and run it",
        )
    lora = read_lora(peft_folder)
    check_base(record, lora)
    tensors = arranged(record, lora)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    with staged(out_file) as partial:
        write_adapter(tensors, {name: place.dtype for name, place in record.places.items()}, partial)
    return {
        "ranks": lora.ranks,
        "modules": sorted({module.rpartition(".")[2] for module in lora.modules}),
        "content": file_digest(out_file),
        "size_bytes": out_file.stat().st_size,
    }


def check_base(record: Record, lora: Lora) -> None:
    """Raise UsageError if the adapter is known to be trained on another model than that of the graph."""
    key = trained_on(lora.folder)
    if key is not None:
        if key != record.base_key:
            raise _other_base(lora, "its manifest names another base model")
    elif names_other_model(lora.base_name, record.base_name):
        raise _other_base(lora, f"it was trained on {lora.base_name}, but this is {record.base_name}")


def _other_base(lora: Lora, why: str) -> UsageError:
    return UsageError(
        f"the adapter in {lora.folder} is for another base: {why}", fix="use it with the model that it was trained on"
    )


def arranged(record: Record, lora: Lora) -> dict[str, tuple[str, np.ndarray]]:
    """Return the inputs of the graph for `lora`, by name, each with its product and matrix. Raises UsageError."""
    import numpy as np

    if unmatched := set(lora.modules) - record.modules:
        names = ", ".join(sorted({name.rpartition(".")[2] for name in unmatched}))
        layers = {parts[0][0] for module in record.modules if (parts := module_parts(module))}
        beyond = [name for name in unmatched if (parts := module_parts(name)) and parts[0][0] not in layers]
        if beyond:
            raise _other_base(lora, f"it has `{min(beyond)}`, but the graph has {len(layers)} layers with adapters")
        raise UsageError(
            f"the adapter in {lora.folder} changes {names}, for which this ONNX model has no adapter input",
            fix=f"add its pass to `adapters` of the ModelBuilder pass, or {MERGE}",
        )
    inputs: dict[str, tuple[str, np.ndarray]] = {}
    for name, place in record.places.items():
        cuts = [cut for cut in place.cuts if cut.module in lora.modules]
        if not cuts:
            continue
        rank = sum(lora.modules[module].rank for module in dict.fromkeys(cut.module for cut in cuts))
        a: np.ndarray = np.zeros((place.inputs, rank), np.float32)
        b: np.ndarray = np.zeros((rank, place.outputs), np.float32)
        rows: dict[str, slice] = {}
        at = 0
        for cut in cuts:
            module = lora.modules[cut.module]
            _check_sizes(record, lora, cut.module, module, place)
            if cut.module not in rows:
                rows[cut.module] = slice(at, at := at + module.rank)
                a[:, rows[cut.module]] = module.a
            b[rows[cut.module], cut.column : cut.column + cut.stop - cut.start] = module.b[:, cut.start : cut.stop]
        inputs[f"{name}.lora_A.MatMul.weight"] = name, a
        inputs[f"{name}.lora_B.MatMul.weight"] = name, b
    return inputs


def _check_sizes(record: Record, lora: Lora, name: str, module: LowRank, place: AdapterSlot) -> None:
    outputs = max(cut.stop for other in record.places.values() for cut in other.cuts if cut.module == name)
    if module.a.shape[0] != place.inputs or module.b.shape[1] != outputs:
        sizes = f"{module.a.shape[0]} → {module.b.shape[1]}; the model has {place.inputs} → {outputs}"
        raise _other_base(lora, f"its `{name}` has {sizes}")


# -- the file --------------------------------------------------------------------------------------------------------------------


def write_adapter(tensors: Mapping[str, tuple[str, np.ndarray]], dtypes: Mapping[str, str], file: Path) -> None:
    """Write an .onnx_adapter file; `dtypes` are the number types of the products.

    Raises:
        WorkFailed: the file read back differs from `tensors`.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort  # type: ignore[import-untyped]

    # An OrtValue does not own the memory of its array: `kept` must live until the file is written.
    kept = {name: _in_type(values, dtypes[place]) for name, (place, values) in tensors.items()}
    format_ = ort.AdapterFormat()
    format_.set_adapter_version(1)
    format_.set_model_version(1)
    format_.set_parameters(
        {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(kept[name], TYPES[dtypes[place]])
            for name, (place, _) in tensors.items()
        }
    )
    format_.export_adapter(str(file))
    written = ort.AdapterFormat.read_adapter(str(file)).get_parameters()
    for name in kept.keys() | written.keys():
        if name not in written or name not in kept or _bytes(written[name]) != kept[name].tobytes():
            raise WorkFailed(
                f"{file} differs from the adapter that was written (`{name}`)",
                fix="run again; report it if it happens again",
            )


def _in_type(values: np.ndarray, dtype: str) -> np.ndarray:
    """Convert float32 `values` to `dtype`; bfloat16 as its bits, which numpy does not have as a number."""
    import numpy as np
    from ml_dtypes import bfloat16

    if dtype != "bfloat16":
        return np.ascontiguousarray(values, dtype=dtype)
    return np.ascontiguousarray(values, dtype=bfloat16).view(np.uint16)


def _bytes(value: Any) -> bytes:
    return ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
