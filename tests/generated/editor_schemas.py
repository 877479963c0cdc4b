"""JSON Schemas of the files that VS Code reads, restated from its source: property names, types and values, without descriptions.

Read 2026-11-29 in https://github.com/microsoft/vscode (MIT): tasks.json in src/vs/workbench/contrib/tasks/common
(jsonSchemaCommon.ts, jsonSchema_v2.ts, problemMatcher.ts), its inputs in configurationResolverSchema.ts, extensions.json in
extensionsFileTemplate.ts, what all debuggers share in contrib/debug (debugger.ts, debugAdapterManager.ts) and
extensions/debug-server-ready. The attributes of debugpy and the settings of extensions are in the package.json of each extension.
An object is closed where VS Code closes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, Draft201909Validator

# devContainer.base.schema.json of https://github.com/devcontainers/spec (CC-BY-4.0), read 2026-11-28
DEVCONTAINER = Path(__file__).parent / "schemas" / "devContainer.base.schema.json"

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
STRINGS: Schema = {"type": "array", "items": STRING}
BOOLEAN: Schema = {"type": "boolean"}
INTEGER: Schema = {"type": "integer"}
FLAGS: Schema = {"type": "object", "additionalProperties": BOOLEAN}
# The identifier is publisher.name of each package.json:
# microsoft/vscode-python, microsoft/vscode-python-debugger, astral-sh/ruff-vscode, redhat-developer/vscode-yaml on GitHub.
EXTENSIONS = ("ms-python.python", "ms-python.debugpy", "charliermarsh.ruff", "redhat.vscode-yaml")


def closed(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """Return the schema of an object that has these properties and no others."""
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


PATTERN = closed(
    regexp=STRING,
    kind=one_of("file", "location"),
    **dict.fromkeys(
        ("file", "location", "line", "column", "endLine", "endColumn", "severity", "code", "message"), INTEGER
    ),
    loop=BOOLEAN,
)
WATCHED = {"oneOf": [STRING, closed(regexp=STRING, file=INTEGER)]}
MATCHER = closed(
    base=STRING,
    owner=STRING,
    source=STRING,
    severity=one_of("error", "warning", "info"),
    applyTo=one_of("allDocuments", "openDocuments", "closedDocuments"),
    pattern={"anyOf": [STRING, PATTERN, {"type": "array", "items": PATTERN}]},
    fileLocation={"oneOf": [one_of("absolute", "relative", "autoDetect"), STRINGS]},
    background=closed(activeOnStart=BOOLEAN, beginsPattern=WATCHED, endsPattern=WATCHED),
)
MATCHERS = {"oneOf": [STRING, MATCHER, {"type": "array", "items": {"anyOf": [STRING, MATCHER]}}]}
OPTIONS = {"type": "object", "properties": {"cwd": STRING, "env": {"type": "object", "additionalProperties": STRING}}}
PRESENTATION = closed(
    reveal=one_of("always", "silent", "never"),
    revealProblems=one_of("always", "onProblem", "never"),
    panel=one_of("shared", "dedicated", "new"),
    group=STRING,
    **dict.fromkeys(("echo", "focus", "showReuseMessage", "clear", "close"), BOOLEAN),
)
ON_ONE_SYSTEM = closed(command=STRING, args=STRINGS, options=OPTIONS)
TASK = closed(
    required=("label", "type", "command"),
    label=STRING,
    type=one_of("process", "shell"),
    command=STRING,
    args=STRINGS,
    options=OPTIONS,
    windows=ON_ONE_SYSTEM,
    osx=ON_ONE_SYSTEM,
    linux=ON_ONE_SYSTEM,
    group={"oneOf": [STRING, {"type": "object", "properties": {"kind": STRING, "isDefault": BOOLEAN}}]},
    dependsOn={"anyOf": [STRING, STRINGS]},
    dependsOrder=one_of("parallel", "sequence"),
    isBackground=BOOLEAN,
    promptOnClose=BOOLEAN,
    presentation=PRESENTATION,
    problemMatcher=MATCHERS,
    runOptions={
        "type": "object",
        "properties": {"reevaluateOnRerun": BOOLEAN, "runOn": one_of("default", "folderOpen")},
    },
)
INPUT = {
    "oneOf": [
        closed(
            ("id", "type", "description"),
            id=STRING,
            type=one_of("promptString"),
            description=STRING,
            default=STRING,
            password=BOOLEAN,
        ),
        closed(
            ("id", "type", "description", "options"),
            id=STRING,
            type=one_of("pickString"),
            description=STRING,
            default=STRING,
            options=STRINGS,
        ),
        closed(
            ("id", "type", "command"),
            id=STRING,
            type=one_of("command"),
            command=STRING,
            args={"type": ["object", "array", "string"]},
        ),
    ]
}
TASKS = {
    "type": "object",
    "required": ["version", "tasks"],
    "properties": {
        "version": one_of("2.0.0"),
        "tasks": {"type": "array", "items": TASK},
        "inputs": {"type": "array", "items": INPUT},
    },
}

SERVER_READY = {
    "oneOf": [
        closed(action=one_of("openExternally"), pattern=STRING, uriFormat=STRING, killOnServerStop=BOOLEAN),
        closed(
            action=one_of("debugWithChrome"), pattern=STRING, uriFormat=STRING, webRoot=STRING, killOnServerStop=BOOLEAN
        ),
        closed(("name",), action=one_of("startDebugging"), pattern=STRING, name=STRING, killOnServerStop=BOOLEAN),
    ]
}
# "launch" of debugpy, without frameworks that no project uses
DEBUGPY: dict[str, Schema] = {
    "program": STRING,
    "module": STRING,
    "python": STRING,
    "args": {"type": ["array", "string"], "items": STRING},
    "pythonArgs": STRINGS,
    "cwd": STRING,
    "env": {"type": "object", "additionalProperties": STRING},
    "envFile": STRING,
    "console": one_of("externalTerminal", "integratedTerminal", "internalConsole"),
    "purpose": {"type": "array", "items": one_of("debug-test", "debug-in-terminal")},
    **dict.fromkeys(("justMyCode", "subProcess", "stopOnEntry", "redirectOutput", "showReturnValue"), BOOLEAN),
}
LAUNCH = {
    "type": "object",
    "properties": {
        "version": STRING,
        "configurations": {
            "type": "array",
            "items": closed(
                required=("name", "type", "request"),
                name=STRING,
                type=one_of("debugpy"),
                request=one_of("launch"),
                preLaunchTask=STRING,
                postDebugTask=STRING,
                serverReadyAction=SERVER_READY,
                windows=closed(**DEBUGPY),
                osx=closed(**DEBUGPY),
                linux=closed(**DEBUGPY),
                **DEBUGPY,
            ),
        },
    },
}

EXTENSION_ID: Schema = {
    "type": "string",
    "pattern": r"^([a-z0-9A-Z][a-z0-9-A-Z]*)\.([a-z0-9A-Z][a-z0-9-A-Z]*)$",
    "enum": list(EXTENSIONS),
}
EXTENSIONS_FILE = closed(
    recommendations={"type": "array", "items": EXTENSION_ID},
    unwantedRecommendations={"type": "array", "items": EXTENSION_ID},
)

# Only the settings that projects use: of VS Code, of ms-python.python (settings reference in its documentation)
# and of redhat.vscode-yaml
SETTINGS = closed(
    **{
        "python.defaultInterpreterPath": STRING,
        "python.terminal.useEnvFile": BOOLEAN,
        "[python]": closed(**{"editor.defaultFormatter": EXTENSION_ID, "editor.formatOnSave": BOOLEAN}),
        "json.schemas": {
            "type": "array",
            "items": closed(fileMatch=STRINGS, url=STRING, schema={"type": "object"}),
        },
        "yaml.schemas": {"type": "object", "additionalProperties": {"anyOf": [STRING, STRINGS]}},
        "files.associations": {"type": "object", "additionalProperties": STRING},
        "files.watcherExclude": FLAGS,
        "search.exclude": FLAGS,
    }
)

# Of a stdio server: https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
MCP = closed(
    servers={
        "type": "object",
        "additionalProperties": closed(
            ("command",),
            type=one_of("stdio"),
            command=STRING,
            args=STRINGS,
            cwd=STRING,
            env={"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}},
            envFile=STRING,
        ),
    },
    inputs={"type": "array"},
)

FILES: dict[str, Schema] = {
    ".vscode/tasks.json": TASKS,
    ".vscode/launch.json": LAUNCH,
    ".vscode/extensions.json": EXTENSIONS_FILE,
    ".vscode/settings.json": SETTINGS,
    ".vscode/mcp.json": MCP,
}


def invalid_editor_files(project: Path) -> list[str]:
    """Return what the schemas of VS Code and of dev containers find in the files of a project, as `file: place: message`."""
    validators: dict[str, Any] = {name: Draft7Validator(schema) for name, schema in FILES.items()}
    container = ".devcontainer/devcontainer.json"
    if (project / container).is_file():
        validators[container] = Draft201909Validator(json.loads(DEVCONTAINER.read_text(encoding="utf-8")))
    return [
        f"{name}: {error.json_path}: {error.message}"
        for name, validator in validators.items()
        for error in validator.iter_errors(json.loads((project / name).read_text(encoding="utf-8")))
    ]
