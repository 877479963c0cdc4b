"""A real pretrained model on the whole road, out of the built wheel: new → setup → run → chat."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]


def sh(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Runs a command as a user would, outside this environment; its stdout."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "HF_HUB_OFFLINE")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel alone, as `pip install phi-scaffold` makes it."""
    folder = tmp_path_factory.mktemp("light")
    sh(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", ROOT)
    venv.create(folder / "venv", with_pip=True)
    binaries = folder / "venv" / "bin"
    sh(binaries / "python", "-m", "pip", "install", "--quiet", next((folder / "dist").glob("*.whl")))
    return binaries


@pytest.fixture(scope="module")
def project(light: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A default project in a path with a blank and other letters, set up and run."""
    folder = tmp_path_factory.mktemp("pläces and blanks") / "my mood"
    sh(light / "phi-scaffold", "new", folder, "--yes")
    assert "site-packages" in sh(light / "python", "-c", "import phi_scaffold; print(phi_scaffold.__file__)")
    sh("bash", folder / "setup" / "setup.sh", PYTHON=sys.executable)
    events = [json.loads(line) for line in sh(light / "phi-scaffold", "run", "--json", cwd=folder).splitlines()]
    finished = {e["stage"]: e for e in events if e["event"] == "stage-finished"}
    assert list(finished) == ["fetch", "finetune", "merge", "export", "evaluate"]
    assert events[-1]["event"] == "run-finished"
    return folder


def test_the_project_pins_the_wheel_that_made_it(project: Path) -> None:
    requirement = (project / "setup" / "phi-scaffold.txt").read_text()
    assert "phi-scaffold @ file://" in requirement
    assert ".whl" in requirement
    where = sh(project / ".venv" / "bin" / "python", "-P", "-c", "import phi_runtime; print(phi_runtime.__file__)")
    assert where.startswith(str(project / ".venv"))


def test_tuning_teaches_the_task_and_int4_keeps_it(project: Path, light: Path) -> None:
    found = json.loads(sh(light / "phi-scaffold", "evaluate", "--json", cwd=project))
    accuracy = {r["name"]: r["metrics"]["accuracy"] for r in found["rungs"]}
    assert found["rows"] == 120
    assert accuracy["base"] < 0.30
    assert accuracy["adapter"] >= 0.90
    assert accuracy["merged"] == pytest.approx(accuracy["adapter"], abs=0.01)
    assert accuracy["onnx-int4"] >= accuracy["adapter"] - 0.03
    assert sum(p.stat().st_size for p in (project / "gen-model" / "onnx").iterdir()) <= 120e6


def test_the_sample_data_have_no_fault_and_the_very_tokens_are_shown(project: Path, light: Path) -> None:
    found = json.loads(sh(light / "phi-scaffold", "data", "check", "--json", cwd=project))
    (data,) = found["data_sets"]
    assert found["usable"]
    assert data["rows"]["kept"] == data["rows"]["read"] == 600
    assert found["splits"]["leakage"]["same_question"] == found["splits"]["leakage"]["near_duplicate"] == 0
    assert found["remarks"] == []
    (row,) = json.loads(sh(light / "phi-scaffold", "data", "preview", "-n", "1", "--json", cwd=project))["rows"]
    trained = "".join(segment["text"] for segment in row["segments"] if segment["trained"])
    assert trained.removesuffix("<|im_end|>") in ("joy", "sadness", "fear", "surprise")


def test_a_second_setup_and_a_second_run_do_nothing(project: Path, light: Path) -> None:
    assert "up to date" in sh("bash", project / "setup" / "setup.sh", PYTHON=sys.executable)
    assert "Nothing to do" in sh(light / "phi-scaffold", "run", cwd=project)
    states = json.loads(sh(light / "phi-scaffold", "status", "--json", cwd=project))["stages"]
    assert {s["state"] for s in states} == {"cached"}


@pytest.mark.parametrize("sample", ["chat_adapter.py", "chat_merged.py", "chat_onnx.py"])
def test_each_sample_answers_from_any_folder(project: Path, tmp_path: Path, sample: str) -> None:
    python = project / ".venv" / "bin" / "python"
    prompt = "I heard footsteps behind me in the empty car park and I could not stop shaking."
    out = sh(python, project / "inferences" / sample, "--prompt", prompt, cwd=tmp_path)
    assert out.strip() == "fear"


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


def test_the_onnx_folder_and_its_script_can_be_carried_away(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "gen-model" / "onnx", tmp_path / "onnx")
    shutil.copy(project / "inferences" / "chat_onnx.py", tmp_path)
    python = project / ".venv" / "bin" / "python"
    out = sh(
        python,
        "chat_onnx.py",
        "--model",
        "onnx",
        "--prompt",
        "Nobody came to her funeral, and I still miss her.",
        cwd=tmp_path,
    )
    assert out.strip() == "sadness"
