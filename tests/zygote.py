"""Start the Python processes of the tests by forking a process that has already imported torch, transformers and peft.

These imports take 5 to 8 s of CPU. The workers of pytest-xdist need them, and about a hundred tests start a process that does.
`install()` makes `subprocess.Popen` and the spawn method of `multiprocessing` fork `python -m MODULE`, `python FILE.py` and
such a worker off a zygote. The new process is a true child of the caller: it has its own pid, command line, standard streams,
working folder, environment, limits, signals and exit status, and it can start processes in the same way.

Everything else starts an interpreter as usual: other programs, other flags, `python -c` (tests of what is imported), other
values of the variables that libraries read while they are imported. So do all commands with `PHI_TEST_ZYGOTE=0`, and on
systems other than Linux.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import logging
import os
import pickle
import pkgutil
import resource
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import util
from pathlib import Path
from typing import Any, NoReturn

PRELOAD = (
    "torch",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.phi3.modeling_phi3",
    "peft",
    "accelerate.commands.launch",
    "onnxruntime",
    "onnxruntime_genai.models.builder",
    "sklearn.linear_model",
    "openai",
    "pytest",
)
OURS = ("phi_runtime", "phi_scaffold")
# A worker whose modules are instrumented imports them again; not all can be: one registers its class with transformers.
MEASURED = ("phi_runtime.pipeline.engine", "phi_runtime.training.trainer")
LEAVES = (  # modules that start no Python process, which `_refuse_python` holds
    "phi_runtime.evaluation.model_processes",
    "phi_runtime.evaluation.worker",
    "phi_runtime.export.builder_process",
    "phi_runtime.serving.worker",
)
FRESH: set[str] = set()  # modules that need an interpreter of their own; see `tests.conftest.fresh_processes`
READ_AT_IMPORT = ("HF_", "HUGGING", "TRANSFORMERS_", "TOKENIZERS_", "CUDA_", "LD_", "XDG_CACHE_HOME", "HOME")
FORKED_CODE = (  # `python -c` that starts so
    "from multiprocessing",
    WORKER_CODE := "import sys;exec(eval(sys.stdin.readline()))",  # execnet: a worker of pytest-xdist
)
LIMITS = (resource.RLIMIT_FSIZE,)  # that tests set for their children
RESERVED = 16_384  # bytes of the zygote's argv, into which its children write theirs
FIRST_FREE = 256  # lower descriptors belong to the program that runs
SET_CHILD_SUBREAPER = 36  # linux/prctl.h

_interpreter = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_spawnv = util.spawnv_passfds  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Command:
    """A Python command line as it is sent to a zygote; file descriptors travel next to it, in the order of `targets`."""

    flags: tuple[str, ...]
    kind: str  # -m, -c or a file
    program: str
    arguments: tuple[str, ...]
    folder: str
    environment: dict[str, str]
    targets: tuple[int, ...]
    new_session: bool
    parent: int
    limits: tuple[tuple[int, tuple[int, int]], ...]

    @property
    def argv(self) -> tuple[str, ...]:
        program = (self.program,) if self.kind == "file" else (self.kind, self.program)
        return (sys.executable, *self.flags, *program, *self.arguments)


class Zygote:
    """The caller's end of a zygote."""

    def __init__(self, connection: socket.socket, environment: Mapping[str, str]) -> None:
        self.connection = connection
        self.owner = os.getpid()
        self.lock = threading.Lock()
        self.fixed = read_at_import(environment)

    @classmethod
    def start(cls) -> Zygote:
        ours, theirs = socket.socketpair()
        code = f"import sys; sys.path.append({str(Path(__file__).parents[1])!r}); from tests.zygote import main; main()"
        command = [sys.executable, "-P", "-c", code, str(theirs.fileno())]
        command.append("x" * (RESERVED - sum(len(part) + 1 for part in command)))
        null = subprocess.DEVNULL
        with theirs:
            process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=null, stdout=null, start_new_session=True
            )
        process.returncode = 0  # it ends when its connection does; nobody waits for it
        return cls(ours, os.environ)

    def fork(self, command: Command, descriptors: Sequence[int]) -> int:
        """Start `command` as a child of this process and return its pid. Raises OSError if the zygote has ended."""
        with self.lock:
            # An orphan becomes the child of its nearest ancestor that is a subreaper: this process, for this moment.
            ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                content = pickle.dumps(command)
                socket.send_fds(self.connection, [struct.pack("q", len(content))], list(descriptors))
                self.connection.sendall(content)
                (pid,) = struct.unpack("q", _read(self.connection, 8))
            finally:
                ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        return int(pid)


