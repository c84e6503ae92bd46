"""OpenAI's own description of its requests, cut down to what a batch may send.

Make `openai_schema.json` anew from OpenAPI files, YAML or JSON, the newest first; README.md beside this says where they
are:

    python -m tests.requests.openai_schema openapi.json openapi-of-2025-04.yaml
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FILE = Path(__file__).with_name("openai_schema.json")

LINE, CREATE = "BatchRequestInput", "CreateBatchRequest"
"""The schema of a line of an input file, all but its body; and of the call that makes a batch of one."""

BODIES = {
    "/v1/chat/completions": "CreateChatCompletionRequest",
    "/v1/responses": "CreateResponse",
    "/v1/embeddings": "CreateEmbeddingRequest",
    "/v1/completions": "CreateCompletionRequest",
    "/v1/moderations": "CreateModerationRequest",
}
"""The schema of each endpoint's body."""

_WORDS = {"description", "title", "example", "examples", "default", "deprecated", "discriminator", "externalDocs"}
_BY_NAME = ("properties", "patternProperties", "$defs")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not")

Schema = dict[str, Any]


@cache
def validator(name: str) -> Draft202012Validator:
    """Holds something against a schema of `FILE`, and refuses keys that the schema does not know, however deep."""
    schemas = json.loads(FILE.read_bytes())
    shared = set(_parts(schemas))
    closed = {one: _closed(schema, part=one in shared) for one, schema in schemas.items()}
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": closed})


def prune(described: Mapping[str, Schema]) -> dict[str, Schema]:
    """The schemas that requests are made of, without the words for people."""
    kept: dict[str, Schema] = {}
    wanted = [LINE, CREATE, *BODIES.values()]
    while wanted:
        name = wanted.pop()
        if name not in kept:
            kept[name] = _bare(described[name], name)
            wanted += _named(kept[name])
    return dict(sorted(kept.items()))


def _bare(node: Any, inside: str) -> Any:
    """A schema without words; `inside` is the schema that it is a part of."""
    if not isinstance(node, dict):
        return node
    made = {}
    for key, value in node.items():
        if key == "$ref":
            made[key] = f"#/$defs/{value.rsplit('/', 1)[-1]}"
        elif key == "$recursiveRef":
            made["$ref"] = f"#/$defs/{inside}"
        elif key in _BY_NAME:
            made[key] = {name: _bare(one, inside) for name, one in value.items()}
        elif key in _LISTED:
            # alternatives overlap: "one of" is meant with the discriminator, of which JSON Schema knows nothing
            made["anyOf" if key == "oneOf" else key] = [_bare(one, inside) for one in value]
        elif key in _SINGLE:
            made[key] = _bare(value, inside)
        elif key not in _WORDS and key not in ("nullable", "$recursiveAnchor") and not key.startswith("x-"):
            made[key] = value
    return made


def _closed(node: Any, *, part: bool = False) -> Any:
    """A schema whose objects take only the keys that it names; a `part` of an `allOf` sees only some of them."""
    if not isinstance(node, dict):
        return node
    made = dict(node)
    for key, value in node.items():
        if key in ("properties", "patternProperties"):
            made[key] = {name: _closed(one) for name, one in value.items()}
        elif key in _LISTED:
            inner = key == "allOf" or (key == "anyOf" and (part or "properties" in node))
            made[key] = [_closed(one, part=inner) for one in value]
        elif key in _SINGLE:
            made[key] = _closed(value)
    if not part and {"properties", "allOf"} & node.keys() and "additionalProperties" not in node:
        made["unevaluatedProperties"] = False
    return made


def _parts(schemas: Mapping[str, Schema]) -> Iterator[str]:
    """The schemas that others take up by `allOf`."""
    for node in _nodes(list(schemas.values())):
        for one in node.get("allOf", ()) if isinstance(node.get("allOf"), list) else ():
            yield from _named(one)


def _named(node: Any) -> list[str]:
    return [one["$ref"].rsplit("/", 1)[-1] for one in _nodes(node) if isinstance(one.get("$ref"), str)]


def _nodes(node: Any) -> Iterator[Schema]:
    if isinstance(node, dict):
        yield node
    for one in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _nodes(one)


def main(paths: list[str]) -> None:
    """Write `FILE` from these OpenAPI files; what one lacks is taken from the next."""
    described: dict[str, Schema] = {}
    for path in reversed(paths):
        text = Path(path).read_text(encoding="utf-8")
        described |= (json.loads(text) if path.endswith(".json") else yaml.safe_load(text))["components"]["schemas"]
    lines = [
        f"{json.dumps(name)}: {json.dumps(schema, ensure_ascii=False)}" for name, schema in prune(described).items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(lines)} schemas, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
