"""Tests of both packages, which mirror `scaffolder/`.

Each process keeps the bytecode it compiles, whatever the shell says: a run with PYTHONDONTWRITEBYTECODE takes 30 s of CPU more.
"""

import os
import sys

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
