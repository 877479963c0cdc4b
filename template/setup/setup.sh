#!/usr/bin/env bash
# Create .venv and install the runtime at tested versions. Safe to run again; uses uv if it is there, else pip.
#   bash setup/setup.sh [--device auto|cpu|cuda|directml] [--with web,serve,sweep] [--pip] [--force]
#   PYTHON=/path/to/python3.11 bash setup/setup.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

needed="import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))"
for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3.14 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c "$needed" 2>/dev/null; then
        exec "$candidate" setup/setup.py "$@"
    fi
done
if command -v uv >/dev/null; then
    exec uv run --no-project --python ">=3.11,<3.15" setup/setup.py "$@"
fi
echo "setup.sh: error: no Python 3.11 to 3.14 with its venv module was found" >&2
echo "  install one from https://www.python.org/downloads/, or name it: PYTHON=/path/to/python bash setup/setup.sh" >&2
exit 5
