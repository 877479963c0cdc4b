"""Translate older Olive forms of a config into the canonical form.

Renamed and ignored keys are tables in `keys`; the modules of this package handle the rest. Dates of the releases that changed
the form: 0.7 (2024-10) flattened it and renamed data keys, 0.8 (2025-03) renamed LoRA keys, 0.9.3 (2025-09) removed Azure ML.
"""

from __future__ import annotations

import re

from phi_runtime.config.dialects.data import list_data_configs, translate_data
from phi_runtime.config.dialects.draft import EMPTY, MISSING, Draft
from phi_runtime.config.dialects.key_table import fix_case
from phi_runtime.config.dialects.keys import HF_CONFIG, translate_keys
from phi_runtime.config.dialects.other_domain import refuse_other_domain
from phi_runtime.config.dialects.passes import translate_dataset_types, translate_passes
from phi_runtime.config.dialects.search import translate_search
from phi_runtime.config.dialects.systems import translate_systems
from phi_runtime.config.reading.source import KeyPath, Source
from phi_runtime.config.schema import AzureMLModel, InputModel, LoadKwargs, RegistryModel, Workflow, WorkspaceModel
from phi_runtime.core.hub_id import HUB_ID

HUB_ADDRESS = re.compile(
    r"(hf://(models/)?|(https?://)?(www\.)?(huggingface\.co|hf\.co)/)"
    rf"(?P<id>{HUB_ID.pattern})(/(tree|resolve|blob)/(?P<revision>[^/]+))?/*"
)
"""Addresses of a model on the Hub."""

AZUREML_MODELS: dict[str, type[AzureMLModel]] = {
    "azureml_registry_model": RegistryModel,
    "azureml_model": WorkspaceModel,
}
_PATH_TYPES = (*AZUREML_MODELS, "folder", "string_name")
"""Types of the objects that Olive has for a path."""


def translate(source: Source) -> Draft:
    """Translate the workflow of `source` as far as possible; validation reports what remains wrong."""
    draft = Draft(source)
    if not isinstance(draft.value, dict) or refuse_other_domain(draft):
        return draft
    translate_keys(draft, (), Workflow)
    if draft.get(("azureml_client",)) is None:
        draft.drop(("azureml_client",), EMPTY)
    before_0_7 = _input_model(draft)
    translate_systems(draft)
    list_data_configs(draft)
    translate_passes(draft, before_0_7)
    translate_data(draft, before_0_7)
    translate_dataset_types(draft)
    translate_search(draft)
    return draft


def _input_model(draft: Draft) -> bool:
    """Translate the base model; return True if it has the form of Olive before 0.7."""
    at: KeyPath = ("input_model",)
    if isinstance(draft.get(at), str):
        draft.replace(
            at, {"type": "HfModel", "model_path": draft.get(at)}, "`input_model` is now an object with a `type`"
        )
    if not isinstance(draft.get(at), dict):
        return False
    draft.unnest((*at, "config"))
    before_0_7 = _model_type(draft, at)
    hf = (*at, "hf_config")
    if isinstance(draft.get(hf), dict):
        if draft.has((*at, "model_path")) and draft.has((*hf, "model_name")):
            draft.drop((*hf, "model_name"), "`model_path` is used")
        HF_CONFIG.apply(draft, hf)
        draft.unnest(hf)
    form = (*at, "model_file_format")
    is_mlflow = draft.get(form) == "PyTorch.MLflow"
    translate_keys(draft, at, InputModel)
    _model_path(draft, (*at, "model_path"))
    if is_mlflow and draft.get((*at, "model_path", "type")) in AZUREML_MODELS:
        draft.set_default((*at, "model_path", "mlflow"), True, "`model_file_format` is that of MLflow", cause=form)
    _adapter_path(draft, (*at, "adapter_path"))
    arguments = (*at, "load_kwargs")
    if draft.has((*at, "trust_remote_code")):
        new = (*arguments, "trust_remote_code")
        draft.move((*at, "trust_remote_code"), new, "`trust_remote_code` moved to `load_kwargs`")
    draft.unnest((*arguments, "extra_args"))
    window = (*arguments, "sliding_window")
    if draft.get(window) is None:
        draft.drop(window, "the attention window is read from the model", changes_result=True)
    translate_keys(draft, arguments, LoadKwargs)
    return before_0_7


def _model_type(draft: Draft, at: KeyPath) -> bool:
    path = (*at, "type")
    kind = draft.get(path)
    fix_case(draft, path, ("HfModel", "PyTorchModel"))
    named = any(isinstance(draft.get((*at, key)), str | dict) for key in ("hf_config", "model_path", "model_name"))
    is_script = draft.get((*at, "model_loader")) not in (MISSING, None) or (
        draft.has((*at, "model_script")) and not named
    )
    if draft.get(path) != "PyTorchModel" or is_script:
        return False
    draft.replace(path, "HfModel", f"model type `{kind}` is now `HfModel`")
    for key in ("model_script", "script_dir"):
        if draft.has((*at, key)):
            draft.drop((*at, key), "it only defined the inputs of the graph; the model builder does that")
    return True


def _model_path(draft: Draft, at: KeyPath) -> None:
    path = draft.get(at)
    if isinstance(path, str) and path.startswith("azureml://registries/"):
        parts = path.split("/")
        if len(parts) == 8 and parts[4] == "models" and parts[6] == "versions":
            model = {"type": "azureml_registry_model", "registry_name": parts[3], "name": parts[5], "version": parts[7]}
            draft.replace(at, model, "a registry model is now an object with a `type`")
    elif isinstance(path, str) and (address := HUB_ADDRESS.fullmatch(path)):
        draft.replace(at, address["id"], f"the address is now the Hub id `{address['id']}`")
        revision = (*at[:-1], "load_kwargs", "revision")
        if address["revision"] and not draft.has(revision):
            draft.set_default(revision, address["revision"], "it is in the address", cause=at)
    if not isinstance(path, dict):
        return
    fix_case(draft, (*at, "type"), _PATH_TYPES)
    translate_keys(draft, at, AZUREML_MODELS.get(str(draft.get((*at, "type"))), RegistryModel))
    _plain_path(draft, at)


def _adapter_path(draft: Draft, at: KeyPath) -> None:
    path = draft.get(at)
    if isinstance(path, dict):
        draft.unnest((*at, "config"))
        _plain_path(draft, at)
    elif isinstance(path, str) and (address := HUB_ADDRESS.fullmatch(path)):
        if address["revision"] in (None, "main"):
            draft.replace(at, address["id"], f"the address is now the Hub id `{address['id']}`")
        else:
            draft.refuse(at, "a revision of an adapter is not supported: download it, and name its folder")


def _plain_path(draft: Draft, at: KeyPath) -> None:
    """Replace a path or name in an object of Olive by itself."""
    fix_case(draft, (*at, "type"), _PATH_TYPES)
    kind = draft.get((*at, "type"))
    if kind in ("folder", "string_name"):
        key = "path" if kind == "folder" else "name"
        if isinstance(draft.get((*at, key)), str):
            draft.replace(at, draft.get((*at, key)), f"`{at[-1]}` is now the path or name itself")
