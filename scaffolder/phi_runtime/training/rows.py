"""Training and validation rows of a pass, as token sequences, with warnings about what is unusual in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phi_runtime.config.schema import FinetunePass
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import write_json
from phi_runtime.core.errors import DataError
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.dataset import Dataset, load_dataset
from phi_runtime.data.report import report
from phi_runtime.data.report_file import report_file
from phi_runtime.inference.transformers import stop_ids
from phi_runtime.training.process_group import is_main_process, rank

if TYPE_CHECKING:
    from phi_runtime.data.sequences import Sequences

FinetuneContext = PassContext[FinetunePass]

_SPECIAL_TOKENS = {
    "written_ends": "write `{}` at the end of an answer; it is trained once, as the end",
    "special_tokens": "contain `{}`, which this model reads as a special token",
    "foreign_tokens": "contain `{}` of another model, which this one reads and learns as text",
}
_CHECKED_ROWS = 100  # in which the end of a turn is looked up


@dataclass(frozen=True)
class TrainingData:
    """The rows of a run, and the sequences made of them."""

    dataset: Dataset
    training: Sequences
    validation: Sequences
    tokenizer: Any

    def describe_rows(self, indices: Sequence[int]) -> str:
        """Describe training sequences, given by index, by the file and line of their rows."""
        side, starts = self.dataset.training, self.training.spans[list(indices), 0]
        if self.training.tokens is not side.store.tokens:  # joined rows, stored in their own file
            return f"the training sequences {', '.join(map(str, indices))}"
        rows: list[int] = (np.unique(side.store.starts.searchsorted(starts, side="right")) - 1).tolist()
        return "the rows at " + ", ".join(str(side.place_of(row)) for row in rows)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of rows, sequences and tokens, for the log and the manifest."""
        counts = {
            **self.training.counts,
            "validation_rows": self.validation.rows,
            "validation_sequences": len(self.validation),
        }
        if len(self.dataset.test):
            counts["test_rows"] = len(self.dataset.test)
        if self.dataset.training.settings.strategy in ("join", "join-sliding-window"):
            counts["last_sequence_tokens"] = int(self.training.lengths[-1])
        return counts


def load_training_data(context: FinetuneContext) -> TrainingData:
    """Read and tokenize the rows of a pass, warn about problems, and write the data report to the run's folder.

    Raises:
        DataError: There is nothing to train on.
    """
    config, place = context.config, context.data
    dataset = load_dataset(context.workflow, config, place, context.emit, context.name)
    tokenizer = place.tokenizer
    seed = config.training_args.order_seed
    folder = context.work / f"rows-{rank()}"  # for long joins; each process writes its own
    training = dataset.training.sequences(tokenizer, seed, folder / "training")
    try:
        validation = dataset.validation.sequences(tokenizer, seed, folder / "validation")
    except DataError as e:
        raise DataError(f"validation rows: {e.what}", where=e.where, fix=e.fix) from None
    data = TrainingData(dataset, training, validation, tokenizer)
    if is_main_process():
        _report(context, data)
    return data


def _report(context: FinetuneContext, data: TrainingData) -> None:
    training, validation = data.training, data.validation
    data_report = report(data.dataset, {"training": training, "validation": validation}, context.project)
    if context.record:
        write_json(context.record / report_file(context.workflow, context.name), data_report)
    warnings = list(data_report["warnings"])
    if training.endless:
        warnings.append(
            f"{training.endless} of {training.rows} rows end without a special token, since add_special_tokens is false: "
            "the model will not learn to stop"
        )
    test = data.dataset.test
    for name, count, key in (("validation", validation.rows, "leakage"), ("test", len(test), "test_leakage")):
        leakage = data_report["splits"][key] or {}
        if repeated := leakage.get("same_question", 0) + leakage.get("near_duplicate", 0):
            warnings.append(
                f"{repeated} of {count} {name} rows repeat a training question, exactly or nearly: scores will be too high "
                "(`phi-scaffold data check` lists them)"
            )
    for warning in [*warnings, *special_token_warnings(data_report)]:
        context.warn(warning)


def special_token_warnings(data_report: Mapping[str, Any]) -> list[str]:
    """Return warnings about special tokens that the rows write out."""
    return [
        f"{count} of {data_set['rows']['read']} rows {what.format(token)}"
        for data_set in data_report["datasets"]
        if data_set["row_type"] != "texts"  # free text is trained as it is
        for key, what in _SPECIAL_TOKENS.items()
        for token, count in data_set[key].items()
    ]


def check_stop_tokens(context: FinetuneContext, model: Any, data: TrainingData) -> None:
    """Warn if the turns of conversations end in a token that is no stop token in the model's generation config."""
    side = data.dataset.training
    if not isinstance(side.template, ChatTemplate) or not side.completion_only:
        return
    sample = (side.store.row(index) for index in side.chosen[:_CHECKED_ROWS])
    last_ids = {int(ids[trained.nonzero()[0][-1]]) for ids, trained in sample if trained.any()}
    if last_ids and not last_ids & stop_ids(model, data.tokenizer):
        token = data.tokenizer.convert_ids_to_tokens(last_ids.pop())
        context.warn(
            f"turns end in `{token}`, but the model does not stop there: add it to eos_token_id in generation_config.json"
        )
