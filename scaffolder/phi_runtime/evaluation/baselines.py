"""Answers of simple baselines: what a model has to beat before it is worth its size."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

Texts = Sequence[str]

_SENTENCE = re.compile(r".+?(?:[.!?。！？](?=\s|$)|[。！？]|\n|$)", re.DOTALL)


class Baseline(NamedTuple):
    """A baseline with its answer to each test row."""

    name: str
    answers: list[str]


def baselines(task: str, questions: Texts, answers: Texts, test_questions: Texts) -> list[Baseline]:
    """Return the answers of each baseline of a task to the test questions.

    Args:
        task: Task of the evaluation.
        questions, answers: (N,) training rows: the input columns without their template, and the answers.
        test_questions: (M,) inputs to answer.

    Returns:
        For classification, the majority label, and logistic regression over TF-IDF of character n-grams; then for each
        task, the answer of the nearest row; for summarization, the first sentence; for generation, a copy.
    """
    if not questions or not test_questions:
        return []
    train, test = _tf_idf(questions, test_questions)
    found: list[Baseline] = []
    if task == "classification":
        found = [_majority(answers, len(test_questions)), *_logistic_regression(train, answers, test)]
    found.append(_nearest(train, answers, test))
    if task == "summarization":
        found.append(Baseline("first sentence", [_first_sentence(text) for text in test_questions]))
    if task == "generation":
        found.append(Baseline("copy of the input", list(test_questions)))
    return found


def _majority(answers: Texts, rows: int) -> Baseline:
    """Answer with the most frequent label; of equally frequent ones, the first in the alphabet."""
    counts = Counter(answers)
    label = min(counts, key=lambda answer: (-counts[answer], answer))
    return Baseline("majority label", [label] * rows)


def _logistic_regression(train: Any, answers: Texts, test: Any) -> list[Baseline]:
    if len(set(answers)) < 2:
        return []
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    model = LogisticRegression(C=10, max_iter=1000).fit(train, list(answers))
    return [Baseline("logistic regression", [str(answer) for answer in model.predict(test)])]


def _nearest(train: Any, answers: Texts, test: Any) -> Baseline:
    from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]

    model = NearestNeighbors(n_neighbors=1, metric="cosine").fit(train)
    nearest = model.kneighbors(test, return_distance=False)[:, 0]
    return Baseline("nearest row", [answers[i] for i in nearest])


def _tf_idf(questions: Texts, test: Texts) -> tuple[Any, Any]:
    """Return sparse matrices (N, F) and (M, F) of the character n-grams in words, which need no tokenizer of the language."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=200_000)
    return vectorizer.fit_transform(questions), vectorizer.transform(test)


def _first_sentence(text: str) -> str:
    match = _SENTENCE.match(text.strip())
    return match[0].strip() if match else ""
