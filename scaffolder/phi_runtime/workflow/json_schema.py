"""The JSON Schema (draft 2020-12) of the config and of the files beside it, for editors: completion, hover, faults underlined.

It comes from the models and from the tables of older spellings: what the door takes, the schema takes, marked as deprecated.
`deprecationMessage`, `doNotSuggest`, `allowComments` and `allowTrailingCommas` are VS Code's; others pass over them.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel

from phi_runtime.workflow.pass_dialects import SAMPLERS
from phi_runtime.workflow.respell import takes_null
from phi_runtime.workflow.schema import Evaluation, PreProcess, Sweep, TrainingArgs, Workflow
from phi_runtime.workflow.spellings import (
    CLASSIC_EXPORT,
    DATALOADER_KEYS,
    HF_CONFIG,
    OLD_DATA_KEYS,
    OPTIMIZERS,
    SPELLINGS,
    TRAINING_NAMES,
    Older,
)

Name = Literal["workflow", "evaluation", "sweep"]
MODELS: dict[Name, type[BaseModel]] = {"workflow": Workflow, "evaluation": Evaluation, "sweep": Sweep}
FILES: dict[Name, str] = {
    "workflow": "olive-config.schema.json",
    "evaluation": "evaluation.schema.json",
    "sweep": "sweep.schema.json",
}

Schema = dict[str, Any]
_TOLD_APART = ("LoRA", "QLoRA", "FullFinetune", "MergeAdapterWeights", "ModelBuilder", "LocalSystem", "AzureMLSystem")
_PROVIDER = {"$ref": "#/$defs/Accelerator/properties/execution_providers/anyOf/0/items"}
_PROVIDERS = {"anyOf": [_PROVIDER, {"type": "array", "items": _PROVIDER}, {"type": "null"}]}


def schema_of(name: Name) -> Schema:
    """The schema of the config (`workflow`), or of a file beside it."""
    schema = _plain(MODELS[name].model_json_schema())
    definitions: Schema = schema.setdefault("$defs", {})
    root = MODELS[name].__name__
    definitions[root] = {k: schema.pop(k) for k in list(schema) if k != "$defs"}
    parts = {model.__name__: older for model, older in SPELLINGS.items() if model.__name__ in definitions}
    for part, older in parts.items():
        _respell(part, definitions[part], older)
    if name == "workflow":
        _older_forms(definitions)
    _nulls(definitions)
    if "Sweep" in definitions:
        space = definitions["Sweep"]["properties"]["search_space"]
        alternatives = _other({"type": "array", "minItems": 1}, "An object of type `choice`.")
        space["additionalProperties"] = {"anyOf": [space["additionalProperties"], alternatives]}
    for part, older in parts.items():
        if older.nested:
            definitions[f"{part}.{older.nested}"] = _nested(part, definitions[part], older.nested)
    if name == "workflow":
        _cases_aside(definitions)
    if "SearchStrategy" in definitions:
        _search(definitions["SearchStrategy"]["properties"])
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"phi-scaffold {name}",
        "allowComments": True,
        "allowTrailingCommas": True,
        **definitions.pop(root),
        "$defs": definitions,
    }
    moved: Schema = json.loads(json.dumps(whole).replace(f"#/$defs/{root}/", "#/"))
    return moved


def _nested(name: str, part: Schema, key: str) -> Schema:
    """The object that a part was nested in: the same properties, none required."""
    hidden = (key, *part.get("required", ()))
    inner = {k: {"$ref": f"#/$defs/{name}/properties/{k}"} for k in part["properties"] if k not in hidden}
    nested = {"type": ["object", "null"], "properties": inner, "additionalProperties": False}
    return nested | {k: part[k] for k in ("dependentSchemas",) if k in part}


# pydantic writes the bounds of a number that it first converts in its own words (seen in 2.14).
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _plain(value: Any) -> Any:
    """Without titles, which repeat the names, and with the bounds in the words of JSON Schema."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not (k == "title" and isinstance(v, str))}
        return {_BOUNDS.get(k, k): _plain(v) for k, v in kept.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _other(schema: Schema, message: str) -> Schema:
    """An older form beside today's. Not marked as deprecated: VS Code would take that for no match, and report another form."""
    return {**schema, "description": message}


def _older(schema: Schema, message: str) -> Schema:
    return {**schema, "deprecated": True, "deprecationMessage": message, "doNotSuggest": True, "description": message}


def _respell(name: str, part: Schema, older: Older) -> None:
    """Adds the older spellings of one part, and lets its nested object hold what it requires."""
    properties = part["properties"]
    if name not in _TOLD_APART:
        _type_case(properties)
    required = part.pop("required", [])
    if "type" in required:
        required.remove("type")
        part["required"] = ["type"]
    alternatives = {key: [key, *(o for o, n in older.renamed.items() if n == key)] for key in required}
    for old, new in older.renamed.items():
        if new in properties:
            properties[old] = _older(_reference(name, new), f"Now `{new}`.")
    for key, why in older.left_out.items():
        properties.setdefault(key, _older({}, f"Left out: {why}."))
    for key, instead in older.refused.items():
        properties.setdefault(key, _older({"enum": [None, False]}, f"{instead}."))
    if older.nested:
        reference = {"$ref": f"#/$defs/{name}.{older.nested}"}
        properties[older.nested] = _older(reference, "What it holds stands beside `type` now.")
        for names in alternatives.values():
            names.append(older.nested)
    if alternatives:
        part["allOf"] = [{"anyOf": [{"required": [n]} for n in names]} for names in alternatives.values()]


def _reference(part: str, key: str) -> Schema:
    return {"$ref": f"#/$defs/{part}/properties/{key}"}


def _any_case(name: str) -> Schema:
    pattern = "".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else c for c in name)
    return {"type": "string", "pattern": f"^{pattern}$"}


