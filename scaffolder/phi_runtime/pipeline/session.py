"""A model of a project, opened for questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE, sources
from phi_runtime.config.schema import Workflow
from phi_runtime.core.artifacts import read_manifest
from phi_runtime.core.errors import MissingDependency, UsageError
from phi_runtime.core.project import Project
from phi_runtime.data.chat import Message
from phi_runtime.data.chat_template import ChatTemplate, Template, load_template
from phi_runtime.data.dataset import data_place, template_of
from phi_runtime.data.template import PromptTemplate, TemplateFault
from phi_runtime.inference.by_kind import open_generator
from phi_runtime.inference.generator import Answer, Generator, Sampling
from phi_runtime.models.onnx_adapters import FOLDER, SUFFIX, fit_adapter
from phi_runtime.models.reference import ModelRef
from phi_runtime.passes.lora import LowRankAdapter
from phi_runtime.pipeline.graph import existing_models
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.model_names import find_model, model_names, shown_name

NO_ADAPTER = "none"


@dataclass(frozen=True)
class Session:
    """A loaded model with the template that it was trained with. `templates` are those of the adapters that have one of their own;
    `adapter` is the one that answers (see `on`)."""

    name: str
    path: Path
    generator: Generator
    template: Template
    templates: Mapping[str, Template] = field(default_factory=dict)
    adapter: str | None = None

    def on(self, adapter: str | None) -> Session:
        """The same model with `adapter` active, asked as that was in training."""
        return replace(self, adapter=adapter, template=self.templates.get(adapter or "", self.template))

    def answer(self, text: str, sampling: Sampling, before: Sequence[Message] = ()) -> Answer:
        """What the model says to `text` after the conversation `before`. It ends where an answer ends in the prompt template too.

        Raises what `render` and Generator.answer do.
        """
        return self.generator.answer(self.render(text, before), self.ending(sampling), self.adapter)

    def ending(self, sampling: Sampling) -> Sampling:
        """`sampling` with the text that ends an answer in the prompt template among its stop texts."""
        stop = "" if isinstance(self.template, ChatTemplate) else self.template.stop.strip()
        return replace(sampling, stop=(*sampling.stop, stop)) if stop else sampling

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


def open_session(
    project: Project,
    wanted: str | None,
    overrides: Overrides | None = None,
    *,
    adapter: str | None = None,
    adapters: Mapping[str, Path] | None = None,
    conversations: int = 1,
) -> Session:
    """Loads the model called `wanted` (see model_names), or the last that the workflow made; `wanted` may also be a model's folder.

    `adapter` is the one that answers unless another is asked for; `adapters` are folders of peft, by name. So many `conversations`
    are remembered. Raises UsageError, MissingDependency, WorkFailed.
    """
    workflow = load_workflow(project.config, overrides)
    models = existing_models(workflow, project)
    names = model_names(workflow, project)
    if wanted is not None and wanted not in names and Path(wanted).is_dir():
        name, made, ref = wanted, "", _foreign(Path(wanted).absolute(), models.get(BASE))
    elif not models:
        raise MissingDependency("there is no model yet", fix="run `phi-scaffold run` first")
    else:
        made = list(models)[-1] if wanted is None else find_model(wanted, names, models)
        name, ref = wanted or shown_name(names, made), models[made]
    _check_base(ref)
    device, folders = "cpu", dict(adapters or {})
    if ref.kind == "onnx":
        on_it = {name: _fitted(ref.path, name, folder, project) for name, folder in folders.items()}
    else:
        from phi_runtime.hardware.device import best_device

        on_it = folders = {**_adapters_on(made, workflow, models), **folders}
        device = best_device() if workflow.host_device == "gpu" else "cpu"
    template, templates = _template(workflow, ref, project), _templates(ref, folders)
    generator = open_generator(
        ref,
        device,
        special=template.special,
        specials={each: own.special for each, own in templates.items()},
        conversations=conversations,
        adapter=adapter,
        adapters=on_it,
    )
    return Session(name, ref.path, generator, template, templates)


def chosen_adapter(generator: Generator, wanted: str | None) -> str | None:
    """The adapter to answer with, where a user may name one: `wanted`, or the only one of an ONNX model; "none" stands for the bare
    base. Raises UsageError where several are there and none is named: the base must not answer unasked."""
    if wanted == NO_ADAPTER:
        return None
    if wanted is not None or not generator.guides or not generator.adapters:
        return wanted
    if len(generator.adapters) > 1:
        raise UsageError(
            f"this model has the adapters {', '.join(generator.adapters)}",
            fix=f"name one with --adapter; --adapter {NO_ADAPTER} asks the base model",
        )
    return generator.adapters[0]


def _foreign(folder: Path, base: ModelRef | None) -> ModelRef:
    """A model that this project did not make. Raises UsageError where there is none."""
    key = str(folder)
    if (folder / "genai_config.json").is_file():
        return ModelRef(folder, "onnx", key)
    if (folder / "adapter_config.json").is_file():
        if base is None:
            raise UsageError(f"{folder} is an adapter, and the base model is not here", fix="run `phi-scaffold fetch`")
        return ModelRef(folder, "adapter", key, base)
    if (folder / "config.json").is_file():
        return ModelRef(folder, "hf", key)
    raise UsageError(f"there is no model in {folder}", fix="name a folder with a config.json or a genai_config.json")


def _adapters_on(made: str, workflow: Workflow, models: Mapping[str, ModelRef]) -> dict[str, Path]:
    """The adapters that were trained on the model of the pass `made`, of the kind that can lie on it side by side."""
    found = {}
    for name, source in sources(workflow.passes).items():
        step = workflow.passes[name]
        if source == made and name in models and isinstance(step, LowRankAdapter):
            _check_base(models[name])
            found[name] = models[name].path
    return found


def _fitted(graph: Path, name: str, folder: Path, project: Project) -> Path:
    """The adapter of peft in `folder` as one for the ONNX model in `graph`: a file that is made anew each time."""
    out = project.gen_model / ".adapters" / f"{name}{SUFFIX}"
    out.parent.mkdir(parents=True, exist_ok=True)
    fit_adapter(graph, folder, out)
    return out


def _check_base(ref: ModelRef) -> None:
    """Raises UsageError where an adapter was trained on another base than the one that is here."""
    manifest = read_manifest(ref.path) if ref.kind == "adapter" and ref.base else None
    trained_on = manifest.facts.get("inputs", {}).get("input") if manifest else None
    if ref.base and trained_on and trained_on != ref.base.key:
        raise UsageError(
            f"the adapter in {ref.path} was trained on another model than the one in {ref.base.path}",
            fix="`phi-scaffold run` trains it anew; or bring the model back that it was trained on",
        )


def _templates(ref: ModelRef, folders: Mapping[str, Path]) -> dict[str, Template]:
    """The templates of the adapters that have one of their own: those beside an ONNX model, and those of peft in `folders`."""
    beside = {each.name: each for each in (ref.path / FOLDER).glob("*") if each.is_dir()} if ref.kind == "onnx" else {}
    found = {}
    for name, folder in {**beside, **folders}.items():
        with suppress(FileNotFoundError):
            found[name] = load_template(folder)
    return found


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
