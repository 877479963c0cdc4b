"""An ONNX model that has the tokenizer and the vocabulary of another, and no weights: enough to compile guides and follow them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import read_json

_HEADS = _HEAD_SIZE = 1
_CONTEXT_LENGTH = 1024
_TOKENIZER_FILES = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges")


def write_guide_model(model: Path, folder: Path) -> None:
    """Write the model for the guides of the ONNX model in the folder `model` into `folder`, which exists."""
    for file in tokenizer_files(model):
        shutil.copy(file, folder)
    original = read_json(model / "genai_config.json")["model"]
    tokens = {key: value for key, value in original.items() if key.endswith("_token_id") or key == "vocab_size"}
    config = {
        "model": {"type": "llama", "context_length": _CONTEXT_LENGTH, **tokens, "decoder": _decoder()},
        "search": {"do_sample": False, "max_length": _CONTEXT_LENGTH, "past_present_share_buffer": False},
    }
    (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    _save_graph(folder / "model.onnx", original["vocab_size"])


def tokenizer_files(model: Path) -> list[Path]:
    """Return the files of the tokenizer in the folder `model`, sorted."""
    return sorted(file for file in model.iterdir() if file.is_file() and file.name.startswith(_TOKENIZER_FILES))


def _decoder() -> dict[str, Any]:
    return {
        "session_options": {"provider_options": []},
        "filename": "model.onnx",
        "head_size": _HEAD_SIZE,
        "hidden_size": _HEADS * _HEAD_SIZE,
        "num_attention_heads": _HEADS,
        "num_hidden_layers": 1,
        "num_key_value_heads": _HEADS,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past.%d.key",
            "past_value_names": "past.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }


def _save_graph(file: Path, vocab_size: int) -> None:
    """Save a graph whose cache grows by zeros, and whose logits (B, T, V) are random, so that answers differ."""
    import onnx
    from onnx import TensorProto, helper

    ints, floats = TensorProto.INT64, TensorProto.FLOAT
    past = ["B", _HEADS, "P", _HEAD_SIZE]
    constants = {"axes": [1, 3], "vocabulary": [vocab_size]}
    zero = helper.make_tensor("zero", floats, [1], [0.0])
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["tokens_shape"]),  # (B, T)
        helper.make_node("Concat", ["tokens_shape", "vocabulary"], ["logits_shape"], axis=0),
        helper.make_node("ConstantOfShape", ["logits_shape"], ["flat"], value=zero),
        helper.make_node("RandomNormalLike", ["flat"], ["logits"], dtype=floats, seed=1.0),
        helper.make_node("ConstantOfShape", ["tokens_shape"], ["rows"], value=zero),
        helper.make_node("Unsqueeze", ["rows", "axes"], ["entries"]),  # (B, 1, T, 1)
        helper.make_node("Concat", ["past.0.key", "entries"], ["present.0.key"], axis=2),
        helper.make_node("Concat", ["past.0.value", "entries"], ["present.0.value"], axis=2),
    ]
    graph = helper.make_graph(
        nodes,
        "guides",
        [
            helper.make_tensor_value_info("input_ids", ints, ["B", "T"]),
            helper.make_tensor_value_info("attention_mask", ints, ["B", "A"]),
            *(helper.make_tensor_value_info(f"past.0.{part}", floats, past) for part in ("key", "value")),
        ],
        [
            helper.make_tensor_value_info("logits", floats, ["B", "T", vocab_size]),
            *(
                helper.make_tensor_value_info(f"present.0.{part}", floats, ["B", _HEADS, "A", _HEAD_SIZE])
                for part in ("key", "value")
            ),
        ],
        [helper.make_tensor(name, ints, [len(value)], value) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, file)
