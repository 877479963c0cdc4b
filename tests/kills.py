"""Kill commands on a tiny project with SIGKILL at points of all their stages, and check what they leave and what the next one builds.

`Kills` creates a project for each stage in which the stages before it are done, runs the stage once without a kill, and
collects the points that it passes. A kill copies that project, kills the command at one of these points, and checks

- that no process is left, and no file is broken that looks complete;
- that the same command then ends with success, without waiting for anything;
- that all it builds is the same as without a kill, and that nothing else is left.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from phi_runtime.core.artifacts import CARD, MANIFEST, digest, file_digest, read_json, read_manifest
from phi_runtime.core.project import ProjectFolder, find_project
from tests.factory import tiny_project
from tests.kill_points import _VARYING, FILLER, VARIABLE, Log, Plan, Point, Victims, read_log

ROOT = Path(__file__).parents[1]
LIMIT_S = 300.0
_TRIES = 5
TRAINING = {"max_steps": 8, "save_steps": 2, "gradient_accumulation_steps": 2, "lr_scheduler_type": "cosine"}
SWEEP = {
    "search_strategy": {"type": "grid", "pruner": "none"},
    "search_space": {"training_args.learning_rate": {"type": "choice", "values": [0.001, 0.02]}},
}
OPTIMIZE = ("optimize", "--max-accuracy-drop", "1", "--max-size-mb", "100", "--context", "64")


@dataclass(frozen=True)
class Stage:
    """A part of the product to kill: `command` works on a project that ran up to `after`, and passes points that match."""

    name: str
    after: str | None
    command: tuple[str, ...]
    points: str  # matches reader:path
    sweep: bool = False


_OUT = r":gen-model/\.work/{0}-[^/]+(/out|/inputs|$)|:gen-model/(\.outputs/)?\.?{1}\b"
STAGES = (
    Stage("fetch", None, ("run", "--until", "fetch"), ":model-cache"),
    Stage("data", "fetch", ("run", "--until", "finetune"), r":gen-model/\.data"),
    Stage("train", "fetch", ("run", "--until", "finetune"), ":gen-model/.work/[^/]+/checkpoints"),
    Stage("save", "fetch", ("run", "--until", "finetune"), _OUT.format("finetune", "adapter")),
    Stage("merge", "finetune", ("run", "--until", "merge"), _OUT.format("merge", "merged")),
    Stage("export", "merge", ("run", "--until", "export"), _OUT.format("export", "onnx")),
    Stage("gate", "merge", ("run", "--until", "export"), "gate:"),
    Stage("evaluate", "export", ("run",), "evaluate:|" + _OUT.format("evaluate", "evaluation")),
    Stage("report", "export", ("run",), rf"report:|:gen-model/(\.?report|[a-z]+/\.?{re.escape(CARD)})"),
    Stage("seeds", "evaluate", ("evaluate", "--seeds", "2"), ":gen-model/seeds"),
    Stage("record", "merge", ("run", "--until", "export"), ":gen-model/runs|:gen-model/[^/]*$"),
    Stage("trial", "fetch", ("sweep", "--jobs", "1"), ":gen-model/sweep|:fine-tuning", True),
    Stage("candidate", "merge", OPTIMIZE, ":gen-model/optimize|:fine-tuning"),
)


@dataclass(frozen=True)
class Kill:
    """One kill, how the killed command and the next one ended, and everything that is wrong afterwards."""

    stage: str
    point: Point
    victims: Victims
    delay_s: float
    struck: bool
    codes: tuple[int | None, int | None]
    wall_s: float
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Finished:
    """The end of a command: `code` is None if it did not end in time."""

    code: int | None
    output: str
    log: Log


@dataclass(frozen=True)
class Reference:
    """A project before a command, the points that the command passes, and what is in the project after it."""

    folder: Path
    points: tuple[Point, ...]
    content: dict[str, str]
    files: set[str]


class Kills:
    """Projects in `folder` with the tiny `model`, and the commands on them.

    Args:
        folder: An empty folder.
        model: Folder of the tiny model; the hub has the same.
        hub: Address of a hub that has the model as org/tiny; None skips downloads.
    """

    def __init__(self, folder: Path, model: Path, hub: str | None = None) -> None:
        self.folder, self.model, self.hub = folder, model, hub
        self._references: dict[tuple[str | None, tuple[str, ...]], Reference] = {}

    # -- references ------------------------------------------------------------------------------------------------------

    def reference(self, stage: Stage) -> Reference:
        """Return the reference of the command of `stage`, with the points of that stage."""
        key = (stage.after, stage.command)
        if key not in self._references:
            before = self._template(stage)
            project = self._copy(before)
            end = self._run(stage, project)
            if end.code != 0:
                raise RuntimeError(f"{stage.name} failed without a kill:\n{end.output[-3000:]}")
            self._references[key] = Reference(before, end.log.points, content_of(project), files_of(project))
        found, pattern = self._references[key], re.compile(stage.points)
        return replace(found, points=tuple(p for p in found.points if pattern.match(f"{p.reader}:{p.path}")))

    def _template(self, stage: Stage) -> Path:
        """Return the project before `stage`, which is created once for all stages that start with it."""
        folder = self.folder / f"after-{stage.after}" / "tiny"
        if not folder.exists():
            source = Path("org/tiny") if stage.after is None else self.model
            project = tiny_project(folder, source, passes={"finetune": {"lora_dropout": 0.1}}, **TRAINING)
            if stage.after is None:
                config = json.loads(project.config.read_text(encoding="utf-8"))
                config["input_model"]["model_path"] = "org/tiny"
                project.config.write_text(json.dumps(config), encoding="utf-8")
            elif stage.after != "fetch":
                end = self._command(("run", "--until", stage.after), project)
                if end.code != 0:
                    raise RuntimeError(f"the stages up to {stage.after} failed:\n{end.output[-3000:]}")
        return folder

    def _copy(self, before: Path) -> ProjectFolder:
        """Copy a project, always to the same folder: its path is part of some files."""
        folder = self.folder / "project" / "tiny"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder, symlinks=True)
        return find_project(folder)

    # -- commands --------------------------------------------------------------------------------------------------------

    def _run(self, stage: Stage, project: ProjectFolder, at: Point | None = None, **kill: Any) -> Finished:
        if stage.sweep:
            (project.config.parent / "sweep.yaml").write_text(json.dumps(SWEEP), encoding="utf-8")
        return self._command(stage.command, project, at, downloads=stage.after is None, **kill)

    def _command(
        self,
        command: Sequence[str],
        project: ProjectFolder,
        at: Point | None = None,
        *,
        downloads: bool = False,
        **kill: Any,
    ) -> Finished:
        log = self.folder / "points.jsonl"
        log.unlink(missing_ok=True)
        plan = Plan(str(project.root), str(log), at, **kill)
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT / "scaffolder"), str(ROOT))),
            "TMPDIR": str(temporary),
            VARIABLE: plan.as_text(),
        }
        if downloads and self.hub:
            environment |= {"HF_ENDPOINT": self.hub, "HF_HOME": str(self.folder / "hf"), "HF_HUB_OFFLINE": "0"}
        with (self.folder / "output.txt").open("w+", encoding="utf-8") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.kill_points", *command, "--trust-project"],
                cwd=project.root, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
            try:
                code: int | None = process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
                process.wait()
                code = None
            output.seek(0)
            return Finished(code, output.read(), read_log(log))

    # -- kills -----------------------------------------------------------------------------------------------------------

    def kill(self, stage: Stage, chance: random.Random) -> Kill:
        """Kill `stage` at a random point, run it again, and check everything; try another point if the run does not pass it.

        Downloads run side by side, so not every run repeats a file operation as often as the reference.
        """
        for _ in range(_TRIES):
            done = self._kill(stage, chance)
            if done.struck or done.problems:
                break
        return done

    def _kill(self, stage: Stage, chance: random.Random) -> Kill:
        reference = self.reference(stage)
        kinds = sorted({(p.action, p.path, p.reader, p.in_worker) for p in reference.points})
        kind = chance.choice(kinds)
        point = chance.choice([p for p in reference.points if (p.action, p.path, p.reader, p.in_worker) == kind])
        victims: Victims = chance.choice(["all", "all", "self", "parent"] if point.in_worker else ["all"])
        delay_s = chance.choice([0.0, 0.0, chance.uniform(0, 0.1)])
        return self.kill_at(stage, point, victims, delay_s)

    def kill_at(self, stage: Stage, point: Point, victims: Victims, delay_s: float) -> Kill:
        reference, started = self.reference(stage), time.monotonic()
        project = self._copy(reference.folder)
        killed = self._run(stage, project, point, victims=victims, delay_s=delay_s)
        problems = [f"the process {pid} is still there: {line}" for pid, line in survivors(killed.log.pids)]
        if victims == "disk":
            filler = project.root.parent / FILLER
            problems += self._of_full_disk(killed) if filler.exists() else []
            filler.unlink(missing_ok=True)
        problems += [f"after the kill: {problem}" for problem in broken_files(project)]
        if "Traceback" in killed.output:
            problems.append(f"the command printed a traceback:\n{killed.output[-2000:]}")
        again = self._run(stage, project)
        if again.code != 0:
            problems.append(f"the next command ended with {again.code}:\n{again.output[-3000:]}")
        problems += broken_files(project)
        if again.code == 0:
            content, files = content_of(project), files_of(project)
            problems += [f"{name} differs" for name, value in reference.content.items() if content.get(name) != value]
            problems += [f"{name} is left over" for name in sorted(files - reference.files)]
            problems += [f"{name} is missing" for name in sorted(reference.files - files)]
        wall_s = round(time.monotonic() - started, 1)
        codes = (killed.code, again.code)
        return Kill(stage.name, point, victims, delay_s, killed.log.struck, codes, wall_s, tuple(problems))

    def _of_full_disk(self, end: Finished) -> list[str]:
        """Return what is wrong with the end of a command whose disk became full."""
        if end.code == 0:  # only files that describe the result were not written
            return [] if "warning:" in end.output else [f"nothing is said about the full disk:\n{end.output[-2000:]}"]
        named = re.search(
            r"^(\.|(gen-model|model-cache|fine-tuning)\b\S*): error: .*the disk is full$", end.output, re.M
        )
        if end.code == 8 and (named or " GB free" in end.output):
            return []
        return [f"the full disk is not the reason ({end.code}):\n{end.output[-2000:]}"]


# -- checks -----------------------------------------------------------------------------------------------------------------------


def survivors(pids: Sequence[int], limit_s: float = 15.0) -> list[tuple[int, str]]:
    """Return the processes of a command that are still there after a while, and end them."""
    deadline = time.monotonic() + limit_s
    while (alive := [process for pid in pids if (process := _alive(pid))]) and time.monotonic() < deadline:
        time.sleep(0.02)
    found = []
    for process in alive:
        found.append((process.pid, " ".join(process.cmdline())))
        process.kill()
    return found


def _alive(pid: int) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


def broken_files(project: ProjectFolder) -> Iterator[str]:
    """Return the files under their final name that are not complete."""
    for path in sorted(project.root.rglob("*")):
        relative = path.relative_to(project.root)
        if not path.is_file() or any(part.startswith(".") for part in relative.parts if part not in (".data",)):
            continue
        if path.name == MANIFEST:
            if problem := broken_artifact(path.parent):
                yield f"{relative}: {problem}"
        elif path.suffix == ".json":
            try:
                read_json(path)
            except ValueError as e:
                yield f"{relative}: {e}"
        elif path.suffix == ".html" and not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
            yield f"{relative}: it ends early"


def broken_artifact(folder: Path) -> str:
    """Return why the artifact in `folder` is not what its manifest says."""
    manifest = read_manifest(folder)
    if manifest is None:
        return "its files are not those of its manifest"
    content = digest([(name, file_digest(folder / name)) for name in manifest.files])
    return "" if content == manifest.content else "the content is not that of its manifest"


def content_of(project: ProjectFolder) -> dict[str, str]:
    """Return a digest of everything that does not depend on time: models, rows, answers, scores."""
    found = {}
    for path in sorted(project.root.rglob("*")):
        name = path.relative_to(project.root).as_posix()
        if not path.is_file() or "/runs/" in name or "/.outputs/" in name or path.name in (MANIFEST, CARD):
            continue
        if path.suffix in (".safetensors", ".onnx", ".data", ".npy", ".bin", ".jinja") or "tokenizer" in path.name:
            found[_VARYING.sub("*", name)] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name in ("evaluation.json", "candidates.json", "loss_log.jsonl", "olive-config.optimized.json"):
            found[name] = digest(_without_times(path))
    return found


_TIMES = re.compile(r"_s$|_s_range$|tokens_per_s|_bytes|_mb$|^key$|runtime|_per_second|wall|cost")


def _without_times(path: Path) -> Any:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if not _TIMES.search(k)}
        return [strip(v) for v in value] if isinstance(value, list) else value

    if path.suffix == ".jsonl":
        return [strip(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return strip(read_json(path))


def files_of(project: ProjectFolder) -> set[str]:
    """Return all files and empty folders, but for the records of runs and the names of those who held locks."""
    names = (
        p.relative_to(project.root).as_posix() for p in project.root.rglob("*") if p.is_file() or not any(p.iterdir())
    )
    return {_VARYING.sub("*", name) for name in names if "/runs/" not in name and not name.endswith(".lock.holder")}


# -- a hub for the stage that downloads ------------------------------------------------------------------------------------------


@contextmanager
def hub_of(model: Path) -> Iterator[str]:
    """Serve the model folder as org/tiny, and yield the address; other processes must find it in HF_ENDPOINT."""
    from tests.phi_runtime.pipeline.test_fetch import HubServer

    files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file() and path.name != MANIFEST}
    server = HubServer(files)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that are killed
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
