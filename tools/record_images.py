"""Record docs/images: what a terminal and the report show of a finished project.

python tools/record_images.py PROJECT, with a PROJECT that ran, such as build/demo; only its report is written again. Chromium takes
the picture of the report.
"""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
WIDTH = 100  # the comparison does not wrap
LINES = (
    "phi-scaffold status",
    "phi-scaffold run",
    'phi-scaffold generate "I cannot believe they threw me a party!"',
)
# That of rich, without its web font: an image must not load anything.
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
    <title>A finished project in the terminal: status, comparison, and an answer</title>
    <style>
    .{unique_id}-matrix {{
        font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace;
        font-size: {char_height}px;
        line-height: {line_height}px;
    }}
    {styles}
    </style>
    <defs>
    <clipPath id="{unique_id}-clip-terminal">
      <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
    </clipPath>
    {lines}
    </defs>
    {chrome}
    <g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
    {backgrounds}
    <g class="{unique_id}-matrix">
    {matrix}
    </g>
    </g>
</svg>
"""


def shown(arguments: list[str], folder: Path) -> str:
    """Return the output of a command on a terminal, with its escape sequences.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    controller, end = pty.openpty()
    environment = os.environ | {"COLUMNS": str(WIDTH), "LINES": "50", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "phi_scaffold", *arguments], cwd=folder, env=environment,
        stdin=subprocess.DEVNULL, stdout=end, stderr=subprocess.STDOUT,
    )  # fmt: skip
    os.close(end)
    output = b""
    try:
        while part := os.read(controller, 4096):
            output += part
    except OSError:  # the process has ended
        pass
    os.close(controller)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, arguments, output)
    return output.decode()


def record_terminal(project: Path, image: Path) -> None:
    """Write the output of `LINES` as an SVG."""
    console = Console(record=True, width=WIDTH, force_terminal=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    for number, line in enumerate(LINES):
        console.print(Text.assemble("\n" * bool(number), ("$ ", "bold green"), (line, "bold")))
        output = shown(shlex.split(line)[1:], project)
        for row in output.replace("\r\n", "\n").rstrip("\n").split("\n"):
            text = Text.from_ansi(row.rsplit("\r", 1)[-1])
            for part in text.divide(range(WIDTH, len(text), WIDTH)):  # as a terminal breaks a line
                console.print(part, no_wrap=True)
    image.write_text(console.export_svg(title="", code_format=FORMAT, unique_id="phi"), encoding="utf-8")


def record_report(project: Path, image: Path) -> None:
    """Write the first screen of the report as a PNG."""
    shown(["report"], project)
    page = (project / "gen-model" / "report.html").absolute().as_uri()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,545"]
    subprocess.run(["chromium", *options, f"--screenshot={image}", page], check=True, capture_output=True)


if __name__ == "__main__":
    record_terminal(Path(sys.argv[1]), IMAGES / "terminal.svg")
    record_report(Path(sys.argv[1]), IMAGES / "report.png")
