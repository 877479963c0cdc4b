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


class AzureMLModel(Strict):
    """A model that is registered in Azure ML."""

    type: str
    name: str = Field(
        min_length=1,
        description="Name of the model. A job on Azure ML has it as an input; this machine reads model-cache/ or the Hub.",
        examples=["Phi-3-mini-4k-instruct"],
    )
    version: str | Whole = Field(description="Version of the model.", examples=["11"])
    mlflow: bool = Field(
        False,
        description="The model is registered in the format of MLflow, as most of the registry `azureml` are. Default false.",
    )


class WorkspaceModel(AzureMLModel):
    """A model in the Azure ML workspace."""

    type: Literal["azureml_model"] = Field(description="A model in the Azure ML workspace.")

    @property
    def address(self) -> str:
        return f"azureml:{self.name}:{self.version}"


class RegistryModel(AzureMLModel):
    """A model in an Azure ML registry."""

    type: Literal["azureml_registry_model"] = Field(description="A model in an Azure ML registry.")
    registry_name: str = Field(min_length=1, description="Name of the registry.", examples=["azureml"])

    @property
    def address(self) -> str:
        """The address of the model. A name with a slash, as older documents have it, is no name there: its last part is."""
        return (
            f"azureml://registries/{self.registry_name}/models/{self.name.rpartition('/')[2]}/versions/{self.version}"
        )


def _path_shape(value: Any) -> str:
    if isinstance(value, WorkspaceModel) or (isinstance(value, dict) and value.get("type") == "azureml_model"):
        return "a workspace model"
    return "a registry model" if isinstance(value, dict | RegistryModel) else "a path"


class InputModel(Strict):
    """The base model."""

    type: Literal["HfModel"] = Field(description="A Hugging Face model, the only kind that can be fine-tuned.")
    model_path: Annotated[
        Annotated[str, Tag("a path"), Field(min_length=1)]
        | Annotated[RegistryModel, Tag("a registry model")]
        | Annotated[WorkspaceModel, Tag("a workspace model")],
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
        """The path or Hub id; for a model of Azure ML its name, which may be its name on the Hub."""
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
    """An Azure ML workspace, and the way to it."""

    subscription_id: str | None = Field(
        None,
        description="Id of the Azure subscription, which `az account show --query id` prints. Default null: in `aml_config_path`.",
    )
    resource_group: str | None = Field(
        None, description="Name of the resource group. Default null: in `aml_config_path`."
    )
    workspace_name: str | None = Field(None, description="Name of the workspace. Default null: in `aml_config_path`.")
    aml_config_path: str | None = Field(
        None,
        description="config.json of an Azure ML workspace, relative to this file, instead of subscription, group and workspace: the "
        "studio has it for download. Default null: none.",
    )
    keyvault_name: str | None = Field(
        None,
        description="Name of the key vault that holds the Hub token as the secret `hf-token`, for systems with `hf_token`. A job has "
        "its address only, and reads it as the identity of its compute. Default null: none.",
    )
    read_timeout: Count = Field(60, description="Timeout of a request, in seconds. Default 60.")
    max_operation_retries: Whole = Field(
        3, ge=0, description="Retries of a request that failed with 429, 5xx or without an answer. Default 3."
    )
    operation_retry_interval: Whole = Field(
        5, ge=0, description="Tenths of a second before the first retry, doubled for each further one. Default 5."
    )
    default_auth_params: dict[str, Any] | None = Field(
        None,
        description="Keyword arguments of DefaultAzureCredential, such as `managed_identity_client_id`. Secrets are refused: they"
        " are variables of the shell. Default null: none.",
    )


class AzureMLDocker(Strict):
    """The image of an Azure ML job."""

    base_image: str | None = Field(
        None,
        description="Image of the job, in which the tested versions of all libraries are installed. Default null: an Ubuntu 22.04 of "
        "Azure ML; CUDA comes with torch.",
    )
    dockerfile: str | None = Field(
        None,
        description="Dockerfile in `build_context_path`, instead of `base_image`. It must install Python 3.11 and all libraries. "
        "Default null: none.",
    )
    build_context_path: str | None = Field(
        None,
        description="Folder of the Dockerfile, relative to this file; all of it is uploaded. Default null: that of this file.",
    )
    conda_file_path: str | None = Field(
        None,
        description="Conda environment of the job, relative to this file; it must exist. One without exact versions, or with a Python"
        " before 3.11, is replaced by the tested versions. Default null: the tested versions.",
    )
    name: str | None = no_effect(None, "No effect here: the environment is identified by its content.")
    version: str | None = no_effect(None, "No effect here: the environment is identified by its content.")


class AzureMLEnvironment(Strict):
    """An existing environment of an Azure ML workspace, with Python 3.11 and all libraries."""

    name: str = Field(description="Name of the environment.", examples=["phi-scaffold"])
    version: str | None = Field(None, description="Version of the environment. Default null: the latest.")
    label: str | None = Field(None, description="Label of the environment, such as `latest`. Default null: `version`.")


class AzureMLSystem(System):
    """An Azure ML compute target: `run` submits a job there, and downloads its outputs. Not in Olive, which removed it in 0.9.3.

    `run --on local` runs such a config on this machine.
    """

    type: Literal["AzureML"] = Field(
        description="An Azure ML compute target: `run` submits a job there. `run --on local --data FILE` runs here instead."
    )
    hf_token: bool | None = Field(
        None,
        description="Read the Hub token from the key vault of the workspace's settings, for gated models. Default null: no token.",
    )
    aml_compute: str = Field(
        min_length=1,
        description="Name of the compute: a cluster, or an attached Kubernetes or Arc cluster.",
        examples=["gpu-cluster"],
    )
    aml_docker_config: AzureMLDocker | None = Field(
        None,
        description="Image of the job. Default null: an image of Azure ML with the tested versions of all libraries.",
    )
    aml_environment_config: AzureMLEnvironment | None = Field(
        None, description="Existing environment of the workspace, instead of an image. Default null: none."
    )
    azureml_client_config: AzureMLClient | None = Field(
        None, description="Workspace of this system. Default null: `azureml_client` of the config."
    )
    datastores: str = Field(
        "workspaceblobstore", description="Datastore for the outputs of the job. Default workspaceblobstore."
    )
    instance_count: Count = Field(1, description="Number of machines. Default 1.")
    tags: dict[str, str] | None = Field(
        None,
        description="Tags of the job, which all users of the workspace see. Default null: that of phi-scaffold only.",
    )
    resources: dict[str, Any] | None = Field(
        None,
        description="Resources of the job in Azure ML's format, such as `instance_type` of a Kubernetes cluster, or `shm_size`. "
        "Default null: those of the compute.",
        examples=[{"instance_type": "gpu-large", "shm_size": "16g"}],
    )


AnySystem = Annotated[LocalSystem | AzureMLSystem, Field(discriminator="type")]
