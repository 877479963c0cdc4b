"""JSON Schema of the older forms of a config that no key table describes."""

from __future__ import annotations

from typing import Any

from phi_runtime.config.dialects.key_table import is_flag
from phi_runtime.config.dialects.keys import (
    BUILDER_KEYS,
    BUILDER_LISTS,
    BUILDER_NAMES,
    DATALOADER_KEYS,
    FILTER_FUNCTIONS,
    FILTERS,
    HF_CONFIG,
    OLD_DATA_KEYS,
    PRE_PROCESS_TYPES,
)
from phi_runtime.config.dialects.pass_names import CLASSIC_EXPORT, EXTRACT_OPTIONS, PASS_NAMES, SKIPPED_PASSES
from phi_runtime.config.dialects.quantizers import QUANTIZER_PASSES
from phi_runtime.config.dialects.training_keys import OFTEN_IN_THE_PASS, OPTIMIZERS, TRAINING_NAMES
from phi_runtime.config.schema import BuilderOptions, ExportPass, FinetunePass, PreProcess
from phi_runtime.config.schema.registry import pass_types

Schema = dict[str, Any]
_PROVIDER = {"$ref": "#/$defs/Accelerator/properties/execution_providers/anyOf/0/items"}
_COMMAND_LINE = {
    "type": "string",
    "pattern": "^(-?[0-9]+|[Tt]rue|[Ff]alse)$",
}  # a value of the builder's --extra_options
_FACTS = ("description", "default", "examples", "noEffect", "deprecated", "deprecationMessage", "doNotSuggest")
_COMMAND_LINE_FLAG = {"type": "string", "pattern": "^([01]|[Tt]rue|[Ff]alse)$"}
_PROVIDERS = {"anyOf": [_PROVIDER, {"type": "array", "items": _PROVIDER}, {"type": "null"}]}


def other_form(schema: Schema, message: str) -> Schema:
    """Describe an older form of a value. It is not marked deprecated: VS Code would report a mismatch of the other form."""
    return {**schema, "description": message}


def older_key(schema: Schema, message: str) -> Schema:
    """Mark a key as deprecated and hide it from completion."""
    return {**schema, "deprecated": True, "deprecationMessage": message, "doNotSuggest": True, "description": message}


def reference(part: str, key: str) -> Schema:
    """Return a reference to a property of a definition."""
    return {"$ref": f"#/$defs/{part}/properties/{key}"}


def any_case(name: str) -> Schema:
    """Return a schema that matches `name` in any case, with blanks around it."""
    pattern = "".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else c for c in name)
    return {"type": "string", "pattern": f"^\\s*{pattern}\\s*$"}


def either(properties: Schema, key: str, schema: Schema, message: str) -> None:
    """Accept another form of `key`, described as an older one."""
    facts = {k: v for k, v in properties[key].items() if k in _FACTS}
    form = {k: v for k, v in properties[key].items() if k not in facts}
    properties[key] = {**facts, "anyOf": [form, other_form(schema, message)]}


def add_older_forms(definitions: Schema) -> None:
    """Add the older forms of all parts to their definitions."""
    _input_model(definitions)
    _systems(definitions)
    _data(definitions)
    _passes(definitions)
    _workflow(definitions)


