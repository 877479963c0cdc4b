"""Complete the folder of an ONNX model for use on another machine: prompt template, chat script, requirements.txt."""

from __future__ import annotations

import shutil

from phi_runtime.config.supported_precisions import PACKAGES
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import read_json, versions, write_json, write_text

CHAT, REQUIREMENTS = "chat_onnx.py", "requirements.txt"


def complete_folder(context: PassContext) -> None:
    """Add the files that the model in `context.out` needs elsewhere, and the generation defaults of the config."""
    from phi_runtime.data.template import FILE as TEMPLATE

    _set_search(context)
    chat = context.project.root / "inferences" / CHAT
    for file in (context.source.path / TEMPLATE, chat):
        if file.is_file():
            shutil.copyfile(file, context.out / file.name)
    pins = [f"{name}=={version}" for name, version in versions(("tokenizers",)).items()]
    lines = (requirement(context.workflow.execution_provider), *pins)
    write_text(context.out / REQUIREMENTS, "".join(f"{line}\n" for line in lines))


def requirement(provider: str) -> str:
    """Return the requirement that runs a model for `provider`: its package, pinned to the release that built the model.

    DirectML's package has no pin if another release built the model: its last release is older than that.
    """
    package = PACKAGES[provider]
    installed = versions((package, *PACKAGES.values()))
    version = installed.get(package) or (None if "directml" in package else next(iter(installed.values()), None))
    return f"{package}=={version}" if version else package


def _set_search(context: PassContext) -> None:
    file = context.out / "genai_config.json"
    if context.config.search:
        content = read_json(file)
        content["search"] = content.get("search", {}) | context.config.search
        write_json(file, content)
