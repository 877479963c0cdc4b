"""Adapters of tiny models in peft, and ONNX models with them, for the tests of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from phi_runtime.context import PassContext
from phi_runtime.core.events import silent
from phi_runtime.core.project import ProjectFolder
from phi_runtime.export.adapter_inputs import add_inputs
from phi_runtime.export.build import build, build_request
from phi_runtime.models.onnx_adapters import Record, adapter_file, fit_adapter
from phi_runtime.models.reference import ModelRef
from phi_runtime.models.shape import shape_of
from phi_runtime.passes.model_builder import ModelBuilder

IDS = list(range(4, 60))


class _ForCpu:
    execution_provider = "CPUExecutionProvider"


def build_graph(base: Path, folder: Path, precision: str, **options: Any) -> Path:
    """The plain graph of the model in `base`, in the folder `folder`/out."""
    step = ModelBuilder.model_validate({"type": "ModelBuilder", "precision": precision, **options})
    (folder / "out").mkdir(parents=True)
    project = ProjectFolder(folder, folder / "none.json")
    source = ModelRef(base, "hf", "base-key")
    context = PassContext("export", step, source, folder / "out", folder, cast(Any, _ForCpu()), project, silent)
    build(context, build_request(context))
    return folder / "out"


def add_adapters(graph: Path, base: Path, adapters: Mapping[str, Path], modules: set[str] | None = None) -> Record:
    """Add inputs for the modules of all `adapters` to the graph, and write their files next to it."""
    from phi_runtime.models.peft_lora import read_lora

    shape = shape_of(base)
    assert shape is not None
    modules = modules or {module for folder in adapters.values() for module in read_lora(folder).modules}
    record = Record("base-key", "org/tiny", "graph-key", add_inputs(graph / "model.onnx", modules, shape))
    record.save(graph)
    for name, folder in adapters.items():
        fit_adapter(graph, folder, adapter_file(graph, name))
    return record


def make_adapter(base: Path, folder: Path, modules: list[str], *, r: int = 4, seed: int = 1, **options: Any) -> Path:
    """A LoRA of random weights in `folder`, large enough to change what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    alpha = options.pop("lora_alpha", 3 * r)
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules=modules, task_type="CAUSAL_LM", **options)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    edit_json(folder / "adapter_config.json", lambda c: c.update(base_model_name_or_path="org/tiny"))
    return folder


def edit_json(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def peft_logits(base: Path | Any, *adapters: Path) -> np.ndarray:
    """Logits (T, V) of IDS in float32, of a model or of the one in the folder `base`, with all `adapters` active at once."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32) if isinstance(base, Path) else base
    for number, adapter in enumerate(adapters):
        if number:
            model.load_adapter(str(adapter), str(number))
        else:
            model = PeftModel.from_pretrained(model, adapter, adapter_name="0")
    if len(adapters) > 1:
        model.base_model.set_adapter([str(number) for number in range(len(adapters))])
    with torch.no_grad():
        logits: np.ndarray = model.eval()(input_ids=torch.tensor([IDS])).logits[0].numpy()
    return logits


def onnx_logits(graph: Path, adapter: str | None = None) -> np.ndarray:
    """Return the same of an ONNX model, with one of its adapters active."""
    import onnxruntime_genai as og

    model = og.Model(str(graph))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(IDS) + 1, do_sample=False)
    generator = og.Generator(model, parameters)
    if adapter:
        adapters = og.Adapters(model)
        adapters.load(str(adapter_file(graph, adapter)), adapter)
        generator.set_active_adapter(adapters, adapter)
    generator.append_tokens(np.asarray(IDS, dtype=np.int32))
    logits: np.ndarray = np.asarray(generator.get_output("logits"), dtype=np.float32)[0].copy()
    return logits


def furthest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())
