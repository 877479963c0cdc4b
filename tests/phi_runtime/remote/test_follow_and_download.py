"""Follow a job and download its outputs: each line once, each file complete or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phi_runtime.core.artifacts import read_manifest, seal
from phi_runtime.core.errors import NetworkError, UsageError
from phi_runtime.core.events import Event, silent
from phi_runtime.core.project import ProjectFolder
from phi_runtime.remote.download import download
from phi_runtime.remote.follow import follow
from tests.phi_runtime.remote.fake_engine import FakeEngine

EVENT = {"event": "metric", "stage": "finetune", "time": "t", "loss": 1.5}
CONTENT = b"weights" * 100


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    """An engine whose job trained an adapter."""
    adapter = tmp_path / "outputs" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(CONTENT)
    seal(adapter, key="k", kind="adapter", facts={})
    engine = FakeEngine()
    engine.add_outputs(tmp_path / "outputs")
    return engine


def test_a_log_is_reported_once_its_events_as_events(engine: FakeEngine) -> None:
    engine.states = ["queued", "running", "running", "running", "running", "done"]
    engine.log = f"installing\n{json.dumps(EVENT)}\nno end of line".encode()
    events: list[Event] = []
    lines: list[str] = []
    waits: list[float] = []
    status = follow(engine, "job", events.append, lines.append, pause=waits.append)
    assert status.state == "done"
    assert [(event.event, event.data) for event in events] == [("metric", {"loss": 1.5})]
    assert lines == ["job job: Queued", "installing", "job job: Running", "job job: Done", "no end of line"]
    assert len(waits) == 5


def test_a_failed_job_has_the_reason_of_its_last_error(engine: FakeEngine) -> None:
    engine.states = ["running", "running", "running", "failed"]
    engine.log = (
        json.dumps({"event": "error", "stage": "", "time": "t", "message": "no row is usable"}).encode() + b"\n"
    )
    status = follow(engine, "job", silent, lambda _: None, pause=lambda _: None)
    assert (status.state, status.why) == ("failed", "no row is usable")


def test_outputs_are_in_place_as_artifacts(engine: FakeEngine, remote_project: ProjectFolder) -> None:
    result = download(engine, "job", remote_project, silent)
    adapter = remote_project.gen_model / "adapter"
    assert (result.artifacts, result.present) == (("adapter",), ())
    assert (adapter / "adapter_model.safetensors").read_bytes() == CONTENT
    assert read_manifest(adapter) is not None
    assert not (remote_project.gen_model / ".remote" / "job").exists()


def test_a_second_download_reads_no_weights(engine: FakeEngine, remote_project: ProjectFolder) -> None:
    download(engine, "job", remote_project, silent)
    engine.reads.clear()
    assert download(engine, "job", remote_project, silent).present == ("adapter",)
    assert "adapter/adapter_model.safetensors" not in [name for name, _ in engine.reads]


def test_a_dropped_connection_continues_where_it_broke(engine: FakeEngine, remote_project: ProjectFolder) -> None:
    engine.breaks = [10_000, 100, 200]  # the first is all of the manifest of the artifact
    download(engine, "job", remote_project, silent)
    offsets = [offset for name, offset in engine.reads if name == "adapter/adapter_model.safetensors"]
    assert offsets == [0, 100, 300]
    assert (remote_project.gen_model / "adapter" / "adapter_model.safetensors").read_bytes() == CONTENT


def test_a_damaged_file_is_never_put_in_place(engine: FakeEngine, remote_project: ProjectFolder) -> None:
    engine.files["adapter/adapter_model.safetensors"] = CONTENT[:-1] + b"?"
    with pytest.raises(NetworkError, match="damaged"):
        download(engine, "job", remote_project, silent)
    assert read_manifest(remote_project.gen_model / "adapter") is None


@pytest.mark.usefixtures("engine")
def test_one_folder_replaces_nothing_else(remote_project: ProjectFolder, tmp_path: Path) -> None:
    (tmp_path / "outputs" / "report.html").write_text("of the job")
    engine = FakeEngine()
    engine.add_outputs(tmp_path / "outputs")
    report = remote_project.gen_model / "report.html"
    report.write_text("of this machine")
    with pytest.raises(UsageError, match="did you mean `adapter`"):
        download(engine, "job", remote_project, silent, only=["adaptr"])
    assert download(engine, "job", remote_project, silent, only=["adapter"]).artifacts == ("adapter",)
    assert report.read_text() == "of this machine"
    download(engine, "job", remote_project, silent)
    assert report.read_text() == "of the job"


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/../../escaped", "c:\\escaped"])
def test_no_output_leaves_the_folder(engine: FakeEngine, remote_project: ProjectFolder, name: str) -> None:
    manifest = json.loads(engine.files["remote.json"])
    manifest["files"][name] = {"bytes": 1, "sha256": "x"}
    engine.files |= {"remote.json": json.dumps(manifest).encode(), name: b"?"}
    download(engine, "job", remote_project, silent)
    assert name not in [read for read, _ in engine.reads]


def test_a_job_without_outputs_says_so(remote_project: ProjectFolder) -> None:
    with pytest.raises(NetworkError, match="no outputs"):
        download(FakeEngine(), "job", remote_project, silent)
