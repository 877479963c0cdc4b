"""A model of a project, opened for questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phi_runtime.data.chat import Message
from phi_runtime.data.chat_template import ChatTemplate, Template, load_template
from phi_runtime.data.dataset import data_place, template_of
from phi_runtime.data.template import PromptTemplate, TemplateFault
from phi_runtime.errors import MissingDependency, UsageError
from phi_runtime.inference.by_kind import open_generator
from phi_runtime.inference.generator import Generator
from phi_runtime.model_names import model_called, model_names, shown_name
from phi_runtime.models.fetch import present
from phi_runtime.models.reference import ModelRef
from phi_runtime.plan import pass_stage, produced
from phi_runtime.project import Project
from phi_runtime.workflow.chain import BASE, sources
from phi_runtime.workflow.load import load_workflow
from phi_runtime.workflow.overrides import Overrides
from phi_runtime.workflow.schema import Workflow


@dataclass(frozen=True)
class Session:
    """A loaded model with the template that it was trained with."""

    name: str
    path: Path
    generator: Generator
    template: Template

    @property
    def converses(self) -> bool:
        """Whether the model was trained on conversations, so that what was said before counts."""
        return isinstance(self.template, ChatTemplate)

    def render(self, text: str, before: Sequence[Message] = ()) -> str:
        """`text` in the prompt, after the conversation `before`; where the model was trained on free text, the start of one.

        With several input columns it is JSON with a text for each; raises UsageError otherwise.
        """
        if isinstance(self.template, ChatTemplate):
            return self.template.render([*before, {"role": "user", "content": text}], ask=True)
        inputs = self.template.inputs
        if not inputs:
            return self.template.render_prompt({}) + text
        if len(inputs) == 1:
            return self.template.prompt_for(text)
        try:
            values = json.loads(text)
            return self.template.render_prompt(values)
        except (ValueError, KeyError, TypeError):
            example = json.dumps(dict.fromkeys(inputs, "…"), ensure_ascii=False)
            raise UsageError(f"the prompt has the columns {', '.join(inputs)}", fix=f"ask in JSON: {example}") from None


def made_models(workflow: Workflow, project: Project) -> dict[str, ModelRef]:
    """The models that are there, by the pass that made them (BASE for the base model), also those whose config has changed since."""
    base = present(workflow.input_model, project)
    models = {BASE: base} if base else {}
    for name, before in sources(workflow.passes).items():
        if source := models.get(before or ""):
            stage = pass_stage(workflow, project, name, source)
            if stage.manifest is not None:
                models[name] = produced(workflow.passes[name], stage, source)
    return models


def open_session(project: Project, wanted: str | None, overrides: Overrides | None = None) -> Session:
    """Loads the model called `wanted` (see model_names), or the last that the workflow made. Raises UsageError, MissingDependency."""
    workflow = load_workflow(project.config, overrides)
    models = made_models(workflow, project)
    if not models:
        raise MissingDependency("there is no model yet", fix="run `phi-scaffold run` first")
    names = model_names(workflow, project)
    made = list(models)[-1] if wanted is None else model_called(wanted, names, models)
    ref = models[made]
    device = "cpu"
    if ref.kind != "onnx":
        from phi_runtime.models.device import best_device

        device = best_device() if workflow.host_device == "gpu" else "cpu"
    template = _template(workflow, ref, project)
    return Session(
        wanted or shown_name(names, made), ref.path, open_generator(ref, device, special=template.special), template
    )


def _template(workflow: Workflow, ref: ModelRef, project: Project) -> Template:
    try:
        return load_template(ref.path)
    except FileNotFoundError:  # a base model: the template that it is to be trained with
        data = workflow.data_configs[:1]
        if workflow.finetune:
            data = [workflow.data_config(workflow.finetune[1].train_data_config)]
        with suppress(TemplateFault, IndexError):
            return template_of(data[0], data_place(project, ref))
        return PromptTemplate("{text}", "{answer}", ("text",), "answer", "")
