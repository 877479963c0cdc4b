"""What lies beside the ONNX model, so that its folder can be carried away and used: the prompt template, the chat script, and the
list of the one package that it needs."""

from __future__ import annotations

import json
import shutil

from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import versions, write_json, write_text

CHAT, REQUIREMENTS = "chat_onnx.py", "requirements.txt"

PACKAGES = {
    "CPUExecutionProvider": "onnxruntime-genai",
    "CUDAExecutionProvider": "onnxruntime-genai-cuda",
    "DmlExecutionProvider": "onnxruntime-genai-directml",
    "WebGpuExecutionProvider": "onnxruntime-genai",
}
"""The package that runs a model, by its execution provider."""


def complete(context: PassContext) -> None:
    """Puts beside the model in `context.out` what it needs elsewhere, and writes the generation defaults that the config asks for."""
    from phi_runtime.data.template import FILE as TEMPLATE

    _set_search(context)
    chat = context.project.root / "inferences" / CHAT
    for file in (context.source.path / TEMPLATE, chat):
        if file.is_file():
            shutil.copyfile(file, context.out / file.name)
    write_text(context.out / REQUIREMENTS, f"{requirement(context.workflow.execution_provider)}\n")


def requirement(provider: str) -> str:
    """The package that runs a model of `provider`, at the release that built it.

    DirectML's package stopped at an older release than the builder that is used where it is not installed: it stands without one.
    """
    package = PACKAGES[provider]
    installed = versions((package, *PACKAGES.values()))
    version = installed.get(package) or (None if "directml" in package else next(iter(installed.values()), None))
    return f"{package}=={version}" if version else package


def _set_search(context: PassContext) -> None:
    file = context.out / "genai_config.json"
    if context.config.search:
        content = json.loads(file.read_text(encoding="utf-8"))
        content["search"] = content.get("search", {}) | context.config.search
        write_json(file, content)
