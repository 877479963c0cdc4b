"""JSON Schema (draft 2020-12) of the config and its sidecar files: completion, hover texts and errors in editors.

Generated from the models and the key tables: older forms that loading accepts are valid, and deprecated.
`deprecationMessage`, `doNotSuggest`, `allowComments` and `allowTrailingCommas` are extensions of VS Code.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel

from phi_runtime.config.dialects.json_schema_completion import add_completion
from phi_runtime.config.dialects.json_schema_forms import (
    Schema,
    add_older_forms,
    any_case,
    either,
    older_key,
    other_form,
    reference,
)
from phi_runtime.config.dialects.key_table import NOTE, KeyTable, is_flag, named_values, takes_null
from phi_runtime.config.dialects.keys import OTHER_ENVIRONMENTS, TABLES, table_of
from phi_runtime.config.dialects.pass_names import PASS_NAMES
from phi_runtime.config.dialects.search import SAMPLERS
from phi_runtime.config.schema import Evaluation, Strict, Sweep, Workflow
from phi_runtime.config.schema.registry import pass_types

Name = Literal["workflow", "evaluation", "sweep"]
MODELS: dict[Name, type[BaseModel]] = {"workflow": Workflow, "evaluation": Evaluation, "sweep": Sweep}


def _translated_parts() -> list[type[Strict]]:
    """Return the parts of a config that have a key table."""
    return [*TABLES, *pass_types().values()]


def _union_members() -> tuple[str, ...]:
    """Return the names of the parts that editors tell apart by their `type`."""
    return (*pass_types(), "LocalSystem", "AzureMLSystem")


def schema_of(name: Name) -> Schema:
    """Return the schema of the config (`workflow`) or of one of its sidecar files."""
    schema = _plain(MODELS[name].model_json_schema())
    definitions: Schema = schema.setdefault("$defs", {})
    root = MODELS[name].__name__
    definitions[root] = {k: schema.pop(k) for k in list(schema) if k != "$defs"}
    tables = {part.__name__: table_of(part) for part in _translated_parts() if part.__name__ in definitions}
    for part, table in tables.items():
        _add_older_keys(part, definitions[part], table)
    if name == "workflow":
        add_older_forms(definitions)
    _values(definitions)
    if "Sweep" in definitions:
        space = definitions["Sweep"]["properties"]["search_space"]
        alternatives = other_form({"type": "array", "minItems": 1}, "Older form: use an object of type `choice`.")
        space["additionalProperties"] = {"anyOf": [space["additionalProperties"], alternatives]}
    for part, table in tables.items():
        if table.nested:
            definitions[f"{part}.{table.nested}"] = _nested(part, definitions[part], table.nested)
    if name == "workflow":
        _add_type_cases(definitions)
    if "SearchStrategy" in definitions:
        _search(definitions["SearchStrategy"]["properties"])
    add_completion(definitions)
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
    """Return the schema of the object that a part was nested in: same properties, none required."""
    hidden = (key, *part.get("required", ()))
    inner = {k: {"$ref": f"#/$defs/{name}/properties/{k}"} for k in part["properties"] if k not in hidden}
    rules = {"dependentSchemas": part["dependentSchemas"]} if "dependentSchemas" in part else {}
    fixed: Schema = {"patternProperties": {NOTE: {}}, "additionalProperties": False}
    return {"type": ["object", "null"], "properties": inner, **fixed, **rules}


# pydantic 2.14 writes these names for the bounds of a number that a validator converts first.
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _plain(value: Any) -> Any:
    """Remove titles, which repeat the names, and use the bounds of JSON Schema."""
    if isinstance(value, dict):
        entries = {k: v for k, v in value.items() if not (k == "title" and isinstance(v, str))}
        return {_BOUNDS.get(k, k): _plain(v) for k, v in entries.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _add_older_keys(name: str, part: Schema, table: KeyTable) -> None:
    """Add the older keys of one part, any of which satisfies its required keys."""
    properties = part["properties"]
    if name not in _union_members():
        _type_case(properties)
    required = part.pop("required", [])
    if "type" in required:
        required.remove("type")
        part["required"] = ["type"]
    alternatives = {key: [key, *(o for o, n in table.renamed.items() if n == key)] for key in required}
    for old, new in table.renamed.items():
        if new in properties:
            properties[old] = older_key(reference(name, new), f"Renamed to `{new}`.")
    for key, reason in table.ignored.items():
        properties.setdefault(key, older_key({}, f"Ignored: {reason}."))
    for key, advice in table.refused.items():
        properties.setdefault(key, older_key({"enum": [None, False]}, f"Not supported: {advice}."))
    if table.nested:
        held = {"$ref": f"#/$defs/{name}.{table.nested}"}
        properties[table.nested] = older_key(held, "Its keys moved one level up.")
        for names in alternatives.values():
            names.append(table.nested)
    if alternatives:
        part["allOf"] = [{"anyOf": [{"required": [n]} for n in names]} for names in alternatives.values()]


def _type_case(properties: Schema) -> None:
    """Accept the name of a type in any case, as Olive does."""
    name = properties.get("type", {}).get("const")
    if isinstance(name, str):
        description = properties["type"].get("description", name)
        other = other_form(any_case(name), f"Renamed to `{name}`.")
        properties["type"] = {"description": description, "anyOf": [{"const": name}, other]}


def _add_type_cases(definitions: Schema) -> None:
    """Accept the types of passes and systems in any case."""
    properties = definitions["Workflow"]["properties"]
    systems = properties["systems"]["anyOf"][0]["additionalProperties"]["oneOf"]
    passes = properties["passes"]["additionalProperties"]["anyOf"]
    for name in _union_members():
        (systems if name.endswith("System") else passes).append(_any_case_member(definitions, name))


def _any_case_member(definitions: Schema, name: str) -> Schema:
    """Return a separate union member, since editors choose a member by a constant `type`."""
    part = definitions[name]
    kind = part["properties"]["type"]["const"]
    own = {key: {"$ref": f"#/$defs/{name}/properties/{key}"} for key in part["properties"] if key != "type"}
    names = [
        kind,
        *(OTHER_ENVIRONMENTS if kind == "LocalSystem" else ()),
        *(o for o, n in PASS_NAMES.items() if n == kind),
    ]
    pattern = "|".join(any_case(other)["pattern"] for other in names)
    other = {"type": "string", "pattern": pattern, "not": {"const": kind}, "description": f"Renamed to `{kind}`."}
    definitions[f"{name}.cased"] = {**part, "properties": {"type": other, **own}}
    return {"$ref": f"#/$defs/{name}.cased"}


def _values(definitions: Schema) -> None:
    """Accept null for the default, flags as 0 and 1, named values in any case, and notes of the author, as `translate_keys`."""
    for model in _translated_parts():
        part = definitions.get(model.__name__, {})
        if part:
            part["patternProperties"] = {NOTE: {}}
        properties = part.get("properties", {})
        for key, field in model.model_fields.items():
            if key not in properties:
                continue
            if not takes_null(field):
                either(properties, key, {"type": "null"}, "Older form: remove the key.")
            if is_flag(field):
                form: Schema = {"type": "integer", "minimum": 0, "maximum": 1}
                either(properties, key, form, "Older form: use true or false.")
            elif (names := named_values(field)) and key != "type":
                form = {"type": "string", "pattern": "|".join(any_case(name)["pattern"] for name in names)}
                either(properties, key, form, "Older form: use lower case.")


def _search(properties: Schema) -> None:
    either(properties, "type", {"enum": list(SAMPLERS)}, "Renamed to `grid`.")
    older = {"$ref": "#/$defs/SearchStrategy.sampler_config"}
    properties["search_algorithm_config"] = older_key(older, "Its keys moved one level up.")
