#!/usr/bin/env bash
# Create .venv and install the runtime at tested versions. Safe to run again.
#   bash setup/setup.sh [--with web,serve,sweep] [--force]        PYTHON=/path/to/python3.11 bash setup/setup.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$candidate" setup/setup.py "$@"
    fi
done
echo "setup.sh: error: no Python 3.11 or later with its venv module was found" >&2
echo "  install one from https://www.python.org/downloads/, or name it: PYTHON=/path/to/python bash setup/setup.sh" >&2
exit 5
