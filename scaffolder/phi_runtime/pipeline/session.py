"""Open a model of a project to generate text with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE, full_source, sources
from phi_runtime.config.schema import Workflow
from phi_runtime.core.errors import MissingDependency, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.chat import Message
from phi_runtime.data.chat_template import ChatTemplate, Template, default_template, load_template
from phi_runtime.data.dataset import data_context, template_of
from phi_runtime.data.row import RowError
from phi_runtime.data.template import TemplateError
from phi_runtime.inference.generator import Answer, Generator, GeneratorOptions, SamplingParams, unknown_adapter
from phi_runtime.inference.loading import open_generator
from phi_runtime.models.onnx_adapters import FOLDER, SUFFIX, fit_adapter
from phi_runtime.models.peft_folder import trained_on
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.graph import existing_models
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.model_names import find_model, model_names, shown_name

NO_ADAPTER = "none"


@dataclass(frozen=True)
class Session:
    """A loaded model with the prompt template of its training.

    Attributes:
        templates: The templates of the adapters that have their own.
        adapter: The active adapter; `with_adapter` changes it.
    """

    name: str
    path: Path
    generator: Generator
    template: Template
    templates: Mapping[str, Template] = field(default_factory=dict)
    adapter: str | None = None

    def with_adapter(self, adapter: str | None) -> Session:
        """Return a session on the same model with `adapter` active, and its template."""
        return replace(self, adapter=adapter, template=self.templates.get(adapter or "", self.template))

    def select_adapter(self, name: str | None) -> Session:
        """Return a session that answers with the adapter `name`; see the function of this name."""
        return self.with_adapter(select_adapter(self.generator, name))

    def answer(self, text: str, sampling: SamplingParams, history: Sequence[Message] = ()) -> Answer:
        """Answer `text` after the conversation `history`.

        Raises what `render` and `Generator.answer` raise.
        """
        return self.generator.answer(self.render(text, history), self.with_stop_text(sampling), self.adapter)

    def with_stop_text(self, sampling: SamplingParams) -> SamplingParams:
        """Add the text of the prompt template after an answer: it is removed, and ends the answer if no end token does.

        A guide defines the whole answer.
        """
        if sampling.guide:
            return sampling
        if self.template.ends_at_closing:
            return replace(sampling, stop=(*sampling.stop, self.template.closing))
        return replace(sampling, suffix=self.template.closing)

    @property
    def converses(self) -> bool:
        """True if the model was trained on conversations, so that earlier messages matter."""
        return isinstance(self.template, ChatTemplate)

    def render(self, text: str, history: Sequence[Message] = ()) -> str:
        """Return the prompt for `text` after the conversation `history`; for free text, the text to continue.

        Raises:
            UsageError: The template has several columns and `text` is not a JSON object with a text for each, or the chat
                template rejects the conversation.
        """
        if isinstance(self.template, ChatTemplate):
            try:
                return self.template.render([*history, {"role": "user", "content": text}], add_generation_prompt=True)
            except RowError as e:
                raise UsageError(str(e), fix="leave out the system message, or start a new conversation") from None
        prompt = self.template.render_prompt(self.columns_of(text))
        return prompt if self.template.inputs else prompt + text

    def columns_of(self, text: str) -> dict[str, Any]:
        """Return the columns of a text prompt that `text` fills: JSON, or the text of the only column that is required.

        Raises:
            UsageError: There are several, and `text` is not a JSON object with them.
        """
        inputs = self.template.inputs
        required = [
            name for name in inputs if isinstance(self.template, ChatTemplate) or name not in self.template.optional
        ]
        try:
            values = json.loads(text) if inputs else {}
            return {name: values[name] for name in inputs if name in required or name in values}
        except (ValueError, KeyError, TypeError):
            if len(required) == 1:
                return {required[0]: text}
            example = json.dumps(dict.fromkeys(inputs, "…"), ensure_ascii=False)
            raise UsageError(
                f"the prompt has the columns {', '.join(inputs)}", fix=f"write the prompt as JSON: {example}"
            ) from None


@dataclass(frozen=True)
class ModelChoice:
    """A model of a project, before it is loaded.

    Attributes:
        name: Name to show.
        step: The pass whose output it is; "" for a folder.
        ref: The model.
        workflow: The workflow of the project.
        models: All models of the workflow that exist, by pass.
        shown: The names of all these models.
    """

    name: str
    step: str
    ref: ModelRef
    workflow: Workflow
    models: Mapping[str, ModelRef]
    shown: tuple[str, ...]


def choose_model(project: ProjectFolder, model: str | None, overrides: Overrides | None = None) -> ModelChoice:
    """Find a model of the project by its name (see `model_names`) or folder; default: the last one that exists.

    Raises:
        UsageError: There is no such model.
        MissingDependency: No model exists yet.
    """
    workflow = load_workflow(project.config, overrides)
    models = existing_models(workflow, project)
    names = model_names(workflow, project)
    if model is not None and model not in names and Path(model).is_dir():
        name, step, ref = model, "", _model_in_folder(Path(model).absolute(), models.get(BASE))
    elif not models:
        raise MissingDependency("no model exists yet", fix="run `phi-scaffold run` first")
    else:
        step = list(models)[-1] if model is None else find_model(model, names, models)
        name, ref = model or shown_name(names, step), models[step]
    _check_base(ref)
    return ModelChoice(name, step, ref, workflow, models, tuple(shown_name(names, other) for other in models))


def open_session(
    project: ProjectFolder,
    model: str | None,
    overrides: Overrides | None = None,
    *,
    adapters: Mapping[str, Path] | None = None,
    conversations: int = 1,
) -> Session:
    """Load a model of the project.

    Args:
        model: Its name (see `model_names`) or its folder; default: the last one of the workflow that exists.
        adapters: Folders of PEFT adapters to add, by name.
        conversations: How many conversations the generator keeps cached.

    Raises:
        UsageError: There is no such model, or an adapter does not fit it.
        MissingDependency: No model exists yet, or a library is missing.
        WorkFailed: The model cannot be loaded.
    """
    choice = choose_model(project, model, overrides)
    ref, workflow = choice.ref, choice.workflow
    device, folders = "cpu", dict(adapters or {})
    if ref.kind == "onnx":
        loaded = {name: _onnx_adapter(ref.path, name, folder, project) for name, folder in folders.items()}
    else:
        from phi_runtime.hardware.device import best_device

        loaded = folders = {**_adapters_of_base(choice.step, workflow, choice.models), **folders}
        device = best_device() if workflow.host_device == "gpu" else "cpu"
    template, templates = _template(workflow, ref, project), _adapter_templates(ref, folders)
    special_by_adapter = {name: own.special for name, own in templates.items()}
    ends = tuple(dict.fromkeys(end for each in (template, *templates.values()) for end in each.stop_tokens))
    options = GeneratorOptions(template.special, special_by_adapter, ends, conversations, loaded)
    generator = open_generator(ref, device, options)
    return Session(choice.name, ref.path, generator, template, templates)


def select_adapter(generator: Generator, name: str | None) -> str | None:
    """Return the adapter to answer with: `name`, or the only one of an ONNX model; "none" is the bare base model.

    Raises:
        UnknownAdapter: There is no adapter of this name.
        UsageError: There are several and none is named; the base model must not answer by accident.
    """
    if name == NO_ADAPTER:
        return None
    if name is not None and name not in generator.adapters:
        raise unknown_adapter(name, generator.adapters)
    if name is not None or not generator.guides or not generator.adapters:
        return name
    if len(generator.adapters) > 1:
        raise UsageError(
            f"this model has the adapters {', '.join(generator.adapters)}",
            fix=f"choose one with --adapter, or the base model with --adapter {NO_ADAPTER}",
        )
    return generator.adapters[0]


def _model_in_folder(folder: Path, base: ModelRef | None) -> ModelRef:
    """Return the model in a folder that is not an output of this project. Raises UsageError if it has none."""
    key = str(folder)
    if (folder / "genai_config.json").is_file():
        return ModelRef(folder, "onnx", key)
    if (folder / "adapter_config.json").is_file():
        if base is None:
            raise UsageError(f"the base model of the adapter {folder} is missing", fix="run `phi-scaffold fetch`")
        return ModelRef(folder, "adapter", key, base)
    if (folder / "config.json").is_file():
        return ModelRef(folder, "hf", key)
    raise UsageError(f"there is no model in {folder}", fix="choose a folder with a config.json or a genai_config.json")


def _adapters_of_base(base: str, workflow: Workflow, models: Mapping[str, ModelRef]) -> dict[str, Path]:
    """Return the low-rank adapters trained on the model of the pass `base`; PEFT can load several of them at once."""
    adapters = {}
    found = sources(workflow.passes)
    for name, step in workflow.passes.items():
        if step.multi_adapter and name in models and full_source(workflow.passes, found, name) == base:
            _check_base(models[name])
            adapters[name] = models[name].path
    return adapters


def _onnx_adapter(graph: Path, name: str, folder: Path, project: ProjectFolder) -> Path:
    """Convert the PEFT adapter in `folder` for the ONNX model in `graph`; the file is written each time."""
    out = project.gen_model / ".adapters" / f"{name}{SUFFIX}"
    out.parent.mkdir(parents=True, exist_ok=True)
    fit_adapter(graph, folder, out)
    return out


def _check_base(ref: ModelRef) -> None:
    """Raise UsageError if an adapter was trained on another base model than the current one."""
    base_key = trained_on(ref.path) if ref.kind == "adapter" else None
    if ref.base and base_key and base_key != ref.base.key:
        raise UsageError(
            f"the adapter in {ref.path} was trained on another model than {ref.base.path}",
            fix="train it again with `phi-scaffold run`, or restore the model that it was trained on",
        )


def _adapter_templates(ref: ModelRef, folders: Mapping[str, Path]) -> dict[str, Template]:
    """Return the templates that adapters have of their own, those next to an ONNX graph and those in `folders`."""
    onnx = {path.name: path for path in (ref.path / FOLDER).glob("*") if path.is_dir()} if ref.kind == "onnx" else {}
    templates = {}
    for name, folder in {**onnx, **folders}.items():
        with suppress(FileNotFoundError):
            templates[name] = load_template(folder)
    return templates


def _template(workflow: Workflow, ref: ModelRef, project: ProjectFolder) -> Template:
    try:
        return load_template(ref.path)
    except FileNotFoundError:  # a base model: use the template that it will be trained with
        data = workflow.data_configs[:1]
        if workflow.finetune:
            data = [workflow.data_config(workflow.finetune[1].train_data_config)]
        context = data_context(project, ref)
        with suppress(TemplateError, IndexError):
            return template_of(data[0], context)
        return default_template(context.tokenizer)
