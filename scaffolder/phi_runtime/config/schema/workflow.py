"""The complete config in its canonical form: what Olive 0.13.0 accepts, plus our own keys where Olive ignores them."""

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer

from phi_runtime.config.schema.common import Strict, Whole, no_effect
from phi_runtime.config.schema.data import DataConfig
from phi_runtime.config.schema.pass_base import FinetunePass
from phi_runtime.config.schema.passes import AnyPass
from phi_runtime.config.schema.sidecar_files import Evaluation, Sweep
from phi_runtime.config.schema.systems import AnySystem, AzureMLClient, AzureMLSystem, InputModel
from phi_runtime.core.remote_job import in_job


class Workflow(Strict):
    """The complete config, flat as in Olive since 0.7."""

    input_model: InputModel = Field(description="The base model: where it is and how it is loaded.")
    azureml_client: AzureMLClient | None = Field(
        None, description="Azure ML workspace of the systems of type AzureML. Default null: none."
    )
    systems: dict[str, AnySystem] = Field(
        min_length=1, description="Machines by name; `host` and `target` refer to them."
    )
    data_configs: list[DataConfig] = Field(
        default_factory=lambda: [],  # the signature of `list` is a text, which pydantic would parse
        description="Datasets that the training passes refer to by name.",
    )
    passes: dict[str, AnyPass] = Field(
        min_length=1, description=("Stages by name, in the order in which they run: fine-tune, merge, export.")
    )
    host: str = Field(description="Name of the system that the passes run on.", examples=["local_system"])
    target: str = Field(
        description=("Name of the system that the ONNX model is built for; it decides which precisions are possible."),
        examples=["local_system"],
    )
    cache_dir: str = no_effect(
        "cache", "No effect here: Olive's cache folder. Finished stages are cached in gen-model/."
    )
    output_dir: str = no_effect("output", "No effect here: Olive's output folder. Models are written to gen-model/.")
    log_severity_level: Whole = no_effect(1, "No effect here: log level of Olive, 0 verbose to 4 fatal.", ge=0, le=4)
    ort_log_severity_level: Whole = no_effect(3, "No effect here: log level of ONNX Runtime in Olive.", ge=0, le=4)
    ort_py_log_severity_level: Whole = no_effect(
        3, "No effect here: log level of ONNX Runtime's Python API in Olive.", ge=0, le=4
    )
    log_to_file: bool = no_effect(
        False, "No effect here: Olive logs to a file. Each run is recorded in gen-model/runs."
    )
    clean_cache: bool = no_effect(False, "No effect here: Olive empties its cache. Use `run --force STAGE`.")
    workflow_id: str = no_effect("default_workflow", "No effect here: name of Olive's cache.")
    search_strategy: bool | None = Field(
        False,
        description="Only false or null: a search over pass options is configured in sweep.yaml next to this file. Default "
        "false.",
    )
    evaluate_input_model: bool = no_effect(False, "No effect here: `evaluate` always measures the base model too.")

    evaluation: Evaluation = Field(
        default_factory=Evaluation, exclude=True, description="Read from evaluation.json next to this file."
    )
    sweep: Sweep | None = Field(None, exclude=True, description="Read from sweep.yaml next to this file.")

    @field_serializer("passes", mode="wrap")
    def _written_passes(self, passes: dict[str, AnyPass], serialize: SerializerFunctionWrapHandler) -> Any:
        return serialize({name: step for name, step in passes.items() if step.written})

    def data_config(self, name: str) -> DataConfig:
        """Return the data config called `name`, which validation has found to exist."""
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
        """Device of `host`: cpu or gpu."""
        return self.systems[self.host].accelerators[0].device

    @property
    def remote(self) -> str | None:
        """Name of the first Azure ML system that a pass runs on, else None; in a job there, that system is this machine."""
        hosts = dict.fromkeys(self.host_of(name) for name in self.passes)
        return next((h for h in hosts if isinstance(self.systems[h], AzureMLSystem) and not in_job()), None)

    def host_of(self, name: str) -> str:
        """Return the name of the system that the pass `name` runs on."""
        return self.passes[name].host or self.host
