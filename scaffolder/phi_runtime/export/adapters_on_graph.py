"""Several adapters next to one ONNX model: the graph of the base model that they share, and one file per adapter.

The graph is built once. When an adapter is added or trained again, the files of the graph are reused; at most, further
adapter inputs are added. The quantized weights stay the same to the bit.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import canonical
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import (
    CARD,
    MANIFEST,
    Manifest,
    digest,
    folder_bytes,
    read_json,
    read_manifest,
    versions,
)
from phi_runtime.core.errors import PhiError, WorkFailed
from phi_runtime.data.template import FILE as TEMPLATE
from phi_runtime.export.adapter_inputs import add_inputs
from phi_runtime.export.build import build_pass, complete_export
from phi_runtime.export.folder import complete_folder
from phi_runtime.export.gate import run_gate
from phi_runtime.models.fetch import base_name
from phi_runtime.models.onnx_adapters import FOLDER, RECORD, Record, adapter_file, fit_adapter, read_record
from phi_runtime.models.peft_lora import read_lora
from phi_runtime.models.shape import shape_of

_FORMAT = 1  # counted up when `add_inputs` changes what it adds
# Facts of the manifest that remain valid when the graph is reused.
_GRAPH_FACTS: tuple[str, ...] = ("precision", "checked", "sample", "quality", "limits")


def run_with_adapters(context: PassContext) -> dict[str, Any]:
    """Export the graph of `context.source` with `context.adapters` into `context.out` and return the facts for the manifest.

    The graph of `context.previous` is reused if it is the same. Each adapter is compared with the same adapter in peft.

    Raises:
        WorkFailed: The build, an adapter or the gate failed.
    """
    graph = graph_key(context)
    previous = _reusable(context, graph)
    if previous is None:
        build_pass(context)
    else:
        context.info("reusing the graph: only new adapters are converted")
        _reuse_files(context, context.out)
    record = _with_inputs(context, graph)
    record.save(context.out)
    _put_template(context)
    known = _facts_of_passed(context, previous)
    if known:
        complete_folder(context)
        facts = {key: known[key] for key in _GRAPH_FACTS if key in known}
    else:
        facts = complete_export(context)
    rounding = facts.get("quality", {}).get("largest_difference", 0.0)
    adapters = {
        name: _adapter(context, name, known.get("adapters", {}).get(name, {}), rounding) for name in context.adapters
    }
    replace(record, adapters=adapters).save(context.out)
    return {**facts, "size_bytes": folder_bytes(context.out), "graph": graph, "adapters": adapters}


def graph_key(context: PassContext) -> str:
    """Return a digest of everything that shapes the graph; adapters and the gate do not."""
    config = {key: value for key, value in canonical(context.config).items() if key not in ("adapters", "gate")}
    provider = context.workflow.execution_provider
    return digest([_FORMAT, context.source.key, config, provider, versions(context.config.libraries)])


def _reusable(context: PassContext, graph: str) -> Manifest | None:
    """Return the manifest of `context.previous` if it is complete and has this graph."""
    manifest = read_manifest(context.previous) if context.previous else None
    record = read_record(context.previous) if manifest and context.previous else None
    return manifest if record and record.graph == graph else None


def _facts_of_passed(context: PassContext, previous: Manifest | None) -> dict[str, Any]:
    """Return the facts of `previous` if it passed the same gate; otherwise an empty dict."""
    facts = previous.facts if previous else {}
    same = facts.get("inputs", {}).get("config", {}).get("gate") == canonical(context.config)["gate"]
    return facts if previous and same else {}


def _reuse_files(context: PassContext, out: Path) -> None:
    """Copy the graph in `context.previous` without its adapters.

    Large files are hard links where the disk supports that: nothing writes into them, since a changed file is replaced.
    """
    assert context.previous is not None
    for file in context.previous.iterdir():
        if file.name in (MANIFEST, CARD, RECORD, FOLDER) or file.name.startswith("."):
            continue
        if file.is_dir():
            shutil.copytree(file, out / file.name)
        else:
            _link(file, out / file.name)


def _link(file: Path, to: Path) -> None:
    if file.suffix in (".onnx", ".data", ".onnx_adapter"):
        with suppress(OSError):
            os.link(file, to)
            return
    shutil.copy2(file, to)


def _with_inputs(context: PassContext, graph: str) -> Record:
    """Add inputs to the graph in `context.out` for all modules that any adapter changes."""
    shape = shape_of(context.source.path)
    if shape is None:
        raise WorkFailed(
            f"the config of the model in {context.source.path} does not give its sizes", fix="fetch it again"
        )
    modules = {module for adapter in context.adapters.values() for module in read_lora(adapter.path).modules}
    config = read_json(context.out / "genai_config.json")
    places = add_inputs(context.out / config["model"]["decoder"]["filename"], modules, shape)
    return Record(context.source.key, base_name(context.source.path, context.project), graph, places)


def _put_template(context: PassContext) -> None:
    """Give a base model without a prompt template the template of the first adapter."""
    first = next(iter(context.adapters.values()))
    if not (context.source.path / TEMPLATE).is_file() and (first.path / TEMPLATE).is_file():
        shutil.copyfile(first.path / TEMPLATE, context.out / TEMPLATE)


def _adapter(context: PassContext, name: str, known: dict[str, Any], rounding: float) -> dict[str, Any]:
    """Write the adapter `name` next to the graph and return facts about it.

    It is linked from `context.previous` if it is the one `known` there, otherwise converted and compared with peft.
    """
    source, file = context.adapters[name], adapter_file(context.out, name)
    template = file.with_suffix("") / TEMPLATE
    template.parent.mkdir(parents=True)
    if (source.path / TEMPLATE).is_file():
        shutil.copyfile(source.path / TEMPLATE, template)
    if known.get("source") == source.key and context.previous:
        _link(adapter_file(context.previous, name), file)
        return known
    try:
        facts = fit_adapter(context.out, source.path, file)
    except PhiError as e:
        raise WorkFailed(e.what, fix=e.fix) from e
    return {"source": source.key, **facts, **run_gate(context, name, rounding)}
