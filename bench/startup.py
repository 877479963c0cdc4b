"""How long a person waits for the light commands: whole processes, medians of ten, taken in turn.

python bench/startup.py [PROJECT_THAT_HAS_RUN]
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from phi_scaffold.new.template_files import template_root

ROUNDS = 10


def seconds(command: list[str], cwd: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def config_of_300_lines(phi: str, work: Path) -> Path:
    """A project's config with many data sets."""
    subprocess.run(
        [phi, "new", "project", "--yes", "--no-git", "--quiet"], cwd=work, check=True, stdout=subprocess.DEVNULL
    )
    path = work / "project" / "fine-tuning" / "olive-config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    [data] = config["data_configs"]
    while len(json.dumps(config, indent=4).splitlines()) < 300:
        config["data_configs"].append({**data, "name": f"more_{len(config['data_configs'])}"})
    path.write_text(json.dumps(config, indent=4), encoding="utf-8")
    return path


def main() -> None:
    scripts = Path(sys.executable).parent
    phi, copier = str(scripts / "phi-scaffold"), str(scripts / "copier")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        template = template_root(work)
        config = config_of_300_lines(phi, work)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "phi-scaffold --help": [phi, "--help"],
            "phi-scaffold new --yes": [phi, "new", "made", "--yes"],
            "phi-scaffold validate": [phi, "validate", str(config)],
            "copier copy --defaults": [copier, "copy", "--defaults", "--quiet", str(template), "made"],
        }
        if len(sys.argv) > 1:
            project = ["--project", str(Path(sys.argv[1]).absolute())]
            commands |= {
                "phi-scaffold status": [phi, "status", *project],
                "phi-scaffold run (cached)": [phi, "run", *project],
            }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(ROUNDS + 1):
            for name, command in commands.items():
                shutil.rmtree(work / "made", ignore_errors=True)
                wall_s = seconds(command, work)
                if number:  # the first round fills the caches of the file system
                    taken[name].append(wall_s)
    for name, walls in taken.items():
        print(f"{name:28} median {statistics.median(walls):.3f} s   min {min(walls):.3f}   max {max(walls):.3f}")


if __name__ == "__main__":
    main()
