"""Commands of other tools, and names that people try, with the line that does the same here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import setup_command
from phi_runtime.core.suggestions import nearest
from phi_scaffold.cli.group import CommandGroup
from phi_scaffold.olive.flags import COMMANDS as OLIVE_COMMANDS

_EXPORTS_OF_OLIVE = ("capture-onnx-graph", "generate-adapter", "convert-adapters", "extract-adapters")
_LINES = {
    "phi-scaffold new NAME": ("init", "create", "scaffold", "start"),
    "phi-scaffold new NAME --config FILE": ("import", "adopt"),
    "phi-scaffold fetch": ("download", "pull"),
    "phi-scaffold data check": ("check-data", "analyze", "prepare-data"),
    "phi-scaffold run": ("workflow", "start-run", "resume"),
    "phi-scaffold run --until finetune": ("finetune", "fine-tune", "train", "lora", "qlora", "sft", "tune"),
    "phi-scaffold run --until merge": ("merge", "merge-adapter", "merge-adapters", "merge-lora"),
    "phi-scaffold run --until export": ("export", "convert", "build", "onnx", "convert-to-onnx", *_EXPORTS_OF_OLIVE),
    "phi-scaffold run --until export --set passes.export.precision=int4": ("quantize", "quant"),
    "phi-scaffold run --dry-run": ("plan", "estimate", "memory"),
    "phi-scaffold run STAGE": ("run-pass", "pass", "stage"),
    "phi-scaffold optimize": ("auto-opt", "autoopt", "optimize-model", "auto-optimize"),
    "phi-scaffold sweep": ("search", "hpo", "hyperparameter-search"),
    "phi-scaffold evaluate": ("eval", "test", "benchmark", "measure", "compare"),
    "phi-scaffold runs list": ("history", "log", "experiments"),
    "phi-scaffold generate": ("infer", "inference", "predict", "complete", "prompt"),
    "phi-scaffold chat": ("talk", "console", "repl"),
    "phi-scaffold serve": ("server", "api", "ui", "web", "deploy"),
    "phi-scaffold models": ("list", "catalog", "list-models"),
    "phi-scaffold validate": ("check", "lint", "verify"),
    "phi-scaffold migrate": ("convert-config",),
    "phi-scaffold update": ("upgrade", "sync"),
    "phi-scaffold clean": ("prune", "purge", "gc", "cleanup", "clear", "rm"),
    "phi-scaffold doctor": ("info", "env", "environment", "system-info"),
    "phi-scaffold --version": ("version",),
    setup_command(): ("setup", "install"),
}
LINE_OF: Mapping[str, str] = {name: line for line, names in _LINES.items() for name in names}


class Commands(CommandGroup):
    """The commands; for a name of another tool, the error names the line that does the same here."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that `args` begin with. Raises UsageError for a name in `LINE_OF`."""
        name = args[0].casefold().replace("_", "-")
        if name == "help":
            return super().resolve_command(ctx, [*args[1:], "--help"]) if args[1:] else self._help(ctx)
        if len(args) > 1 and name in OLIVE_COMMANDS and name not in self.commands:
            line = shlex.join(["phi-scaffold", "olive", name, *args[1:]])
            raise UsageError(f"there is no command `{args[0]}`", fix=line)
        near = nearest(name, [*self.commands, *LINE_OF])
        if name not in self.commands and name not in LINE_OF and near in LINE_OF:
            raise UsageError(f"there is no command `{args[0]}`; did you mean `{near}`?", fix=LINE_OF[near])
        if name in LINE_OF and name not in self.commands:
            fix = LINE_OF[name]
            if name in OLIVE_COMMANDS and "olive" in self.commands:
                fix += f"; with Olive's flags: phi-scaffold olive {name} …"
            raise UsageError(f"there is no command `{args[0]}`", fix=fix)
        return super().resolve_command(ctx, args)

    @staticmethod
    def _help(ctx: Any) -> Any:
        print(ctx.get_help())
        ctx.exit()
