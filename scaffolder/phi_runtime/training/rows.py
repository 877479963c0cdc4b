"""The rows that a pass trains on and those that it keeps from it, as sequences of tokens, and what there is to say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import write_json
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.dataset import Dataset, load_dataset
from phi_runtime.data.report import FILE as REPORT
from phi_runtime.data.report import report
from phi_runtime.training.processes import rank

if TYPE_CHECKING:
    from phi_runtime.data.sequences import Sequences


@dataclass(frozen=True)
class Rows:
    """What a run trains on, and what it is measured by."""

    dataset: Dataset
    training: Sequences
    validation: Sequences
    tokenizer: Any

    @property
    def pad_id(self) -> int:
        """What fills up a batch; it is masked, so that any token will do."""
        found = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if found is None else found)

    def places(self, indices: Sequence[int]) -> str:
        """Where the rows of these training sequences stand, for the user."""
        side, starts = self.dataset.training, self.training.spans[list(indices), 0]
        if self.training.tokens is not side.store.tokens:  # joined rows, which lie in a file of their own
            return f"the training sequences {', '.join(map(str, indices))}"
        rows: list[int] = (np.unique(side.store.starts.searchsorted(starts, side="right")) - 1).tolist()
        return "the rows at " + ", ".join(str(side.place_of(row)) for row in rows)

    @property
    def counts(self) -> dict[str, int]:
        """What is trained on, for the log and the manifest."""
        counts = {
            "rows": self.training.rows,
            "sequences": len(self.training),
            "tokens": self.training.token_count,
            "trained_tokens": self.training.trained_count,
            "validation_rows": self.validation.rows,
            "validation_sequences": len(self.validation),
        }
        if self.dataset.training.settings.strategy in ("join", "join-sliding-window"):
            counts["last_sequence_tokens"] = int(self.training.lengths[-1])
        return counts


def read_rows(context: PassContext) -> Rows:
    """The rows that the pass names, tokenised; what is remarkable in them is said, and recorded in the run's folder.

    Raises DataError when there is nothing to train on.
    """
    config = context.config
    place = context.place
    dataset = load_dataset(context.workflow, config, place, context.emit, context.name)
    tokenizer = place.tokenizer
    seed = config.training_args.order_seed
    own = context.work / f"rows-{rank()}"  # where long joins are written, by each process for itself
    training = dataset.training.sequences(tokenizer, seed, own / "training")
    validation = dataset.held_out.sequences(tokenizer, seed, own / "held-out")
    remarks = [*dataset.remarks, *training.remarks, *(f"validation rows: {remark}" for remark in validation.remarks)]
    if training.endless:
        remarks.append(
            f"{training.endless} of {training.rows} rows end without a special token, and add_special_tokens is false: "
            "the model will not learn to stop"
        )
    found = report(dataset, {"training": training, "validation": validation}, context.project)
    if context.record:
        write_json(context.record / REPORT, found)
    leakage = found["splits"]["leakage"]
    if alike := leakage["same_question"] + leakage["near_duplicate"]:
        remarks.append(
            f"{alike} of {validation.rows} validation rows repeat a training question, exactly or nearly: scores will be too "
            "high (`phi-scaffold data check` lists them)"
        )
    for remark in remarks:
        context.warn(remark)
    return Rows(dataset, training, validation, tokenizer)


def check_stops(context: PassContext, model: Any, rows: Rows) -> None:
    """Warns where conversations end a turn in a token at which the model, as its generation config has it, goes on talking."""
    side = rows.dataset.training
    if not isinstance(side.template, ChatTemplate) or not side.completion_only:
        return
    stops = model.generation_config.eos_token_id
    known = {rows.tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])}
    looked_at = (side.store.row(index) for index in side.chosen[:100])
    ends = {int(ids[trained.nonzero()[0][-1]]) for ids, trained in looked_at if trained.any()}
    if ends and not ends & known:
        token = rows.tokenizer.convert_ids_to_tokens(ends.pop())
        message = f"turns end in `{token}`, at which the model does not stop: add it to eos_token_id in its generation_config.json"
        context.warn(message)
