"""Completion in editors: values with descriptions, a snippet for each pass, and no keys that have no effect.

`enumDescriptions`, `defaultSnippets` and `doNotSuggest` are extensions of VS Code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo

from phi_runtime.config.dialects.json_schema_forms import Schema, reference
from phi_runtime.config.dialects.json_schema_values import VALUES
from phi_runtime.config.schema import AzureMLSystem, FinetunePass, LocalSystem, Pass, TrainingArgs
from phi_runtime.config.schema.registry import pass_types

_USUAL: dict[str, Any] = {"r": None, "alpha": None, "num_virtual_tokens": None, "eval_dataset_size": 0.1}
"""Optional keys of a snippet, with another value than their default."""
_USUAL_ARGUMENTS = ("num_train_epochs", "learning_rate", "per_device_train_batch_size")
_FIRST_PASS = "LoRA"


def add_completion(definitions: Schema) -> None:
    """Add to the definitions what editors offer."""
    for part in definitions.values():
        for key, schema in part.get("properties", {}).items():
            if schema.get("noEffect"):
                schema["doNotSuggest"] = True
            for values in enums(schema):
                _describe(values, VALUES.get(key, {}))
    if "Workflow" in definitions:
        properties = definitions["Workflow"]["properties"]
        passes = {name: summary(kind) for name, kind in pass_types().items()}
        _offer_types(properties["passes"]["additionalProperties"], passes)
        properties["passes"]["additionalProperties"]["defaultSnippets"] = [
            {"label": name, "description": summary(kind), "body": snippet(kind)} for name, kind in pass_types().items()
        ]
        systems = {
            str(get_args(s.model_fields["type"].annotation)[0]): summary(s) for s in (LocalSystem, AzureMLSystem)
        }
        _offer_types(properties["systems"]["anyOf"][0]["additionalProperties"], systems)
        _share_properties(definitions)


def summary(part: type) -> str:
    """Return the first line of the docstring of a part of the config."""
    return (part.__doc__ or part.__name__).splitlines()[0]


def snippet(kind: type[Pass]) -> Schema:
    """Return a new pass of a type, with tab stops at its values: the required keys and those that are usually set."""
    stops = iter(range(1, 100))
    body: Schema = {"type": kind.__name__}
    for key, field in kind.model_fields.items():
        if key != "type" and (field.is_required() or key in _USUAL):
            body[key] = _tab_stop(next(stops), field, _USUAL.get(key))
    if issubclass(kind, FinetunePass):
        arguments = {key: TrainingArgs.model_fields[key] for key in _USUAL_ARGUMENTS}
        body["training_args"] = {key: _tab_stop(next(stops), field) for key, field in arguments.items()}
    return body


def _tab_stop(number: int, field: FieldInfo, value: Any = None) -> str:
    """Return a tab stop of VS Code: a choice, or a value to be typed over. `^` inserts it without quotes."""
    value = value or (field.examples[0] if field.examples else field.default)
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        return f"${{{number}|{','.join(sorted(choices, key=lambda choice: choice != value))}|}}"
    if isinstance(value, str):
        return f"${{{number}:{value}}}"
    return f"^${{{number}:{json.dumps(int(value) if value == int(value) else value)}}}"


def enums(schema: Any) -> Iterator[Schema]:
    """Yield the parts of the schema of one key that list values."""
    if isinstance(schema, dict):
        if "enum" in schema:
            yield schema
        for key in ("anyOf", "oneOf", "items"):
            yield from enums(schema.get(key))
    elif isinstance(schema, list):
        for form in schema:
            yield from enums(form)


def _describe(schema: Schema, descriptions: dict[str | int, str]) -> None:
    values = schema["enum"]
    if all(isinstance(value, str | int) and value in descriptions for value in values):
        schema["enumDescriptions"] = [descriptions[value] for value in values]


def _offer_types(part: Schema, types: dict[str, str]) -> None:
    """Offer all types of a part. Of the alternatives an editor offers only those that fit the other keys best."""
    offered = {"enum": list(types), "enumDescriptions": list(types.values())}
    part["properties"] = {"type": {"anyOf": [offered, {"type": "string"}]}}


def _share_properties(definitions: Schema) -> None:
    """Refer to the keys of one pass where another has the same: they are most of the schema."""
    shared = definitions[_FIRST_PASS]["properties"]
    for name in pass_types():
        properties = definitions[name]["properties"]
        if name != _FIRST_PASS:
            for key in properties.keys() & shared.keys():
                if properties[key] == shared[key]:
                    properties[key] = reference(_FIRST_PASS, key)
