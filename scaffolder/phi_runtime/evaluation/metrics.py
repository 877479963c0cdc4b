"""Scores of answers against references. All are fractions from 0 to 1."""

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
    """The metrics of `task`, one of `TASKS`, over at least one pair; ValueError when there are not as many of each."""
    return _OF_TASK[task].metrics(answers, references)


def headline(task: str) -> str:
    """The one metric that stands for a task."""
    return _OF_TASK[task].headline


def macro_f1(answers: Texts, references: Texts) -> float:
    """F1 of each label that occurs in `references`, averaged. An answer that is no label counts against its reference alone."""
    pairs = Counter(zip(answers, references, strict=True))
    given, wanted = Counter(answers), Counter(references)
    return sum(2 * pairs[label, label] / (given[label] + wanted[label]) for label in wanted) / len(wanted)


def exact_match(answer: str, reference: str) -> float:
    """1 for the same text, as it is."""
    return float(answer == reference)


def normalized_match(answer: str, reference: str) -> float:
    """Exact match as SQuAD counts it (https://arxiv.org/abs/1606.05250): case, punctuation and articles do not matter."""
    return float(_squad_words(answer) == _squad_words(reference))


def token_f1(answer: str, reference: str) -> float:
    """Overlap of words, as SQuAD counts it (https://arxiv.org/abs/1606.05250): case, punctuation and articles do not matter.

    Two texts without a word agree, as in the script of SQuAD 2.0.
    """
    return _overlap(_squad_words(answer), _squad_words(reference))


def rouge_1(answer: str, reference: str) -> float:
    """Overlap of words, in any order: ROUGE-1 (https://aclanthology.org/W04-1013), its F-measure."""
    return _overlap(_rouge_words(answer), _rouge_words(reference))


def rouge_l(answer: str, reference: str) -> float:
    """Longest common subsequence of words: ROUGE-L of the whole text (https://aclanthology.org/W04-1013), its F-measure.

    ROUGE is as Google's rouge-score counts it without stemming, where the texts are ASCII; that drops all other letters.
    """
    have, want = _rouge_words(answer), _rouge_words(reference)
    common = _longest_common_subsequence(have, want)
    return 2 * common / (len(have) + len(want)) if common else float(have == want)


def first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text, such as one between code fences; None when there is none or it is broken.

    A broken object is not searched for whole ones inside: what was cut off is no answer.
    """
    start = _OBJECT_START.search(text)
    try:
        return _DECODER.raw_decode(text, start.start())[0] if start else None
    except (ValueError, RecursionError):
        return None


def field_values(found: dict[str, Any]) -> Fields:
    """What an object says, by dotted key: `{"buyer": {"name": " Ann "}, "prices": [2]}` has `buyer.name` and `prices.0`.

    Values compare as those of JSON do: strings, here trimmed and casefolded, differ from numbers, and `true` from 1; 2 is 2.0.
    """
    fields: Fields = {}
    waiting: list[tuple[str, Any]] = list(found.items())
    while waiting:
        key, value = waiting.pop()
        if value and isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{key}.{name}", part) for name, part in inner]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            fields[key] = value
        else:
            fields[key] = json.dumps(value.strip().casefold() if isinstance(value, str) else value)
    return fields


def _of_labels(answers: Texts, references: Texts) -> dict[str, float]:
    return {"accuracy": _mean(exact_match, answers, references), "macro_f1": macro_f1(answers, references)}


def _of_objects(answers: Texts, references: Texts) -> dict[str, float]:
    """Micro F1 over the fields of all answers, as in slot filling and MUC-4 (https://aclanthology.org/M92-1002)."""
    exact = valid = common = total = 0
    for answer, reference in zip(answers, references, strict=True):
        found, wanted = first_object(answer), first_object(reference)
        given, asked = field_values(found or {}), field_values(wanted or {})
        valid += found is not None
        exact += found is not None and wanted is not None and given == asked
        common += len(given.items() & asked.items())
        total += len(given) + len(asked)
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
    have, want = Counter(answer), Counter(reference)
    common = (have & want).total()
    return 2 * common / (have.total() + want.total()) if common else float(have == want)


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, each row of the usual table as the bits of one number, with a 0 where the row grows: long summaries cost
    no time. From Hyyrö 2004, "Bit-parallel LCS-length computation revisited"."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    whole = row = (1 << len(first)) - 1
    for word in second:
        here = row & places.get(word, 0)
        row = (row + here | row - here) & whole
    return len(first) - row.bit_count()


def _squad_words(text: str) -> list[str]:
    return _ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _rouge_words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _no_json(name: str) -> None:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_no_json)  # NaN and Infinity


class _Task(NamedTuple):
    headline: str
    metrics: Callable[[Texts, Texts], dict[str, float]]


_OF_TASK = {
    "classification": _Task("accuracy", _of_labels),
    "chat": _Task("token_f1", _averages(token_f1=token_f1, rouge_l=rouge_l)),
    "question-answering": _Task("token_f1", _averages(exact_match=normalized_match, token_f1=token_f1)),
    "summarization": _Task("rouge_l", _averages(rouge_l=rouge_l, rouge_1=rouge_1)),
    "extraction": _Task("field_f1", _of_objects),
    "generation": _Task("token_f1", _averages(exact_match=exact_match, token_f1=token_f1, rouge_l=rouge_l)),
}
TASKS = tuple(_OF_TASK)
