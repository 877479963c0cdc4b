"""The JSON Schema (draft 2020-12) of the config and of the files beside it, for editors: completion, hover, faults underlined.

It comes from the models and from the tables of older spellings: what the door takes, the schema takes, marked as deprecated.
`deprecationMessage`, `doNotSuggest`, `allowComments` and `allowTrailingCommas` are VS Code's; others pass over them.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel

from phi_runtime.config.dialects.apply import takes_null
from phi_runtime.config.dialects.keys import SPELLINGS, table_of
from phi_runtime.config.dialects.older_forms import (
    Schema,
    add_older_forms,
    any_case,
    either,
    older_key,
    other_form,
    reference,
)
from phi_runtime.config.dialects.passes import SAMPLERS
from phi_runtime.config.dialects.table import Older
from phi_runtime.config.schema import Evaluation, Strict, Sweep, Workflow
from phi_runtime.config.schema.registry import pass_types

Name = Literal["workflow", "evaluation", "sweep"]
MODELS: dict[Name, type[BaseModel]] = {"workflow": Workflow, "evaluation": Evaluation, "sweep": Sweep}
FILES: dict[Name, str] = {
    "workflow": "olive-config.schema.json",
    "evaluation": "evaluation.schema.json",
    "sweep": "sweep.schema.json",
}


def _translated_parts() -> list[type[Strict]]:
    """Return the parts of a config that have older spellings."""
    return [*SPELLINGS, *pass_types().values()]


def _tagged_parts() -> tuple[str, ...]:
    """Return the names of the parts that editors tell apart by their `type`."""
    return (*pass_types(), "LocalSystem", "AzureMLSystem")


def schema_of(name: Name) -> Schema:
    """The schema of the config (`workflow`), or of a file beside it."""
    schema = _plain(MODELS[name].model_json_schema())
    definitions: Schema = schema.setdefault("$defs", {})
    root = MODELS[name].__name__
    definitions[root] = {k: schema.pop(k) for k in list(schema) if k != "$defs"}
    parts = {part.__name__: table_of(part) for part in _translated_parts() if part.__name__ in definitions}
    for part, older in parts.items():
        _respell(part, definitions[part], older)
    if name == "workflow":
        add_older_forms(definitions)
    _nulls(definitions)
    if "Sweep" in definitions:
        space = definitions["Sweep"]["properties"]["search_space"]
        alternatives = other_form({"type": "array", "minItems": 1}, "An object of type `choice`.")
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
    rules = {"dependentSchemas": part["dependentSchemas"]} if "dependentSchemas" in part else {}
    return {"type": ["object", "null"], "properties": inner, "additionalProperties": False, **rules}


# pydantic writes the bounds of a number that it first converts in its own words (seen in 2.14).
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _plain(value: Any) -> Any:
    """Without titles, which repeat the names, and with the bounds in the words of JSON Schema."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not (k == "title" and isinstance(v, str))}
        return {_BOUNDS.get(k, k): _plain(v) for k, v in kept.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _respell(name: str, part: Schema, older: Older) -> None:
    """Adds the older spellings of one part, and lets its nested object hold what it requires."""
    properties = part["properties"]
    if name not in _tagged_parts():
        _type_case(properties)
    required = part.pop("required", [])
    if "type" in required:
        required.remove("type")
        part["required"] = ["type"]
    alternatives = {key: [key, *(o for o, n in older.renamed.items() if n == key)] for key in required}
    for old, new in older.renamed.items():
        if new in properties:
            properties[old] = older_key(reference(name, new), f"Now `{new}`.")
    for key, why in older.left_out.items():
        properties.setdefault(key, older_key({}, f"Left out: {why}."))
    for key, instead in older.refused.items():
        properties.setdefault(key, older_key({"enum": [None, False]}, f"{instead}."))
    if older.nested:
        held = {"$ref": f"#/$defs/{name}.{older.nested}"}
        properties[older.nested] = older_key(held, "What it holds stands beside `type` now.")
        for names in alternatives.values():
            names.append(older.nested)
    if alternatives:
        part["allOf"] = [{"anyOf": [{"required": [n]} for n in names]} for names in alternatives.values()]


def _type_case(properties: Schema) -> None:
    """Olive reads the names of types whatever their case."""
    name = properties.get("type", {}).get("const")
    if isinstance(name, str):
        description = properties["type"].get("description", name)
        other = other_form(any_case(name), f"Written `{name}`.")
        properties["type"] = {"description": description, "anyOf": [{"const": name}, other]}


def _cases_aside(definitions: Schema) -> None:
    properties = definitions["Workflow"]["properties"]
    systems = properties["systems"]["anyOf"][0]["additionalProperties"]["oneOf"]
    passes = properties["passes"]["additionalProperties"]["anyOf"]
    for name in _tagged_parts():
        (systems if name.endswith("System") else passes).append(_type_case_aside(definitions, name))


def _type_case_aside(definitions: Schema, name: str) -> Schema:
    """The same for a part among others: a definition of its own, since editors tell the others apart by a plain constant."""
    part = definitions[name]
    written = part["properties"]["type"]["const"]
    own = {key: {"$ref": f"#/$defs/{name}/properties/{key}"} for key in part["properties"] if key != "type"}
    other = {**any_case(written), "not": {"const": written}, "description": f"Written `{written}`."}
    definitions[f"{name}.cased"] = {**part, "properties": {"type": other, **own}}
    return {"$ref": f"#/$defs/{name}.cased"}


def _nulls(definitions: Schema) -> None:
    """Most of Olive's options may be null, which says nothing."""
    for model in _translated_parts():
        properties = definitions.get(model.__name__, {}).get("properties", {})
        for key, field in model.model_fields.items():
            if key in properties and not takes_null(field):
                either(properties, key, {"type": "null"}, "Leave it out.")


def _search(properties: Schema) -> None:
    either(properties, "type", {"enum": list(SAMPLERS)}, "Now `grid`.")
    older = {"$ref": "#/$defs/SearchStrategy.sampler_config"}
    properties["search_algorithm_config"] = older_key(older, "What it holds stands beside `type` now.")
