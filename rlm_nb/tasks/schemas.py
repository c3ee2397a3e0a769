"""What a JSON answer has to fit: looked through before anything is paid for, and never fetched from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import regex
from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUserError
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import specification_with

from rlm_nb.errors import SubcallError
from rlm_nb.lean import jsonschema
from rlm_nb.records import JSON

PATIENCE = 1.0
"""Seconds that a `pattern` of a schema may take for one text."""


@dataclass(frozen=True)
class Wanted:
    """A schema as the model is shown it, and what makes the wanted value of an answer, or raises `SubcallError`."""

    described: dict[str, JSON]
    fitted: Callable[[JSON], Any]


def wanted(schema: Any) -> Wanted:
    """What a pydantic model, or a JSON schema as a dict, asks for.

    Raises:
        TypeError: It is neither.
        ValueError: It is no schema, or refers to something that it does not hold.
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        try:
            return Wanted(schema.model_json_schema(), lambda value: _instance(schema, value))
        except PydanticUserError as error:
            raise TypeError(f"{schema.__name__} has no JSON schema: {error.message}") from None
    if not isinstance(schema, dict):
        raise TypeError(f"schema must be a pydantic model or a JSON schema as a dict, not {schema!r}")
    validator = _validator(schema)
    return Wanted(schema, lambda value: _checked(validator, value))


def _instance(schema: type[BaseModel], value: JSON) -> BaseModel:
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the top"
        raise SubcallError(f"it does not fit the schema at {place}: {first['msg']}") from None


def _checked(validator: Any, value: JSON) -> JSON:
    try:
        fault = next(iter(validator.iter_errors(value)), None)
    except RecursionError:
        raise SubcallError("it, or its schema, is nested too deeply") from None
    except TimeoutError:
        raise SubcallError("a pattern of its schema takes too long with it") from None
    if fault is not None:
        raise SubcallError(f"it does not fit the schema at {fault.json_path}: {fault.message[:200]}")
    return value


def _validator(schema: dict[str, JSON]) -> Any:
    named = schema.get("$schema", jsonschema.Draft202012Validator.META_SCHEMA["$id"])
    kind = jsonschema.validators.validator_for({"$schema": named}, default=None) if isinstance(named, str) else None
    if kind is None:
        raise ValueError(f"not a JSON schema: $schema: {named!r} is no version that is known here")
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"not a JSON schema: at {error.json_path}: {error.message[:200]}") from None
    _check_references(schema, str(kind.META_SCHEMA["$schema"]))
    # Without a registry, the library itself would read whatever address a reference names.
    validator = jsonschema.validators.extend(kind, {"pattern": _pattern})(schema, registry=Registry())
    try:
        validator.is_valid(None)
    except RecursionError:
        raise ValueError("not a JSON schema: it refers to itself without an end") from None
    return validator


def _check_references(schema: dict[str, JSON], version: str) -> None:
    """Do nothing when every reference leads to something within the schema."""
    registry: Registry[Any] = Registry()
    whole: Resource[Any] = specification_with(version).create_resource(schema)
    waiting = [(whole, registry.resolver_with_root(whole))]
    while waiting:
        part, resolver = waiting.pop()
        for name in ("$ref", "$dynamicRef") if isinstance(part.contents, dict) else ():
            target = part.contents.get(name)
            try:
                if isinstance(target, str):
                    resolver.lookup(target)
            except Unresolvable:
                raise ValueError(
                    f"no JSON schema of use: {name} {target!r} leads to nothing in it. Nothing is fetched, "
                    "so put what it refers to under $defs"
                ) from None
        waiting += [(below, resolver.in_subresource(below)) for below in part.subresources()]


def _pattern(validator: Any, pattern: str, value: JSON, schema: Any) -> Iterator[jsonschema.ValidationError]:
    """The library's own search could not be stopped by any limit."""
    if isinstance(value, str) and regex.search(pattern, value, timeout=PATIENCE) is None:
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")
