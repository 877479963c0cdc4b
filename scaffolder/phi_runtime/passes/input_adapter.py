"""The adapter of the input model (`input_model.adapter_path`), as the pass that comes before those of the config."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from phi_runtime.config.pass_graph import INPUT_ADAPTER, sources
from phi_runtime.config.schema import FinetunePass, InputModel, Pass, Workflow, canonical
from phi_runtime.core.artifacts import read_json, write_json
from phi_runtime.core.errors import ConfigError, Location, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.models.fetch import base_name, comparable_key
from phi_runtime.models.modules import tensors
from phi_runtime.models.peft_folder import (
    PROMPT_TEMPLATE,
    Base,
    PeftFolder,
    content_key,
    files_of,
    problems,
    read_peft_folder,
)
from phi_runtime.models.peft_lora import CONFIG, why_not_low_rank
from phi_runtime.models.place import base_model_path, input_adapter_path
from phi_runtime.models.shape import text_config
from phi_runtime.models.stored import known_modules, stored_config
from phi_runtime.training.continued import differences
from phi_runtime.training.pass_bases import MERGE_INSTEAD, USE_UNMERGED, AdapterOutput, AdapterPass

if TYPE_CHECKING:
    from phi_runtime.context import PassContext

P = TypeVar("P", bound=Pass | None)


class InputAdapter(AdapterOutput):
    """An adapter that exists already: check it against the base, and complete its folder with tokenizer and template."""

    written: ClassVar[bool] = False

    type: Literal["InputAdapter"] = "InputAdapter"
    folder: Path = Field(exclude=True)
    measured_on: FinetunePass | None = Field(None, exclude=True)

    @property
    def rows(self) -> FinetunePass | None:
        return self.measured_on

    @property
    def adapter(self) -> PeftFolder | None:
        """The adapter, if it is on this machine and can be read.

        It is not kept: `fetch` may download it after the config was loaded.
        """
        try:
            return read_peft_folder(self.folder)
        except UsageError:
            return None

    @property
    def multi_adapter(self) -> bool:  # type: ignore[override]
        """True for LoRA, as for the passes that train one."""
        adapter = self.adapter
        return adapter is not None and adapter.kind == "LORA"

    def inputs(self, workflow: Workflow) -> dict[str, Any] | None:
        """Return what shapes the output besides the base; None if the adapter must be downloaded first."""
        if not self.folder.is_dir():
            return None
        data = workflow.data_config(self.rows.train_data_config) if self.rows else None
        template = canonical(data.pre_process_data_config) if data and not self._has_template else {}
        return {"adapter": content_key(self.folder), **({"template": template} if template else {})}

    @property
    def _has_template(self) -> bool:
        return (self.folder / PROMPT_TEMPLATE).is_file()

    def output_bytes(self, shape: Any, source_bytes: int) -> int:
        return sum(file.stat().st_size for file in files_of(self.folder)) if self.folder.is_dir() else 0

    def why_not_merged(self) -> str:
        adapter = self.adapter
        reason = adapter.why_not_merged() if adapter else ""
        return reason and f"{reason}: {USE_UNMERGED}"

    def why_not_graph_input(self) -> str:
        reason = self._why_not_low_rank()
        return reason and f"{reason}; {MERGE_INSTEAD}"

    def why_not_combined(self) -> str:
        return super().why_not_combined() if self._why_not_low_rank() else ""

    def _why_not_low_rank(self) -> str:
        adapter = self.adapter
        return why_not_low_rank(adapter.config) if adapter else ""

    def run(self, context: PassContext[InputAdapter]) -> dict[str, Any]:
        """Copy the adapter to `context.out`, with a tokenizer and a prompt template if it has none.

        Raises:
            ConfigError: It does not fit the base model, or a pass that trains it further has other settings.
            UsageError: It cannot be read.
        """
        workflow, where = context.workflow, Location(context.project.config)
        adapter = read_peft_folder(self.folder)
        for what, fix in problems(adapter, base_of(workflow.input_model, context.project)):
            raise ConfigError(f"{self.folder}: {what}", where=where, fix=fix)
        for name, key, what in differing(workflow.passes, adapter, workflow.input_model, context.project):
            raise ConfigError(f"`{name}`: {what}", where=where, fix=f"remove `{key}`, or train a new adapter")
        for file in files_of(self.folder):
            shutil.copyfile(file, context.out / file.name)
        write_json(context.out / CONFIG, _understood(adapter))
        _complete(context)
        return {"peft_type": adapter.kind, "source": context.project.shown(self.folder)}


def with_input_adapter(
    model: InputModel | None, passes: Mapping[str, P], data_names: list[str], project: ProjectFolder
) -> dict[str, P | InputAdapter]:
    """Return `passes` after the pass for the adapter of `model`, if it has one.

    Args:
        data_names: The data configs; where no pass trains, the rows of the first one are the test rows.
    """
    folder = input_adapter_path(model, project) if model else None
    if folder is None:
        return dict(passes)
    rows: FinetunePass | None = next((step for step in passes.values() if isinstance(step, FinetunePass)), None)
    if rows is None and data_names:
        name = data_names[0]
        rows = FinetunePass(type="InputAdapter", train_data_config=name, eval_data_config=name, test_data_config=name)
    return {INPUT_ADAPTER: InputAdapter(folder=folder, measured_on=rows), **passes}


def base_of(model: InputModel, project: ProjectFolder) -> Base:
    """Return what is known of the base model without loading it."""
    folder = base_model_path(model, project)
    tied = bool(stored_config(model, project.config).get("tie_word_embeddings"))
    return Base(base_name(folder, project), comparable_key(model, project), tensors(folder), tied)


def differing(
    passes: Mapping[str, Pass], adapter: PeftFolder, model: InputModel, project: ProjectFolder
) -> Iterator[tuple[str, str, str]]:
    """Yield the settings of passes that keep them from training `adapter` further: pass, key, message."""
    modules = known_modules(model, project.config)
    for name, source in sources(passes).items():
        step = passes[name]
        if source == INPUT_ADAPTER and isinstance(step, AdapterPass):
            for key, message in differences(step, adapter, modules.linear if modules else None):
                yield name, key, message


def _understood(adapter: PeftFolder) -> dict[str, Any]:
    """Return the settings of `adapter` that this release of peft has; raise UsageError if another one is set."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    known = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(adapter.kind)])} | {"runtime_config"}
    unknown = [key for key, value in adapter.config.items() if key not in known and value]
    if unknown:
        raise UsageError(
            f"{adapter.folder / CONFIG} has settings that this release of peft does not know: {', '.join(unknown)}",
            fix="merge it with the peft that saved it, and set `model_path` to the result",
        )
    return {key: value for key, value in adapter.config.items() if key in known}


