"""The OpenAPI document as a file, and what of it must not change: `python -m tests.docs.openapi` writes it, a test holds it to the code.

`docs/reference/openapi.json` is what the code answers at /openapi.json; `openapi.released.json` is the file at the last release point,
which callers may rely on: the next release copies the first onto the second (`python -m tests.docs.openapi release`). Between them nothing
breaks.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cloud.app import build_api

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference"
CURRENT, RELEASED = REFERENCE / "openapi.json", REFERENCE / "openapi.released.json"
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
# A request may be held to less, never to more: the keyword, and whether a greater number is the stricter one.
BOUNDS = {
    "minimum": True, "exclusiveMinimum": True, "minLength": True, "minItems": True,
    "maximum": False, "exclusiveMaximum": False, "maxLength": False, "maxItems": False,
}  # fmt: skip

Schema = Mapping[str, Any]


def document() -> dict[str, Any]:
    """What the API answers at /openapi.json."""
    nobody: Any = SimpleNamespace()
    return build_api(
        database=nobody, vault=nobody, bus=nobody, metrics=nobody, downlink=None, sessions=None, changes=None, history=None, checks={}
    ).openapi()


def as_file(openapi: Mapping[str, Any]) -> str:
    """As it is committed: a change of one route is a change of few lines."""
    return json.dumps(openapi, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def operations(openapi: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(path, method, operation) of every route."""
    for path, item in openapi["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What breaks a caller that was written against `old`, one sentence each; empty when nothing does.

    New paths, fields of answers, optional fields of requests, and wider requests are harmless. So are new words of an enum in an answer:
    a caller has to be ready for one that it does not know.
    """
    now = {(path, method): operation for path, method, operation in operations(new)}
    broken: list[str] = []
    for path, method, operation in operations(old):
        where = f"{method.upper()} {path}"
        after = now.get((path, method))
        if after is None:
            broken.append(f"{where} is gone")
            continue
        if operation.get("operationId") != after.get("operationId"):
            broken.append(f"{where}: operationId {operation.get('operationId')} is now {after.get('operationId')}")
        pair = _Pair(old, new)
        broken += [
            f"{where}: {what}"
            for what in (*pair.parameters(operation, after), *pair.body(operation, after), *pair.answers(operation, after))
        ]
    return broken


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two documents, whose references are followed each in its own."""

    old: Mapping[str, Any]
    new: Mapping[str, Any]

    def parameters(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
        before, after = ({(p["in"], p["name"]): p for p in operation.get("parameters", [])} for operation in (old, new))
        for key, parameter in before.items():
            name = f"{key[0]} parameter {key[1]}"
            if key not in after:
                yield f"{name} is gone"
                continue
            if after[key].get("required") and not parameter.get("required"):
                yield f"{name} is required now"
            yield from self._request(parameter.get("schema", {}), after[key].get("schema", {}), name)
        for key, parameter in after.items():
            if key not in before and parameter.get("required"):
                yield f"{key[0]} parameter {key[1]} is new and required"

    def body(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
        before, after = old.get("requestBody"), new.get("requestBody")
        if after is not None and after.get("required") and not (before or {}).get("required"):
            yield "a body is required now"
        if before is None:
            return
        for kind, content in before["content"].items():
            if kind not in (after or {"content": {}})["content"]:
                yield f"a body of {kind} is no longer taken"
            else:
                yield from self._request(content.get("schema", {}), after["content"][kind].get("schema", {}), "body")  # type: ignore[index]

    def answers(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
        for status, answer in old.get("responses", {}).items():
            after = new.get("responses", {}).get(status)
            if after is None:
                yield f"answer {status} is gone"
                continue
            for kind, content in answer.get("content", {}).items():
                if kind not in after.get("content", {}):
                    yield f"answer {status} no longer comes as {kind}"
                else:
                    schema = after["content"][kind].get("schema", {})
                    yield from self._answer(content.get("schema", {}), schema, f"answer {status}", frozenset())

    def _request(self, old: Schema, new: Schema, at: str, seen: frozenset[tuple[str, str]] = frozenset()) -> Iterator[str]:
        """Whatever `old` takes, `new` has to take."""
        reached = (str(old.get("$ref")), str(new.get("$ref")))
        if reached in seen:
            return
        seen |= {reached} if "$ref" in old else set()
        old, new = _resolved(self.old, old), _resolved(self.new, new)
        if "anyOf" in old or "anyOf" in new:
            choices = [_resolved(self.new, choice) for choice in new.get("anyOf", [new])]
            for number, choice in enumerate(old.get("anyOf", [old])):
                if all(any(True for _ in self._request(choice, other, at, seen)) for other in choices):
                    yield f"{at} no longer takes {_named(_resolved(self.old, choice)) or f'choice {number}'}"
            return
        yield from _fewer(at, "type", _types_of(old), _types_of(new))
        yield from _fewer(at, "word", _words_of(old), _words_of(new))
        for keyword, greater_is_stricter in BOUNDS.items():
            was, now = old.get(keyword), new.get(keyword)
            if now is not None and (was is None or (now > was if greater_is_stricter else now < was)):
                yield f"{at}: {keyword} is {now}, was {'none' if was is None else was}"
        if "pattern" in new and new["pattern"] != old.get("pattern"):
            yield f"{at}: pattern is {new['pattern']}"
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in new.get("required", []):
            if name not in old.get("required", []):
                yield f"{at}.{name} is required now"
        for name, schema in before.items():
            if name in after:
                yield from self._request(schema, after[name], f"{at}.{name}", seen)
            else:
                yield f"{at}.{name} is no longer taken"
        if new.get("additionalProperties") is False and old.get("additionalProperties", True) is not False:
            yield f"{at} takes no other fields any more"
        if "items" in old and "items" in new:
            yield from self._request(old["items"], new["items"], f"{at}[]", seen)

    def _answer(self, old: Schema, new: Schema, at: str, seen: frozenset[tuple[str, str]]) -> Iterator[str]:
        """Whoever reads `old` has to find it in `new`."""
        reached = (str(old.get("$ref")), str(new.get("$ref")))
        if reached in seen:
            return
        seen |= {reached} if "$ref" in old else set()
        old, new = _resolved(self.old, old), _resolved(self.new, new)
        if "anyOf" in old or "anyOf" in new:
            choices = [_resolved(self.old, choice) for choice in old.get("anyOf", [old])]
            for number, choice in enumerate(new.get("anyOf", [new])):
                if all(any(True for _ in self._answer(other, choice, at, seen)) for other in choices):
                    yield f"{at} may be {_named(_resolved(self.new, choice)) or f'choice {number}'} now"
            return
        was, now = _types_of(old), _types_of(new)
        if was and (not now or not now <= (was | {"integer"} if "number" in was else was)):
            yield f"{at} is {', '.join(sorted(now)) or 'anything'} now, was {', '.join(sorted(was))}"
        before, after = old.get("properties", {}), new.get("properties", {})
        for name, schema in before.items():
            if name not in after:
                yield f"{at}.{name} is gone"
                continue
            if name in old.get("required", []) and name not in new.get("required", []):
                yield f"{at}.{name} may be missing now"
            yield from self._answer(schema, after[name], f"{at}.{name}", seen)
        for inner in ("items", "additionalProperties"):
            if isinstance(old.get(inner), Mapping) and isinstance(new.get(inner), Mapping):
                yield from self._answer(old[inner], new[inner], f"{at}[]", seen)


def _resolved(openapi: Mapping[str, Any], schema: Schema) -> Schema:
    while "$ref" in schema:
        found: Any = openapi
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def _types_of(schema: Schema) -> set[str]:
    found = schema.get("type", [])
    return {found} if isinstance(found, str) else set(found)


def _named(schema: Schema) -> str:
    return ", ".join(sorted(_types_of(schema)))


def _words_of(schema: Schema) -> set[str]:
    return {json.dumps(word) for word in [*schema.get("enum", []), *([schema["const"]] if "const" in schema else [])]}


def _fewer(at: str, what: str, before: set[str], after: set[str]) -> Iterator[str]:
    """An empty set takes anything."""
    if after and not before:
        yield f"{at} takes only {what} {', '.join(sorted(after))} now"
    elif after and (gone := before - after - ({"integer"} if "number" in after else set())):
        yield f"{at} no longer takes {what} {', '.join(sorted(gone))}"


if __name__ == "__main__":
    CURRENT.write_text(as_file(document()), encoding="utf-8")
    if sys.argv[1:] == ["release"]:
        RELEASED.write_text(as_file(document()), encoding="utf-8")
