"""Metrics of answers against references, as fractions from 0 to 1."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from phi_runtime.evaluation.intervals import Scores

Texts = Sequence[str]
Fields = dict[str, str | int | float]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_WORD = re.compile(r"[^\W_]+")
_OBJECT_START = re.compile(r'\{\s*["}]')


def row_scores(task: str, answer: str, reference: str) -> dict[str, float]:
    """Return the metrics of a task that a single row has; `score` averages them."""
    return {name: metric(answer, reference) for name, metric in _OF_TASK[task].rows.items()}


def headline_scores(task: str, answers: Texts, references: Texts) -> Scores:
    """Return the scores of each row whose weighted mean is the main metric of a task."""
    from phi_runtime.evaluation.intervals import Scores

    pairs = zip(answers, references, strict=True)
    if task != "extraction":
        metric = _OF_TASK[task].rows[headline(task)]
        return Scores([metric(*pair) for pair in pairs])
    counts = count_fields(answers, references)
    fields = [count.written + count.expected for count in counts]
    if not any(fields):
        return Scores([_valid_json(*pair) for pair in pairs])
    return Scores([2 * count.common / n if n else 0.0 for count, n in zip(counts, fields, strict=True)], fields)


def labels_of(references: Texts) -> list[str]:
    """Return the labels of a classification in alphabetical order: the expected answers."""
    return sorted(set(references))


def headline(task: str) -> str:
    """Return the name of the main metric of a task."""
    return _OF_TASK[task].headline


def main_result(task: str, model: Mapping[str, Any]) -> tuple[str, float | None, Sequence[float] | None]:
    """Return name, value and interval of the main metric of a model in evaluation.json; of free text, of its perplexity."""
    metric = headline(task)
    if metric in model["metrics"]:
        return metric, model["metrics"][metric], model["interval"]
    return "perplexity", model["perplexity"], model["perplexity_interval"]


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


def rouge_2(answer: str, reference: str) -> float:
    """F-measure of ROUGE-2 (https://aclanthology.org/W04-1013): overlap of pairs of adjacent words.

    Texts without a pair are compared as they are.
    """
    words, expected = _rouge_words(answer), _rouge_words(reference)
    if min(len(words), len(expected)) < 2:
        return float(words == expected)
    return _overlap(list(pairwise(words)), list(pairwise(expected)))


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


class _FieldCounts(NamedTuple):
    """Fields of one row: equal in answer and reference, of the answer, and of the reference."""

    common: int
    written: int
    expected: int


def count_fields(answers: Texts, references: Texts) -> list[_FieldCounts]:
    """Return the number of equal, written and expected fields of each row."""
    counts = []
    for pair in zip(answers, references, strict=True):
        fields, expected = (field_values(first_object(text) or {}) for text in pair)
        counts.append(_FieldCounts(len(fields.items() & expected.items()), len(fields), len(expected)))
    return counts


def _valid_json(answer: str, _: str) -> float:
    return float(first_object(answer) is not None)


def _same_object(answer: str, reference: str) -> float:
    written, expected = first_object(answer), first_object(reference)
    return float(written is not None and expected is not None and field_values(written) == field_values(expected))


def corpus_scores(task: str, answers: Texts, references: Texts) -> dict[str, float]:
    """Return BLEU and chrF of sacrebleu (https://aclanthology.org/W18-6319) as fractions; none for a task without free text.

    BLEU counts only the n-gram lengths that an answer has, or all texts of up to three words would score 0.
    """
    if not _OF_TASK[task].is_text:
        return {}
    from sacrebleu.metrics import BLEU, CHRF

    texts, expected = list(answers), [list(references)]
    bleu = BLEU(effective_order=True).corpus_score(texts, expected).score / 100
    return {"bleu": min(bleu, 1.0), "chrf": CHRF().corpus_score(texts, expected).score / 100}


def _overlap(answer: Sequence[Hashable], reference: Sequence[Hashable]) -> float:
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
    rows: dict[str, Callable[[str, str], float]]
    is_text: bool = False


_F1_AND_ROUGE: dict[str, Callable[[str, str], float]] = {"token_f1": token_f1, "rouge_l": rouge_l}
_OF_TASK: dict[str, _TaskMetrics] = {
    "classification": _TaskMetrics("accuracy", {"accuracy": exact_match}),
    "chat": _TaskMetrics("token_f1", _F1_AND_ROUGE, is_text=True),
    "question-answering": _TaskMetrics("token_f1", {"exact_match": normalized_match, "token_f1": token_f1}),
    "summarization": _TaskMetrics(
        "rouge_l", {"rouge_l": rouge_l, "rouge_1": rouge_1, "rouge_2": rouge_2}, is_text=True
    ),
    "extraction": _TaskMetrics("field_f1", {"exact_match": _same_object, "valid_json": _valid_json}),
    "generation": _TaskMetrics("token_f1", {"exact_match": exact_match, **_F1_AND_ROUGE}, is_text=True),
}
