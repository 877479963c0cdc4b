"""SIGKILL at random moments of training, saving and merging: the next run goes on, and what comes out is the same to the byte."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest

from phi_runtime.core.events import Event
from phi_runtime.core.project import ProjectFolder
from tests.conftest import MakeProject, edit_config, weights

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows ends processes otherwise")


def work(project: ProjectFolder, log: Path) -> None:
    """A run in a process of its own, which notes what it does in `log`."""
    import torch

    from phi_runtime.pipeline.engine import run

    torch.set_num_threads(1)

    def note(event: Event) -> None:
        if event.event in ("stage-started", "error") or event.data.get("unit") == "steps":
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{event.event} {event.stage} {event.data.get('done', event.data.get('message', ''))}\n")

    run(project, note, until="merge")


def lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines() if log.is_file() else []


@pytest.mark.process
@pytest.mark.parametrize(
    ("kills", "merging", "steps_of_training"),  # the last `merging` kills come while the adapter is merged
    [(6, 2, 64), pytest.param(30, 6, 320, marks=pytest.mark.slow)],  # more steps than all kills leave done
)
def test_kills_change_no_byte(
    make_project: MakeProject, tmp_path: Path, kills: int, merging: int, steps_of_training: int
) -> None:
    # Processes that are forked off one that has imported everything, so that the kills fall into the work and not into imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["peft", "transformers.trainer", "phi_runtime.training.trainer", "phi_runtime.pipeline.engine"]
    )
    settings = {
        "max_steps": steps_of_training,
        "save_steps": 4,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "cosine",
    }
    dropout = {"finetune": {"lora_dropout": 0.1}}
    whole, killed = (make_project(name, passes=dropout, **settings) for name in ("whole", "killed"))
    for project in (whole, killed):
        edit_config(project, lambda c: c["passes"].pop("export"))

    process = context.Process(target=work, args=(whole, tmp_path / "whole.log"))
    process.start()
    process.join()
    assert process.exitcode == 0

    chance = random.Random(7)
    log = tmp_path / "killed.log"
    deaths: list[str] = []
    while len(deaths) < kills:
        seen = len(lines(log))
        process = context.Process(target=work, args=(killed, log))
        process.start()
        in_merge = len(deaths) >= kills - merging
        # So many steps of training, none for a kill before the first; a kill in merging waits for that.
        steps = chance.randint(0, 9)
        while process.is_alive():
            new = lines(log)[seen:]
            if in_merge and any(line.startswith("stage-started merge") for line in new):
                break
            if not in_merge and new and sum(line.startswith("progress") for line in new) >= steps:
                break
            time.sleep(0.002)
        # On any place of a step, of its saving, of loading or of merging.
        time.sleep(chance.uniform(0, 0.02 if steps and not in_merge else 0.5))
        process.kill()
        process.join()
        if process.exitcode == 0:  # too late: it was done
            assert in_merge
            (killed.gen_model / "merged" / "manifest.json").unlink()
            continue
        assert process.exitcode == -signal.SIGKILL, lines(log)[seen:]
        deaths.append(lines(log)[-1])
    process = context.Process(target=work, args=(killed, log))
    process.start()
    process.join()
    assert process.exitcode == 0, lines(log)[-3:]
    assert sum("finetune" in death for death in deaths) > kills / 2
    assert weights(killed.gen_model / "adapter") == weights(whole.gen_model / "adapter")
    assert weights(killed.gen_model / "merged") == weights(whole.gen_model / "merged")
    assert not [line for line in lines(log) if line.startswith("error")]
