"""The type of a pass in the config: one of the registry, which its `type` names."""

from __future__ import annotations

from functools import cache, reduce
from operator import or_
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, SchemaValidator, core_schema

from phi_runtime.config.schema import registry
from phi_runtime.config.schema.pass_base import Pass


class _ByType:
    """Validates a pass as the class that its `type` names, of which alone a validator is built."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_validated)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        union: Any = reduce(or_, registry.pass_types().values())
        return handler(TypeAdapter(Annotated[union, Field(discriminator="type")]).core_schema)


def _validated(value: Any) -> Pass:
    if isinstance(value, Pass):
        return value
    cls = registry.pass_type(value.get("type")) if isinstance(value, dict) else None
    step: Pass = _union((cls,) if cls else tuple(registry.pass_types().values())).validate_python(value)
    return step


@cache
def _union(classes: tuple[type[Pass], ...]) -> SchemaValidator:
    """Return the validator of a pass of one of `classes`; its errors have the type in their place."""
    choices: dict[Any, CoreSchema] = {
        cls.__name__: core_schema.no_info_plain_validator_function(cls.model_validate) for cls in classes
    }
    return SchemaValidator(core_schema.tagged_union_schema(choices, discriminator="type"))


AnyPass = Annotated[Pass, _ByType()]
