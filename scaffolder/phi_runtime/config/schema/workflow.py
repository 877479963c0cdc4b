"""The whole config in its canonical form: what Olive 0.13.0 accepts, plus our own keys where Olive passes over them."""

from pydantic import Field

from phi_runtime.config.schema.common import Strict, Whole
from phi_runtime.config.schema.data import DataConfig
from phi_runtime.config.schema.pass_base import FinetunePass
from phi_runtime.config.schema.passes import AnyPass
from phi_runtime.config.schema.registry import rebuild_on_load
from phi_runtime.config.schema.sidecar_files import Evaluation, Sweep
from phi_runtime.config.schema.systems import AnySystem, AzureMLClient, AzureMLSystem, InputModel


class Workflow(Strict):
    """The whole config. Flat, as Olive takes it since 0.7."""

    input_model: InputModel = Field(description="The base model.")
    azureml_client: AzureMLClient | None = Field(None, description="The Azure ML workspace. Ours: gone from Olive.")
    systems: dict[str, AnySystem] = Field(min_length=1, description="Machines, by name.")
    data_configs: list[DataConfig] = Field(default_factory=list, description="Data sets that passes refer to.")
    passes: dict[str, AnyPass] = Field(min_length=1, description="Stages, in the order in which they run.")
    host: str = Field(description="System that the passes run on.", examples=["local_system"])
    target: str = Field(description="System that the model is made for.", examples=["local_system"])
    cache_dir: str = Field("cache", description="Olive only: where it keeps its own cache.")
    output_dir: str = Field("output", description="Olive only: where it writes its last model. Ours go to gen-model/.")
    log_severity_level: Whole = Field(1, ge=0, le=4, description="Olive only: 0 verbose … 4 fatal.")
    ort_log_severity_level: Whole = Field(3, ge=0, le=4, description="Olive only: 0 verbose … 4 fatal.")
    ort_py_log_severity_level: Whole = Field(3, ge=0, le=4, description="Olive only: 0 verbose … 4 fatal.")
    log_to_file: bool = Field(False, description="Olive only: log to a file.")
    clean_cache: bool = Field(False, description="Olive only: empty its cache first. Here: `run --force STAGE`.")
    workflow_id: str = Field("default_workflow", description="Olive only: names its cache.")
    search_strategy: bool | None = Field(
        False, description="A search over pass options is described in sweep.yaml beside this file."
    )
    evaluate_input_model: bool = Field(
        False, description="Olive only: here `evaluate` always measures the base model too."
    )

    evaluation: Evaluation = Field(
        default_factory=Evaluation, exclude=True, description="Read from evaluation.json beside this file."
    )
    sweep: Sweep | None = Field(None, exclude=True, description="Read from sweep.yaml beside this file.")

    def data_config(self, name: str) -> DataConfig:
        """The data config called `name`; the loader has made sure that it exists."""
        return next(d for d in self.data_configs if d.name == name)

    @property
    def finetune(self) -> tuple[str, FinetunePass] | None:
        """The first pass that trains, with its name."""
        return next(iter(self.trainings.items()), None)

    @property
    def trainings(self) -> dict[str, FinetunePass]:
        """All passes that train, by name, in order."""
        return {name: step for name, step in self.passes.items() if isinstance(step, FinetunePass)}

    @property
    def execution_provider(self) -> str:
        return self.systems[self.target].accelerators[0].execution_providers[0]

    @property
    def host_device(self) -> str:
        """cpu or gpu."""
        return self.systems[self.host].accelerators[0].device

    @property
    def remote(self) -> str | None:
        """The name of the Azure ML system that the passes run on, if it is one."""
        return self.host if isinstance(self.systems[self.host], AzureMLSystem) else None


rebuild_on_load(Workflow)
