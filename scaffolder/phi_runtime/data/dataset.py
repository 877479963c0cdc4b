"""The data set of a pass: its tokenized rows, split into training and validation, and the sequences they become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.paths import data_paths, split_name
from phi_runtime.config.schema import DataConfig, Datastore, FinetunePass, PreProcess, Workflow
from phi_runtime.core.artifacts import versions
from phi_runtime.core.errors import DataError, Location, UsageError
from phi_runtime.core.events import Emit
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.chat_template import ChatTemplate, Template
from phi_runtime.data.end_tokens import end_tokens, special_tokens
from phi_runtime.data.hooks import Hooks, Values, load_hooks
from phi_runtime.data.rows import BadRow
from phi_runtime.data.selection import select
from phi_runtime.data.template import PromptTemplate
from phi_runtime.models.reference import ModelRef

if TYPE_CHECKING:
    import numpy as np

    from phi_runtime.data.sequences import Sequences
    from phi_runtime.data.store import Store


@dataclass(frozen=True)
class DataContext:
    """Everything that reading data sets depends on besides their data config.

    Attributes:
        config: The config file; paths in it are relative to its folder.
        model: Model whose tokenizer is used.
        cache: Folder of the token stores.
        overrides: Command-line settings: skip bad rows, run a user_script.
    """

    config: Path
    model: ModelRef
    cache: Path
    overrides: Overrides = field(default_factory=Overrides)

    def skipping_bad_rows(self) -> DataContext:
        """Return a copy that skips and counts rows that cannot be used."""
        return replace(self, overrides=replace(self.overrides, skip_bad_rows=True))

    @cached_property
    def tokenizer(self) -> Any:
        from phi_runtime.models.load import load_tokenizer

        return load_tokenizer(self.model)


def data_context(project: ProjectFolder, model: ModelRef, overrides: Overrides | None = None) -> DataContext:
    """Return the context of a project's data sets, with the tokenizer of `model`."""
    return DataContext(project.config, model, project.token_cache, overrides or Overrides())


