"""Run the command line: `python -m phi_scaffold`."""

import sys

# `python -m` puts the current folder first on the path: a project's datasets/ would be taken for the library of that name.
if not sys.flags.safe_path:
    del sys.path[0]

from phi_scaffold.cli import main

if __name__ == "__main__":
    main()