def _type_case(properties: Schema) -> None:
    """Olive reads the names of types whatever their case."""
    name = properties.get("type", {}).get("const")
    if isinstance(name, str):
        description = properties["type"].get("description", name)
        other = _other(_any_case(name), f"Written `{name}`.")
        properties["type"] = {"description": description, "anyOf": [{"const": name}, other]}


def _cases_aside(definitions: Schema) -> None:
    properties = definitions["Workflow"]["properties"]
    systems = properties["systems"]["anyOf"][0]["additionalProperties"]["oneOf"]
    passes = properties["passes"]["additionalProperties"]["anyOf"]
    for name in _TOLD_APART:
        (systems if name.endswith("System") else passes).append(_type_case_aside(definitions, name))


def _type_case_aside(definitions: Schema, name: str) -> Schema:
    """The same for a part among others: a definition of its own, since editors tell the others apart by a plain constant."""
    part = definitions[name]
    written = part["properties"]["type"]["const"]
    own = {key: {"$ref": f"#/$defs/{name}/properties/{key}"} for key in part["properties"] if key != "type"}
    other = {**_any_case(written), "not": {"const": written}, "description": f"Written `{written}`."}
    definitions[f"{name}.cased"] = {**part, "properties": {"type": other, **own}}
    return {"$ref": f"#/$defs/{name}.cased"}


# -- what more than a table says ---------------------------------------------------------------------------------------------


def _older_forms(definitions: Schema) -> None:
    _input_model(definitions)
    _systems(definitions)
    _data(definitions)
    _passes(definitions)
    _workflow(definitions)


def _nulls(definitions: Schema) -> None:
    """Most of Olive's options may be null, which says nothing."""
    for model in SPELLINGS:
        properties = definitions.get(model.__name__, {}).get("properties", {})
        for key, field in model.model_fields.items():
            if key in properties and not takes_null(field):
                _or(properties, key, {"type": "null"}, "Leave it out.")


def _search(properties: Schema) -> None:
    _or(properties, "type", {"enum": list(SAMPLERS)}, "Now `grid`.")
    older = {"$ref": "#/$defs/SearchStrategy.sampler_config"}
    properties["search_algorithm_config"] = _older(older, "What it holds stands beside `type` now.")


