"""Projects for tests, rendered or trained once and then copied: a copy takes 0.06 s, a rendering 0.3 s, a training 2 s."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from phi_runtime.core.events import silent
from phi_runtime.core.project import ProjectFolder, find_project
from phi_runtime.pipeline.engine import run

BASES = ("base", "base, labels scored", "base, few-shot")
"""Names of the entries that a comparison of labels or short answers has for the base model."""
TONES = {
    "joy": ["sunny happy song {}", "we won the game {}", "a lovely party {}"],
    "fear": ["dark cold noise {}", "something moved there {}", "run from the fire {}"],
}


def write_rows(path: Path, count: int = 60) -> Path:
    """Write a data file whose two labels differ in their words."""
    rows = [
        {"phrase": patterns[i % len(patterns)].format(i), "tone": tone}
        for i in range(count // 2)
        for tone, patterns in TONES.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@functools.cache
def _renderings() -> Path:
    folder = tempfile.mkdtemp(prefix="phi-scaffold-renderings-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def rendered(name: str, method: str, rows: int) -> Path:
    """Render a project of this name on a data file of `rows` rows, once in this process; copy it, do not change it."""
    from phi_scaffold.new import generate

    parent = _renderings() / f"{method}-{rows}"
    data = write_rows(parent / "rows" / "train.jsonl", rows)
    generate.new(parent / name, generate.Answers(model="org/tiny", method=method, data=data))
    return parent / name


def tiny_project(
    folder: Path,
    model: Path,
    method: str = "lora",
    rows: int = 60,
    passes: dict[str, Any] | None = None,
    **training: Any,
) -> ProjectFolder:
    """Create a project in `folder` with a small data file, on the tiny `model`.

    Args:
        folder: Folder of the project, which must not exist.
        model: Base model.
        method: Method of fine-tuning.
        rows: Rows of the data file.
        passes: Changes of the config's passes, by their names.
        training: Changes of the config's training arguments.
    """
    shutil.copytree(rendered(folder.name, method, rows), folder)
    config_path = folder / "fine-tuning" / "olive-config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["input_model"]["model_path"] = str(model)
    finetune = config["passes"]["finetune"]
    finetune["training_args"] |= {
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "learning_rate": 0.01,
        "logging_steps": 1,
        **training,
    }
    for key, change in (passes or {}).items():
        config["passes"].setdefault(key, {}).update(change)
    config_path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return find_project(folder)


def trained_project(shared: Path, folder: Path, model: Path, method: str, until: str) -> ProjectFolder:
    """Copy the tiny project after a run until the stage `until` into `folder`, where all its stages are cached.

    Args:
        shared: Folder that the workers of the session share, in which the project is trained once.
        folder: Folder of the copy.
        model: Base model; it must be the same in all workers.
        method: Method of fine-tuning.
        until: Last stage that is in the copy.
    """
    original = shared / f"{method}-{until}" / "tiny"
    original.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(original.parent / "lock"):
        if not (original.parent / "done").exists():
            shutil.rmtree(original, ignore_errors=True)
            run(tiny_project(original, model, method), silent, until=until)
            (original.parent / "done").touch()
    shutil.copytree(original, folder)
    return find_project(folder)
