"""The work on each row that all models of a comparison get: an answer, the likelihood of the reference, and that of each label."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from phi_runtime.data.dataset import DataContext
from phi_runtime.data.hooks import Values
from phi_runtime.data.row import RowError
from phi_runtime.data.tokenize import Encoder, prompt_ids
from phi_runtime.evaluation.metrics import row_scores
from phi_runtime.evaluation.questions import Questions
from phi_runtime.evaluation.row_results import Measured
from phi_runtime.evaluation.worker import RowTask
from phi_runtime.inference.generator import PromptResult

MAX_LABELS = 32  # more are not scored: the time grows with their tokens
EXAMPLES = 4  # of a few-shot prompt, where answers are no labels
_SEED = 0


@dataclass(frozen=True)
class ScoredRow:
    """A row, and the meaning of its completions.

    Attributes:
        task: The work; its first completion is the reference.
        reference: Expected answer; None for free text.
        end_tokens: Last tokens of the reference that are not its text.
        text_bytes: UTF-8 bytes of that text.
        labels: By label, the completion that it is in, and the number of leading tokens that are it.
    """

    task: RowTask
    reference: str | None = None
    end_tokens: int = 0
    text_bytes: int = 0
    labels: dict[str, tuple[int, int]] = field(default_factory=dict)

    def measured(self, result: PromptResult, task: str, answer: str | None) -> Measured:
        """Return the results of a model, with the metrics of `answer`, which is None for free text."""
        logprobs = result.logprobs[0]
        ending = logprobs[len(logprobs) - self.end_tokens :]
        labels = {label: sum(result.logprobs[index][:tokens]) for label, (index, tokens) in self.labels.items()}
        return Measured(
            answer,
            row_scores(task, answer, self.reference) if answer is not None and self.reference is not None else {},
            loss=-sum(logprobs),
            tokens=len(logprobs),
            end_loss=-sum(ending),
            end_tokens=self.end_tokens,
            finish_reason=result.finish,
            label_logprobs=labels or None,
        )


def score_labels(measured: Measured, task: str, reference: str) -> Measured:
    """Return the same model with the most likely label as its answer, as `multiple_choice` tasks of lm-evaluation-harness."""
    assert measured.label_logprobs
    answer = max(measured.label_logprobs, key=measured.label_logprobs.__getitem__)
    return replace(measured, answer=answer, scores=row_scores(task, answer, reference), finish_reason=None)


def scored_labels(answers: Iterable[str]) -> list[str]:
    """Return the labels among the answers to training and test rows, sorted; none if they are too many."""
    labels = sorted(set(answers))
    return labels if len(labels) <= MAX_LABELS else []


def scored_rows(
    questions: Questions, place: DataContext, context_tokens: int | None, labels: Sequence[str] = ()
) -> list[ScoredRow]:
    """Return the rows of the comparison.

    The reference is the last answer of each row, whichever tokens are trained; of free text, it is the first max_seq_len
    tokens after the first one.
    """
    test = questions.rows
    settings, template, tokenizer = test.settings, test.template, place.tokenizer
    if not template.has_prompt:
        limit = min(settings.max_seq_len, context_tokens or settings.max_seq_len)
        texts = (test.store.row(index)[0][:limit].tolist() for index in test.chosen)
        return [_free_text(ids, tokenizer) for ids in texts]
    encoder = Encoder.of(tokenizer, settings, template)
    encoded = encoder.encode([template.row(row, completion_only=True).pieces for row in questions.values])
    rows = []
    for row, prompt, reference in zip(encoded, questions.prompts, questions.references, strict=True):
        ids, run = row.ids[:context_tokens], slice(*row.runs[-1])
        end = _end_tokens(ids[run], reference, tokenizer) if run.stop <= len(ids) else 0
        task = RowTask(prompt, ids[: run.start], [ids[run]])
        rows.append(ScoredRow(task, reference, end, len(reference.encode())))
    return _with_labels(rows, labels, questions, encoder) if labels else rows


def _free_text(ids: list[int], tokenizer: Any) -> ScoredRow:
    end = _end_tokens(ids[1:], None, tokenizer)
    texts = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids[: len(ids) - end], ids[:1]))
    whole, first = (len(text.encode()) for text in texts)
    return ScoredRow(RowTask(None, ids[:1], [ids[1:]]), None, end, whole - first)


def _end_tokens(ids: list[int], text: str | None, tokenizer: Any) -> int:
    """Return the number of last tokens after `text`, or without a text that of the special tokens at the end."""

    def read(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    count = 0
    while count < len(ids) - 1:
        before = len(ids) - count - 1
        if read(ids[before : before + 1]) and (text is None or text not in read(ids[:before])):
            break
        count += 1
    return count


def _with_labels(
    rows: Sequence[ScoredRow], labels: Sequence[str], questions: Questions, encoder: Encoder
) -> list[ScoredRow]:
    """Add the labels to the completions.

    As in lm-evaluation-harness the end token does not count. But where one label begins another (1 and 10), it does: without
    it, the longer one is never more likely.
    """
    template = questions.rows.template
    texts = {label: template.completion_of(questions.values[0], label) for label in labels}
    nested = any(one != other and other.startswith(one) for one in labels for other in labels)
    pieces = [[(row.task.prompt or "", False), (texts[label], True)] for row in rows for label in labels]
    encoded = iter(encoder.encode(pieces))
    results = []
    for row in rows:
        completions, places = list(row.task.completions), {}
        for label in labels:
            found = next(encoded)
            ids = found.ids[slice(*found.runs[-1])]
            if not nested:
                ids = ids[: len(ids) - _end_tokens(ids, label, encoder.tokenizer)]
            index = next((i for i, other in enumerate(completions) if other[: len(ids)] == ids), len(completions))
            if index == len(completions):
                completions.append(ids)
            places[label] = (index, len(ids))
        results.append(replace(row, task=replace(row.task, completions=completions), labels=places))
    return results


def few_shot_rows(
    rows: Sequence[ScoredRow], questions: Questions, training: Sequence[Values], tokenizer: Any, limit_tokens: int
) -> list[ScoredRow]:
    """Return the rows with examples before their prompts; none if no example fits.

    Args:
        rows: Rows of the comparison.
        questions: The same rows.
        training: Columns of training rows, from which examples come.
        tokenizer: Tokenizer of the model.
        limit_tokens: Limit of the longest prompt.
    """
    template = questions.rows.template
    examples = few_shot_examples([template.reference(row) for row in training], by_label=bool(rows and rows[0].labels))
    while examples:
        chosen = [training[i] for i in examples]
        try:
            prompts = [template.few_shot_prompt(chosen, row) for row in questions.values]
        except RowError:  # a chat template without such turns
            return []
        ids = [prompt_ids(tokenizer, prompt, special=template.special) for prompt in prompts]
        if max(map(len, ids)) <= limit_tokens:
            return [
                replace(row, task=replace(row.task, prompt=prompt, ids=of_row, stop=template.next_example))
                for row, prompt, of_row in zip(rows, prompts, ids, strict=True)
            ]
        examples = examples[: len(examples) // 2]
    return []


def few_shot_examples(answers: Sequence[str], *, by_label: bool) -> list[int]:
    """Return the training rows of a few-shot prompt: a random one per label, or `EXAMPLES`; the same in each call."""
    order = list(range(len(answers)))
    random.Random(_SEED).shuffle(order)
    if not by_label:
        return order[:EXAMPLES]
    return list({answers[i]: i for i in reversed(order)}.values())