def _or(properties: Schema, key: str, schema: Schema, message: str) -> None:
    """`key` may be of another form too, which is told as an older one."""
    facts = {k: v for k, v in properties[key].items() if k in ("description", "default", "examples")}
    form = {k: v for k, v in properties[key].items() if k not in facts}
    properties[key] = {**facts, "anyOf": [form, _other(schema, message)]}


def _workflow(definitions: Schema) -> None:
    properties = definitions["Workflow"]["properties"]
    for key in ("evaluation", "sweep"):
        properties.pop(key, None)
    properties["execution_providers"] = _older(_PROVIDERS, "Stands in the `accelerators` of each system.")
    properties["pass_flows"] = _older({"type": ["array", "null"]}, "The passes stand in their order.")
    names = {key: key for key in definitions["TrainingArgs"]["properties"]} | TRAINING_NAMES
    settings = {short: _reference("TrainingArgs", name) for short, name in names.items()}
    config = {"type": "object", "properties": settings, "additionalProperties": False}
    properties["training_config"] = _older(config, "Stands in `training_args` of the pass.")
    properties["search_space"] = _older(
        _reference("Sweep", "search_space"), "Described in sweep.yaml beside this file."
    )
    search = {"anyOf": [{"$ref": "#/$defs/SearchStrategy"}, {"type": "boolean"}]}
    _or(properties, "search_strategy", search, "Described in sweep.yaml beside this file.")
    for key in ("host", "target"):
        own = [{"$ref": "#/$defs/LocalSystem"}, {"$ref": "#/$defs/AzureMLSystem"}, {"type": "null"}]
        _or(properties, key, {"anyOf": own}, "The name of a system.")
    _or(properties, "systems", {"type": "null"}, "Name a system.")
    _or(
        properties,
        "data_configs",
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/DataConfig.named"}},
        "A list.",
    )
    _or(properties, "input_model", {"type": "string", "minLength": 1}, "An object with a type.")
    part = definitions["Workflow"]
    part["properties"]["systems"]["anyOf"][0].pop("minProperties", None)
    # The engine block never held these two; all else that the models require is filled in.
    model = [{"required": [key]} for key in ("input_model", "model")]
    part["allOf"] = [{"anyOf": model}, {"required": ["passes"]}]


def _resource(kind: str, key: str) -> Schema:
    """A path or a name as the object that Olive has for it."""
    text = {"type": "string", "minLength": 1}
    nested = {"type": "object", "properties": {key: text}, "required": [key]}
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, key: text, "config": nested},
        "required": ["type"],
        "anyOf": [{"required": [key]}, {"required": ["config"]}],
    }


def _input_model(definitions: Schema) -> None:
    hub: Schema = {key: {} for key in HF_CONFIG.left_out}
    arguments = {old: {"$ref": "#/$defs/LoadKwargs"} for old, new in HF_CONFIG.renamed.items() if new == "load_kwargs"}
    form = {
        "type": "object",
        "properties": {
            "model_name": _reference("InputModel", "model_path"),
            "model_path": _reference("InputModel", "model_path"),
            "task": _reference("InputModel", "task"),
            "load_kwargs": {"$ref": "#/$defs/LoadKwargs"},
            **arguments,
            **hub,
        },
        "additionalProperties": False,
    }
    properties = definitions["InputModel"]["properties"]
    properties["hf_config"] = _older(form, "What it holds stands beside `type` now.")
    for kind, key in (("folder", "path"), ("string_name", "name")):
        _or(properties, "model_path", _resource(kind, key), "A folder or a name is written as it is.")
    part = definitions["InputModel"]
    older = part["properties"]["type"]["anyOf"][1]
    older["pattern"] = f"{older['pattern']}|{_any_case('PyTorchModel')['pattern']}"
    part["allOf"][0]["anyOf"].append({"required": ["hf_config"]})