_zygote: Zygote | None = None
_former: list[Any] = []  # streams of the zygote, which close their descriptors when they are collected


def install() -> None:
    """Fork the Python commands of this process, and of those that it starts, off a zygote. The first such command starts it."""
    if sys.platform == "linux" and os.environ.get("PHI_TEST_ZYGOTE") != "0":
        subprocess.Popen._execute_child = _execute_child  # type: ignore[attr-defined]
        util.spawnv_passfds = _spawnv_passfds  # type: ignore[attr-defined]


def no_fsync(_descriptor: object) -> None:
    """Take the place of `os.fsync`: what a killed process has written is kept without it, and no test cuts the power."""


def default_interrupt() -> None:
    """A `preexec_fn` that lets Ctrl-C reach the child also where the tests run in the background; forked children do so anyway."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    names = {n for n in environment if n.startswith(READ_AT_IMPORT) and "_DISABLE_" not in n}
    return {n: environment[n] for n in names - {"HF_TOKEN"}}  # the token is read for each request


def _read(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = connection.recv(count - len(content))
        if not part:
            raise BrokenPipeError("the zygote has ended")
        content += part
    return content


def _fork(
    argv: Sequence[Any], descriptors: Mapping[int, int], env: Mapping[str, str] | None, folder: Any, new_session: bool
) -> int | None:
    """Fork `argv` off the zygote and return its pid, or return None where an interpreter has to start."""
    global _zygote
    parts = [os.fsdecode(part) for part in argv]
    if not parts or parts[0] != sys.executable:
        return None
    start = next((n for n, part in enumerate(parts[1:], start=1) if part not in ("-P", "-u", "-B")), len(parts))
    flags, rest = parts[1:start], parts[start:]
    if rest[:1] == ["-m"] and len(rest) > 1 and rest[1] not in FRESH:
        kind, program, arguments = "-m", rest[1], rest[2:]
    elif rest[:1] == ["-c"] and rest[1].startswith(FORKED_CODE):
        kind, program, arguments = "-c", rest[1], rest[2:]
    elif rest and rest[0].endswith(".py"):
        kind, program, arguments = "file", rest[0], rest[1:]
    else:
        return None
    folder = os.fsdecode(folder) if folder is not None else str(Path.cwd())
    environment = dict(os.environ if env is None else env)
    if not Path(folder).is_dir() or (_zygote and _zygote.owner != os.getpid()):
        return None
    if read_at_import(environment) != (_zygote.fixed if _zygote else read_at_import(os.environ)):
        return None
    if sum(len(os.fsencode(part)) + 1 for part in parts) > RESERVED:
        return None
    _zygote = _zygote or Zygote.start()
    limits = tuple((limit, resource.getrlimit(limit)) for limit in LIMITS)
    command = Command(
        tuple(flags),
        kind,
        program,
        tuple(arguments),
        folder,
        environment,
        tuple(descriptors),
        new_session,
        os.getpid(),
        limits,
    )
    with suppress(OSError):
        return _zygote.fork(command, list(descriptors.values()))
    return None


def _execute_child(self: Any, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Any, cwd: Any,
                   env: Any, startupinfo: Any, creationflags: int, shell: bool, p2cread: int, p2cwrite: int,
                   c2pread: int, c2pwrite: int, errread: int, errwrite: int, restore_signals: bool, gid: Any, gids: Any,
                   uid: Any, umask: int, start_new_session: bool, process_group: int) -> None:  # fmt: skip
    """Take the place of `Popen._execute_child`, whose signature is that of CPython 3.11 to 3.13."""
    plain = (executable, gid, gids, uid) == (None, None, None, None) and not shell and umask == -1 and close_fds
    if (
        plain
        and process_group == -1
        and preexec_fn in (None, default_interrupt)
        and not isinstance(args, str | bytes | os.PathLike)
    ):
        streams = {n: fd if fd != -1 else n for n, fd in enumerate((p2cread, c2pwrite, errwrite))}
        descriptors = streams | {fd: fd for fd in pass_fds}
        pid = _fork(list(args), descriptors, env, cwd, start_new_session)
        if pid is not None:
            self.pid = pid
            self._child_created = True
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
            return
    _interpreter(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                 p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask,
                 start_new_session, process_group)  # fmt: skip


def _refuse_python(self: Any, args: Any, *rest: Any) -> None:
    """Take the place of `Popen._execute_child` in a process of `LEAVES`, which has no zygote for a child."""
    if not isinstance(args, str | bytes | os.PathLike) and os.fsdecode(next(iter(args))) == sys.executable:
        raise AssertionError(f"{sys.argv[0]} starts a Python process: remove it from LEAVES in tests/zygote.py")
    _interpreter(self, args, *rest)


def _spawnv_passfds(path: Any, args: Sequence[Any], passfds: Sequence[int]) -> int:
    """Take the place of `multiprocessing.util.spawnv_passfds`."""
    descriptors = {0: 0, 1: 1, 2: 2} | {int(fd): int(fd) for fd in passfds}
    pid = _fork(args, descriptors, None, None, new_session=False)
    return pid if pid is not None else int(_spawnv(path, args, passfds))


# -- the zygote itself -------------------------------------------------------------------------------------------------------------


def main() -> None:
    """Import the libraries, then fork whatever the other end of the connection requests, until it closes."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    os.fsync = no_fsync
    gc.disable()  # these imports allocate millions of objects that stay
    for name in (*PRELOAD, *(MEASURED if "SLIPCOVER_ENABLED" in os.environ else modules_of(OURS))):
        with suppress(ImportError):
            importlib.import_module(name)
    with suppress(ImportError):  # transformers compiles 900 patterns before it loads its first model: 0.2 s of CPU
        importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("phi3")
    logging.basicConfig(handlers=[], level=logging.WARNING, force=True)  # some of them set it up
    own = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    sys.path[:] = [folder for folder in sys.path if folder not in own]
    gc.collect()
    gc.freeze()
    gc.enable()
    serve(connection)


