"""The type of a pass in the config: a union over the registry, discriminated by `type`."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from phi_runtime.config.schema import registry
from phi_runtime.config.schema.pass_base import Pass


class _ByType:
    """Validates a pass as the class that its `type` names."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        union: Any = reduce(or_, registry.pass_types().values())
        return handler.generate_schema(Annotated[union, Field(discriminator="type")])


AnyPass = Annotated[Pass, _ByType()]