def _workflow(definitions: Schema) -> None:
    properties = definitions["Workflow"]["properties"]
    for key in ("evaluation", "sweep"):
        properties.pop(key, None)
    properties["execution_providers"] = older_key(_PROVIDERS, "Moved to `accelerators` of each system.")
    properties["pass_flows"] = older_key({"type": ["array", "null"]}, "Passes run in the order of `passes`.")
    names = {key: key for key in definitions["TrainingArgs"]["properties"]} | TRAINING_NAMES
    settings = {short: reference("TrainingArgs", name) for short, name in names.items()}
    config = {"type": "object", "properties": settings, "additionalProperties": False}
    properties["training_config"] = older_key(config, "Moved to `training_args` of the pass.")
    properties["search_space"] = older_key(reference("Sweep", "search_space"), "Moved to sweep.yaml next to this file.")
    search = {"anyOf": [{"$ref": "#/$defs/SearchStrategy"}, {"type": "boolean"}]}
    either(properties, "search_strategy", search, "Moved to sweep.yaml next to this file.")
    for key in ("host", "target"):
        own = [{"$ref": "#/$defs/LocalSystem"}, {"$ref": "#/$defs/AzureMLSystem"}, {"type": "null"}]
        either(properties, key, {"anyOf": own}, "Older form: use the name of a system.")
    either(properties, "systems", {"type": "null"}, "Older form: name a system.")
    either(
        properties,
        "data_configs",
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/DataConfig.named"}},
        "Older form: use a list.",
    )
    either(properties, "input_model", {"type": "string", "minLength": 1}, "Older form: use an object with a `type`.")
    part = definitions["Workflow"]
    part["properties"]["systems"]["anyOf"][0].pop("minProperties", None)
    # The engine block never held these two; all other required keys have defaults.
    model = [{"required": [key]} for key in ("input_model", "model")]
    part["allOf"] = [{"anyOf": model}, {"required": ["passes"]}]


def _resource(kind: str, key: str) -> Schema:
    """Return the schema of Olive's object for a path or a name."""
    text = {"type": "string", "minLength": 1}
    nested = {"type": "object", "properties": {key: text}, "required": [key]}
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, key: text, "config": nested},
        "required": ["type"],
        "anyOf": [{"required": [key]}, {"required": ["config"]}],
    }


def _input_model(definitions: Schema) -> None:
    hub: Schema = {key: {} for key in HF_CONFIG.ignored}
    arguments = {old: {"$ref": "#/$defs/LoadKwargs"} for old, new in HF_CONFIG.renamed.items() if new == "load_kwargs"}
    form = {
        "type": "object",
        "properties": {
            "model_name": reference("InputModel", "model_path"),
            "model_path": reference("InputModel", "model_path"),
            "task": reference("InputModel", "task"),
            "load_kwargs": {"$ref": "#/$defs/LoadKwargs"},
            "trust_remote_code": {"type": "boolean"},
            **arguments,
            **hub,
        },
        "additionalProperties": False,
    }
    properties = definitions["InputModel"]["properties"]
    properties["hf_config"] = older_key(form, "Its keys moved one level up.")
    properties["trust_remote_code"] = older_key({"type": "boolean"}, "Moved to `load_kwargs`.")
    for key in ("model_script", "script_dir"):
        properties[key] = older_key({"type": ["string", "null"]}, "Ignored: the model builder defines the inputs.")
    for kind, key in (("folder", "path"), ("string_name", "name")):
        for path in ("model_path", "adapter_path"):
            either(properties, path, _resource(kind, key), "Older form: write the path or name itself.")
    part = definitions["InputModel"]
    older = part["properties"]["type"]["anyOf"][1]
    older["pattern"] = f"{older['pattern']}|{any_case('PyTorchModel')['pattern']}"
    part["allOf"][0]["anyOf"].append({"required": ["hf_config"]})


def _systems(definitions: Schema) -> None:
    device: Schema = {"anyOf": [any_case(name) for name in ("cpu", "gpu")]}
    for name in ("LocalSystem", "AzureMLSystem"):
        properties = definitions[name]["properties"]
        properties["execution_providers"] = older_key(_PROVIDERS, "Moved to `accelerators`.")
        items = properties["accelerators"]["items"]
        properties["accelerators"]["items"] = {
            "anyOf": [items, other_form(device, "Older form: use an object with device and provider.")]
        }
        one = {"anyOf": [device, items, {"type": "null"}]}
        either(properties, "accelerators", one, "Older form: use a list of one accelerator.")
        part = definitions[name]
        part["allOf"] = [a for a in part.get("allOf", []) if {"required": ["accelerators"]} not in a["anyOf"]]
        if not part["allOf"]:
            part.pop("allOf")
    properties = definitions["AzureMLSystem"]["properties"]
    properties["azureml_client"] = older_key({"$ref": "#/$defs/AzureMLClient"}, "Renamed to `azureml_client_config`.")
    accelerator = definitions["Accelerator"]
    accelerator["anyOf"] = [{"required": [key]} for key in accelerator.pop("required")]
    either(accelerator["properties"], "device", device, "Renamed to `cpu` or `gpu`.")
    providers = accelerator["properties"]["execution_providers"]["items"]["enum"]
    several = {"type": "array", "minItems": 2, "items": {"type": "string"}, "contains": {"enum": providers}}
    message = "Older form: use a list of one provider."
    older = {"anyOf": [other_form({"enum": [*providers, None]}, message), several]}
    either(accelerator["properties"], "execution_providers", older, message)


