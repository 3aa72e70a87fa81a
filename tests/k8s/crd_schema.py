"""Turns a CustomResourceDefinition into a JSON Schema that refuses what the API server would drop or reject.

The API server prunes fields a CRD does not know, silently: a misspelt `minReplica` is simply gone. So unknown fields
are errors here. Not covered: CEL rules (x-kubernetes-validations), list-map keys, and the operator's own checks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

_INT32 = {"minimum": -(2**31), "maximum": 2**31 - 1}
_COPIED = ("enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties")


class CustomResources:
    """Validators for every served version of the CRDs in a folder, built when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.glob("*.yaml"))
        self._validators: dict[tuple[str, str], Draft202012Validator] = {}

    def errors(self, document: dict[str, Any]) -> list[str]:
        """One line per fault, each with the path to it; empty when the document is valid."""
        key = (document["apiVersion"], document["kind"])
        if key not in self._validators:
            self._load(group=document["apiVersion"].partition("/")[0], kind=document["kind"])
        if key not in self._validators:
            return [f"no served definition of {document['kind']} in {document['apiVersion']}"]
        faults = self._validators[key].iter_errors(document)
        return [f"{fault.json_path}: {fault.message}" for fault in faults]

    def _load(self, group: str, kind: str) -> None:
        for file in self._files:
            if file.name.startswith(f"{group}_"):
                # The C loader reads the 1.4 MB of RayJob in a second; the Python one takes twenty times as long.
                definition = yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)["spec"]
                if definition["names"]["kind"] == kind:
                    for version in definition["versions"]:
                        if version["served"]:
                            schema = to_json_schema(version["schema"]["openAPIV3Schema"])
                            key = (f"{group}/{version['name']}", kind)
                            self._validators[key] = Draft202012Validator(schema)


def to_json_schema(open_api: dict[str, Any]) -> dict[str, Any]:
    """The schema of a whole custom resource: apiVersion, kind, metadata and what the CRD adds."""
    schema = _convert(open_api)
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object", "required": ["name"]},
    }
    schema["required"] = sorted({*schema.get("required", ()), "apiVersion", "kind", "metadata"})
    return schema


def _convert(node: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {key: node[key] for key in _COPIED if key in node}
    if node.get("x-kubernetes-int-or-string"):
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    elif "type" in node:
        schema["type"] = node["type"]
    if node.get("format") == "int32":
        schema = _INT32 | schema
    if "items" in node:
        schema["items"] = _convert(node["items"])
    if node.get("type") == "object":
        schema |= _convert_object(node)
    if node.get("nullable"):
        schema = {"anyOf": [{"type": "null"}, schema]}
    return schema


def _convert_object(node: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = node.get("properties", {})
    schema: dict[str, Any] = {"properties": {name: _convert(child) for name, child in properties.items()}}
    # The API server fills in defaults before it looks for what is required.
    schema["required"] = [name for name in node.get("required", ()) if "default" not in properties.get(name, {})]
    extra = node.get("additionalProperties", False)
    if isinstance(extra, dict):
        extra = _convert(extra)
    if node.get("x-kubernetes-preserve-unknown-fields") or node.get("x-kubernetes-embedded-resource"):
        extra = True
    schema["additionalProperties"] = extra
    return schema
