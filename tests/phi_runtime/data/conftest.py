"""The hub stand-in, as the client libraries of this process see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from phi_runtime.data import hub as data_hub
from tests.phi_runtime.data.hub_data import PHRASES, TALKS
from tests.phi_runtime.data.hub_stand_in import HubStandIn, Repository, hub_stand_in


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    data_hub._library("the tests")
    from datasets import config
    from huggingface_hub import HfFileSystem, constants

    monkeypatch.setattr("time.sleep", lambda _: None)  # the clients wait between their attempts
    with hub_stand_in() as server:
        server.repositories = {
            "org/phrases": Repository(PHRASES, card={"license": "mit"}),
            "org/talks": Repository(TALKS),
        }
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-home" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(config, "HF_ENDPOINT", server.address)
        monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "hf-home" / "datasets")
        HfFileSystem.clear_instance_cache()  # it remembers the trees of a server whose port may come again
        yield server
