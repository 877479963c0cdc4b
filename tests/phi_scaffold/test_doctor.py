"""Problems of a machine, each found at the border of the system: packages, driver, disk, permissions, network, clock."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from phi_scaffold import doctor
from phi_scaffold.doctor import Check, libraries, machine, network
from phi_scaffold.doctor.check import Needs, needs_of
from phi_scaffold.doctor.machine import Card
from tests.conftest import Cli, MakeProject
from tests.phi_runtime.hardware.test_machine import driver

CARD = Card("NVIDIA T4", "15360 MiB", "470.10")
GPU = Needs(gpu=True)


def found(checks: list[Check]) -> list[tuple[str, str]]:
    return [(check.level, check.subject) for check in checks if check.level != "good"]


def installed(monkeypatch: pytest.MonkeyPatch, **present: str) -> None:
    """Only these distributions are installed."""
    versions = {name.replace("_", "-"): version for name, version in present.items()}
    monkeypatch.setattr(libraries, "versions", lambda names: {n: versions[n] for n in names if n in versions})


def test_two_flavors_of_one_library_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, onnxruntime="1.0", onnxruntime_gpu="1.0")
    check = libraries.flavors()
    assert check.level == "error"
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in check.fix
    assert "pip install onnxruntime-gpu==1.0" in check.fix


@pytest.mark.parametrize(
    ("cards", "cuda", "needs", "level", "fix"),
    [
        ([], None, Needs(), "good", ""),
        ([], None, GPU, "error", "phi-scaffold run --on local"),
        ([CARD], None, Needs(), "note", "--device cuda"),
        ([CARD], None, GPU, "error", "--device cuda"),
        ([CARD], "12.8", GPU, "error", "install driver 525 or newer"),
        ([CARD], "12.8", Needs(), "note", "install driver 525 or newer"),
        ([CARD], "11.8", GPU, "good", ""),
        ([Card("H200", "140 GiB", "580.65.06")], "13.0", GPU, "good", ""),
    ],
)
def test_torch_must_use_the_gpu_that_the_config_names(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cards: list[Card],
    cuda: str | None,
    needs: Needs,
    level: str,
    fix: str,
) -> None:
    installed(monkeypatch, torch="2.13.0")
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda!r}\n")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda _: spec)
    (check,) = libraries.torch(tmp_path, cards, needs)
    assert (check.level, fix in check.fix) == (level, True)
    assert check.value == {"version": "2.13.0", "cuda": cuda}


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        (f"cp{sys.version_info[0]}{sys.version_info[1]}-cp311-manylinux_2_28_x86_64", True),
        ("cp38-abi3-win_amd64", True),
        ("py3-none-any", True),
        ("cp27-cp27m-manylinux1_x86_64", False),
        ("cp399-abi3-win_amd64", False),
    ],
)
def test_a_compiled_package_of_another_python_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str, fits: bool
) -> None:
    info = tmp_path / "torch-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: torch\nVersion: 2.0\n")
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n")
    monkeypatch.setattr(
        importlib.metadata.MetadataPathFinder,
        "find_distributions",
        lambda context: [importlib.metadata.PathDistribution(info)] if context.name == "torch" else [],
    )
    checks = libraries.wheels(tmp_path)
    assert found(checks) == ([] if fits else [("error", "wheels")])
    assert all("--force" in check.fix for check in checks)


def test_the_packages_of_this_environment_are_for_its_python(tmp_path: Path) -> None:
    assert libraries.wheels(tmp_path) == []


def test_a_venv_whose_python_is_gone_is_named(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project()
    installed(monkeypatch)
    (project.root / ".venv" / "bin").mkdir(parents=True)
    (project.root / ".venv" / "bin" / "python").symlink_to("/nowhere/python3.9")
    check = libraries.runtime(project)
    assert (check.level, "/nowhere/python3.9" in check.message) == ("error", True)
    assert check.fix.startswith(f'cd "{project.root}" && ')


class Usage(NamedTuple):
    free: int


@pytest.mark.parametrize(
    ("needed", "free", "level"),
    [(None, 4e9, "note"), (None, 6e9, "good"), (0, 4e9, "good"), (2e9, 3e9, "good"), (30e9, 20e9, "error")],
)
def test_the_disk_must_hold_what_run_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: float | None, free: float, level: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(int(free)))
    check = machine.disk(tmp_path, Needs(disk_bytes=None if needed is None else int(needed)))
    assert (check.level, check.value) == (level, int(free))
    assert check.message.endswith("; `run` writes nothing") == (needed == 0)


def test_a_training_that_does_not_fit_into_memory_is_noted_with_one_that_does(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    needs, _ = needs_of(project)
    assert (needs.too_large, needs.fitting) == ("", "")
    assert machine.memory(needs).level == "good"
    monkeypatch.setattr("phi_runtime.training.forecast.free_bytes", lambda *_: int(1e6))
    needs, _ = needs_of(project)
    check = machine.memory(needs)
    assert (check.level, check.fix) == ("note", needs.fitting)
    assert "; `finetune` takes about " in check.message
    assert check.message.endswith(" and 1.0 MB are free")
    assert check.fix


def test_the_needs_of_a_project_are_those_of_its_next_run(make_project: MakeProject) -> None:
    project = make_project()
    needs, (config,) = needs_of(project)
    assert (config.level, needs.gpu, needs.download) == ("good", False, False)
    assert needs.disk_bytes
    project.config.write_text(project.config.read_text().replace('"finetune"', '"finetune" 1', 1))
    needs, (config,) = needs_of(project)
    assert (needs, config.level) == (Needs(), "error")
    assert config.fix == f'phi-scaffold validate "{project.config}"'
    assert needs_of(project.root) == (Needs(), [])


def test_a_folder_that_cannot_be_written_is_an_error(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    project.model_cache.mkdir(exist_ok=True)
    assert found(machine.folders(project)) == []
    monkeypatch.setattr(os, "access", lambda path, _: path != project.model_cache)
    (check,) = machine.folders(project)
    assert (check.level, str(project.model_cache) in check.fix) == ("error", True)


@pytest.mark.parametrize(
    ("release", "folder", "expected"),
    [
        ("6.8.0-generic", "/mnt/c/p", []),
        ("5.15.90.1-microsoft-standard-WSL2", "/home/me/p", []),
        ("5.15.90.1-microsoft-standard-WSL2", "/mnt/c/p", [("note", "wsl")]),
    ],
)
def test_a_project_on_a_windows_disk_is_noted_in_wsl(
    monkeypatch: pytest.MonkeyPatch, release: str, folder: str, expected: list[tuple[str, str]]
) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    assert found(machine.wsl(Path(folder))) == expected


def test_cards_are_read_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    t4, ada = ("NVIDIA T4", 15360 << 20, 15000 << 20, (7, 5)), ("NVIDIA RTX 4000, Ada", 20475 << 20, 0, (8, 9))
    monkeypatch.setitem(sys.modules, "pynvml", driver(t4, ada, version="470.10"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    check, cards = machine.gpu()
    assert cards == [CARD, Card("NVIDIA RTX 4000, Ada", "20475 MiB", "470.10")]
    assert check.value == ["NVIDIA T4, 15360 MiB, 470.10", "NVIDIA RTX 4000, Ada, 20475 MiB, 470.10"]


def test_a_card_that_run_may_not_use_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setitem(sys.modules, "pynvml", driver(("NVIDIA T4", 15360 << 20, 0, (7, 5))))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check, cards = machine.gpu()
    assert (check.level, check.message, cards) == ("note", "CUDA_VISIBLE_DEVICES hides all GPUs; using the CPU", [])
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert machine.gpu()[0].message == "no NVIDIA driver; using the CPU"


def test_a_card_that_shares_the_memory_of_the_machine_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = driver(("NVIDIA GB10", 0, 0, (12, 1)))

    def refuse(_: object) -> None:
        raise nvml.NVMLError

    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", refuse)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    _, cards = machine.gpu()
    assert cards == [Card("NVIDIA GB10", "shared memory", "580.65.06")]


def test_a_driver_without_a_card_is_noted_with_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    check, cards = machine.gpu()
    assert (check.level, check.fix, cards) == ("note", "check the NVIDIA driver: nvidia-smi", [])


@pytest.mark.parametrize(("version", "level"), [("2.9.0+rocm6.4", "good"), ("2.13.0", "error")])
def test_torch_for_amd_uses_the_gpu_of_amds_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, level: str
) -> None:
    installed(monkeypatch, torch=version)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(libraries, "AMD_DRIVER", tmp_path)
    (check,) = libraries.torch(tmp_path, [], GPU)
    assert check.level == level


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A hub on this machine, whose answers have a status and a date that the test sets."""
    answer: dict[str, Any] = {"status": 200, "date": formatdate(usegmt=True), "requests": []}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            answer["requests"].append(dict(self.headers))
            self.send_response_only(answer["status"])
            self.send_header("Date", answer["date"])
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield answer
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_hub_that_answers_is_good_and_gets_no_login(hub: dict[str, Any], status: int) -> None:
    hub["status"] = status
    checks = network.network_checks(Needs(download=True))
    assert [(c.level, c.subject) for c in checks] == [("good", "hub"), ("good", "clock")]
    assert "Authorization" not in hub["requests"][0]


