"""Projects for jobs at the stand-in, and `phi-scaffold` as a process in the environment of Azure's client."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.azure.standin import Cloud, Job
from tests.azure.standin.cloud import CANARIES, GROUP, SUBSCRIPTION, VAULT, WORKSPACE
from tests.conftest import Result
from tests.factory import rendered

DATA = Path(__file__).with_name("data")
SOURCE = Path(__file__).resolve().parents[2] / "scaffolder"
DOCUMENTED = sorted(path.name.removesuffix(".olive-config.json") for path in DATA.glob("azureml-*.olive-config.json"))
"""Names of the configs of public documents that run on Azure ML."""
ROWS = "data/train.json"
HUB_MODEL = "org/tiny"
PUT_JOB = r"^PUT https://management.azure.com.*/jobs/[^/]+$"
# The first pattern that matches a placeholder gives its value.
FILLED = {
    r"Subsc": SUBSCRIPTION,
    r"Resource Group": GROUP,
    r"Work(sp|sa)": WORKSPACE,
    r"Key Val": VAULT,
    r"train_data": ROWS,
    r"Compute": "gpu-cluster",
    r"docker": "mcr.microsoft.com/azureml/openmpi4.1.0-cuda11.8-cudnn8-ubuntu22.04",
}
# Files with a secret, which no snapshot has.
PRIVATE = {
    ".env": "HF_TOKEN=hf_CANARYdotenv\n",
    ".git/config": '[remote "origin"]\n\turl = https://CANARY-git-token@example.com/p\n',
    ".venv/pyvenv.cfg": "CANARY-venv\n",
    "model-cache/CANARY-model.bin": "CANARY-model\n",
    "datasets/CANARY-unused.jsonl": '{"phrase": "CANARY-unused", "tone": "joy"}\n',
}
CLIENT = {
    "subscription_id": SUBSCRIPTION,
    "resource_group": GROUP,
    "workspace_name": WORKSPACE,
    "keyvault_name": VAULT,
}


@dataclass(frozen=True)
class Shell:
    """A shell in the environment of Azure's client, with a home folder of its own."""

    python: Path
    environment: Mapping[str, str]

    def start(self, project: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `phi-scaffold`."""
        home = project.parent / "home"
        home.mkdir(exist_ok=True)
        own = {"HOME": str(home), "XDG_STATE_HOME": str(home), "PYTHONPATH": str(SOURCE), "COLUMNS": "200", "CI": "1"}
        return subprocess.Popen(
            [str(self.python), "-m", "phi_scaffold", *arguments, "--project", str(project)],
            cwd=project.parent,
            env={**os.environ, **self.environment, **own, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, project: Path, *arguments: str, said: str = "", **variables: str) -> Result:
        """Run `phi-scaffold`, with `said` as its input."""
        return finished(self.start(project, *arguments, **variables), said)


def documented_project(folder: Path, name: str, *, filled: bool = True) -> Path:
    """Create a project with a config of a public document, its placeholders filled in unless they shall stay."""
    (folder / "fine-tuning").mkdir(parents=True)
    text = (DATA / f"{name}.olive-config.json").read_text(encoding="utf-8")
    if filled:
        for gpu, cpu in {'"gpu"': '"cpu"', "CUDAExecutionProvider": "CPUExecutionProvider"}.items():
            text = text.replace(gpu, cpu)  # machines of the stand-in have no GPU
        text = re.sub(r'"(Your [^"]*)"', lambda match: json.dumps(_value(match[1])), text)
        config = json.loads(text)
        config.setdefault("azureml_client", CLIENT)  # one of the documents has none
        text = json.dumps(config, indent=4)
    (folder / "fine-tuning" / "olive-config.json").write_text(text, encoding="utf-8")
    (folder / "fine-tuning" / "conda.yaml").write_bytes((DATA / "conda.yaml").read_bytes())
    return folder


def rows(count: int = 60) -> bytes:
    """Return rows with the columns of the documents."""
    return b"".join(
        json.dumps({"Question": f"what is {number}", "Best Answer": f"it is {number}"}).encode() + b"\n"
        for number in range(count)
    )


def tiny_project(folder: Path, device: str = "cpu") -> Path:
    """Create an emitted project that trains a tiny model of the Hub on Azure ML, among files that must stay here."""
    shutil.copytree(rendered(folder.name, "lora", 40), folder)
    path = folder / "fine-tuning" / "olive-config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["azureml_client"] = CLIENT
    system = {"type": "AzureML", "aml_compute": "gpu-cluster", "accelerators": [{"device": device}], "hf_token": True}
    config.setdefault("systems", {})["aml"] = system
    if device == "gpu":
        config |= {"host": "aml", "target": "aml"}  # a job checks the device of its host
    config["passes"]["finetune"]["training_args"] |= {"max_steps": 2, "per_device_train_batch_size": 2}
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name, content in PRIVATE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def finished(process: subprocess.Popen[str], said: str = "") -> Result:
    """Wait for a command to end, with `said` as its input."""
    out, err = process.communicate(said, timeout=600)
    return Result(process.returncode, out, err)


def only_job(cloud: Cloud) -> Job:
    """Return the job that was submitted."""
    (job,) = (job for job in cloud.jobs.values() if not job.parent)
    return job


def wait_for_log(process: subprocess.Popen[str], cloud: Cloud, text: str) -> Job:
    """Wait until a text is in the log of the job that a command submits; fail if the command ends before."""
    while True:
        for job in list(cloud.jobs.values()):
            if job.logs and text in cloud.log(job):
                return job
        assert process.poll() is None, finished(process).err
        time.sleep(0.1)


def leaks(cloud: Cloud, folder: Path, *outcomes: Result) -> list[str]:
    """Return where a secret of the stand-in is, among all that was written, printed and sent."""
    texts = {f"output {number}": outcome.out + outcome.err for number, outcome in enumerate(outcomes)}
    texts |= {f"request {request.path}": json.dumps(request.body) for request in cloud.requests if request.body}
    for container, blobs in cloud.blobs.items():
        texts |= {f"{container}/{name}": bytes(blob.data).decode(errors="replace") for name, blob in blobs.items()}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and not any(path.match(f"*/{name}") for name in PRIVATE):
            texts[str(path)] = path.read_text(encoding="utf-8", errors="replace")
    return [where for where, text in texts.items() if any(canary in text for canary in CANARIES)]


def _value(placeholder: str) -> str:
    return next(value for pattern, value in FILLED.items() if re.search(pattern, placeholder))
