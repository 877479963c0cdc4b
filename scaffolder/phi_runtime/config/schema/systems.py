"""The base model, and the machines that passes run on and the ONNX model is built for."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from phi_runtime.config.schema.common import Count, Dtype, Strict, Whole, no_effect


class LoadKwargs(Strict):
    """Arguments of transformers' `from_pretrained` for the base model."""

    trust_remote_code: bool = Field(
        False,
        description="Run Python code that comes with the model. Default false; takes effect only together with the flag "
        "--trust-remote-code. Only needed for architectures that transformers does not have.",
    )
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of the Hub repository. Default null: main. Pin a commit to reproduce a run.",
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = Field(
        None,
        description="Attention kernel. Default null: transformers chooses, usually sdpa. flash_attention_2 needs CUDA and the "
        "package flash-attn; eager is the slowest and the reference.",
    )
    torch_dtype: Dtype | Literal["auto"] | None = no_effect(
        None, "No effect here: `torch_dtype` of the training pass defines the number type."
    )
    device_map: Literal["auto", "cpu", "cuda"] | None = no_effect(
        None, "No effect here: `device_map` of the training pass and `host` define the devices."
    )


class RegistryModel(Strict):
    """A model in an Azure ML registry."""

    type: Literal["azureml_registry_model"] = Field(description="A model in an Azure ML registry.")
    name: str = Field(
        min_length=1,
        description="Name of the model; it is read from model-cache/ or from the Hub under this name.",
        examples=["Phi-3-mini-4k-instruct"],
    )
    registry_name: str = Field(min_length=1, description="Name of the registry.", examples=["azureml"])
    version: str | Whole = Field(description="Version of the model in the registry.", examples=["11"])

    @property
    def address(self) -> str:
        """The address of the model. A name with a slash, as older documents have it, is no name there: its last part is."""
        return (
            f"azureml://registries/{self.registry_name}/models/{self.name.rpartition('/')[2]}/versions/{self.version}"
        )


def _path_shape(value: Any) -> str:
    return "a registry model" if isinstance(value, dict | RegistryModel) else "a path"


class InputModel(Strict):
    """The base model."""

    type: Literal["HfModel"] = Field(description="A Hugging Face model, the only kind that can be fine-tuned.")
    model_path: Annotated[
        Annotated[str, Tag("a path"), Field(min_length=1)] | Annotated[RegistryModel, Tag("a registry model")],
        Discriminator(_path_shape),
    ] = Field(
        description="Folder of the model, relative to this file, or a Hub id. A missing folder under model-cache/ is "
        "downloaded: `../model-cache/smollm2-135m`, `../model-cache/microsoft/Phi-3-mini-4k-instruct`.",
        examples=["../model-cache/smollm2-135m"],
    )
    adapter_path: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="An adapter of the model that exists already: a folder of peft (adapter_config.json and "
        "adapter_model.safetensors), relative to this file, or a Hub id. It is the pass `input_adapter`: merge it, "
        "export it, or train it further. Default null: none.",
        examples=["../my-adapter"],
    )
    task: Literal["text-generation", "text-generation-with-past"] = Field(
        "text-generation",
        description="Task of the model, as Olive names it. Default text-generation; both values mean the same here.",
    )
    load_kwargs: LoadKwargs = Field(
        default_factory=LoadKwargs,
        description="Arguments for loading the model: revision, attention kernel, remote code.",
    )

    @property
    def name(self) -> str:
        """The path or Hub id; for a registry model its name, which is its name on the Hub."""
        return self.model_path if isinstance(self.model_path, str) else self.model_path.name


ExecutionProvider = Literal[
    "CPUExecutionProvider", "CUDAExecutionProvider", "DmlExecutionProvider", "WebGpuExecutionProvider"
]


class Accelerator(Strict):
    """A device, and the ONNX Runtime execution provider that runs on it."""

    device: Literal["cpu", "gpu"] = Field(description="Kind of processor: cpu or gpu.")
    execution_providers: list[ExecutionProvider] = Field(
        min_length=1,
        max_length=1,
        description="Exactly one ONNX Runtime execution provider. On `target` it decides which precisions can be exported: CPU "
        "fp32, int8, int4; CUDA all; DirectML fp16, int4; WebGPU all except bf16.",
        examples=[["CPUExecutionProvider"]],
    )
    memory: Count | str | None = no_effect(
        None, 'No effect here: memory of the device, in bytes or as "16GB". It is measured instead.'
    )


