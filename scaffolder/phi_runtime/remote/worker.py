"""The program of a job: place its inputs, read its secrets, run `phi-scaffold`, and copy gen-model/ to the output.

It runs on the machine of the job, in the folder of the snapshot:

    python -m phi_runtime.remote.worker --input 'PLACE=PATH' --from FOLDER --output FOLDER -- run finetune

The output has a manifest, `remote.json`, with the size and SHA-256 of each file, which the download is checked against. A failed job
has one too: the stages that it completed come down.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from phi_runtime.core.artifacts import file_digest, read_manifest, write_json
from phi_runtime.core.errors import MissingDependency, NetworkError, PhiError, first_line
from phi_runtime.core.project import find_project
from phi_runtime.core.trust import trust

OUTPUT_MANIFEST = "remote.json"
SECRET_VARIABLES = {"HF_TOKEN": "PHI_HF_SECRET"}
"""Variables of a job with the address of a secret, by the variable that is set to its value."""
_KEPT = (".outputs", "runs", "report.html", "README.md")
"""What comes down in addition to artifacts."""
_MLFLOW = (
    *("model", "data/model", "artifacts/model"),
    *("data/config", "components/tokenizer", "data/tokenizer", "tokenizer"),
)
"""Folders of a model in the format of MLflow, with weights, config and tokenizer: flavors `transformers` and `hftransformersv2`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job, and return the exit code of its command."""
    options = _parse(arguments)
    root = Path.cwd()
    try:
        for placed in options.input:
            place, _, path = placed.partition("=")
            place_input(root / place, Path(path))
        if options.start:
            shutil.copytree(options.start, root / options.folder, dirs_exist_ok=True)
        secrets = {name: os.environ.get(address, "") for name, address in SECRET_VARIABLES.items()}
        secrets = {name: read_secret(address) for name, address in secrets.items() if address}
    except PhiError as e:
        print(f"{e}\n  help: {e.fix}", file=sys.stderr, flush=True)
        return e.exit_code
    if not is_first():
        options.output = None
    find_project(root)
    trust(root, "user")  # who submits the job has set the project up, or said that it may run
    command = [sys.executable, "-m", "phi_scaffold", *options.command]
    with subprocess.Popen(command, env={**os.environ, **secrets}) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # a canceled job ends as an interrupted run does
        code = process.wait()
    if options.output:
        copy_output(root / options.folder, options.output, code)
    return code


def is_first() -> bool:
    """Return True on the machine that writes the output: the first, where there are several."""
    return os.environ.get("NODE_RANK", os.environ.get("RANK", "0")) == "0"


def place_input(place: Path, source: Path) -> None:
    """Make the input at `source` available at `place`: a link to it, or a folder of links for a model in the format of MLflow."""
    place.parent.mkdir(parents=True, exist_ok=True)
    described = [*source.glob("MLmodel"), *source.glob("*/MLmodel")]  # a download may have a folder around it
    folders = [described[0].parent / name for name in _MLFLOW] if described else []
    if not any(folder.is_dir() for folder in folders):
        place.symlink_to(source.absolute())
        return
    place.mkdir()
    for folder in filter(Path.is_dir, folders):
        for path in folder.iterdir():
            with suppress(FileExistsError):
                (place / path.name).symlink_to(path.absolute())


def copy_output(gen_model: Path, output: Path, code: int) -> None:
    """Copy the artifacts and the record of runs to `output`, and write the manifest of all files there."""
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(gen_model.iterdir()) if gen_model.is_dir() else ():
        is_artifact = path.is_dir() and not path.name.startswith(".") and read_manifest(path) is not None
        if is_artifact or path.name in _KEPT:
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, output / path.name)
    files = [path for path in sorted(output.rglob("*")) if path.is_file()]
    described = {
        path.relative_to(output).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in files
    }
    write_json(output / OUTPUT_MANIFEST, {"exit_code": code, "files": described})


def read_secret(address: str) -> str:
    """Return the value of the secret at `address`, `https://VAULT.vault.azure.net/secrets/NAME`, as the identity of the machine.

    Raises:
        MissingDependency: The job has no client for key vaults.
        NetworkError: There is no identity, or it may not read the secret.
    """
    try:
        from azure.core.exceptions import AzureError
        from azure.identity import DefaultAzureCredential, ManagedIdentityCredential
        from azure.keyvault.secrets import SecretClient
    except ImportError:
        fix = "add azure-identity and azure-keyvault-secrets to the environment of the job"
        raise MissingDependency("the job has no client for key vaults", fix=fix) from None
    url = urlsplit(address)
    vault, name = f"{url.scheme}://{url.netloc}", url.path.rstrip("/").rpartition("/")[2]
    identity = os.environ.get("DEFAULT_IDENTITY_CLIENT_ID")  # set by Azure ML on its computes
    credential = ManagedIdentityCredential(client_id=identity) if identity else DefaultAzureCredential()
    try:
        value: str | None = SecretClient(vault, credential).get_secret(name).value
    except AzureError as e:
        raise NetworkError(
            f"the secret `{name}` of {vault} cannot be read: {first_line(e)}",
            fix="give the identity of the compute the role `Key Vault Secrets User`",
        ) from None
    return value or ""


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m phi_runtime.remote.worker")
    parser.add_argument("--input", action="append", default=[], metavar="PLACE=PATH")
    parser.add_argument("--from", dest="start", type=Path, metavar="FOLDER", help="gen-model/ of the step before")
    parser.add_argument("--folder", default="gen-model", help="folder of the project that is the output")
    parser.add_argument("--output", type=Path, metavar="FOLDER")
    parser.add_argument("command", nargs="+", help="arguments of phi-scaffold, after `--`")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
