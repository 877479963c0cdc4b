"""The public API over one project: open it, validate, plan, run, and use its models."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.overrides import Overrides
from phi_runtime.core import project as folders
from phi_runtime.core.events import Emit, silent
from phi_runtime.core.signals import left_to_caller
from phi_runtime.core.trust import is_trusted
from phi_runtime.data.chat import Message
from phi_runtime.data.hooks import require_trusted_hooks
from phi_runtime.inference.generator import SamplingParams
from phi_runtime.pipeline.engine import Outcome, run
from phi_runtime.pipeline.load import load_config, load_workflow
from phi_runtime.pipeline.plan import plan
from phi_runtime.pipeline.session import Session, open_session
from phi_runtime.pipeline.stage import Stage
from phi_runtime.report.finish import finish_run


@dataclass(frozen=True)
class Project:
    """A phi-scaffold project on disk. Create one with `open`.

    Attributes:
        folders: Paths of the project.
        overrides: Settings that replace those of the config, as the command line sets them.
    """

    folders: folders.ProjectFolder
    overrides: Overrides = field(default_factory=Overrides)

    @classmethod
    def open(
        cls,
        path: str | Path = ".",
        *,
        task_name: str | None = None,
        data: str | Path | None = None,
        on_local: bool = False,
        skip_bad_rows: bool = False,
        trust_remote_code: bool = False,
        trust_project: bool = False,
    ) -> Project:
        """Open the project that contains `path`, which is a folder or a workflow config.

        Args:
            path: A folder of the project, or the config to use instead of fine-tuning/olive-config.json.
            task_name: Subfolder of gen-model/ for the outputs, for several fine-tunes in one project.
            data: File to train on instead of the one in the config.
            on_local: Run on this machine, whatever `host` and `target` the config names.
            skip_bad_rows: Skip rows that cannot be used, instead of raising DataError.
            trust_remote_code: Run Python code that comes with the model, if the config allows it too.
            trust_project: Run the project's hooks.py and user_script. Default: only where its setup has run, or the
                command line had --trust-project once.

        Raises:
            UsageError: There is no project or config at `path`.
        """
        path = Path(path)
        config = path if path.is_file() else None
        project = folders.find_project(path, config)
        if task_name is not None:
            project = folders.for_task(project, task_name, config_given=config is not None)
        return cls(
            project,
            Overrides(
                on_local=on_local,
                data={"": Path(data)} if data is not None else {},
                trust_remote_code=trust_remote_code,
                skip_bad_rows=skip_bad_rows,
                run_user_script=trust_project or is_trusted(project.root),
            ),
        )

    def validate(self) -> list[Finding]:
        """Check the config and its sidecar files; return errors first, then warnings.

        Raises:
            ConfigError: A file cannot be parsed.
        """
        return load_config(self.folders.config, self.overrides).findings

    def plan(self) -> list[Stage]:
        """Return all stages in the order in which they run, each with its state on disk. Imports no ML library.

        Raises:
            ConfigError: The config has errors.
        """
        return plan(load_workflow(self.folders.config, self.overrides), self.folders)

    def run(
        self,
        *stages: str,
        until: str | None = None,
        force: Sequence[str] = (),
        processes: int = 1,
        on_event: Emit = silent,
        handle_signals: bool = False,
    ) -> Outcome:
        """Bring stages up to date. A stage whose inputs have not changed is not run again.

        Args:
            stages: Run these stages with the stages that they need; default: all stages.
            until: Last stage to run.
            force: Stages to run again although they are cached.
            processes: Number of processes that train together.
            on_event: Called with each `Event`, in the thread that runs the stage.
            handle_signals: Let training catch SIGINT and SIGTERM to save the current step before it stops, as the
                command line does. Default False: the handlers of the process are left alone, and an interrupted
                training resumes from its last checkpoint.

        Returns:
            The stages that ran, those that were cached, and the evaluation.

        Raises:
            PhiError: UsageError (hooks.py of a project that is not trusted), ConfigError, DataError,
                Conflict (another run is active), Interrupted, OutOfResources, or
                WorkFailed for a stage that failed.
        """
        require_trusted_hooks(self.folders.config, trusted=self.overrides.run_user_script)
        config = load_config(self.folders.config, self.overrides)
        with nullcontext() if handle_signals else left_to_caller():
            outcome = run(self.folders, on_event, config=config, only=stages, until=until, force=force, nproc=processes)
        finish_run(self.folders, config.require_valid(), outcome, on_event)
        return outcome

    @contextmanager
    def model(self, name: str | None = None, *, adapter: str | None = None) -> Iterator[Model]:
        """Load a model of the project; its memory is released at the end of the `with` block.

        Args:
            name: base, adapter, merged or onnx, the name of a pass, or a model folder. Default: the last model of
                the workflow that exists.
            adapter: Name of the adapter that answers, for an ONNX model with several.

        Raises:
            UsageError: There is no such model or adapter.
            MissingDependency: The project has no model yet, or a library is not installed.
        """
        session = open_session(self.folders, name, self.overrides)
        model = Model(session.select_adapter(adapter))
        del session
        try:
            yield model
        finally:
            model._close()
            gc.collect()


class Model:
    """A loaded model with the prompt template that it was trained with. `Project.model` creates it."""

    def __init__(self, session: Session) -> None:
        self._session: Session | None = session
        self.name = session.name
        self.path = session.path

    def answer(
        self,
        prompt: str,
        *,
        history: Sequence[Message] = (),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> str:
        """Return the answer to `prompt`.

        Args:
            prompt: Value of the input column of the prompt template (JSON, if there are several), or the next
                message of a conversation.
            history: Earlier messages of the conversation, `{"role": …, "content": …}`.
            max_new_tokens: Longest answer, in tokens.
            temperature: Randomness; 0 is greedy and repeatable.
            top_p: Sample from the likeliest tokens with this total probability.
            top_k: Sample from this many likeliest tokens; 0: all.
            seed: Makes sampled answers repeatable.
            stop: Texts before which the answer ends.

        Raises:
            DataError: Prompt and answer exceed the context length of the model.
            UsageError: The prompt is not JSON with the columns that the template needs.
        """
        return "".join(
            self.stream(
                prompt,
                history=history,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=seed,
                stop=stop,
            )
        )

    def stream(
        self,
        prompt: str,
        *,
        history: Sequence[Message] = (),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the answer to `prompt` piece by piece. Arguments and errors are those of `answer`."""
        if self._session is None:
            raise RuntimeError("the model is closed: use it inside the `with` block of Project.model")
        sampling = SamplingParams(max_new_tokens, temperature, top_p, top_k, seed, tuple(stop))
        pieces = self._session.answer(prompt, sampling, history)
        try:
            for piece in pieces:
                if piece.text:
                    yield piece.text
        finally:
            pieces.close()

    def _close(self) -> None:
        self._session = None