def _data(definitions: Schema) -> None:
    config = definitions["DataConfig"]
    config.pop("required", None)
    either(
        config["properties"], "name", {"type": "string", "minLength": 1}, "Renamed: letters, digits and underscores."
    )
    either(config["properties"], "type", any_case("DataContainer"), "Renamed to `HuggingfaceContainer`.")
    for key in ("params_config", "components"):
        message = "Replaced by `load_dataset_config` and `pre_process_data_config`."
        config["properties"][key] = older_key({"$ref": f"#/$defs/DataConfig.{key}"}, message)
    for key in ("user_script", "script_dir"):
        config["properties"][key] = older_key({"type": ["string", "null"]}, "Moved to `pre_process_data_config`.")
    for clause in config.get("allOf", []):
        if {"required": ["load_dataset_config"]} in clause["anyOf"]:
            clause["anyOf"] += [{"required": ["params_config"]}, {"required": ["components"]}]
    properties = definitions["LoadDataset"]["properties"]
    kinds = [any_case(name) for name in ("huggingface_dataset", *FILTER_FUNCTIONS)]
    properties["type"] = older_key({"anyOf": [*kinds, {"type": "null"}]}, "Ignored: it is the only supported type.")
    for key, column in FILTERS.items():
        properties[key] = older_key({}, f"Moved to `{column}` of `col_filters`.")
    for key in ("max_samples", "size"):
        properties[key] = older_key(reference("PreProcess", "max_samples"), "Moved to `pre_process_data_config`.")
    inner = {"$ref": "#/$defs/PreProcess"}
    properties["pre_process_data_config"] = older_key(inner, "Moved out of `load_dataset_config`.")
    held = {"type": "object", "properties": {"pre_process_data": inner}, "additionalProperties": False}
    properties["component_kwargs"] = older_key(held, "Moved out of `load_dataset_config`.")
    by_split = next(form for form in properties["data_files"]["oneOf"] if "additionalProperties" in form)
    by_split["not"] = {"required": ["type"]}
    local = _resource("file", "path")
    either(properties, "data_files", local, "Older form: write the path itself.")
    inline = {k: v for k, v in config.items() if k != "allOf"}
    definitions["DataConfig.inline"] = {
        **inline,
        "properties": {k: reference("DataConfig", k) for k in config["properties"]},
    }
    named = definitions["DataConfig.inline"]
    definitions["DataConfig.named"] = {
        **named,
        "properties": {**named["properties"], "name": {"type": "string", "description": "Name of the data config."}},
    }
    del definitions["LoadDataset"]["allOf"]  # data_name follows from the file suffix
    texts = ("pair_format", "input_col", "input_template", "output_col", "output_template")
    properties = definitions["PreProcess"]["properties"]
    properties["type"] = older_key(
        {"anyOf": [*(any_case(name) for name in PRE_PROCESS_TYPES), {"type": "null"}]},
        "Ignored: it is the only supported type.",
    )
    properties["dataset_type"] = older_key({"enum": ["corpus", "pair"]}, "Moved to `completion_only_loss` of the pass.")
    properties["ignore_source_in_labels"] = older_key(
        {"type": "boolean"}, "Moved to `completion_only_loss` of the pass."
    )
    properties["target_max_len"] = older_key({"type": "integer"}, "Now part of `max_seq_len`.")
    pair = {"properties": {"dataset_type": {"const": "pair"}}, "required": ["dataset_type"]}
    pair_keys = dict.fromkeys((*texts, "ignore_source_in_labels"), pair)
    pair_keys["target_max_len"] = {**pair, "required": ["dataset_type", "source_max_len"]}
    definitions["PreProcess"]["dependentSchemas"] = pair_keys
    for key in texts:
        properties[key] = older_key({"type": "string"}, "Replaced by `text_template`.")
    either(properties, "text_cols", {"type": "string"}, "Older form: use a list.")
    either(properties, "joiner", {"type": "null"}, 'Older form: use "".')
    _components(definitions)


