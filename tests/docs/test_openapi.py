"""The committed OpenAPI document is the code's, and breaks nobody who was written against the last release."""

import copy
import json
import re
from typing import Any

import pytest

from tests.docs.openapi import CURRENT, RELEASED, as_file, compare, document, operations


def test_the_committed_document_is_what_the_code_answers() -> None:
    assert CURRENT.read_text(encoding="utf-8") == as_file(document()), "stale: run python -m tests.docs.openapi"


def test_nothing_breaks_a_caller_of_the_last_release() -> None:
    assert compare(json.loads(RELEASED.read_text(encoding="utf-8")), document()) == []


def test_every_operation_has_an_id_of_its_own_in_snake_case() -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document())]
    assert len(ids) > 20
    assert sorted(set(ids)) == sorted(ids)
    assert [name for name in ids if not re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", name)] == []


def test_every_route_documents_its_errors_as_problems() -> None:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, method, operation in operations(document()):
        assert operation["responses"]["default"]["content"] == problem, (method, path)
        assert operation["responses"].get("422", {"content": problem})["content"] == problem, (method, path)


STOVES: dict[str, Any] = {
    "paths": {
        "/stoves": {
            "get": {
                "operationId": "list_stoves",
                "parameters": [{"in": "query", "name": "limit", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}}],
                "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Page"}}}}},
            },
            "post": {
                "operationId": "create_stove",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewStove"}}}, "required": True},
                "responses": {"201": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Stove"}}}}, "409": {}},
            },
        }
    },
    "components": {
        "schemas": {
            "NewStove": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 64},
                    "fuel": {"enum": ["gas", "induction"], "type": "string"},
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "power": {"type": "number"},
                    "burners": {"type": "array", "items": {"type": "integer"}},
                },
            },
            "Stove": {
                "type": "object",
                "required": ["key", "name", "state"],
                "properties": {
                    "key": {"type": "string"},
                    "name": {"type": "string"},
                    "state": {"type": "string", "enum": ["on", "off"]},
                    "site": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "likes": {"type": "array", "items": {"$ref": "#/components/schemas/Stove"}},
                },
            },
            "Page": {
                "type": "object",
                "required": ["items"],
                "properties": {"items": {"type": "array", "items": {"$ref": "#/components/schemas/Stove"}}},
            },
        }
    },
}

REMOVE = object()


def changed(path: str, value: object) -> dict[str, Any]:
    after = copy.deepcopy(STOVES)
    *way, last = path.replace("/stoves", "~").split("/")
    entry: Any = after
    for step in way:
        entry = entry[int(step) if isinstance(entry, list) else step.replace("~", "/stoves")]
    key: Any = int(last) if isinstance(entry, list) else last.replace("~", "/stoves")
    if value is REMOVE:
        del entry[key]
    elif isinstance(entry, list) and key == len(entry):
        entry.append(value)
    else:
        entry[key] = value
    return after


POST, NEW, STOVE = "paths//stoves/post", "components/schemas/NewStove", "components/schemas/Stove"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("paths//stoves", REMOVE, "GET /stoves is gone"),
        (POST, REMOVE, "POST /stoves is gone"),
        (f"{POST}/operationId", "make_stove", "operationId create_stove is now make_stove"),
        (f"{POST}/responses/409", REMOVE, "answer 409 is gone"),
        (f"{POST}/responses/201/content", {"text/html": {}}, "no longer comes as application/json"),
        (f"{POST}/requestBody/content", {"text/csv": {}}, "a body of application/json is no longer taken"),
        (f"{POST}/parameters", [{"in": "header", "name": "X", "required": True}], "header parameter X is new and required"),
        ("paths//stoves/get/parameters/0", REMOVE, "query parameter limit is gone"),
        ("paths//stoves/get/parameters/0/required", True, "query parameter limit is required now"),
        ("paths//stoves/get/parameters/0/schema/maximum", 100, "maximum is 100, was 1000"),
        ("paths//stoves/get/parameters/0/schema/minimum", 5, "minimum is 5, was 1"),
        ("paths//stoves/get/requestBody", {"content": {}, "required": True}, "a body is required now"),
        (f"{NEW}/required", ["name", "fuel"], "body.fuel is required now"),
        (f"{NEW}/properties/note", REMOVE, "body.note is no longer taken"),
        (f"{NEW}/properties/name/maxLength", 32, "maxLength is 32, was 64"),
        (f"{NEW}/properties/name/pattern", "[a-z]+", "pattern is"),
        (f"{NEW}/properties/name/type", "integer", "body.name no longer takes type string"),
        (f"{NEW}/properties/fuel/enum", ["gas"], 'body.fuel no longer takes word "induction"'),
        (f"{NEW}/properties/note", {"type": "string"}, "body.note no longer takes null"),
        (f"{NEW}/properties/power/type", "integer", "body.power no longer takes type number"),
        (f"{NEW}/properties/burners/items/type", "string", "body.burners[] no longer takes type integer"),
        (f"{NEW}/additionalProperties", False, "body takes no other fields any more"),
        (f"{STOVE}/properties/name", REMOVE, "answer 201.name is gone"),
        (f"{STOVE}/properties/name", REMOVE, "answer 200.items[].name is gone"),
        (f"{STOVE}/properties/key/type", "integer", "answer 201.key is integer now, was string"),
        (f"{STOVE}/required", ["key", "name"], "answer 201.state may be missing now"),
        (f"{STOVE}/properties/key", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "answer 201.key may be null now"),
    ],
)
def test_what_breaks_a_caller_is_found(path: str, value: object, said: str) -> None:
    assert [what for what in compare(STOVES, changed(path, value)) if said in what], compare(STOVES, changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("paths/~new", {"get": {"operationId": "list_hoods", "responses": {}}}),
        (f"{POST}/responses/422", {}),
        (f"{POST}/description", "Other words."),
        (f"{POST}/parameters", [{"in": "header", "name": "X"}]),
        ("paths//stoves/get/parameters/0/schema/maximum", 5000),
        (f"{NEW}/required", []),
        (f"{NEW}/properties/colour", {"type": "string"}),
        (f"{NEW}/properties/name/maxLength", 128),
        (f"{NEW}/properties/fuel/enum", ["gas", "induction", "wood"]),
        (f"{NEW}/properties/burners/items/type", "number"),
        (f"{NEW}/properties/power", {"anyOf": [{"type": "number"}, {"type": "null"}]}),
        (f"{STOVE}/properties/colour", {"type": "string"}),
        (f"{STOVE}/properties/state/enum", ["on", "off", "cooling"]),
        (f"{STOVE}/properties/site", {"type": "string"}),
        (f"{STOVE}/required", ["key", "name", "state", "site"]),
    ],
)
def test_what_breaks_nobody_passes(path: str, value: object) -> None:
    after = changed(path, value)
    assert after != STOVES
    assert compare(STOVES, after) == []
