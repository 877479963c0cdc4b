"""phi-scaffold fetch"""

from __future__ import annotations

from phi_scaffold.cli.options import ConfigFile, Debug, Json, ProjectFolder, Quiet, TrustRemoteCode


def fetch(
    trust_remote_code: TrustRemoteCode = False,
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

    run(
        ["fetch"],
        trust_remote_code=trust_remote_code,
        project_folder=project_folder,
        config=config,
        as_json=as_json,
        quiet=quiet,
        debug=debug,
    )
