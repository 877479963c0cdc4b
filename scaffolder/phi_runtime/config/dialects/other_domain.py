"""Recognize a config that is for other models or hardware: it gets one error, which says what it is for.

Everything else in such a config would be reported too, although no correction of it could make the config run here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.dialects.pass_names import PASS_NAMES
from phi_runtime.config.olive_names import (
    DEVICES,
    MODEL_TYPES,
    OTHER_GRAPHS,
    OTHER_INPUTS,
    OTHER_PASSES,
    OTHER_TASKS,
    PROVIDERS,
    OliveName,
    known_to_olive,
)
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import Workflow
from phi_runtime.config.schema.registry import known_names, pass_type

OTHER_DOMAIN = "other-domain"
"""Rule of the one error of such a config."""

_MODEL: KeyPath = ("input_model",)
_NO_TEXT = "use Olive for this config; here, models that generate text are fine-tuned and exported"
_HF = "set `type` to `HfModel` and `model_path` to a folder or Hub id"


class _Evidence(NamedTuple):
    """A key that shows the domain, a message about it, and what to do."""

    at: KeyPath
    message: str
    fix: str


def refuse_other_domain(draft: Draft) -> bool:
    """Refuse a config that is for other models or hardware, before any translation; return True if it is one."""
    evidence = next((found for look in _LOOKS for found in look(draft)), None)
    if evidence is None:
        return False
    draft.refused.append(draft.finding(evidence.at, OTHER_DOMAIN, evidence.message, fix=evidence.fix))
    return True


def _named(draft: Draft, at: KeyPath, table: dict[str, OliveName], *, alone: bool = False) -> Iterator[_Evidence]:
    """Yield the entry of `table` that the value at `at` names, if it is of another domain.

    `alone`: the config has nothing that is supported in addition, so any entry decides.
    """
    value = draft.get(at)
    entry = known_to_olive(value)
    if entry and (entry.other_domain or alone) and entry in table.values():
        fix = entry.fix if entry.other_domain else f"{_NO_TEXT}, with passes such as LoRA and ModelBuilder"
        yield _Evidence(at, f"`{str(value).strip()}` {entry.reason}", fix)


def _around(draft: Draft, at: KeyPath, *keys: str) -> Iterator[KeyPath]:
    """Yield `at` and the objects below it that older forms put around its keys."""
    yield at
    for key in keys:
        if isinstance(draft.get((*at, key)), dict):
            yield from _around(draft, (*at, key), *keys)


def _task(draft: Draft) -> Iterator[_Evidence]:
    for part in _around(draft, _MODEL, "config", "hf_config"):
        at = (*part, "task")
        if isinstance(task := draft.get(at), str) and task in OTHER_TASKS:
            yield _Evidence(at, f"`{task}`: this config is for {OTHER_TASKS[task]}, not for text generation", _NO_TEXT)


def _model(draft: Draft) -> Iterator[_Evidence]:
    yield from _named(draft, (*_MODEL, "type"), MODEL_TYPES)
    if not isinstance(kind := draft.get((*_MODEL, "type")), str) or kind.strip().casefold() != "pytorchmodel":
        return
    for part in _around(draft, _MODEL, "config"):
        if draft.get((*part, "model_loader")) and draft.has((*part, "model_loader")):
            message = "the model comes from a Python function, `model_loader`; only Hugging Face models are supported"
            yield _Evidence((*part, "model_loader"), message, _HF)


def _inputs(draft: Draft) -> Iterator[_Evidence]:
    for part in _around(draft, _MODEL, "config"):
        for i, name in enumerate(draft.items((*part, "io_config", "input_names"))):
            if isinstance(name, str) and name in OTHER_INPUTS:
                message = f"the input `{name}`: this config is for {OTHER_INPUTS[name]}, not for text generation"
                yield _Evidence((*part, "io_config", "input_names", i), message, _NO_TEXT)


def _passes(draft: Draft) -> Iterator[_Evidence]:
    alone = not _has_main_pass(draft)
    if not draft.keys(("passes",)) and draft.keys(("auto_optimizer_config",)):
        message = "Olive chooses the passes of this config (`auto_optimizer_config`), which is not supported"
        yield _Evidence(
            ("auto_optimizer_config",), message, 'list passes, such as {"type": "ModelBuilder", "precision": "int4"}'
        )
    for name in draft.keys(("passes",)):
        step = draft.get(("passes", name))
        alternatives = [("passes", name, i) for i in range(len(step))] if isinstance(step, list) else [("passes", name)]
        for at in alternatives:
            yield from _named(draft, (*at, "type"), OTHER_PASSES, alone=alone)
            for part in _around(draft, at, "config"):
                graph = draft.get((*part, "model_type"))
                if isinstance(graph, str) and graph in OTHER_GRAPHS:
                    message = (
                        f"`model_type` `{graph}`: this config is for {OTHER_GRAPHS[graph]}, not for text generation"
                    )
                    yield _Evidence((*part, "model_type"), message, _NO_TEXT)


def _has_main_pass(draft: Draft) -> bool:
    """Return True if a pass trains or exports: such a config is for text generation."""
    types = list(_pass_types(draft))
    if any(map(pass_type, types)):  # the names of installed packages take long to read
        return True
    known = {name.casefold() for name in (*known_names(), *PASS_NAMES)}
    return any(str(kind).casefold() in known for kind in types)


def _pass_types(draft: Draft) -> Iterator[object]:
    for name in draft.keys(("passes",)):
        step = draft.get(("passes", name))
        yield from (item.get("type") for item in (step if isinstance(step, list) else [step]) if isinstance(item, dict))


def _files(draft: Draft) -> Iterator[_Evidence]:
    """Yield a model file of PyTorch or ONNX in place of a Hugging Face model; a config file of another kind."""
    for part in _around(draft, _MODEL, "config"):
        path = draft.get((*part, "model_path"))
        if isinstance(path, str) and path.lower().endswith((".pt", ".pth", ".onnx", ".pb", ".tflite", ".xml")):
            message = f"`{path}` is a file; only Hugging Face models are supported"
            yield _Evidence((*part, "model_path"), message, _HF)
    keys = set(draft.keys(()))
    if keys and not keys & {"input_model", "model", "passes", "engine", *Workflow.model_fields}:
        message = "this is not a workflow config: it has neither `input_model` nor `passes`"
        yield _Evidence((), message, "create one with `phi-scaffold new`, or see docs/config.md")


def _targets(draft: Draft) -> Iterator[_Evidence]:
    """Yield a target or host whose only execution providers or devices are of another domain."""
    for at in _systems_in_use(draft):
        for part in _around(draft, at, "config"):
            yield from _providers(draft, (*part, "execution_providers"))
            for i in range(len(draft.items((*part, "accelerators")))):
                item: KeyPath = (*part, "accelerators", i)
                yield from _providers(draft, (*item, "execution_providers"))
                yield from _named(draft, (*item, "device"), DEVICES)
                yield from _named(draft, item, DEVICES)
    for part in _around(draft, (), "engine"):
        yield from _providers(draft, (*part, "execution_providers"))


def _systems_in_use(draft: Draft) -> Iterator[KeyPath]:
    """Yield the places of the systems that `target` and `host` name or hold; of all systems if neither is there."""
    used = [
        (part, key) for part in _around(draft, (), "engine") for key in ("target", "host") if draft.has((*part, key))
    ]
    for part, key in used:
        name = draft.get((*part, key))
        yield (*part, key) if isinstance(name, dict) else ("systems", str(name))
    if not used:
        yield from (("systems", name) for name in draft.keys(("systems",)))


def _providers(draft: Draft, at: KeyPath) -> Iterator[_Evidence]:
    """Yield the first provider of a list that has none of this domain; a provider may be a pair with its library."""
    value = draft.get(at)
    listed: list[tuple[KeyPath, Any]] = [(at, value)] if isinstance(value, str) else []
    for i, item in enumerate(draft.items(at)):
        pair = isinstance(item, list) and item
        listed.append(((*at, i, 0) if pair else (*at, i), item[0] if pair else item))
    found = [list(_named(draft, path, PROVIDERS)) for path, _ in listed]
    if found and all(found):
        yield found[0][0]


_LOOKS: tuple[Callable[[Draft], Iterator[_Evidence]], ...] = (
    _task,
    _model,
    _passes,
    _inputs,
    _files,
    _targets,
)
