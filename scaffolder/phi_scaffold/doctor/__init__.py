"""Checks of this machine and environment, each with the fix of its problem. Imports no ML library."""

from __future__ import annotations

from pathlib import Path

from phi_runtime.core.project import ProjectFolder
from phi_scaffold.doctor import libraries, machine, network
from phi_scaffold.doctor.check import Check, needs_of

__all__ = ["Check", "examine"]


def examine(project: ProjectFolder | Path) -> list[Check]:
    """Run all checks, the most important first, for a project or for a folder outside of one."""
    needs, config = needs_of(project)
    gpu, cards = machine.gpu()
    return [
        machine.python(),
        *config,
        machine.cores(),
        machine.memory(needs),
        machine.disk(project, needs),
        *machine.folders(project),
        gpu,
        *machine.wsl(project),
        libraries.runtime(project),
        *libraries.wheels(project),
        *libraries.torch(project, cards, needs),
        libraries.flavors(),
        *network.network_checks(needs),
        network.token(),
        machine.editor(),
    ]
