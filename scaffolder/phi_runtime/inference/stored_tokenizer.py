"""The tokenizer in the folder of a model, without transformers (whose import takes seconds)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from phi_runtime.core.artifacts import read_json
from phi_runtime.models.load import load_tokenizer
from phi_runtime.models.reference import ModelRef


class StoredTokenizer:
    """The tokenizer.json of a folder, with those parts of the interface of transformers that inference needs.

    ONNX Runtime GenAI has a tokenizer of its own, whose ids are not those of the training: it adds BOS to every text (up to
    0.15) or to none (0.16 and later), adds spaces after special tokens of SentencePiece-like tokenizers, and does not load
    Unigram models (seen in 0.18).

    Args:
        folder: Folder of a model.

    Raises:
        OSError, ValueError: It has no readable tokenizer.json.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        stored = (folder / "tokenizer.json").read_text(encoding="utf-8")
        try:
            self.backend_tokenizer = Tokenizer.from_str(stored)
        except Exception as e:  # the library has no error class for it (0.23)
            raise ValueError(f"tokenizer.json: {e}") from None
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        config = read_json(folder / "tokenizer_config.json")
        bos = config.get("bos_token")
        self.bos_token: str | None = bos["content"] if isinstance(bos, dict) else bos

    def __call__(self, text: str, *, add_special_tokens: bool) -> SimpleNamespace:
        return SimpleNamespace(input_ids=self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        text: str = self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text


def open_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in `folder`, through transformers only if there is no tokenizer.json. Raises OSError, ValueError."""
    if (folder / "tokenizer.json").is_file():
        return StoredTokenizer(folder)
    return load_tokenizer(ModelRef(folder, "onnx", str(folder)))