def modules_of(packages: Sequence[str]) -> list[str]:
    """List the modules of installed packages, but those that `python -m PACKAGE` runs."""
    roots = [importlib.import_module(name) for name in packages]
    found = [info.name for root in roots for info in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")]
    return [name for name in found if not name.endswith(".__main__")]


def serve(connection: socket.socket, on_signal: signal.Handlers = signal.SIG_IGN) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    os.set_inheritable(connection.fileno(), False)
    try:
        while True:
            header, descriptors, _, _ = socket.recv_fds(connection, 8, 64)
            if len(header) < 8:
                break
            command = pickle.loads(_read(connection, *struct.unpack("q", header)))
            pid = orphan(lambda: become(command, descriptors, connection))  # noqa: B023
            for fd in descriptors:
                os.close(fd)
            connection.sendall(struct.pack("q", pid))
    except OSError:
        pass
    os._exit(0)


def orphan(run: Callable[[], NoReturn]) -> int:
    """Run a function in a grandchild whose parent has ended; its pid."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        if (grandchild := os.fork()) == 0:
            os.close(reader)
            os.close(writer)
            run()
        os.write(writer, struct.pack("q", grandchild))
        os._exit(0)
    os.close(writer)
    (pid,) = struct.unpack("q", os.read(reader, 8))
    os.close(reader)
    os.waitpid(child, 0)
    return int(pid)


def become(command: Command, descriptors: Sequence[int], connection: socket.socket) -> NoReturn:
    """Run `command` in this process as if an interpreter had started with it."""
    global _zygote
    code = 1
    try:
        deadline = time.monotonic() + 30
        while os.getppid() != command.parent and time.monotonic() < deadline:
            os.kill(command.parent, 0)  # a killed one must not leave a process that holds its locks until the deadline
            time.sleep(0.0005)
        if command.new_session:
            os.setsid()
        for limit, values in command.limits:
            resource.setrlimit(limit, values)
        for number in (signal.SIGINT, signal.SIGTERM):  # they end an interpreter that has not started yet
            signal.signal(number, signal.SIG_DFL)
        connection.close()
        own = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE) for fd in descriptors]
        for fd in descriptors:
            os.close(fd)
        _zygote = None if command.program in LEAVES else nested(command.environment, own)
        for source, target in zip(own, command.targets, strict=True):
            os.dup2(source, target, inheritable=True)
            os.close(source)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run(command)
    except ProcessLookupError:
        pass
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def nested(environment: Mapping[str, str], descriptors: Sequence[int]) -> Zygote:
    """Fork a zygote for the processes that this one will start, before it has threads."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        for fd in (*descriptors, ours.fileno()):
            os.close(fd)
        title((sys.executable, "zygote"))
        serve(theirs, signal.SIG_DFL)  # a program that ends all its children waits for this one, too
    theirs.close()
    high = socket.socket(fileno=fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD_CLOEXEC, FIRST_FREE))
    ours.close()
    return Zygote(high, environment)