@dataclass(frozen=True)
class DataSplit:
    """Rows of a token store, and the settings that turn them into sequences.

    `chosen` (N,) are the indices of the rows, and `seed` is the one of their order.
    """

    data: DataConfig
    files: list[Path]
    hooks: Hooks
    store: Store
    chosen: np.ndarray
    settings: PreProcess
    completion_only: bool
    template: Template
    seed: int = 0

    @property
    def path(self) -> Path:
        """First of the files that the rows come from."""
        return self.files[0]

    def __len__(self) -> int:
        return len(self.chosen)

    def first(self, count: int) -> DataSplit:
        """Return the first `count` rows."""
        return replace(self, chosen=self.chosen[:count])

    def sample(self, count: int) -> DataSplit:
        """Return up to `count` rows, evenly over labels, in their order."""
        from phi_runtime.data.split import sample_evenly

        return replace(self, chosen=self.chosen[sample_evenly(self.store.rows[self.chosen], count, self.seed)])

    def values(self) -> list[Values]:
        """Read the files again, and return the columns of the chosen rows after the hooks, with that of `group_by`."""
        group_by = self.settings.group_by
        order = {int(number): i for i, number in enumerate(self.store.rows["number"][self.chosen])}
        values: dict[int, Values] = {}
        for item in select(self.data.load_dataset_config, self.files) if order else ():
            if not isinstance(item, BadRow) and item.number in order:
                group = {group_by: item.row.values.get(group_by)} if group_by else {}
                values[order[item.number]] = group | (self.hooks(item.row.values) or {})
                if len(values) == len(order):
                    break
        return [values[i] for i in range(len(order))]

    def places(self) -> Iterator[Location]:
        """Return file and line of each chosen row."""
        return (self.place_of(int(index)) for index in self.chosen)

    def place_of(self, index: int) -> Location:
        """Return file and line of a row of the store."""
        row = self.store.rows[index]
        return Location(self.files[int(row["file"])], int(row["line"]))

    def sequences(self, tokenizer: Any, data_seed: int, scratch: Path | None = None) -> Sequences:
        """Return the sequences of the chosen rows.

        Raises:
            DataError: no sequence is left.
        """
        from phi_runtime.data.sequences import build_sequences

        joiner = self.settings.joiner if "join" in self.settings.strategy else ""
        try:
            return build_sequences(
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
    """The rows that a pass trains on, those that validate it, and those that only the final comparison reads."""

    training: DataSplit
    validation: DataSplit
    test: DataSplit

    @property
    def compared(self) -> tuple[str, DataSplit]:
        """The side that the final comparison reads: test, or validation where there are no test rows."""
        return ("test", self.test) if len(self.test) else ("validation", self.validation)

    @property
    def sides(self) -> dict[str, DataSplit]:
        """The sides that have rows or could have some, by name."""
        sides = {"training": self.training, "validation": self.validation}
        return {**sides, "test": self.test} if len(self.test) else sides

    @property
    def remarks(self) -> list[str]:
        """Warnings about the rows that were read."""
        survey, store = self.training.store.survey, self.training.store
        counts = {
            "cannot be used and are skipped": survey.broken,
            "are empty and are skipped": survey.empty,
            "start with two BOS tokens": survey.double_bos,
            "end with two end tokens": survey.double_end,
        }
        counts |= dict(survey.untrained.most_common())
        if any(len(side) and side.store is store for side in (self.validation, self.test)):
            counts |= {
                "begin like too many others, and are divided by their next question": survey.openings,
                "are near duplicates in groups that are too large to stay on one side": survey.crowded,
            }
        return [f"{count} of {survey.read} rows {what}" for what, count in counts.items() if count]


def load_dataset(workflow: Workflow, training: FinetunePass, context: DataContext, emit: Emit, stage: str) -> Dataset:
    """Return the tokenized rows of `training`, from the token cache if they are in it.

    Raises:
        DataError: a row cannot be used (with its line), or no row is left to train on.
    """
    splits = load_splits(workflow, training, context, emit, stage)
    for split in splits.values():
        _require_rows(split)
    return split_dataset(splits, training)


def load_splits(
    workflow: Workflow, training: FinetunePass, context: DataContext, emit: Emit, stage: str
) -> dict[str, DataSplit]:
    """Return all usable rows of each data config that `training` and its comparison read, by name."""
    return {
        name: load_split(workflow.data_config(name), training, context, emit, stage) for name in training.measured_names
    }


def split_dataset(read: Mapping[str, DataSplit], training: FinetunePass) -> Dataset:
    """Split the rows of `load_splits` into training, validation and test rows.

    Rows of an eval_data_config or test_data_config follow its own settings; those that are split off are all used, without
    random sampling.

    Raises:
        DataError: no row is left to train on.
    """
    from phi_runtime.data.split import split_rows

    seed, first = training.training_args.order_seed, read[training.train_data_config]
    own = (training.eval_data_config, training.test_data_config)
    sizes = (training.eval_dataset_size, training.test_dataset_size)
    sides = split_rows(
        first.store.rows, first.store.clusters, (0 if own[0] else sizes[0], 0 if own[1] else sizes[1]), seed
    )
    kept, settings = sides.training, _without_sampling(first.settings)
    validation, test = (
        read[name] if name else replace(first, chosen=chosen, settings=settings)
        for name, chosen in zip(own, (sides.validation, sides.test), strict=True)
    )
    if not len(kept):
        used = "validation or test" if len(sides.test) else "validation"
        raise DataError(
            f"all {len(first.store)} rows are {used} rows, so none is left to train on",
            where=Location(first.path),
            fix=f"lower eval_dataset_size{' or test_dataset_size' if len(sides.test) else ''}",
        )
    if first.settings.strategy != "line-by-line" or first.settings.max_samples:
        kept.sort()  # as in the files
    return Dataset(replace(first, chosen=kept), validation, test)


def load_split(data: DataConfig, training: FinetunePass, context: DataContext, emit: Emit, stage: str) -> DataSplit:
    """Return all usable rows of one data config. Raises DataError as `load_dataset` does."""
    import numpy as np

    from phi_runtime.data.prepare import LIBRARIES, Recipe, prepare, tokenizer_key

    settings = data.pre_process_data_config
    files = data_files(data, context.config)
    if settings.text_formatting_func and not context.overrides.run_user_script:
        raise UsageError(
            f"the config runs Python code: `{settings.text_formatting_func}` of {settings.user_script}",
            where=Location(context.config),
            fix="read that script, then allow it with --trust-project",
        )
    hooks = load_hooks(context.config, data)
    only_completion, template = completion_only(training, settings), template_of(data, context)
    key = tokenizer_key(context.model.path)
    recipe = Recipe(data, files, hooks, only_completion, template, lambda: context.tokenizer, key, versions(LIBRARIES))
    store, seed = prepare(recipe, context.cache, emit, stage), training.training_args.order_seed
    split = DataSplit(data, files, hooks, store, np.arange(len(store)), settings, only_completion, template, seed)
    if not context.overrides.skip_bad_rows:
        _refuse_bad_rows(split)
    return split


def template_of(data: DataConfig, context: DataContext) -> Template:
    """Return the template that renders the rows of `data`."""
    settings = data.pre_process_data_config
    if settings.chat_template:
        return ChatTemplate.from_config(context.tokenizer, settings.chat_template, settings.message_col)
    ends = end_tokens(special_tokens(context.tokenizer), context.tokenizer.eos_token)
    return PromptTemplate.from_text(
        settings.template, optional=settings.optional_cols or (), end_token=settings.add_special_tokens, ends=ends
    )


def completion_only(training: FinetunePass, settings: PreProcess) -> bool:
    """Return True if only completions are trained; the form of the data decides where completion_only_loss is null."""
    if training.completion_only_loss is not None:
        return training.completion_only_loss
    if settings.chat_template:
        return True
    has_prompt = settings.text_template is not None and PromptTemplate.from_text(settings.text_template).has_prompt
    return has_prompt and settings.strategy in ("line-by-line", "line-by-line-random")


def data_files(data: DataConfig, config_path: Path) -> list[Path]:
    """Return the files of `data` on this machine.

    Raises:
        DataError: there is none.
    """
    files = [file.path for file in data_paths(data, config_path)]
    if not files:
        raise _no_file(data, config_path)
    if data.load_dataset_config.format is None and not files[0].is_file():
        name = data.load_dataset_config.data_name
        raise DataError(f"{name} is not downloaded", where=Location(config_path), fix="run `phi-scaffold fetch`")
    return files


def _no_file(data: DataConfig, config_path: Path) -> DataError:
    files = data.load_dataset_config.data_files
    if isinstance(files, Datastore):
        what = f"the data of `{data.name}` is in Azure ML ({files.address}), not on this machine"
        fix = "set data_files to a local file, or run on Azure ML"
    elif isinstance(files, dict):
        what = f"`{data.name}` has no files for the split `{split_name(data)}`"
        fix = f"its splits are {', '.join(files)}"
    else:
        what = f"no data file of `{data.name}` exists"
        fix = "check data_files and data_dir"
    return DataError(what, where=Location(config_path), fix=fix)


def _refuse_bad_rows(split: DataSplit) -> None:
    """Raise DataError for the first row that cannot be used."""
    survey = split.store.survey
    if survey.broken:
        file, line, what, column, fix = survey.broken_at[0]
        more = f" ({survey.broken} bad rows in all)" if survey.broken > 1 else ""
        if survey.broken < survey.read:
            fix = f"{fix}, or skip bad rows with --skip-bad-rows"
        elif survey.read > 1:
            more = f" (as all {survey.read} rows)"
        raise DataError(what + more, where=Location(split.files[file], line, column), fix=fix)


def _require_rows(split: DataSplit) -> None:
    """Raise DataError, with the counts, if no row is left."""
    survey = split.store.survey
    if not len(split):
        reasons = {"bad": survey.broken, "empty": survey.empty, "dropped by the hooks": survey.filtered}
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        what = f"none of {survey.read} rows can be used: {counts}"
        raise DataError(what, where=Location(split.path), fix="see `phi-scaffold data check`")


def _without_sampling(settings: PreProcess) -> PreProcess:
    return settings.model_copy(update={"strategy": settings.strategy.removesuffix("-random"), "max_samples": None})
