"""Checks objects against a CustomResourceDefinition as an API server does: structure and CEL."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import yaml
from celpy.adapter import json_to_cel

CRD = Path(__file__).parents[2] / "shared/schemas/jobset.x-k8s.io_jobsets.yaml"
"""JobSet's own definition; it lies beside the repository."""


def load_schema(path: Path, version: str) -> dict[str, Any]:
    """Returns the structural schema of one version."""
    definition = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    for one in definition["spec"]["versions"]:
        if one["name"] == version:
            return one["schema"]["openAPIV3Schema"]  # type: ignore[no-any-return]
    raise LookupError(version)


def violations(schema: Mapping[str, Any], value: Any, *, old: Any = None) -> list[str]:
    """Returns what an API server with strict field validation would refuse.

    Args:
      schema: a structural schema.
      value: the object.
      old: the object before, for an update: rules of transition are checked then, too.
    """
    strict = jsonschema.Draft202012Validator(_as_json_schema(schema))
    errors = [f"{error.json_path}: {error.message}" for error in strict.iter_errors(value)]
    return errors + [*_broken_rules(schema, value, old, "$")] + [*_duplicates(schema, value, "$")]


def rules(schema: Mapping[str, Any]) -> list[str]:
    """Returns all CEL rules of a schema."""
    found = [one["rule"] for one in schema.get("x-kubernetes-validations", [])]
    for part in [*schema.get("properties", {}).values(), schema.get("items")]:
        if isinstance(part, Mapping):
            found += rules(part)
    return found


def _as_json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a schema that says the same, and refuses fields that would be dropped."""
    result: dict[str, Any] = copy.deepcopy(
        {key: schema[key] for key in schema if not key.startswith("x-") and key != "description"}
    )
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("anyOf", None)
        return result | {"type": ["integer", "string"]}
    if "properties" in schema:
        result["properties"] = {
            name: _as_json_schema(part) for name, part in schema["properties"].items()
        }
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), Mapping):
        result["additionalProperties"] = _as_json_schema(schema["additionalProperties"])
    if isinstance(schema.get("items"), Mapping):
        result["items"] = _as_json_schema(schema["items"])
    if schema.get("type") == "object" and set(result) == {"type"}:
        return result  # metadata: its fields are the API server's own
    return result


def _parts(
    schema: Mapping[str, Any], value: Any, old: Any, path: str
) -> Iterator[tuple[Mapping[str, Any], Any, Any, str]]:
    """Yields the fields and items of a value with their schemas."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            below = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(below, Mapping):
                before = old.get(name) if isinstance(old, Mapping) else None
                yield below, item, before, f"{path}.{name}"
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for number, item in enumerate(value):
            same = isinstance(old, list) and number < len(old)
            yield schema["items"], item, old[number] if same else None, f"{path}[{number}]"


def _broken_rules(schema: Mapping[str, Any], value: Any, old: Any, path: str) -> Iterator[str]:
    for one in schema.get("x-kubernetes-validations", []):
        transition = "oldSelf" in one["rule"]
        if transition and old is None:
            continue
        environment = celpy.Environment()
        program = environment.program(environment.compile(one["rule"]))
        known = {"self": json_to_cel(value)}
        if transition:
            known["oldSelf"] = json_to_cel(old)
        if not program.evaluate(known):
            yield f"{path}: {one['message']}"
    for part in _parts(schema, value, old, path):
        yield from _broken_rules(*part)


def _duplicates(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    """Yields lists of type map in which two items have the same keys."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if keys and isinstance(value, list):
        defaults = {
            key: schema["items"].get("properties", {}).get(key, {}).get("default") for key in keys
        }
        seen = [tuple(item.get(key, defaults[key]) for key in keys) for item in value]
        yield from (f"{path}: duplicate {key}" for key in set(seen) if seen.count(key) > 1)
    for below, item, _, where in _parts(schema, value, None, path):
        yield from _duplicates(below, item, where)
