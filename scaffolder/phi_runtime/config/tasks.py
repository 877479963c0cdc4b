"""The tasks that a model can be trained for, with their metrics. Imports nothing, so that `new` starts fast."""

from typing import Literal, get_args

Task = Literal["classification", "chat", "question-answering", "summarization", "extraction", "generation"]

TASKS: tuple[Task, ...] = get_args(Task)

METRICS: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"),
    "chat": ("token_f1", "rouge_l", "bleu", "chrf"),
    "question-answering": ("exact_match", "token_f1"),
    "summarization": ("rouge_l", "rouge_1", "rouge_2", "bleu", "chrf"),
    "extraction": ("exact_match", "valid_json", "field_f1", "field_precision", "field_recall"),
    "generation": ("exact_match", "token_f1", "rouge_l", "bleu", "chrf"),
}
"""Names of the metrics of each task, as `phi_runtime.evaluation.row_statistics.score` returns them."""
