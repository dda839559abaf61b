"""The config file's JSON Schema, derived from its classes."""

from enum import Enum
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import attrs

from onwards_core._config import ConfigFile
from onwards_core._values import Kind, SecretKind


def json_schema() -> dict[str, object]:
    """A JSON Schema (2020-12) that editors can use. It knows no field that `load_config` would warn about."""
    definitions: dict[str, object] = {}
    root = _class_schema(ConfigFile, definitions)
    root["properties"]["$schema"] = {"type": "string", "description": "For editors; not read."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _class_schema(cls: type[attrs.AttrsInstance], definitions: dict[str, object]) -> dict[str, Any]:
    return {
        "title": cls.__name__,
        "description": cls.__doc__,
        "type": "object",
        "properties": {field.name: _field_schema(field, definitions) for field in attrs.fields(cls)},
        "required": [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING],
        "additionalProperties": False,
    }


def _field_schema(field: "attrs.Attribute[Any]", definitions: dict[str, object]) -> dict[str, object]:
    schema = {**_type_schema(field.type, definitions), "description": field.metadata["description"]}
    default = field.default
    if isinstance(default, Enum):
        default = default.value if default is not attrs.NOTHING else None
    if isinstance(default, bool | int | float | str):
        schema["default"] = default
    return schema


def _type_schema(cl: Any, definitions: dict[str, object]) -> dict[str, object]:
    if attrs.has(cl):
        if cl.__name__ not in definitions:
            definitions[cl.__name__] = _class_schema(cl, definitions)
        return {"$ref": f"#/$defs/{cl.__name__}"}
    if get_origin(cl) is Annotated:
        kind: Kind | SecretKind = get_args(cl)[1]
        return dict(kind.schema)
    if get_origin(cl) is list:
        return {"type": "array", "items": _type_schema(get_args(cl)[0], definitions)}
    if get_origin(cl) is dict:
        names, values = (_type_schema(arg, definitions) for arg in get_args(cl))
        return {"type": "object", "propertyNames": names, "additionalProperties": values}
    if cl is NoneType:
        return {"type": "null"}
    return {"anyOf": [_type_schema(arg, definitions) for arg in get_args(cl)]}  # a union