def _complete(context: PassContext[InputAdapter]) -> None:
    """Add the tokenizer of the base and a prompt template to the adapter in `context.out`, if it has none."""
    from phi_runtime.data.chat_template import default_template
    from phi_runtime.data.dataset import data_context, template_of
    from phi_runtime.models.load import load_tokenizer
    from phi_runtime.models.reference import ModelRef

    base = load_tokenizer(context.source)
    own = ModelRef(context.out, "adapter", "", context.source, context.source.trust_remote_code)
    if not (context.out / "tokenizer_config.json").is_file():
        base.save_pretrained(context.out)
    tokenizer = load_tokenizer(own)
    _check_tokens(base.get_vocab(), tokenizer.get_vocab(), context)
    if (context.out / PROMPT_TEMPLATE).is_file():
        return
    rows = context.config.rows
    if rows is None:
        default_template(tokenizer).save(context.out)
    else:
        data = context.workflow.data_config(rows.train_data_config)
        template_of(data, data_context(context.project, own)).save(context.out)


def _check_tokens(base: Mapping[str, int], own: Mapping[str, int], context: PassContext[InputAdapter]) -> None:
    """Raise ConfigError if the tokenizer of the adapter numbers tokens differently, or beyond the embedding of the base."""
    where = Location(context.project.config)
    other = next((token for token, number in base.items() if own.get(token) != number), None)
    if other is not None:
        raise ConfigError(
            f"the tokenizer of the adapter numbers tokens differently from that of the base, such as `{other}`",
            where=where,
            fix="use it with the model that it was trained on, or remove the tokenizer from its folder",
        )
    config = read_json(context.source.path / "config.json")
    rows = text_config(config).get("vocab_size")
    if rows and max(own.values()) >= rows:
        raise ConfigError(
            f"the adapter has added tokens (up to number {max(own.values())}), but the model has {rows} embeddings",
            where=where,
            fix="merge it into its model with peft, and set `model_path` to the result",
        )
