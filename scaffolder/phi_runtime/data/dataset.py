"""The data set that a workflow names: its tokenised rows on two sides, and how those of each side become sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.paths import data_paths, split_name
from phi_runtime.config.schema import DataConfig, Datastore, FinetunePass, PreProcess, Workflow
from phi_runtime.core.artifacts import digest, file_digest, versions
from phi_runtime.core.errors import DataError, Location, UsageError
from phi_runtime.core.events import Emit
from phi_runtime.core.project import Project
from phi_runtime.data.chat_template import ChatTemplate, Template
from phi_runtime.data.hooks import Hooks, Values, functions_key, load_hooks
from phi_runtime.data.rows import Broken
from phi_runtime.data.selection import select
from phi_runtime.data.template import PromptTemplate
from phi_runtime.models.reference import ModelRef

if TYPE_CHECKING:
    import numpy as np

    from phi_runtime.data.sequences import Sequences
    from phi_runtime.data.store import Store


@dataclass(frozen=True)
class Place:
    """Where data sets come from and go to: the config that names them, the model whose tokenizer reads them, and the folder for
    their tokens. `overrides` say what becomes of rows that cannot be used, and whether a user_script may run."""

    config: Path
    model: ModelRef
    cache: Path
    overrides: Overrides = field(default_factory=Overrides)

    def tolerant(self) -> Place:
        """The same, where rows that cannot be used are left out and counted."""
        return replace(self, overrides=replace(self.overrides, skip_bad_rows=True))

    @cached_property
    def tokenizer(self) -> Any:
        from phi_runtime.models.load import load_tokenizer

        return load_tokenizer(self.model)


def data_place(project: Project, model: ModelRef, overrides: Overrides | None = None) -> Place:
    """The place of a project's data sets, as the tokenizer of `model` reads them."""
    return Place(project.config, model, project.token_cache, overrides or Overrides())


@dataclass(frozen=True)
class Side:
    """Tokenised rows of a store, those of them that are `chosen` (their places), and how they become sequences."""

    data: DataConfig
    files: list[Path]
    hooks: Hooks
    store: Store
    chosen: np.ndarray
    settings: PreProcess
    completion_only: bool
    template: Template

    @property
    def path(self) -> Path:
        """The first of the files that the rows come from."""
        return self.files[0]

    def __len__(self) -> int:
        return len(self.chosen)

    def first(self, count: int) -> Side:
        """The same with its first `count` rows alone."""
        return replace(self, chosen=self.chosen[:count])

    def values(self) -> list[Values]:
        """The chosen rows by column, as the hooks leave them, read anew."""
        order = {int(number): i for i, number in enumerate(self.store.rows["number"][self.chosen])}
        found: dict[int, Values] = {}
        for item in select(self.data.load_dataset_config, self.files) if order else ():
            if not isinstance(item, Broken) and item.number in order:
                found[order[item.number]] = self.hooks(item.row.values) or {}
                if len(found) == len(order):
                    break
        return [found[i] for i in range(len(order))]

    def places(self) -> Iterator[Location]:
        """Where the chosen rows stand."""
        return (self.place_of(int(index)) for index in self.chosen)

    def place_of(self, index: int) -> Location:
        """Where a row of the store stands."""
        row = self.store.rows[index]
        return Location(self.files[int(row["file"])], int(row["line"]))

    def sequences(self, tokenizer: Any, data_seed: int, scratch: Path | None = None) -> Sequences:
        """What the chosen rows become. Raises DataError when nothing is left."""
        from phi_runtime.data.sequences import make

        joiner = self.settings.joiner if "join" in self.settings.strategy else ""
        try:
            return make(
                self.store,
                self.chosen,
                self.settings,
                joiner=tokenizer(joiner, add_special_tokens=False).input_ids if joiner else (),
                completion_only=self.completion_only,
                data_seed=data_seed,
                scratch=scratch,
            )
        except DataError as e:
            raise DataError(e.what, where=Location(self.path), fix=e.fix) from None


@dataclass(frozen=True)
class Dataset:
    """What a pass trains on and what is kept from it."""

    training: Side
    held_out: Side

    @property
    def remarks(self) -> list[str]:
        """What the user should know of the rows that were read."""
        survey = self.training.store.survey
        told = {
            "cannot be used and are left out": survey.broken,
            "are empty and are left out": survey.empty,
            "begin with two BOS tokens": survey.double_bos,
            "end with two end tokens": survey.double_end,
        }
        return [f"{count} of {survey.read} rows {what}" for what, count in told.items() if count]


def load_dataset(workflow: Workflow, training: FinetunePass, place: Place, emit: Emit, stage: str) -> Dataset:
    """The tokenised rows that `training` names, from the cache where they are there, on their two sides.

    Raises DataError, with the line, for a row that cannot be used, and as `divide` does.
    """
    read = load_sides(workflow, training, place, emit, stage)
    for side in read:
        _refuse_empty(side)
    return divide(read, training)


def load_sides(workflow: Workflow, training: FinetunePass, place: Place, emit: Emit, stage: str) -> list[Side]:
    """All usable rows of each data config that `training` reads."""
    return [load_side(workflow.data_config(name), training, place, emit, stage) for name in training.data_names]


