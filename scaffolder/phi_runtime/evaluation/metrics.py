"""Metrics of answers against references, as fractions from 0 to 1."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Texts = Sequence[str]
Fields = dict[str, str | int | float]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_WORD = re.compile(r"[^\W_]+")
_OBJECT_START = re.compile(r'\{\s*["}]')


def score(task: str, answers: Texts, references: Texts) -> dict[str, float]:
    """Return the metrics of a task over all pairs.

    Args:
        task: One of `TASKS`.
        answers: At least one answer.
        references: The expected answers, as many as `answers`.

    Raises:
        ValueError: There are not as many references as answers.
    """
    return _OF_TASK[task].metrics(answers, references)


def headline(task: str) -> str:
    """Return the name of the main metric of a task."""
    return _OF_TASK[task].headline


def macro_f1(answers: Texts, references: Texts) -> float:
    """Return the mean F1 of the labels in `references`; an answer that is not a label only lowers that of its reference."""
    pairs = Counter(zip(answers, references, strict=True))
    predicted, expected = Counter(answers), Counter(references)
    return sum(2 * pairs[label, label] / (predicted[label] + expected[label]) for label in expected) / len(expected)


def exact_match(answer: str, reference: str) -> float:
    """Return 1 for identical texts."""
    return float(answer == reference)


def normalized_match(answer: str, reference: str) -> float:
    """Exact match of SQuAD (https://arxiv.org/abs/1606.05250): ignores case, punctuation and articles."""
    return float(_squad_words(answer) == _squad_words(reference))


def token_f1(answer: str, reference: str) -> float:
    """Word-level F1 of SQuAD (https://arxiv.org/abs/1606.05250): ignores case, punctuation and articles.

    Two texts without a word are equal, as in the script of SQuAD 2.0.
    """
    return _overlap(_squad_words(answer), _squad_words(reference))


def rouge_1(answer: str, reference: str) -> float:
    """F-measure of ROUGE-1 (https://aclanthology.org/W04-1013): overlap of words in any order."""
    return _overlap(_rouge_words(answer), _rouge_words(reference))


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of ROUGE-L (https://aclanthology.org/W04-1013): longest common subsequence of words of the whole text.

    Equals Google's rouge-score without stemming for ASCII texts; rouge-score drops all other letters.
    """
    words, expected = _rouge_words(answer), _rouge_words(reference)
    common = _longest_common_subsequence(words, expected)
    return 2 * common / (len(words) + len(expected)) if common else float(words == expected)


def first_object(text: str) -> dict[str, Any] | None:
    """Return the first JSON object in a text, such as one between code fences; None if there is none or it is invalid.

    An invalid object is not searched for valid ones inside it: a truncated answer does not count.
    """
    start = _OBJECT_START.search(text)
    try:
        return _DECODER.raw_decode(text, start.start())[0] if start else None
    except (ValueError, RecursionError):
        return None


def field_values(value: dict[str, Any]) -> Fields:
    """Return the fields of an object by dotted key: `{"buyer": {"name": "Ann"}, "prices": [2]}` has `buyer.name` and `prices.0`.

    Values compare as in JSON: strings (trimmed and casefolded) differ from numbers, and `true` from 1; 2 equals 2.0.
    """
    fields: Fields = {}
    stack: list[tuple[str, Any]] = list(value.items())
    while stack:
        key, item = stack.pop()
        if item and isinstance(item, dict | list):
            inner = item.items() if isinstance(item, dict) else enumerate(item)
            stack += [(f"{key}.{name}", part) for name, part in inner]
        elif isinstance(item, int | float) and not isinstance(item, bool):
            fields[key] = item
        else:
            fields[key] = json.dumps(item.strip().casefold() if isinstance(item, str) else item)
    return fields


def _of_labels(answers: Texts, references: Texts) -> dict[str, float]:
    return {"accuracy": _mean(exact_match, answers, references), "macro_f1": macro_f1(answers, references)}


def _of_objects(answers: Texts, references: Texts) -> dict[str, float]:
    """Return micro F1 over the fields of all answers, as in slot filling and MUC-4 (https://aclanthology.org/M92-1002)."""
    exact = valid = common = total = 0
    for answer, reference in zip(answers, references, strict=True):
        predicted, expected = first_object(answer), first_object(reference)
        fields, expected_fields = field_values(predicted or {}), field_values(expected or {})
        valid += predicted is not None
        exact += predicted is not None and expected is not None and fields == expected_fields
        common += len(fields.items() & expected_fields.items())
        total += len(fields) + len(expected_fields)
    rows = len(references)
    return {
        "field_f1": 2 * common / total if total else valid / rows,
        "exact_match": exact / rows,
        "valid_json": valid / rows,
    }


def _averages(**metrics: Callable[[str, str], float]) -> Callable[[Texts, Texts], dict[str, float]]:
    return lambda answers, references: {name: _mean(one, answers, references) for name, one in metrics.items()}


def _mean(one: Callable[[str, str], float], answers: Texts, references: Texts) -> float:
    return sum(one(a, r) for a, r in zip(answers, references, strict=True)) / len(references)


def _overlap(answer: Sequence[str], reference: Sequence[str]) -> float:
    words, expected = Counter(answer), Counter(reference)
    common = (words & expected).total()
    return 2 * common / (words.total() + expected.total()) if common else float(words == expected)


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return its length, with each row of the dynamic programming table as the bits of one number.

    From Hyyrö 2004, "Bit-parallel LCS-length computation revisited". A bit is 0 where the row grows.
    """
    positions: dict[str, int] = {}
    for index, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << index
    mask = row = (1 << len(first)) - 1
    for word in second:
        matches = row & positions.get(word, 0)
        row = (row + matches | row - matches) & mask
    return len(first) - row.bit_count()


def _squad_words(text: str) -> list[str]:
    return _ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _rouge_words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # NaN and Infinity


class _TaskMetrics(NamedTuple):
    headline: str
    metrics: Callable[[Texts, Texts], dict[str, float]]


_OF_TASK: dict[str, _TaskMetrics] = {
    "classification": _TaskMetrics("accuracy", _of_labels),
    "chat": _TaskMetrics("token_f1", _averages(token_f1=token_f1, rouge_l=rouge_l)),
    "question-answering": _TaskMetrics("token_f1", _averages(exact_match=normalized_match, token_f1=token_f1)),
    "summarization": _TaskMetrics("rouge_l", _averages(rouge_l=rouge_l, rouge_1=rouge_1)),
    "extraction": _TaskMetrics("field_f1", _of_objects),
    "generation": _TaskMetrics("token_f1", _averages(exact_match=exact_match, token_f1=token_f1, rouge_l=rouge_l)),
}
