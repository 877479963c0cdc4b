"""The gate of the tokenizer: an exported model reads prompts as the ids that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phi_runtime.context import PassContext
from phi_runtime.core.common_prefix import common_prefix
from phi_runtime.core.errors import WorkFailed
from phi_runtime.data.dataset import Dataset
from phi_runtime.data.tokenize import prompt_ids
from phi_runtime.inference.onnx_folder import short_error
from phi_runtime.inference.stored_tokenizer import open_tokenizer
from phi_runtime.models.load import load_tokenizer
from phi_runtime.models.reference import ModelRef

_ROWS = 32  # whose prompts are compared
_ADDED_TOKENS = 32  # that are compared between texts
_TEXTS = (
    "",
    " ",
    "We won the game.",
    " leading, double  and trailing spaces ",
    "two\n\nlines\n",
    "\r\n\ttab",
    "Straße, naïve, e\u0301, 你好 世界, ไทย, 🎉👍🏽",
    "it's 12345.67%",
    "\u00a0\u200b\ufeff▁ﬁ①",
)


def probe_texts(tokenizer: Any) -> list[str]:
    """Return texts that tokenizers are known to read differently: white space, other scripts, and special and added tokens."""
    named = [token for token in (tokenizer.bos_token, tokenizer.eos_token) if token]
    added = dict.fromkeys([*named, *tokenizer.get_added_vocab()])
    return [
        *_TEXTS,
        *(token + text for token in named for text in ("We won", " We won", "\nWe won")),
        *(text for token in list(added)[:_ADDED_TOKENS] for text in (f"a{token}b", f"a {token} b", f"a\n{token}\nb")),
    ]


def sample_prompts(dataset: Dataset | None) -> list[str]:
    """Return prompts of validation rows; whole rows of free text."""
    if dataset is None:
        return []
    template, rows = dataset.validation.template, dataset.validation.first(_ROWS).values()
    if template.has_prompt:
        return [template.render_prompt(row) for row in rows]
    return ["".join(text for text, _ in template.row(row, completion_only=False).pieces) for row in rows]


def check_tokens(source: ModelRef, folder: Path, prompts: Sequence[str], *, special: bool) -> dict[str, list[int]]:
    """Compare the tokenizer in `folder`, which inference uses, with that of `source`, on `prompts` and on `probe_texts`.

    Args:
        source: Model that was exported.
        folder: Folder of the ONNX model.
        prompts: Prompts of the data.
        special: Special tokens are added to prompts.

    Returns:
        The ids of each compared text.

    Raises:
        WorkFailed: A text has other ids.
    """
    trained = load_tokenizer(source)
    try:
        exported = open_tokenizer(folder)
    except (OSError, ValueError) as e:
        raise WorkFailed(
            f"the exported tokenizer does not load: {short_error(e)}", fix="use a base model with a tokenizer.json"
        ) from None
    compared: dict[str, list[int]] = {}
    for text in (*prompts, *probe_texts(trained)):
        expected, ids = (prompt_ids(tokenizer, text, special=special) for tokenizer in (trained, exported))
        compared[text] = expected
        if ids != expected:
            raise WorkFailed(
                f"the exported tokenizer differs from the training's at {_difference(text, ids, expected)}",
                fix="use the tokenizer files of the source model, and rebuild with `phi-scaffold run --force` and this stage",
            )
    return compared


def warn_of_other_apps(context: PassContext, og: Any, model: Any, compared: Mapping[str, list[int]]) -> None:
    """Warn if the tokenizer in ONNX Runtime GenAI, which other applications use, reads texts differently.

    Args:
        compared: The ids of each text, from `check_tokens`.
    """
    advice = "other applications must tokenize with tokenizer.json, as chat_onnx.py does"
    try:
        other = og.Tokenizer(model)
    except RuntimeError as e:
        context.warn(f"the tokenizer in onnxruntime-genai does not load ({short_error(e)}): {advice}")
        return
    bos = compared[""]
    for text, expected in compared.items():
        ids = [int(token) for token in other.encode(text)]
        if ids[: len(bos)] != bos and expected[: len(bos)] == bos:
            expected = expected[len(bos) :]
        if ids != expected:
            difference = _difference(text, ids, expected)
            context.warn(f"the tokenizer in onnxruntime-genai differs from the training's at {difference}: {advice}")
            return
    if bos and not other.encode("").tolist():
        context.warn(f"the tokenizer in onnxruntime-genai adds no BOS: {advice}")


def _difference(text: str, ids: Sequence[int], expected: Sequence[int]) -> str:
    """Name the text, and the ids of both from the first difference on."""
    at = common_prefix(ids, expected)
    return f"{text[:60]!r}: tokens {at + 1} to {at + 3} are {list(ids[at : at + 3])}, expected {list(expected[at : at + 3])}"
