"""A model from anyone: weights, tokenizer, adapter, ONNX graph. It runs no code, reads nothing elsewhere, and ends with an error."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import PhiError, WorkFailed
from phi_runtime.inference.onnx_folder import open_model
from phi_runtime.models.load import load_model, load_tokenizer
from phi_runtime.models.modules import is_truncated, tensors
from phi_runtime.models.peft_folder import read_peft_folder
from phi_runtime.models.reference import ModelRef
from phi_runtime.models.shape import shape_of
from tests.conftest import Cli, MakeProject, edit_config

Edit = Callable[[str], Path]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def folder(tiny_phi3: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model."""
    return shutil.copytree(tiny_phi3, tmp_path / "model")


def change(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **values}), encoding="utf-8")


def safetensors(header: bytes, size: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def tensor(**facts: Any) -> bytes:
    known = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    return safetensors(json.dumps({"a.weight": {**known, **facts}}).encode(), data=b"0000")


# -- weights ---------------------------------------------------------------------------------------------------------------

HEADERS = {
    "empty": b"",
    "short": b"\1\2",
    "a length of exabytes": safetensors(b"{}", 2**63 - 1),
    "a length of all bits": safetensors(b"{}", 2**64 - 1),
    "a length past the file": safetensors(b"{}", 90_000_000),
    "not JSON": safetensors(b"\xff\xfe{"),
    "a list": safetensors(b"[]"),
    "nested": safetensors(b"[" * 200_000),
    "a nested tensor": safetensors(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "no facts": safetensors(b'{"a.weight": 1}'),
    "no shape": safetensors(b'{"a.weight": {"dtype": "F32", "data_offsets": [0, 4]}}'),
    "no offsets": safetensors(b'{"a.weight": {"dtype": "F32", "shape": [1]}}'),
    "a shape of text": tensor(shape=["x", "y"]),
    "a negative shape": tensor(shape=[-1, 4]),
    "a huge shape": tensor(shape=[2**80, 2**80]),
    "a real shape": tensor(shape=[1e300]),
    "a type of number": tensor(dtype=1),
    "three offsets": tensor(data_offsets=[0, 1, 2]),
    "negative offsets": tensor(data_offsets=[-8, -4]),
    "huge offsets": tensor(data_offsets=[0, 2**70]),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_of_weights_that_is_none_has_no_tensors(folder: Path, name: str) -> None:
    (folder / "model.safetensors").write_bytes(HEADERS[name])
    assert tensors(folder) == {}
    assert shape_of(folder) is None
    is_truncated(folder / "model.safetensors")
    with pytest.raises(Exception, match=r"."):
        load_model(ModelRef(folder, "hf", "k"), "auto")


@pytest.mark.parametrize("data_offsets", [[0, 8], [0, 2**40], [4, 0], [2, 6]])
def test_overlapping_and_missing_bytes_are_refused_by_the_reader(folder: Path, data_offsets: list[int]) -> None:
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header["b"] = {"dtype": "F32", "shape": [1], "data_offsets": data_offsets}
    (folder / "model.safetensors").write_bytes(safetensors(json.dumps(header).encode(), data=b"0" * 8))
    with pytest.raises(Exception, match=r"(?i)header|offset|metadata|buffer"):
        load_model(ModelRef(folder, "hf", "k"), "auto")


def test_pickled_weights_are_not_loaded(folder: Path, marker: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(marker)!r}, 'w').close()",))

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only|pickle|safetensors"):
        load_model(ModelRef(folder, "hf", "k"), "auto")
    assert not marker.exists()


def test_a_pickled_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(PhiError, match="pickled"):
        read_peft_folder(folder)


# -- config and tokenizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_python_code_of_a_model_does_not_run(folder: Path, marker: Path, file: str) -> None:
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n", encoding="utf-8")
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoModel")
    mapped: Any = dict.fromkeys(names, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    if not (folder / file).exists():
        (folder / file).write_text("{}", encoding="utf-8")
    change(folder / file, auto_map=mapped, custom_pipelines={"x": {"impl": "evil.Evil"}}, custom_generate="evil")
    ref = ModelRef(folder, "hf", "k")
    for load in (lambda: load_tokenizer(ref), lambda: load_model(ref, "auto")):
        try:
            load()
        except (ValueError, OSError):
            continue
    assert not marker.exists()


def test_an_unknown_architecture_with_code_is_refused(folder: Path, marker: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n", encoding="utf-8")
    change(
        folder / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.E"},
    )
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(ModelRef(folder, "hf", "k"), "auto")
    assert not marker.exists()


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_name_or_path", "quantization_config"])
def test_code_and_models_of_the_hub_that_a_config_names_are_not_loaded(
    folder: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    value: Any = {"quant_method": "evil"} if key == "quantization_config" else "evil/kernel"
    change(folder / "config.json", **{key: value})
    try:
        model = load_model(ModelRef(folder, "hf", "k"), "auto")
    except (ValueError, ImportError, OSError, RuntimeError):
        return
    assert model.config._attn_implementation != "evil/kernel"


CONFIGS: dict[str, Any] = {
    "a list": [],
    "text": "phi3",
    "null": None,
    "sizes of text": {"hidden_size": "x", "num_hidden_layers": "y", "num_attention_heads": "z", "vocab_size": "w"},
    "sizes of nothing": {"hidden_size": 0, "num_hidden_layers": 0, "num_attention_heads": 0, "vocab_size": 0},
    "negative sizes": {"hidden_size": -8, "num_hidden_layers": -2, "num_attention_heads": -1, "vocab_size": -9},
    "huge sizes": {
        "hidden_size": 10**12,
        "num_hidden_layers": 10**9,
        "num_attention_heads": 10**6,
        "vocab_size": 10**15,
    },
    "sizes in lists": {"hidden_size": [1], "num_hidden_layers": {}, "num_attention_heads": [], "vocab_size": [[]]},
    "a text_config that is a list": {"text_config": [1, 2]},
    "a rope that is text": {"rope_scaling": "longrope", "rope_parameters": "x"},
    "an auto_map that is a number": {"auto_map": 1},
    "a type with a path": {"model_type": "../../evil", "architectures": ["../../Evil"]},
    "escape sequences": {"model_type": "\x1b]0;owned\x07", "architectures": ["\x1b[2J"]},
}


@pytest.mark.parametrize("command", ["validate", "status", "run --dry-run --no-step"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_a_model_that_is_none_ends_no_command_with_a_traceback(
    folder: Path, make_project: MakeProject, cli: Cli, command: str, name: str
) -> None:
    project = make_project()
    value, file = CONFIGS[name], folder / "config.json"
    known = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**known, **value} if isinstance(value, dict) else value), encoding="utf-8")
    edit_config(project, lambda c: c["input_model"].update(model_path=str(folder)))
    target = [project.config] if command == "validate" else ["--project", project.root]
    result = cli(*command.split(), *target)
    printed = result.out + result.err
    assert "Traceback" not in printed
    assert "this is a bug" not in printed
    assert "\x1b" not in printed


def test_a_json_file_of_a_model_that_is_nested_too_deeply_is_unreadable(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000, encoding="utf-8")
    assert shape_of(folder) is None


# -- adapters -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["https://evil.example/model", "evil/model", "/etc", "../../..", "\x1b[2J"])
def test_the_base_that_an_adapter_names_is_not_loaded(
    tiny_phi3: Path, tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    from phi_runtime.models.load import load_reference
    from tests.phi_runtime.export.tiny_adapters import make_adapter

    adapter = make_adapter(tiny_phi3, tmp_path / "adapter", ["o_proj"], seed=1)
    change(
        adapter / "adapter_config.json", base_model_name_or_path=base, megatron_config={}, megatron_core="antigravity"
    )
    change(adapter / "adapter_config.json", auto_mapping={"parent_library": "antigravity", "base_model_class": "x"})

    def refuse(*_: object) -> None:
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load_reference(ModelRef(adapter, "adapter", "k", base=ModelRef(tiny_phi3, "hf", "b")), "auto")
    import sys

    assert "antigravity" not in sys.modules


# -- ONNX -----------------------------------------------------------------------------------------------------------------------

SESSIONS: dict[str, Any] = {
    "a library of operators": {"custom_ops_library": "evil.so"},
    "a library elsewhere": {"custom_ops_library": "/tmp/evil.so"},
    "a profile": {"enable_profiling": "/tmp/profile"},
    "an optimized graph": {"session.optimized_model_filepath": "/tmp/graph"},
    "a provider with a library": {"provider_options": [{"qnn": {"backend_path": "/tmp/evil.so"}}]},
    "a provider of its own": {"provider_options": [{"evil": {}}]},
    "a library of a known provider": {"provider_options": [{"cuda": {"trt_extra_plugin_lib_paths": "/tmp/evil.so"}}]},
}


@pytest.mark.parametrize("name", SESSIONS)
def test_an_onnx_model_names_no_library(tmp_path: Path, name: str) -> None:
    config = {"model": {"type": "phi3", "decoder": {"filename": "model.onnx", "session_options": SESSIONS[name]}}}
    (tmp_path / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / "evil.so").write_bytes(b"\x7fELF")
    with pytest.raises(WorkFailed, match="may not name"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    "filename", ["../model.onnx", "/etc/passwd", "a/../../b.onnx", "C:\\model.onnx", "\\\\host\\a.onnx"]
)
def test_an_onnx_model_has_no_graph_elsewhere(tmp_path: Path, filename: str) -> None:
    config = {"model": {"type": "phi3", "pipeline": [{"decoder": {"filename": filename}}]}}
    (tmp_path / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(WorkFailed, match="`filename`"):
        open_model(tmp_path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret"])
def test_external_data_of_a_graph_stays_in_its_folder(tmp_path: Path, location: str) -> None:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    (tmp_path / "secret").write_bytes(b"0000")
    folder = tmp_path / "model"
    folder.mkdir()
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [value], [weight])
    (folder / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert onnx.load_model(str(folder / "model.onnx"), load_external_data=False)
    with pytest.raises(Exception, match=r"(?i)external|path|escape"):
        onnxruntime.InferenceSession(str(folder / "model.onnx"))


@pytest.mark.parametrize(
    "content", ["[]", "null", "1", "{", "[" * 100_000, '{"model": 1}', '{"model": {"decoder": []}}']
)
def test_a_genai_config_that_is_none_is_an_error(cli: Cli, make_project: MakeProject, content: str) -> None:
    project = make_project()
    model = project.root / "own"
    model.mkdir()
    (model / "genai_config.json").write_text(content, encoding="utf-8")
    result = cli("generate", "--prompt", "x", "--model", "own", "--project", project.root)
    assert result.code != 0
    assert "this is a bug" not in result.err, result.err
    assert [path.name for path in model.iterdir()] == ["genai_config.json"]