def _systems(definitions: Schema) -> None:
    device: Schema = {"anyOf": [_any_case(name) for name in ("cpu", "gpu")]}
    for name in ("LocalSystem", "AzureMLSystem"):
        properties = definitions[name]["properties"]
        properties["execution_providers"] = _older(_PROVIDERS, "Stands in `accelerators`.")
        items = properties["accelerators"]["items"]
        properties["accelerators"]["items"] = {"anyOf": [items, _other(device, "An object with device and provider.")]}
        one = {"anyOf": [device, items, {"type": "null"}]}
        _or(properties, "accelerators", one, "A list of one accelerator.")
        part = definitions[name]
        part["allOf"] = [a for a in part.get("allOf", []) if {"required": ["accelerators"]} not in a["anyOf"]]
        if not part["allOf"]:
            part.pop("allOf")
    properties = definitions["AzureMLSystem"]["properties"]
    properties["azureml_client"] = _older({"$ref": "#/$defs/AzureMLClient"}, "Now `azureml_client_config`.")
    accelerator = definitions["Accelerator"]
    accelerator["anyOf"] = [{"required": [key]} for key in accelerator.pop("required")]
    _or(accelerator["properties"], "device", device, "Written `cpu` or `gpu`.")
    providers = accelerator["properties"]["execution_providers"]["items"]["enum"]
    _or(accelerator["properties"], "execution_providers", {"enum": [*providers, None]}, "A list.")


def _data(definitions: Schema) -> None:
    config = definitions["DataConfig"]
    for key in ("params_config", "components"):  # what they hold is known when their parts are
        message = "Now `load_dataset_config` and `pre_process_data_config`."
        config["properties"][key] = _older({"$ref": f"#/$defs/DataConfig.{key}"}, message)
    for clause in config.get("allOf", []):
        if {"required": ["load_dataset_config"]} in clause["anyOf"]:
            clause["anyOf"] += [{"required": ["params_config"]}, {"required": ["components"]}]
    properties = definitions["LoadDataset"]["properties"]
    properties["type"] = _older({"enum": ["huggingface_dataset", None]}, "There is one way to read rows.")
    by_split = next(form for form in properties["data_files"]["oneOf"] if "additionalProperties" in form)
    by_split["not"] = {"required": ["type"]}
    local = _resource("file", "path")
    _or(properties, "data_files", local, "A file is written as it is.")
    inline = {k: v for k, v in config.items() if k != "allOf"}
    definitions["DataConfig.inline"] = {
        **inline,
        "properties": {k: _reference("DataConfig", k) for k in config["properties"]},
    }
    named = definitions["DataConfig.inline"]
    definitions["DataConfig.named"] = {
        **named,
        "properties": {**named["properties"], "name": {"type": "string", "description": "Its name."}},
    }
    load = definitions["LoadDataset"]
    load["allOf"] = [
        a for a in load["allOf"] if {"required": ["data_name"]} not in a["anyOf"]
    ]  # told by the file's ending
    texts = ("pair_format", "input_col", "input_template", "output_col", "output_template")
    properties = definitions["PreProcess"]["properties"]
    properties["type"] = _older({"enum": ["text_generation_huggingface_pre_process", None]}, "There is one way.")
    properties["dataset_type"] = _older({"enum": ["corpus", "pair"]}, "Now `completion_only_loss` of the pass.")
    properties["ignore_source_in_labels"] = _older({"type": "boolean"}, "Now `completion_only_loss` of the pass.")
    properties["target_max_len"] = _older({"type": "integer"}, "Part of `max_seq_len`.")
    pair = {"properties": {"dataset_type": {"const": "pair"}}, "required": ["dataset_type"]}
    of_pairs = dict.fromkeys((*texts, "ignore_source_in_labels"), pair)
    of_pairs["target_max_len"] = {**pair, "required": ["dataset_type", "source_max_len"]}
    definitions["PreProcess"]["dependentSchemas"] = of_pairs
    for key in texts:
        properties[key] = _older({"type": "string"}, "Now `text_template`.")
    _or(properties, "text_cols", {"type": "string"}, "A list.")
    _or(properties, "joiner", {"type": "null"}, 'Written "".')
    _components(definitions)


