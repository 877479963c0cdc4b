"""The messages between the HTTP process and the process of the models.

To the worker: first a `LoadRequest`, then {"generate": GenerationRequest} or {"cancel": id}.
From the worker: {"ready": [ServedModel, …]} or {"error": …}, then the parts of each answer:
{"id": 7, "text": "…", "logprobs": […]} while it is generated, and at last the same with "finish" and "usage", or
{"id": 7, "failure": {"kind", "message", "fix"}}.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.chat import Message
from phi_runtime.inference.generator import SamplingParams
from phi_runtime.serving.tool_format import ToolFormat

Part = dict[str, Any]

SUBJECT = "the process of the models"
MEMORY_FIX = "serve fewer models or lower --parallel and --max-tokens"


@dataclass(frozen=True)
class LoadRequest:
    """The models that a worker loads.

    Attributes:
        project: The project.
        overrides: Overrides of its config.
        models: Names of the models; None is the newest one.
        adapters: Folders of further adapters for each of the models, by name.
        parallel: Answers generated at the same time, and conversations kept in the cache.
    """

    project: ProjectFolder
    overrides: Overrides
    models: list[str | None]
    adapters: dict[str, Path] = field(default_factory=dict)
    parallel: int = 4


@dataclass(frozen=True)
class ServedModel:
    """A name that clients can request.

    Attributes:
        id: The name.
        model: The loaded model behind it.
        adapter: The adapter that is active on it.
        path: Folder of the loaded model.
        context_length: Tokens of prompt and answer together.
        guides: True if it supports guided decoding.
        converses: True if it was trained on conversations.
        inputs: Columns of its prompt template.
        tools: Format of tools in its chat template; None if it does not write them.
        created: Unix time.
        fingerprint: Changes with the model's files.
    """

    id: str
    model: str
    adapter: str | None
    path: Path
    context_length: int
    guides: bool
    converses: bool
    inputs: list[str]
    tools: ToolFormat | None
    created: int
    fingerprint: str


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to generate: to `messages` and `tools`, rendered by the model's chat template, or to `prompt` as it is."""

    id: int
    model: str
    adapter: str | None
    messages: list[Message] | None
    prompt: str | None
    sampling: SamplingParams
    stream: bool
    tools: list[dict[str, Any]] | None = None
