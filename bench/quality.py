"""A data set on the whole road with the default model: accuracy of each model, and what each stage took.

python bench/quality.py path/to/data.jsonl [FOLDER_TO_KEEP]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main(data: Path, folder: Path) -> None:
    phi = str(Path(sys.executable).parent / "phi-scaffold")
    if not folder.exists():
        subprocess.run([phi, "new", str(folder), "--data", str(data), "--yes", "--no-git"], check=True)
    subprocess.run([phi, "run"], cwd=folder, check=True)
    status = subprocess.run([phi, "status", "--json"], cwd=folder, check=True, capture_output=True, text=True)
    for stage in json.loads(status.stdout)["stages"]:
        print(f"{stage['name']:10} {stage['wall_s']} s")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(sys.argv[1]).absolute(), Path(temporary) / "project")
