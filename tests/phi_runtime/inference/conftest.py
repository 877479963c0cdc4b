"""The tiny model as ONNX, and both kinds of generators on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phi_runtime.inference.generator import Generator, GeneratorOptions
from phi_runtime.inference.loading import open_generator
from phi_runtime.inference.onnx import OnnxGenerator
from phi_runtime.inference.transformers import TransformersGenerator
from phi_runtime.models.reference import ModelRef


def build_onnx(source: Path, out: Path, precision: str = "fp32", **options: object) -> Path:
    """Export the model in `source` with the builder alone, without a pass."""
    names = json.dumps([f"{name}={value}" for name, value in options.items()])
    script = Path(__file__).with_name("build_model.py")
    command = [sys.executable, str(script), str(source), str(out), precision, names]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    return out


@pytest.fixture(scope="session")
def tiny_onnx(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_onnx(tiny_phi3, tmp_path_factory.mktemp("onnx") / "tiny", "int4")


@pytest.fixture
def onnx(tiny_onnx: Path) -> OnnxGenerator:
    return OnnxGenerator(tiny_onnx, GeneratorOptions(conversations=2))


@pytest.fixture
def torch_model(tiny_phi3: Path) -> TransformersGenerator:
    generator = open_generator(ModelRef(tiny_phi3, "hf", "tiny"), options=GeneratorOptions(conversations=2))
    assert isinstance(generator, TransformersGenerator)
    return generator


@pytest.fixture(params=["onnx", "torch_model"])
def model(request: pytest.FixtureRequest) -> Generator:
    found: Generator = request.getfixturevalue(request.param)
    return found
