"""The process that compiles guides before the models do, with a limit of memory; started by `guide_check`, which limits its time.

It receives {"model": folder, "guide": Guide} and sends {"started": true} once the tokenizer is loaded, then {"failure": …} with
the kind, message and fix of a guide that no answer can follow, or null.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from phi_runtime.core.artifacts import digest, file_digest
from phi_runtime.core.errors import PhiError
from phi_runtime.core.wire import from_json
from phi_runtime.inference.generator import Guide, InvalidGuide, SamplingParams
from phi_runtime.inference.guide_model import tokenizer_files, write_guide_model
from phi_runtime.inference.onnx import OnnxGenerator
from phi_runtime.serving.guide_check import MEMORY_BYTES
from phi_runtime.workers.child import Parent

_FOLLOWED_TOKENS = 32  # some guides grow only while they are followed


def main() -> None:
    """Compile guides until stdin closes."""
    parent = Parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then ends this process
    loaded: tuple[str, OnnxGenerator] | None = None
    while True:
        request = parent.receive()
        folder = Path(request["model"])
        tokenizer = digest([(file.name, file_digest(file)) for file in tokenizer_files(folder)])
        if loaded is None or loaded[0] != tokenizer:  # models of one base share it
            loaded = None
            loaded = tokenizer, _load(folder)
        guide = from_json(Guide, request["guide"])
        parent.send({"started": True})
        failure = None
        try:
            with _limited_memory():
                _follow(loaded[1], guide)
        except InvalidGuide as e:
            failure = {"kind": "InvalidGuide", "message": e.what, "fix": e.fix}
        except (MemoryError, PhiError, RuntimeError):  # memory, in the words of each library
            os._exit(1)
        parent.send({"failure": failure})


def _load(folder: Path) -> OnnxGenerator:
    with tempfile.TemporaryDirectory(prefix="phi-scaffold-") as temporary:
        write_guide_model(folder, Path(temporary))
        generator = OnnxGenerator(Path(temporary))
        with suppress(InvalidGuide):
            _follow(generator, Guide("regex", "a"))  # reads the tokenizer for guides, which takes a second
    return generator


def _follow(generator: OnnxGenerator, guide: Guide) -> None:
    """Compile `guide` and generate a few tokens. Raises InvalidGuide."""
    for _ in generator.answer("a", SamplingParams(_FOLLOWED_TOKENS, guide=guide)):
        pass


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Limit the memory that this process may allocate, where the system can."""
    try:
        import resource

        import psutil  # type: ignore[import-untyped]

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = psutil.Process().memory_info().vms + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    except (ImportError, OSError, ValueError):  # Windows
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


if __name__ == "__main__":
    main()