def _components(definitions: Schema) -> None:
    """The parts of a data config up to 0.5."""
    load = {key: _reference("LoadDataset", key) for key in definitions["LoadDataset"]["properties"]}
    process = {key: _reference("PreProcess", key) for key in definitions["PreProcess"]["properties"]}
    left_out: Schema = {"type": ["object", "null"], "description": "It has no effect here."}
    others = dict.fromkeys(("post_process_data", "dataloader"), left_out)

    def held(properties: Schema) -> Schema:
        return {"type": "object", "properties": properties, "additionalProperties": False}

    parts = held({"load_dataset": held(load), "pre_process_data": held(process), **others})
    spread = {key: process[key] for key in (*PreProcess.model_fields, *OLD_DATA_KEYS)}
    unused: Schema = {k: {"description": "It has no effect here."} for k in (*DATALOADER_KEYS, "model_name", "task")}
    every = {key: value for key, value in load.items() if key not in ("type", "params")} | spread | unused
    parts["description"] = "What one component alone gets."
    definitions["DataConfig.params_config"] = held({**every, "component_kwargs": parts})
    name = {"name": {"description": "It has no effect here."}}
    definitions["DataConfig.components"] = held(
        {"load_dataset": held(load | name), "pre_process_data": held(process | name), **others}
    )


def _passes(definitions: Schema) -> None:
    names = definitions["TrainingArgs"]["properties"]
    for key in ("bf16", "fp16"):
        names[key] = _older({"type": "boolean"}, "Now `torch_dtype` of the pass.")
    _or(names, "optim", {"enum": list(OPTIMIZERS)}, "Has another name now.")
    _or(names, "report_to", {"enum": [[], ["none"]]}, "Written `none`.")
    for name in ("LoRA", "QLoRA", "FullFinetune"):
        definitions[name].pop("allOf")  # the name of the data is filled in where there is one
        properties = definitions[name]["properties"]
        for key in TrainingArgs.model_fields:
            if key != "output_dir":
                properties[key] = _older(_reference("TrainingArgs", key), "Belongs to `training_args`.")
        properties["bias"] = _older({"const": "none"}, "Biases are never trained.")
        size = properties["eval_dataset_size"]
        size["anyOf"] = [{"maximum": 1}, {"type": "integer"}]  # a fraction, or a count
        for key in ("train_data_config", "eval_data_config"):
            _or(properties, key, {"$ref": "#/$defs/DataConfig.inline"}, "The name of a data config.")
        for key in ("target_modules", "modules_to_save"):
            if key in properties:
                _or(properties, key, {"type": "string"}, "A list.")
        for key in ("r", "alpha", "lora_dropout"):
            if key in properties:
                first = {k: v for k, v in properties[key].items() if k not in ("description", "default", "examples")}
                values = {"type": "array", "minItems": 1, "prefixItems": [first]}
                _or(properties, key, values, "A search is described in sweep.yaml.")
    for name in ("LoRA", "QLoRA", "FullFinetune", "MergeAdapterWeights", "ModelBuilder"):
        properties = definitions[name]["properties"]
        properties["host"] = _older({"type": ["string", "null"]}, "That of the config is for all passes.")
    own = definitions["ModelBuilder"]["properties"]
    properties = definitions["ModelBuilder"]["properties"]
    _or(properties, "metadata_only", {"const": True}, "The whole model is built.")
    options = definitions["BuilderOptions"]["properties"]
    options |= {
        k: _older(_reference("ModelBuilder", k), "An option of the pass itself.") for k in own if k.startswith("int4_")
    }
    definitions["ClassicExport"] = _other(
        {
            "type": "object",
            "properties": {
                "type": {"enum": list(CLASSIC_EXPORT), "description": "A step of Olive's older way to an ONNX model."},
                "config": {"type": ["object", "null"], "description": "Its options; they have no effect here."},
            },
            "required": ["type"],
        },
        "One ModelBuilder pass does the work of Olive's older chain.",
    )
    passes = definitions["Workflow"]["properties"]["passes"]
    one = passes["additionalProperties"]
    forms = {"anyOf": [*one.get("oneOf", []), {"$ref": "#/$defs/ClassicExport"}]}
    alone = {"type": "array", "minItems": 1, "maxItems": 1, "items": forms}
    passes["additionalProperties"] = {"anyOf": [*forms["anyOf"], _other(alone, "An object.")]}
