"""phi-scaffold fetch"""

from __future__ import annotations

from phi_scaffold.cli.options import ConfigFile, Debug, Json, ProjectFolder, Quiet


def fetch(
    project_folder: ProjectFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Bring the base model into model-cache/.

    Example: phi-scaffold fetch
    """
    from phi_scaffold.cli.run import run

    run(["fetch"], None, None, False, project_folder, config, as_json, quiet, debug)
