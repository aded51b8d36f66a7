"""Writes tests/contract/schemas/kuberay.schema.json from KubeRay's own definitions.

    git clone --branch v1.7.0 https://github.com/ray-project/kuberay
    python -m tests.support.make_kuberay_schemas kuberay/ray-operator/config/crd/bases > kuberay.schema.json

Kubernetes drops fields that a definition does not know, with a warning at most. The schemas refuse them, as
`kubectl apply --validate=strict` does. Descriptions are left out, and what the definitions repeat stands once.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import yaml

KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}
VERSION = "v1"
_SHARED_BYTES = 120
"""Subschemas that are longer than this, and repeated, get a definition of their own."""

_KEPT = (
    *("additionalProperties", "anyOf", "allOf", "oneOf", "not", "enum", "items", "maxItems", "maxLength", "maximum"),
    *("minItems", "minLength", "minimum", "pattern", "properties", "required", "type", "uniqueItems"),
)
_META = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?$"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}
"""What people write as an object's metadata; KubeRay makes names of pods from an object's name."""


def main() -> None:
    """Print the schemas of the definitions in the directory that the command names."""
    folder = Path(sys.argv[1])
    kinds = {kind: _kind(kind, folder / f"ray.io_{plural}.yaml") for kind, plural in KINDS.items()}
    counts: dict[str, int] = {}
    for schema in kinds.values():
        _count(schema, counts)
    shared: dict[str, Any] = {}
    named = {kind: _shared(schema, counts, shared) for kind, schema in kinds.items()}
    text = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "ray.io/v1 as KubeRay 1.7.0 defines it. tests/support/make_kuberay_schemas.py made this file.",
        "$defs": {**named, **dict(sorted(shared.items()))},
    }
    lines = [f"{json.dumps(name)}: {json.dumps(each, sort_keys=True)}" for name, each in text["$defs"].items()]
    head = ",\n".join(f"{json.dumps(key)}: {json.dumps(text[key])}" for key in ("$schema", "$comment"))
    sys.stdout.write("{\n" + head + ',\n"$defs": {\n' + ",\n".join(lines) + "\n}\n}\n")


def _kind(kind: str, file: Path) -> dict[str, Any]:
    definition = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == VERSION]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"] = {
        "apiVersion": {"const": f"ray.io/{VERSION}"},
        "kind": {"const": kind},
        "metadata": _META,
        "spec": schema["properties"]["spec"],
    }
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of Kubernetes' as JSON schema, which refuses unknown fields."""
    found = {key: value for key, value in schema.items() if key in _KEPT}
    if schema.get("x-kubernetes-int-or-string"):
        found = {key: value for key, value in found.items() if key not in ("anyOf", "pattern", "type")}
        found["type"] = ["integer", "string"]
        if "pattern" in schema:
            found["pattern"] = schema["pattern"]
    if "properties" in found:
        found["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    if isinstance(found.get("additionalProperties"), dict):
        found["additionalProperties"] = _strict(schema["additionalProperties"])
    if isinstance(found.get("items"), dict):
        found["items"] = _strict(schema["items"])
    if schema.get("nullable") and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    return found


def _text(schema: Any) -> str:
    return json.dumps(schema, sort_keys=True)


def _count(schema: Any, counts: dict[str, int]) -> None:
    if isinstance(schema, dict):
        text = _text(schema)
        counts[text] = counts.get(text, 0) + 1
        if counts[text] > 1:
            return
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _count(each, counts)


def _shared(schema: Any, counts: dict[str, int], shared: dict[str, Any]) -> Any:
    """The schema with references in place of what is repeated."""
    if isinstance(schema, list):
        return [_shared(each, counts, shared) for each in schema]
    if not isinstance(schema, dict):
        return schema
    text = _text(schema)
    if counts.get(text, 0) > 1 and len(text) > _SHARED_BYTES and ("type" in schema or "properties" in schema):
        name = hashlib.sha256(text.encode()).hexdigest()[:8]
        if name not in shared:
            shared[name] = None
            shared[name] = {key: _shared(each, counts, shared) for key, each in schema.items()}
        return {"$ref": f"#/$defs/{name}"}
    return {key: _shared(each, counts, shared) for key, each in schema.items()}


if __name__ == "__main__":
    main()