class System(Strict):
    """A machine that passes run on, or that the ONNX model is built for."""

    accelerators: list[Accelerator] = Field(
        min_length=1,
        max_length=1,
        description="Exactly one accelerator: the device and its execution provider.",
        examples=[[{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]],
    )
    hf_token: bool | None = no_effect(
        None, "No effect here: read the Hub token from the key vault. Put it into .env as HF_TOKEN instead."
    )


class LocalSystem(System):
    """This machine."""

    type: Literal["LocalSystem"] = Field(description="This machine.")


class AzureMLClient(Strict):
    """An Azure ML workspace. Running there is not implemented, so none of its keys has an effect."""

    subscription_id: str | None = no_effect(None, "Id of the Azure subscription. No effect yet.")
    resource_group: str | None = no_effect(None, "Name of the resource group. No effect yet.")
    workspace_name: str | None = no_effect(None, "Name of the workspace. No effect yet.")
    aml_config_path: str | None = no_effect(
        None, "Path of an Azure ML config.json, instead of subscription, group and workspace. No effect yet."
    )
    keyvault_name: str | None = no_effect(
        None, "Name of the key vault that holds the Hub token as `hf-token`. No effect yet."
    )
    read_timeout: Count = no_effect(60, "Timeout of a request, in seconds. Default 60. No effect yet.")
    max_operation_retries: Whole = no_effect(3, "Retries of a failed operation. Default 3. No effect yet.", ge=0)
    operation_retry_interval: Whole = no_effect(
        5, "Seconds before the first retry, doubled for each further one. Default 5. No effect yet.", ge=0
    )
    default_auth_params: dict[str, Any] | None = no_effect(
        None, "Keyword arguments of DefaultAzureCredential; never write secrets here. No effect yet."
    )


class AzureMLDocker(Strict):
    """The image of an Azure ML job. No effect yet, except that `conda_file_path` must exist."""

    base_image: str | None = no_effect(None, "Base image of the job. No effect yet.")
    dockerfile: str | None = no_effect(None, "Dockerfile in build_context_path. No effect yet.")
    build_context_path: str | None = no_effect(None, "Folder of the Dockerfile. No effect yet.")
    conda_file_path: str | None = Field(
        None, description="Conda environment of the job, relative to this file; it must exist. Default null: none."
    )
    name: str | None = no_effect(None, "Name of the environment. No effect yet.")
    version: str | None = no_effect(None, "Version of the environment. No effect yet.")


class AzureMLEnvironment(Strict):
    """An existing environment of an Azure ML workspace. No effect yet."""

    name: str = no_effect(..., "Name of the environment. No effect yet.", examples=["phi-scaffold"])
    version: str | None = no_effect(None, "Version of the environment. No effect yet.")
    label: str | None = no_effect(None, "Label of the environment, such as `latest`. No effect yet.")


class AzureMLSystem(System):
    """An Azure ML compute target. Not in Olive, which removed it in 0.9.3.

    Running there is not implemented: `run --on local` runs such a config on this machine.
    """

    type: Literal["AzureML"] = Field(
        description="An Azure ML compute target. Running there is not implemented; use `run --on local --data FILE`."
    )
    aml_compute: str = no_effect(
        ..., "Name of the compute cluster. No effect yet.", min_length=1, examples=["gpu-cluster"]
    )
    aml_docker_config: AzureMLDocker | None = Field(None, description="Image of the job. Default null: none.")
    aml_environment_config: AzureMLEnvironment | None = no_effect(
        None, "Existing environment of the workspace, instead of an image. No effect yet."
    )
    azureml_client_config: AzureMLClient | None = no_effect(
        None, "Workspace of this system. Default null: `azureml_client` of the config. No effect yet."
    )
    datastores: str = no_effect(
        "workspaceblobstore", "Datastore for inputs and outputs of the job. Default workspaceblobstore. No effect yet."
    )
    instance_count: Count = no_effect(1, "Number of machines. Default 1. No effect yet.")
    tags: dict[str, str] | None = no_effect(None, "Tags of the job. No effect yet.")
    resources: dict[str, Any] | None = no_effect(None, "Resources of the job, in Azure ML's format. No effect yet.")


AnySystem = Annotated[LocalSystem | AzureMLSystem, Field(discriminator="type")]
