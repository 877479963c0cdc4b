"""Kill every stage with SIGKILL, and check that the next command finishes with the same bytes. Linux.

    python bench/kills.py --count 200 --seed 1
    python bench/kills.py --count 20 --stage merge --stage export

The project is a tiny Phi-3 of random weights. A kill is at a point of the stage, which is a change or a read of a file, or
up to 0.1 s after it; it ends all processes of the command, only the worker process, or only its parent. Prints a line for each
kill, the kills of each stage, and everything that was wrong afterwards; the exit code is 1 if anything was.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scaffolder")]
for name in ("OMP_NUM_THREADS", "PHI_SCAFFOLD_CORES"):
    os.environ[name] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT / "scaffolder"), str(ROOT)))
os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "0"}

from tests import zygote  # noqa: E402
from tests.kills import STAGES, Kill, Kills, hub_of  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", action="append", choices=[stage.name for stage in STAGES])
    parser.add_argument("--model", type=Path, help="folder of a tiny model; default: one that is created")
    arguments = parser.parse_args()
    stages = [stage for stage in STAGES if not arguments.stage or stage.name in arguments.stage]
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="phi-kills-") as folder:
        os.environ["XDG_STATE_HOME"] = f"{folder}/state"
        model = arguments.model or tiny_model(Path(folder) / "tiny-phi3")
        with hub_of(model) as hub:
            os.environ |= {
                "HF_ENDPOINT": hub,
                "HF_HOME": f"{folder}/kills/hf",
            }  # before the zygote imports the hub's client
            zygote.install()
            kills = Kills(Path(folder) / "kills", model, hub)
            kills.folder.mkdir()
            done = []
            while len(done) < arguments.count:
                kill = kills.kill(stages[len(done) % len(stages)], chance)
                done.append(kill)
                print(line(len(done), kill), flush=True)
    struck = Counter(kill.stage for kill in done if kill.struck)
    points = Counter(kill.stage for kill in done for _ in {(kill.stage, kill.point)})
    wrong = [kill for kill in done if kill.problems]
    print("\nstage       kills  struck  seconds each")
    for stage in stages:
        walls = [kill.wall_s for kill in done if kill.stage == stage.name]
        if walls:
            print(f"{stage.name:<10} {points[stage.name]:>6} {struck[stage.name]:>7} {sum(walls) / len(walls):>13.1f}")
    print(f"{len(done)} kills, {len(done) - len(wrong)} without a problem, {len(wrong)} with one")
    return 1 if wrong else 0


def line(number: int, kill: Kill) -> str:
    point = kill.point
    place = f"{point.action} {point.reader and point.reader + ' '}{point.path} ({point.occurrence})"
    after = f" + {1000 * kill.delay_s:.0f} ms" if kill.delay_s else ""
    who = f"{kill.victims}{' of worker' if point.in_worker else ''}"
    head = f"{number:>4} {kill.stage:<10} {who:<16} {place}{after}: {kill.codes[0]}, {kill.codes[1]} in {kill.wall_s} s"
    return "\n".join([head + ("" if kill.struck else " NOT STRUCK"), *(f"     PROBLEM {p}" for p in kill.problems)])


def tiny_model(folder: Path) -> Path:
    """Create the tiny Phi-3 of the tests."""
    from tests import conftest

    conftest.save_tiny_phi3(folder, conftest.tiny_tokenizer.__wrapped__())
    return folder


if __name__ == "__main__":
    sys.exit(main())