def divide(read: Sequence[Side], training: FinetunePass) -> Dataset:
    """What is trained on and what is held out of the rows of `load_sides`.

    Held-out rows of an eval_data_config are as that one says. Those of eval_dataset_size are all taken, none drawn. Raises
    DataError when none is left to train on.
    """
    from phi_runtime.data.split import hold_out

    seed, first, rows = training.training_args.order_seed, read[0], read[0].store.rows
    if training.eval_data_config:
        held_out = read[-1]
        kept, _ = hold_out(rows, 0, seed)
    else:
        kept, chosen = hold_out(rows, training.eval_dataset_size, seed)
        held_out = replace(first, chosen=chosen, settings=_without_draws(first.settings))
    if not len(kept):
        raise DataError(
            f"all {len(rows)} rows are held out, none is left to train on",
            where=Location(first.path),
            fix="lower eval_dataset_size",
        )
    if first.settings.strategy != "line-by-line" or first.settings.max_samples:
        kept.sort()  # as in the files
    return Dataset(replace(first, chosen=kept), held_out)


def load_side(data: DataConfig, training: FinetunePass, place: Place, emit: Emit, stage: str) -> Side:
    """All usable rows of one data config. Raises DataError as `load_dataset` does."""
    import numpy as np

    from phi_runtime.data.prepare import LIBRARIES, Recipe, prepare, tokenizer_key

    settings = data.pre_process_data_config
    files = data_files(data, place.config)
    if settings.text_formatting_func and not place.overrides.run_user_script:
        what = (
            f"`{settings.text_formatting_func}` of {settings.user_script} is Python code that the config brings with it"
        )
        raise UsageError(what, where=Location(place.config), fix="look at it, then let it run with --run-user-script")
    hooks = load_hooks(place.config, data)
    alone, template = completion_only(training, settings), template_of(data, place)
    key = tokenizer_key(place.model.path)
    recipe = Recipe(data, files, hooks, alone, template, lambda: place.tokenizer, key, versions(LIBRARIES))
    store = prepare(recipe, place.cache, emit, stage)
    side = Side(data, files, hooks, store, np.arange(len(store)), settings, alone, template)
    if not place.overrides.skip_bad_rows:
        _refuse_broken(side)
    return side


def template_of(data: DataConfig, place: Place) -> Template:
    """What renders the rows of `data`."""
    settings = data.pre_process_data_config
    if settings.chat_template:
        return ChatTemplate.of(place.tokenizer, settings.chat_template, settings.message_col)
    return PromptTemplate.from_text(settings.template)


def completion_only(training: FinetunePass, settings: PreProcess) -> bool:
    """Whether the completion alone is trained, which completion_only_loss: null leaves to the form of the data."""
    if training.completion_only_loss is not None:
        return training.completion_only_loss
    if settings.chat_template:
        return True
    asks = settings.text_template is not None and PromptTemplate.from_text(settings.text_template).asks
    return asks and settings.strategy in ("line-by-line", "line-by-line-random")


def fingerprint(workflow: Workflow, training: FinetunePass, config_path: Path) -> dict[str, str]:
    """The content of the files that `training` reads and of the functions that it calls on their rows, by data config name; of data
    that are not here, their address."""
    return {name: _fingerprint(workflow.data_config(name), config_path) for name in training.data_names}


def _fingerprint(data: DataConfig, config_path: Path) -> str:
    files = data.load_dataset_config.data_files
    if isinstance(files, Datastore):
        return files.address
    paths = [found.path for found in data_paths(data, config_path)]
    if not paths or not all(path.is_file() for path in paths):
        return f"hub:{data.load_dataset_config.data_name}"
    digests = [file_digest(path) for path in paths]
    functions = functions_key(config_path, data)
    return digests[0] if len(digests) == 1 and not functions else digest([*digests, functions])


def data_files(data: DataConfig, config_path: Path) -> list[Path]:
    """The files of `data` on this machine. Raises DataError when there is none."""
    files = [file.path for file in data_paths(data, config_path)]
    if not files:
        raise _no_file(data, config_path)
    if data.load_dataset_config.format is None and not files[0].is_file():
        name = data.load_dataset_config.data_name
        raise DataError(
            f"{name} is not here yet", where=Location(config_path), fix="bring it with `phi-scaffold fetch`"
        )
    return files


def _no_file(data: DataConfig, config_path: Path) -> DataError:
    files = data.load_dataset_config.data_files
    if isinstance(files, Datastore):
        what = f"the data of `{data.name}` lies in Azure ML ({files.address}), not on this machine"
        fix = "run it there, or put a local file into data_files"
    elif isinstance(files, dict):
        what = f"`{data.name}` has no files for the split `{split_name(data)}`"
        fix = f"its splits are {', '.join(files)}"
    else:
        what = f"`{data.name}` names no data file that is there"
        fix = "check its data_files and data_dir"
    return DataError(what, where=Location(config_path), fix=fix)


def _refuse_broken(side: Side) -> None:
    """Raises DataError for the first row that cannot be used."""
    survey = side.store.survey
    if survey.broken:
        file, line, what, column, fix = survey.broken_at[0]
        more = f" ({survey.broken} rows are broken)" if survey.broken > 1 else ""
        where = Location(side.files[file], line, column)
        raise DataError(what + more, where=where, fix=f"{fix}, or leave such rows out with --skip-bad-rows")


def _refuse_empty(side: Side) -> None:
    """Raises DataError, with the counts, when no row is left."""
    survey = side.store.survey
    if not len(side):
        seen = {"broken": survey.broken, "empty": survey.empty, "left out by the hooks": survey.filtered}
        counts = ", ".join(f"{count} are {name}" for name, count in seen.items() if count)
        what = f"none of {survey.read} rows can be used: {counts}"
        raise DataError(what, where=Location(side.path), fix="see `phi-scaffold data check`")


def _without_draws(settings: PreProcess) -> PreProcess:
    return settings.model_copy(update={"strategy": settings.strategy.removesuffix("-random"), "max_samples": None})
