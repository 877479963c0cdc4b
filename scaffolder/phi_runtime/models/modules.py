"""Module names of a model, from the headers of its weight files. Loads no tensors and no ML library."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Modules:
    """Full module names; `linear` are those that can have an adapter, without the output head."""

    linear: tuple[str, ...]
    all: tuple[str, ...]


def ends_with(module: str, ends: Iterable[str]) -> bool:
    """Return True if the full name of a module ends with one of `ends`, as peft matches target_modules."""
    return any(f".{module}".endswith(f".{end}") for end in ends)


def adapted(linear: Iterable[str], setting: list[str] | str | None, *, all_linear: bool) -> list[str]:
    """Return the linear modules that get an adapter.

    Args:
        linear: Full names of all linear modules.
        setting: `target_modules` of the config; a string is a regular expression for full names, as in peft.
        all_linear: With None as setting, use all modules, not only those of the attention and others with the same last name, to
            which peft adds an adapter too.
    """
    linear = list(linear)
    if isinstance(setting, str):
        return [name for name in linear if re.fullmatch(setting, name)]
    if setting is None and not all_linear:
        setting = last_names(name for name in linear if "attn" in name or "attention" in name)
    return [name for name in linear if ends_with(name, setting)] if setting and "all-linear" not in setting else linear


def unknown_module(kind: str, end: str, known: Iterable[str]) -> str:
    """Return an error message if no module of `known` ends with `end`, as peft matches names; else ""."""
    known = list(known)
    if any(ends_with(name, [end]) for name in known):
        return ""
    return f"the model has no {kind} `{end}`; it has {', '.join(last_names(known))}"


def layer_of(module: str) -> int | None:
    """Return the index of the layer that the module with this full name is in; None for an embedding or the output head."""
    return next((int(part) for part in module.split(".") if part.isdigit()), None)


def last_names(known: Iterable[str]) -> list[str]:
    """Return the distinct last parts of full module names, sorted."""
    return sorted({name.rpartition(".")[2] for name in known})


_EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|wpe|lm_head|embed_in|embed_out|word_embeddings)$")
_LARGEST_HEADER_BYTES = 100_000_000


def tensors(folder: Path, pattern: str = "*.safetensors") -> dict[str, tuple[list[int], str]]:
    """Return shape and number type (F32, BF16, …) of each tensor in the safetensors files of a model folder."""
    return {
        name: (facts["shape"], facts["dtype"])
        for file in sorted(folder.glob(pattern))
        for name, facts in _header(file).items()
    }


def is_truncated(file: Path) -> bool:
    """Return True if a safetensors file is shorter than its header says."""
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
    ends = [facts["data_offsets"][1] for facts in _header(file).values()]
    return file.stat().st_size < 8 + int(header_bytes) + max(ends, default=0)


def is_embedding(module: str) -> bool:
    """Return True if the module with this full name is an embedding or the output head."""
    return bool(_EMBEDDINGS.search(module))


def _header(file: Path) -> dict[str, dict[str, Any]]:
    """Return the tensors of a safetensors header: eight bytes of length, then JSON (https://huggingface.co/docs/safetensors).

    Empty if it is no such header, as of a file that somebody has prepared.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < size <= _LARGEST_HEADER_BYTES:
            return {}
        try:
            header = json.loads(stream.read(size))
        except (ValueError, RecursionError):
            return {}
    tensors = {n: f for n, f in header.items() if n != "__metadata__"} if isinstance(header, dict) else {}
    return tensors if all(map(_is_tensor, tensors.values())) else {}


def _is_tensor(facts: Any) -> bool:
    """Return True for facts of a tensor: its number type, shape, and the range of its bytes."""
    if not isinstance(facts, dict) or not isinstance(facts.get("dtype"), str):
        return False
    shape, offsets = facts.get("shape"), facts.get("data_offsets")
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    return all(isinstance(number, int) and 0 <= number < 2**63 for number in numbers) and len(offsets or ()) == 2
