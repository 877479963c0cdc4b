"""Error output: one message with its place and fix, and the documented exit code. A traceback only with --debug."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer
from typer._click.exceptions import NoArgsIsHelpError, NoSuchOption
from typer._click.exceptions import UsageError as ClickUsageError  # no public name; typer is pinned

from phi_runtime.core.errors import Interrupted, PhiError, UsageError
from phi_runtime.core.events import error_event
from phi_runtime.core.os_failures import failure_from_os_error
from phi_runtime.core.suggestions import did_you_mean
from phi_scaffold.show.inert import inert_output


@dataclass
class ErrorOutput:
    """Format of error output. The flags --json and --debug set it while typer parses them (`obj` of its context)."""

    as_json: bool = False
    debug: bool = False


def guarded(app: Callable[..., Any]) -> int:
    """Run a typer app and return its exit code; print an error instead of raising it, unless --debug is set."""
    with inert_output():
        return _guarded(app)


def _guarded(app: Callable[..., Any]) -> int:
    output = ErrorOutput()
    try:
        code = app(obj=output, standalone_mode=False, prog_name="phi-scaffold")
        return code if isinstance(code, int) else 0
    except ClickUsageError as e:
        return _wrong_usage(e, output.as_json or "--json" in sys.argv[1:])
    except SystemExit as e:
        if e.code == 1 and getattr(sys.stdout, "reader_left", False):  # click's code for it
            _discard_stdout()
            return 0
        return e.code if isinstance(e.code, int) else int(bool(e.code))
    except (KeyboardInterrupt, typer.Abort):
        print("\ninterrupted", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:
        _discard_stdout()
        return 0
    except Exception as e:
        if output.debug:
            raise
        failure = e if isinstance(e, PhiError) else failure_from_os_error(e) if isinstance(e, OSError) else None
        if failure:
            return _printed(failure, output.as_json)
        print(f"error: {type(e).__name__}: {e}", file=sys.stderr)
        print(
            "  this is a bug in phi-scaffold: run the command again with --debug and report the output", file=sys.stderr
        )
        return 1


def _wrong_usage(error: ClickUsageError, as_json: bool) -> int:
    """Print an error that typer found while it parsed the command line, as all others are printed."""
    if isinstance(error, NoArgsIsHelpError):
        error.show()
        return error.exit_code
    return _printed(UsageError(_in_our_words(error), fix=f"{_command(error)} --help"), as_json)


def _in_our_words(error: ClickUsageError) -> str:
    if isinstance(error, NoSuchOption):
        known = [name for param in error.ctx.command.params for name in param.opts] if error.ctx else []
        return f"there is no option `{error.option_name}`{did_you_mean(error.option_name, known)}"
    what = re.sub(r"'([^']*)'", r"`\1`", error.format_message()).rstrip(".")
    what = re.sub(r"Input should be (a .*?)(, unable to parse.*)?$", r"expected \1", what)
    what = what.replace("Input should be", "it must be")
    what = re.sub(r"^Got unexpected extra arguments?(?:\(s\))? \((.*)\)", r"unexpected argument: `\1`", what)
    return what[:1].lower() + what[1:]


def _command(error: ClickUsageError) -> str:
    """Return the command that the error is about; that of an option without its value has no context."""
    if error.ctx:
        return str(error.ctx.command_path)
    from phi_scaffold.cli.app import COMMANDS

    return " ".join(["phi-scaffold", *[word for word in sys.argv[1:] if word in COMMANDS][:1]])


def _printed(failure: PhiError, as_json: bool) -> int:
    try:
        print_failure(failure, as_json)
    except BrokenPipeError:
        _discard_stdout()
    return failure.exit_code


def _discard_stdout() -> None:
    """Send further output nowhere: the reader (`head`, say) has closed the pipe, and Python flushes again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_failure(error: PhiError, as_json: bool) -> None:
    """Print an error on stderr, or with `as_json` as an event on stdout."""
    if as_json:
        print(json.dumps(error_event(error).as_dict()))
        return
    from phi_scaffold.show.findings import print_error

    print_error(error)
