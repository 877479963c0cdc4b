"""A disk that becomes full at a point of each stage: exit code 8 with the path, and the next command finishes with the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kills import STAGES, Kills, hub_of

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a disk of 32 MB."""
    folder = tmp_path / "kills" / "project"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"a disk cannot be mounted here: {getattr(e, 'stderr', '') or e}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system of Linux")
def test_a_disk_that_becomes_full_in_a_stage_breaks_nothing(small_disk: Path, tiny_phi3: Path) -> None:
    chance = random.Random(18)
    with hub_of(tiny_phi3) as hub:
        kills = Kills(small_disk.parent, tiny_phi3, hub)
        done = []
        for stage in STAGES:
            points = [p for p in kills.reference(stage).points if p.action in ("write", "mkdir") or p.reader == "gate"]
            for point in chance.sample(points, min(5, len(points))):  # not every run passes each
                done.append(kills.kill_at(stage, point, "disk", 0.0))
                if done[-1].struck:
                    break
    assert {kill.stage for kill in done if kill.struck} == {stage.name for stage in STAGES}
    problems = [f"{kill.stage}: {problem}" for kill in done for problem in kill.problems]
    assert not problems, "\n".join(problems)
