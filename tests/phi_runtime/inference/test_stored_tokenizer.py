"""Prompts of an ONNX model: the same ids as in training, for tokenizers of every kind."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phi_runtime.core.errors import WorkFailed
from phi_runtime.data.tokenize import prompt_ids
from phi_runtime.export.gate_tokens import check_tokens, probe_texts, warn_of_other_apps
from phi_runtime.inference.generator import GeneratorOptions, SamplingParams
from phi_runtime.inference.onnx import OnnxGenerator
from phi_runtime.inference.onnx_folder import open_model, runtime
from phi_runtime.inference.stored_tokenizer import open_tokenizer
from phi_runtime.models.reference import ModelRef
from tests.tokenizer_kinds import KINDS, tokenizer_of


@pytest.mark.parametrize("bos", [True, False], ids=["with BOS", "without BOS"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_tokenizer_gives_the_ids_of_the_training(kind: str, bos: bool, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind, bos=bos)
    tokenizer.save_pretrained(tmp_path)
    stored = open_tokenizer(tmp_path)
    assert stored.bos_token == "<s>"
    for text in probe_texts(tokenizer):
        for special in (True, False):
            assert prompt_ids(stored, text, special=special) == prompt_ids(tokenizer, text, special=special), text


@pytest.mark.parametrize(
    ("prompt", "special", "expected"),
    [
        ("w", True, ["<s>", "▁", "w"]),
        ("<s>w", True, ["<s>", "w"]),
        ("<s> w", True, ["<s>", "▁", "w"]),
        ("w<s>", True, ["<s>", "▁", "w", "<s>"]),
        ("w", False, ["▁", "w"]),
        ("<|user|>\nw<|end|>\n", False, ["<|user|>", "w", "<|end|>", "<0x0A>"]),
        ("<|mid|> w", True, ["<s>", "<|mid|>", "w"]),
        ("é", True, ["<s>", "▁", "<0xC3>", "<0xA9>"]),
    ],
)
def test_an_onnx_model_reads_bos_exactly_once(
    prompt: str, special: bool, expected: list[str], tiny_onnx: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_onnx, tmp_path / "onnx")
    tokenizer = tokenizer_of("byte fallback, first")
    tokenizer.save_pretrained(folder)
    model = OnnxGenerator(folder, GeneratorOptions(add_special_tokens=special))
    assert tokenizer.convert_ids_to_tokens(model.encode(prompt)) == expected
    assert model.count(prompt) == len(expected)


def test_an_onnx_model_of_any_tokenizer_answers_at_a_high_temperature(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_onnx, tmp_path / "onnx")
    for kind in (
        "byte fallback, first",
        "unigram with byte fallback",
        "wordpiece",
    ):  # onnxruntime-genai loads the first
        tokenizer_of(kind).save_pretrained(folder)
        model = OnnxGenerator(folder)
        for seed in range(3):
            answer = model.answer("we won", SamplingParams(max_new_tokens=40, temperature=3.0, seed=seed))
            assert "".join(piece.text for piece in answer)


def test_an_exported_tokenizer_with_other_ids_is_refused(tiny_phi3: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    source = ModelRef(tiny_phi3, "hf", "tiny")
    assert "we won" in check_tokens(source, tiny_onnx, ["we won"], special=True)
    folder = shutil.copytree(tiny_onnx, tmp_path / "onnx")
    stored = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(
        stored.replace('"add_prefix_space":false', '"add_prefix_space":true').replace(
            '"add_prefix_space": false', '"add_prefix_space": true'
        ),
        encoding="utf-8",
    )
    with pytest.raises(WorkFailed, match=r"differs from the training's at 'we won': tokens 1 to 3 are \[\d+"):
        check_tokens(source, folder, ["we won"], special=True)
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(WorkFailed, match="does not load"):
        check_tokens(source, folder, ["we won"], special=True)


@pytest.mark.parametrize(
    ("kind", "bos", "warning"),
    [
        ("byte-level", False, None),
        ("byte-level", True, "adds no BOS"),
        ("byte fallback, first", False, r"differs from the training's at ' a  b': tokens 2 to 4"),
        ("unigram", True, "does not load"),
    ],
)
def test_an_export_warns_if_other_applications_read_other_ids(
    kind: str, bos: bool, warning: str | None, tiny_onnx: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_onnx, tmp_path / "onnx")
    tokenizer_of(kind, bos=bos, added=False).save_pretrained(folder)
    warnings: list[str] = []
    context: Any = SimpleNamespace(out=folder, warn=warnings.append)
    tokenizer = open_tokenizer(folder)
    compared = {text: prompt_ids(tokenizer, text, special=True) for text in ("", "won", "a\nb", " a  b")}
    warn_of_other_apps(context, runtime(), open_model(folder), compared)
    if warning is None:
        assert warnings == []
    else:
        assert len(warnings) == 1
        assert re.search(warning, warnings[0]), warnings
