"""SIGKILL at points of every stage: the next command finishes, with the same bytes and nothing left over."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.kills import STAGES, Kills, hub_of

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")]
FAST = ("train", "save")  # bench/kills.py kills more often


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("names", "count"), [(FAST, 2), pytest.param((), 20, marks=pytest.mark.slow)])
def test_after_a_kill_the_next_command_builds_the_same(
    names: tuple[str, ...], count: int, tmp_path: Path, tiny_phi3: Path
) -> None:
    stages = [stage for stage in STAGES if not names or stage.name in names]
    chance = random.Random(18)
    with hub_of(tiny_phi3) as hub:
        kills = Kills(tmp_path, tiny_phi3, hub)
        done = [kills.kill(stages[number % len(stages)], chance) for number in range(count)]
    assert {kill.stage for kill in done} == {stage.name for stage in stages}
    assert [kill for kill in done if not kill.struck] == []
    assert [kill for kill in done if kill.problems] == []
