"""Output of `models`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from phi_runtime.core.artifacts import folder_bytes
from phi_runtime.core.units import size
from phi_runtime.hardware.machine import memory_bytes
from phi_runtime.models.memory import (
    CONTEXT_TOKENS,
    NEW_PROJECT_IN_8_BITS,
    estimate,
    inference_bytes,
    longest_that_fits,
    onnx_bytes,
)
from phi_runtime.models.place import model_folders
from phi_scaffold.new.fit import METHOD_NAMES, ROW_TOKENS, Trainer, this_trainer
from phi_scaffold.show import terminal
from phi_scaffold.show.terminal import console, prose

if TYPE_CHECKING:
    from phi_runtime.core.project import ProjectFolder
    from phi_scaffold.new.catalog import BaseModel

_NAMED = 2  # models that the foot of the table names
_NAME = 19  # columns before the fact of a model


def downloaded(project: ProjectFolder, *, as_json: bool) -> None:
    """Print the models in model-cache/, with their sizes and folders."""
    folders = model_folders(project.model_cache)
    names = [folder.relative_to(project.model_cache).as_posix() for folder in folders]
    sizes = [folder_bytes(folder) for folder in folders]
    if as_json:
        found = zip(names, folders, sizes, strict=True)
        print(json.dumps({"downloaded": [{"id": i, "path": str(p), "size_bytes": s} for i, p, s in found]}))
    elif not folders:
        print(f"There is no model in {project.model_cache}.")
    else:
        columns = {"!id": names, ">size": list(map(size, sizes)), "folder": list(map(str, folders))}
        out = console()
        out.print(terminal.fitting_table({name: list(map(escape, cells)) for name, cells in columns.items()}, out))


def table(models: Sequence[BaseModel], *, as_json: bool, quiet: bool) -> None:
    """Print the catalog, with memory estimates for one row of `ROW_TOKENS` tokens per step; unless `quiet`, explain them."""
    trainer = this_trainer()
    rows = [_facts(model, trainer) for model in models]
    if as_json:
        print(json.dumps({"models": rows, **trainer.as_dict()}))
        return
    out = console()
    estimates: dict[str, str] = {**METHOD_NAMES, "int4_inference": "int4 answers"}  # type: ignore[dict-item]
    columns = {
        "!id": [model.id for model in models],
        ">size": [f"{model.parameters / 1e9:.2f} B" for model in models],
        **{f">{name}": [_estimate(row, key) for row in rows] for key, name in estimates.items()},
        ">context": [f"{model.context // 1024}k" for model in models],
        "license": [model.license + (" (gated)" if model.gated else "") for model in models],
    }
    shown = terminal.fitting_table(columns, out)
    out.print(shown)
    if not quiet:
        _explain([name.lstrip(">!") for name in columns], len(shown.columns), models, trainer)


def _explain(names: Sequence[str], count: int, models: Sequence[BaseModel], trainer: Trainer) -> None:
    """Print what the first `count` columns of the catalog mean, and which are missing."""
    shown, missing = names[:count], names[count:]
    print()
    if methods := [name for name in METHOD_NAMES.values() if name in shown]:
        prose(f"✓ fits this {trainer.name}, ✗ does not.")
        memory = f"estimated memory of training in {trainer.dtype}, one row of {ROW_TOKENS:,} tokens a step"
        prose(f"{', '.join(methods)}: {memory}.")
    if "int4 answers" in shown:
        prose(f"int4 answers: memory of a process that only runs the int4 model, with {CONTEXT_TOKENS:,} tokens.")
    if missing:
        prose(f"A wider terminal also shows {', '.join(missing)}; `phi-scaffold models ID` shows all of one model.")
    if facts := _unverified(models):
        prose(f"Not verified on the page of the model: {facts}. `phi-scaffold models ID` names the source.")


def _unverified(models: Sequence[BaseModel]) -> str:
    """Return the facts that were not verified, each with its models, or their number if they are many and not all."""
    ids = {fact: [m.id for m in models if fact in m.unverified] for m in models for fact in m.unverified}
    parts = []
    for fact, of in ids.items():
        named = "" if len(of) == len(models) else f" of {', '.join(of) if len(of) <= _NAMED else f'{len(of)} models'}"
        parts.append(fact + named)
    return "; ".join(parts)


def _estimate(row: dict[str, Any], key: str) -> str:
    """Return an estimate, and a mark and a color that say if it fits."""
    if key == "int4_inference" and not row["exportable"]:
        return "no export"
    fits = row["fits"][key]
    return f"[{'green' if fits else 'red'}]{size(row[f'{key}_bytes'])} {'✓' if fits else '✗'}[/]"


def single(model: BaseModel, *, as_json: bool, quiet: bool) -> None:
    """Print all facts of one model; unless `quiet`, with the memory that training takes on this machine."""
    trainer = this_trainer()
    facts = _facts(model, trainer)
    if as_json:
        print(json.dumps({"models": [facts], **trainer.as_dict()}))
        return
    hidden = ("fits", "max_row_tokens", "memory")
    for key, value in facts.items():
        if key not in hidden and not key.endswith("_bytes") and value not in ("", []):
            prose(f"{key.replace('_', ' '):18} {_in_words(value)}", hanging=_NAME)
    if model.why_not_exportable is None:
        tokens, memory = min(CONTEXT_TOKENS, model.context), size(facts["int4_inference_bytes"])
        prose(f"{'int4 size':18} {size(facts['int4_size_bytes'])} with its tokenizer", hanging=_NAME)
        prose(f"{'int4 memory':18} {memory} of a process that only runs it, with {tokens:,} tokens", hanging=_NAME)
    if quiet:
        return
    prose(
        f"\nTraining on this {trainer.name}, in {trainer.dtype}, one row of {ROW_TOKENS:,} tokens a step (estimated):\n"
    )
    for method, name in METHOD_NAMES.items():
        longest = facts["max_row_tokens"][method]
        fits = "fits" if facts["fits"][method] else "does not fit"
        rows = f"rows of up to {longest:,} tokens fit" if longest else "no row is short enough"
        prose(f"  {name:6} {size(facts[f'{method}_bytes']):>8}, {fits}; {rows}", hanging=7)
    if not any(facts["max_row_tokens"].values()):
        prose("\nThis machine is too small to train it: `phi-scaffold models` shows smaller ones.")


def _in_words(value: bool | int | str | list[str]) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else ", ".join(value)


def _facts(model: BaseModel, trainer: Trainer) -> dict[str, Any]:
    shape = model.shape
    jobs = {method: trainer.job(shape, model.context, method) for method in METHOD_NAMES}
    estimates = {method: estimate(shape, job) for method, job in jobs.items()}
    int4_size = onnx_bytes(shape, in_8_bits=NEW_PROJECT_IN_8_BITS)
    inference = inference_bytes(shape, int4_size, min(CONTEXT_TOKENS, model.context))
    fits = {method: needed.total_bytes <= trainer.memory_bytes for method, needed in estimates.items()}
    reason = model.why_not_exportable
    modules = model.target_modules or {m.name.rpartition(".")[2] for m in shape.targets(None, all_linear=False)}
    return {
        "id": model.id,
        "description": model.about,
        "parameters": model.parameters,
        "context_tokens": model.context,
        "license": model.license,
        "gated": model.gated,
        "architecture": model.architecture,
        "prompt_format": model.prompt_format,
        "target_modules": sorted(modules) if model.target_modules is None else list(modules),
        "exportable": reason is None,
        "note": "; ".join(part for part in (model.note, reason[0] if reason else "") if part),
        "source": model.source,
        **{f"{method}_bytes": needed.total_bytes for method, needed in estimates.items()},
        "int4_inference_bytes": inference,
        "int4_size_bytes": int4_size,
        "fits": {**fits, "int4_inference": reason is None and inference <= memory_bytes()},
        "max_row_tokens": {
            method: longest_that_fits(shape, job, trainer.memory_bytes, model.context) for method, job in jobs.items()
        },
        "memory": {method: needed.as_dict() for method, needed in estimates.items()},
        "unverified": list(model.unverified),
    }