def _components(definitions: Schema) -> None:
    """Add the components of a data config (up to 0.5)."""
    load = {key: reference("LoadDataset", key) for key in definitions["LoadDataset"]["properties"]}
    process = {key: reference("PreProcess", key) for key in definitions["PreProcess"]["properties"]}
    ignored: Schema = {"type": ["object", "null"], "description": "Ignored."}
    others = dict.fromkeys(("post_process_data", "dataloader"), ignored)

    def held(properties: Schema) -> Schema:
        return {"type": "object", "properties": properties, "additionalProperties": False}

    parts = held({"load_dataset": held(load), "pre_process_data": held(process), **others})
    spread = {key: process[key] for key in (*PreProcess.model_fields, *OLD_DATA_KEYS)}
    unused: Schema = {k: {"description": "Ignored."} for k in (*DATALOADER_KEYS, "model_name", "task")}
    every = {key: value for key, value in load.items() if key not in ("type", "params")} | spread | unused
    parts["description"] = "Arguments of single components."
    definitions["DataConfig.params_config"] = held({**every, "component_kwargs": parts})
    name = {"name": {"description": "Ignored."}}
    definitions["DataConfig.components"] = held(
        {"load_dataset": held(load | name), "pre_process_data": held(process | name), **others}
    )


def _passes(definitions: Schema) -> None:
    names = definitions["TrainingArgs"]["properties"]
    for key in ("bf16", "fp16"):
        names[key] = older_key({"type": "boolean"}, "Moved to `torch_dtype` of the pass.")
    either(names, "optim", {"enum": list(OPTIMIZERS)}, "Older name of an optimizer.")
    either(names, "report_to", {"enum": [[]]}, "Older form: use `none`.")
    names["tf32"] = older_key({"type": ["boolean", "null"]}, "Moved to `allow_tf32` of the pass.")
    either(names, "deepspeed", {"const": False}, "Older form: remove the key.")
    words = {"type": "array", "items": {"enum": ["full_shard", "shard_grad_op", "offload", "auto_wrap"]}}
    either(names, "fsdp", {"anyOf": [words, {"const": ""}]}, "Older form: use `true`.")
    either(names, "debug", {"enum": [[], ["underflow_overflow"]]}, "Older form: use a string.")
    either(
        definitions["FsdpConfig"]["properties"],
        "transformer_layer_cls_to_wrap",
        {"type": "string"},
        "Older form: use a list.",
    )
    for name in (name for name, kind in pass_types().items() if issubclass(kind, FinetunePass)):
        definitions[name].pop("allOf")  # a single data config is the default
        properties = definitions[name]["properties"]
        for key in OFTEN_IN_THE_PASS:
            properties[key] = older_key(reference("TrainingArgs", key), "Moved to `training_args`.")
        properties["bias"] = older_key({"const": "none"}, "Ignored: biases are never trained.")
        for key in ("eval_dataset_size", "test_dataset_size"):
            properties[key]["anyOf"] = [{"maximum": 1}, {"type": "integer"}]  # a fraction, or a count
        for key in ("train_data_config", "eval_data_config"):
            either(properties, key, {"$ref": "#/$defs/DataConfig.inline"}, "Older form: use the name of a data config.")
        for key in ("target_modules", "modules_to_save", "feedforward_modules", "layers_pattern"):
            if key in properties:
                either(properties, key, {"type": "string"}, "Older form: use a list.")
        for key in ("r", "alpha", "lora_dropout"):
            if key in properties:
                first = {k: v for k, v in properties[key].items() if k not in ("description", "default", "examples")}
                values = {"type": "array", "minItems": 1, "items": first}
                either(properties, key, values, "Older form: configure the search in sweep.yaml.")
    properties = definitions["ModelBuilder"]["properties"]
    either(properties, "metadata_only", {"const": True}, "Ignored: the complete model is built.")
    inner = {old: reference("ModelBuilder", new) for old, new in BUILDER_NAMES.items()}
    inner_form = {"type": ["object", "null"], "properties": inner, "additionalProperties": False}
    properties["quantization_config"] = older_key(inner_form, "Its keys moved to the pass.")
    either(properties, "int4_accuracy_level", {"const": 0}, "Older form: remove the key.")
    operators = {"type": "array", "items": {"type": "string", "pattern": "^(MatMul|Gather|Gemm)$"}, "minItems": 2}
    either(properties, "int4_op_types_to_quantize", operators, "Older form: remove Gemm.")
    options = definitions["BuilderOptions"]["properties"]
    for key in BuilderOptions.model_fields:
        text = _COMMAND_LINE_FLAG if is_flag(BuilderOptions.model_fields[key]) else _COMMAND_LINE
        either(options, key, text, "Older form: remove the quotes.")
    pass_keys = {key: key for key in BUILDER_KEYS} | BUILDER_NAMES
    for old, new in pass_keys.items():
        flag = is_flag(ExportPass.model_fields[new])
        text = {"type": "string"} if new in BUILDER_LISTS else _COMMAND_LINE_FLAG if flag else _COMMAND_LINE
        options[old] = older_key({"anyOf": [reference("ModelBuilder", new), text]}, "Moved to the pass.")
    for old, new in BUILDER_NAMES.items():
        properties[old] = older_key(reference("ModelBuilder", new), f"Renamed to `{new}`.")
    options["disable_qkv_fusion"] = older_key({"type": "boolean"}, "Replaced by its opposite, `fuse_qkv`.")
    definitions["ClassicExport"] = other_form(
        {
            "type": "object",
            "properties": {
                "type": {
                    "type": "string",
                    "pattern": "|".join(
                        any_case(name)["pattern"]
                        for name in (*CLASSIC_EXPORT, *SKIPPED_PASSES, *QUANTIZER_PASSES, *PASS_NAMES)
                        if name != "ExtractAdapters" and PASS_NAMES.get(name) not in pass_types()
                    ),  # an enum would be offered
                    "description": "A pass of Olive that ModelBuilder replaces, or that changes no model.",
                },
                "config": {"type": ["object", "null"], "description": "Ignored.", "doNotSuggest": True},
            },
            "required": ["type"],
        },
        "Replaced by one ModelBuilder pass, or ignored.",
    )
    options = {
        key: {"description": f"No effect: {option.reason}.", "doNotSuggest": True}
        for key, option in EXTRACT_OPTIONS.items()
    }
    extract = {**options, "type": any_case("ExtractAdapters") | {"description": "Keep adapters separate."},
               "config": {"description": "Ignored.", "type": ["object", "null"], "properties": options,
               "additionalProperties": False, "doNotSuggest": True}}  # fmt: skip
    definitions["ExtractAdapters"] = other_form(
        {"type": "object", "properties": extract, "required": ["type"], "additionalProperties": False},
        "Replaced by the key `adapters` of ModelBuilder.",
    )
    passes = definitions["Workflow"]["properties"]["passes"]
    one = passes["additionalProperties"]
    forms = {
        "anyOf": [
            *one.get("oneOf", []),
            *({"$ref": f"#/$defs/{name}"} for name in ("ClassicExport", "ExtractAdapters")),
        ]
    }
    alone = {"type": "array", "minItems": 1, "maxItems": 1, "items": forms}
    passes["additionalProperties"] = {"anyOf": [*forms["anyOf"], other_form(alone, "Older form: use an object.")]}