def title(argv: Sequence[str]) -> None:
    """Show `argv` as the command line of this process, to `ps` and to tests that look for a process."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    ctypes.memmove(start, b"\0".join(map(os.fsencode, argv)).ljust(end - start, b"\0"), end - start)


def open_streams(unbuffered: bool) -> None:
    """Open the standard streams on the descriptors that are in their places now."""
    _former.extend((sys.stdin, sys.stdout, sys.stderr))
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    sys.stdin = sys.__stdin__ = open(0, encoding=encoding, closefd=False)  # noqa: SIM115
    buffering = 1 if unbuffered or os.isatty(1) else -1
    sys.stdout = sys.__stdout__ = open(1, "w", buffering, encoding, closefd=False)  # noqa: SIM115
    if unbuffered:
        sys.stdout.reconfigure(write_through=True)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding, "backslashreplace", closefd=False)  # noqa: SIM115


def run(command: Command) -> int:
    """Run the command in a fresh `__main__`; its exit code."""
    title(command.argv)
    os.environ.clear()
    os.environ.update(command.environment)
    os.chdir(command.folder)
    if _zygote:
        install()
    else:
        subprocess.Popen._execute_child = _refuse_python  # type: ignore[attr-defined]
    if command.program == WORKER_CODE and "SLIPCOVER_ENABLED" in os.environ:  # it instruments modules at their import
        for name in [name for name in sys.modules if name.startswith(OURS)]:
            del sys.modules[name]
    sys.argv = ["-c" if command.kind == "-c" else command.program, *command.arguments]
    sys.orig_argv = list(command.argv)
    first = {"-m": command.folder, "-c": "", "file": str(Path(command.program).absolute().parent)}[command.kind]
    safe = command.kind != "file" and ("-P" in command.flags or command.environment.get("PYTHONSAFEPATH"))
    given = [folder for folder in command.environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:0] = [*([] if safe else [first]), *given]
    open_streams(unbuffered=bool("-u" in command.flags or command.environment.get("PYTHONUNBUFFERED")))
    threads = int(command.environment.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    if str(threads) != os.environ.get("OMP_NUM_THREADS"):
        sys.modules["torch"].set_num_threads(threads)
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.modules["__main__"].__builtins__ = __builtins__  # type: ignore[attr-defined]
    if plan := command.environment.get("PHI_TEST_KILL"):
        importlib.import_module("tests.kill_points").install(plan)
    sys.modules.pop(command.program, None)
    code = 0
    interrupted = False
    try:
        if command.kind == "-m":
            runpy._run_module_as_main(command.program)  # type: ignore[attr-defined]
        elif command.kind == "-c":
            exec(command.program, sys.modules["__main__"].__dict__)
        else:
            runpy.run_path(command.program, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code, interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if interrupted:
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return code
