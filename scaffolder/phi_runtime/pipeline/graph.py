"""The walk over the pass graph: each pass with its stage and the models that go into it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE, adapters_of, sources
from phi_runtime.config.schema import Pass, Workflow
from phi_runtime.core.artifacts import current_content
from phi_runtime.core.events import Emit
from phi_runtime.core.project import ProjectFolder
from phi_runtime.models.fetch import present
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.stage import Stage, State, pass_stage

if TYPE_CHECKING:
    from phi_runtime.context import PassContext

CACHED: tuple[State, ...] = ("cached",)


@dataclass(frozen=True)
class PassNode:
    """A pass of the graph with its stage, its source (None if that does not exist) and its adapters that exist."""

    name: str
    config: Pass
    stage: Stage
    source: ModelRef | None
    adapters: Mapping[str, ModelRef]
    trust_remote_code: bool

    @property
    def output(self) -> ModelRef:
        """The model in the stage's target folder, which must exist or be deleted."""
        manifest, source = self.stage.manifest, self.source
        content = current_content(self.stage.target, manifest) if manifest else self.stage.deleted
        assert content
        base = source.base if source and source.kind == "adapter" else source
        return ModelRef(self.stage.target, self.config.produces, content, base, self.trust_remote_code)


class ModelGraph:
    """The models of a workflow on disk, by the pass whose output they are (BASE for the base model).

    `models` starts with the base model, if it is downloaded, and grows as the graph is walked.
    """

    def __init__(
        self, workflow: Workflow, project: ProjectFolder, models: Mapping[str, ModelRef] | None = None
    ) -> None:
        self.workflow, self.project = workflow, project
        if models is None:
            base = present(workflow.input_model, project)
            models = {BASE: base} if base else {}
        self.models: dict[str, ModelRef] = dict(models)
        self._sources = sources(workflow.passes)

    def source_of(self, name: str) -> ModelRef | None:
        """Return the model that the pass `name` starts from, if it exists."""
        return self.models.get(self._sources[name] or "")

    def node(self, name: str) -> PassNode:
        """Look up the pass `name` with those of its inputs that are in `models`."""
        source = self.source_of(name)
        adapters = {a: self.models[a] for a in adapters_of(self.workflow.passes, name) if a in self.models}
        stage = pass_stage(self.workflow, self.project, name, source, adapters)
        trust = self.workflow.input_model.load_kwargs.trust_remote_code
        return PassNode(name, self.workflow.passes[name], stage, source, adapters, trust)

    def parents_of(self, name: str) -> tuple[str, ...]:
        """Return the passes (or BASE) whose output goes into the pass `name`."""
        return (self._sources[name] or "", *adapters_of(self.workflow.passes, name))

    def walk(self, accept: Collection[State] = CACHED) -> Iterator[PassNode]:
        """Yield all passes in order; outputs whose state is in `accept` become inputs of later passes, as do deleted ones."""
        for name in self.workflow.passes:
            node = self.node(name)
            usable = node.source is not None or node.config.produces != "adapter"  # an adapter needs its base
            if node.stage.deleted or (node.stage.state in accept and node.stage.manifest is not None and usable):
                self.models[name] = node.output
            yield node

    def context(
        self,
        node: PassNode,
        work: Path,
        emit: Emit,
        overrides: Overrides,
        *,
        record: Path | None = None,
        previous: Path | None = None,
    ) -> PassContext[Pass]:
        """Return the context in which `node` runs, with the staging folder `work`/out."""
        from phi_runtime.context import PassContext  # it reads data sets, which planning does not

        assert node.source is not None
        return PassContext(
            node.name,
            node.config,
            node.source,
            work / "out",
            work,
            self.workflow,
            self.project,
            emit,
            overrides,
            record,
            node.adapters,
            previous,
        )


def existing_models(
    workflow: Workflow, project: ProjectFolder, accept: Collection[State] = ("cached", "stale")
) -> dict[str, ModelRef]:
    """Return the models on disk by pass, by default also those whose config has changed since."""
    graph = ModelGraph(workflow, project)
    deleted = {node.name for node in graph.walk(accept) if node.stage.deleted}
    return {name: model for name, model in graph.models.items() if name not in deleted}