@pytest.mark.parametrize(("off_s", "side"), [(-7200, "behind"), (7200, "ahead of")])
def test_a_clock_that_is_far_off_is_noted(hub: dict[str, Any], off_s: int, side: str) -> None:
    hub["date"] = formatdate(time.time() - off_s, usegmt=True)
    check = network.network_checks(Needs())[1]
    assert (check.level, side in check.message) == ("note", True)
    assert abs(check.value - off_s) < 60


def test_an_answer_without_a_readable_date_says_nothing_of_the_clock(hub: dict[str, Any]) -> None:
    hub["date"] = "soon"
    assert [check.subject for check in network.network_checks(Needs())] == ["hub"]


@pytest.mark.parametrize(("download", "level"), [(True, "error"), (False, "note")])
def test_a_proxy_that_does_not_connect_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, hub: dict[str, Any], download: bool, level: str
) -> None:
    address = os.environ["HF_ENDPOINT"]
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:9")  # discard: nothing listens
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    (check,) = network.network_checks(Needs(download=download))
    assert (check.level, check.subject) == (level, "proxy")
    assert "127.0.0.1:9" in check.fix
    assert "secret" not in str(check)
    assert not hub["requests"]
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert network.network_checks(Needs())[0].level == "good"  # the proxy was that of one request


@pytest.mark.parametrize(("download", "level"), [(True, "error"), (False, "good")])
def test_offline_mode_is_an_error_where_a_model_must_be_downloaded(
    monkeypatch: pytest.MonkeyPatch, download: bool, level: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (check,) = network.network_checks(Needs(download=download))
    assert (check.level, check.fix) == (level, "unset HF_HUB_OFFLINE" if download else "")


def test_rows_have_a_mark_and_a_fix_and_an_error_exits_with_5(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Check("good", "a", "fine"), Check("note", "b", "odd", "fix b"), Check("error", "c", "bad", "fix c", 3)]
    monkeypatch.setattr(doctor, "examine", lambda _: rows)
    result = cli("doctor")
    assert result.code == 5
    assert [line.split()[:2] for line in result.out.splitlines()] == [
        ["✓", "a"],
        ["!", "b"],
        ["fix", "b"],
        ["✗", "c"],
        ["fix", "c"],
    ]
    assert json.loads(json.dumps(cli("doctor", "--json").json))["findings"] == [check.as_dict() for check in rows]
    monkeypatch.setattr(doctor, "examine", lambda _: rows[:2])
    assert cli("doctor").code == 0
