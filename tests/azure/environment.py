"""Environments with Azure's own client, one per release: PHI_AZURE_PYTHON_OLDEST and _NEWEST, or build/azure-venv-*.

    python -m tests.azure.environment

makes them ahead of the tests.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.layered_environment import BUILD, named_or_made

# The last release that follows a job, and the newest one, which does not (https://github.com/Azure/azure-sdk-for-python/issues/48941).
CLIENTS = {"oldest": "1.34.1", "newest": "1.35.2"}
# `six` is needed by the oldest and undeclared. azure-keyvault-secrets is what a job reads a hub token with.
WITH_IT = ("azure-identity==1.27.0", "azure-keyvault-secrets==4.12.0", "six==1.17.0")


EACH_CLIENT = pytest.mark.parametrize("python", CLIENTS, indirect=True, scope="session")


def azure_python(client: str) -> Path:
    """Return the Python of an environment with the "oldest" or "newest" client. Raises NoEnvironment."""
    version = CLIENTS[client]
    packages = (f"azure-ai-ml=={version}", *WITH_IT)
    # pip 23.2.1, which comes with Python 3.11.7, crashes on these packages: "InconsistentCandidate … opentelemetry-sdk".
    return named_or_made(
        f"PHI_AZURE_PYTHON_{client.upper()}", BUILD / f"azure-venv-{version}", *packages, newest_pip=True
    )


if __name__ == "__main__":
    started = time.monotonic()
    for name in CLIENTS:
        print(f"{azure_python(name)} after {time.monotonic() - started:.0f} s", file=sys.stderr)
