"""The base model, and the machines that it is trained on and made for."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from phi_runtime.config.schema.common import Count, Dtype, Strict, Whole


class LoadKwargs(Strict):
    """How the base model is loaded, in the words of transformers' `from_pretrained`."""

    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Obeyed only together with --trust-remote-code."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of the hub repository.")
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = Field(
        None, description="Attention kernel; null lets transformers choose."
    )
    torch_dtype: Dtype | Literal["auto"] | None = Field(
        None, description="Olive only: the pass that trains has a `torch_dtype` of its own, which counts."
    )
    device_map: Literal["auto", "cpu", "cuda"] | None = Field(
        None, description="Olive only: the model goes to the device of `host`."
    )


class RegistryModel(Strict):
    """A model in an Azure ML registry."""

    type: Literal["azureml_registry_model"] = Field(description="A model in an Azure ML registry.")
    name: str = Field(min_length=1, description="Name of the model.", examples=["Phi-3-mini-4k-instruct"])
    registry_name: str = Field(min_length=1, description="Name of the registry.", examples=["azureml"])
    version: str | Whole = Field(description="Version of the model.", examples=["11"])


def _path_shape(value: Any) -> str:
    return "a registry model" if isinstance(value, dict | RegistryModel) else "a path"


class InputModel(Strict):
    """The base model."""

    type: Literal["HfModel"] = Field(description="Only Hugging Face models can be fine-tuned.")
    model_path: Annotated[
        Annotated[str, Tag("a path"), Field(min_length=1)] | Annotated[RegistryModel, Tag("a registry model")],
        Discriminator(_path_shape),
    ] = Field(
        description="Folder of the model, relative to this file, or a hub id. A folder under model-cache/ that does not exist yet "
        "is fetched: `../model-cache/smollm2-135m`, `../model-cache/microsoft/Phi-3-mini-4k-instruct`.",
        examples=["../model-cache/smollm2-135m"],
    )
    task: Literal["text-generation", "text-generation-with-past"] = Field(
        "text-generation", description="Task of the model."
    )
    load_kwargs: LoadKwargs = Field(default_factory=LoadKwargs, description="How the model is loaded.")

    @property
    def name(self) -> str:
        """The path or hub id, also of a registry model, whose name is that of the hub."""
        return self.model_path if isinstance(self.model_path, str) else self.model_path.name


ExecutionProvider = Literal[
    "CPUExecutionProvider", "CUDAExecutionProvider", "DmlExecutionProvider", "WebGpuExecutionProvider"
]


class Accelerator(Strict):
    """A device and the ONNX Runtime execution provider that drives it."""

    device: Literal["cpu", "gpu"] = Field(description="Kind of processor.")
    execution_providers: list[ExecutionProvider] = Field(
        min_length=1,
        max_length=1,
        description="Exactly one ONNX Runtime execution provider.",
        examples=[["CPUExecutionProvider"]],
    )
    memory: Count | str | None = Field(None, description='Olive only: memory of the device, in bytes or as "16GB".')


class System(Strict):
    """A machine that passes run on, or that the model is made for."""

    accelerators: list[Accelerator] = Field(
        min_length=1,
        max_length=1,
        description="Exactly one accelerator.",
        examples=[[{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]],
    )
    hf_token: bool | None = Field(
        None, description="Azure ML: take the hub token from the key vault. Here it comes from HF_TOKEN or .env."
    )


class LocalSystem(System):
    """This machine."""

    type: Literal["LocalSystem"] = Field(description="This machine.")


class AzureMLClient(Strict):
    """An Azure ML workspace."""

    subscription_id: str | None = Field(None, description="Id of the Azure subscription.")
    resource_group: str | None = Field(None, description="Name of the resource group.")
    workspace_name: str | None = Field(None, description="Name of the workspace.")
    aml_config_path: str | None = Field(None, description="A config.json of Azure ML, instead of the three above.")
    keyvault_name: str | None = Field(None, description="Key vault that holds the hub token under `hf-token`.")
    read_timeout: Count = Field(60, description="Time-out of a request, in seconds.")
    max_operation_retries: Whole = Field(3, ge=0, description="How often a failed operation is tried again.")
    operation_retry_interval: Whole = Field(5, ge=0, description="Seconds before the first retry; doubles each time.")
    default_auth_params: dict[str, Any] | None = Field(
        None, description="Keyword arguments of DefaultAzureCredential. No secret belongs here."
    )


class AzureMLDocker(Strict):
    """The image that a job runs in."""

    base_image: str | None = Field(None, description="Image to build on.")
    dockerfile: str | None = Field(None, description="Dockerfile, in build_context_path.")
    build_context_path: str | None = Field(None, description="Folder of the Dockerfile.")
    conda_file_path: str | None = Field(None, description="Conda environment of the job, relative to this file.")
    name: str | None = Field(None, description="Name of the environment.")
    version: str | None = Field(None, description="Version of the environment.")


class AzureMLEnvironment(Strict):
    """An environment that the workspace has already."""

    name: str = Field(description="Name of the environment.", examples=["phi-scaffold"])
    version: str | None = Field(None, description="Its version.")
    label: str | None = Field(None, description="Its label, such as `latest`.")


class AzureMLSystem(System):
    """An Azure ML compute target. Ours: Olive took it out in 0.9.3."""

    type: Literal["AzureML"] = Field(description="An Azure ML compute target.")
    aml_compute: str = Field(min_length=1, description="Name of the compute cluster.", examples=["gpu-cluster"])
    aml_docker_config: AzureMLDocker | None = Field(None, description="The image that the job runs in.")
    aml_environment_config: AzureMLEnvironment | None = Field(
        None, description="An environment of the workspace, instead of an image."
    )
    azureml_client_config: AzureMLClient | None = Field(
        None, description="Workspace of this system; null: `azureml_client`."
    )
    datastores: str = Field("workspaceblobstore", description="Datastore for what the job reads and writes.")
    instance_count: Count = Field(1, description="Number of machines.")
    tags: dict[str, str] | None = Field(None, description="Tags of the job.")
    resources: dict[str, Any] | None = Field(None, description="Resources of the job, as Azure ML takes them.")


AnySystem = Annotated[LocalSystem | AzureMLSystem, Field(discriminator="type")]
