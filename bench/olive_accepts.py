"""Whether Microsoft Olive 0.13.0 takes the emitted configs as they are, and what it says of them.

    python bench/olive_accepts.py [PYTHON_OF_AN_ENVIRONMENT_WITH_OLIVE]

Without an argument it makes that environment (build/olive-venv) from the package registry.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = (
    "torch==2.13.0", "olive-ai==0.13.0", "transformers==5.23.0", "peft==0.21.2", "accelerate", "datasets", "onnxruntime",
    "onnxruntime-genai==0.14.1", "bitsandbytes", "requests",
)  # fmt: skip
CHECK = """
import sys
from olive.hardware.accelerator import AcceleratorSpec
from olive.package_config import OlivePackageConfig
from olive.workflows.run.config import RunConfig
config = RunConfig.parse_file_or_obj(sys.argv[1])
passes = OlivePackageConfig.load_default_config()
for name, steps in config.passes.items():
    for step in steps if isinstance(steps, list) else [steps]:
        passes.import_pass_module(step.type).generate_config(AcceleratorSpec("cpu", "CPUExecutionProvider"), step.config or {})
        print("accepted", name, step.type)
"""


def main() -> None:
    python = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "olive-venv" / "bin" / "python"
    if not python.exists():
        venv.create(python.parents[1], with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    phi = str(Path(sys.executable).parent / "phi-scaffold")
    environment = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as temporary:
        for method in ("lora", "qlora"):
            for target in ("cpu", "cuda", "directml"):
                name = f"{method}-{target}"
                new = [phi, "new", name, "--method", method, "--target", target, "--yes", "--no-git", "--quiet"]
                subprocess.run(new, cwd=temporary, check=True)
                folder = Path(temporary) / name / "fine-tuning"
                done = subprocess.run(
                    [str(python), "-c", CHECK, "olive-config.json"],
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                )
                print(
                    f"{name:14}",
                    "accepted" if done.returncode == 0 else "REJECTED " + done.stderr.strip().splitlines()[-1],
                )
                warnings = [
                    line.partition("] ")[2] for line in (done.stdout + done.stderr).splitlines() if "[WARNING]" in line
                ]
                for line in sorted(set(warnings)):
                    print("   ", line)


if __name__ == "__main__":
    main()
