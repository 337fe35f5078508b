"""A thing model as the vendor's documents hold it (alink.md par. 12): with the entries that SDKs read and we derive. Pure."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from protocols.thing.model import ThingModel

SCHEMA = "urn:hearthline:schema:tsl"
_GENERATED_SERVICES = ("set", "get")


def full_tsl(model: ThingModel, product_key: str) -> dict[str, Any]:
    """The TSL of a product: `schema`, `link`, `profile.productKey`, and the generated event `post` and services `set` and `get`.

    Reading it back gives the same properties, events and services. `link` holds `${deviceName}` where a device's own name belongs.
    Entries of function blocks stay in their block; the generated ones list the properties outside blocks, as the SDKs know no others.
    """
    document: dict[str, Any] = model.to_dict()
    document["schema"] = document.get("schema") or SCHEMA
    document["link"] = f"/sys/{product_key}/${{deviceName}}/thing/"
    document["profile"] = {**document.get("profile", {}), "productKey": product_key}
    properties: list[dict[str, Any]] = document.setdefault("properties", [])
    reported = [_argument(entry) for entry in properties]
    writable = [_argument(entry) for entry in properties if "w" in entry.get("accessMode", "r")]
    identifiers = [entry["identifier"] for entry in properties]
    document["events"] = [
        {
            "identifier": "post",
            "name": "post",
            "type": "info",
            "required": True,
            "method": "thing.event.property.post",
            "outputData": reported,
        },
        *(_with_method(entry, f"thing.event.{entry['identifier']}.post") for entry in document.get("events", []) if not _is_post(entry)),
    ]
    document["services"] = [
        _generated("set", writable, []),
        _generated("get", identifiers, copy.deepcopy(reported)),
        *(_with_method(entry, f"thing.service.{entry['identifier']}") for entry in _own_services(document)),
    ]
    return document


def plain_tsl(model: ThingModel) -> dict[str, Any]:
    """The model's document without what we derive: generated entries, `link`, and the product key and device name it was exported with."""
    document: dict[str, Any] = model.to_dict()
    for group, generated in (("events", ("post",)), ("services", _GENERATED_SERVICES)):
        if group in document:
            document[group] = [entry for entry in document[group] if entry["identifier"] not in generated]
    document.pop("link", None)
    if "profile" in document:
        document["profile"] = {key: value for key, value in document["profile"].items() if key not in ("productKey", "deviceName")}
    return document


def _is_post(entry: Mapping[str, Any]) -> bool:
    return bool(entry["identifier"] == "post")


def _own_services(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return (entry for entry in document.get("services", []) if entry["identifier"] not in _GENERATED_SERVICES)


def _argument(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"identifier": entry["identifier"], "name": entry.get("name", ""), "dataType": copy.deepcopy(entry["dataType"])}


def _with_method(entry: dict[str, Any], method: str) -> dict[str, Any]:
    return entry if "method" in entry else {**entry, "method": method}


def _generated(name: str, taken: list[Any], given: list[Any]) -> dict[str, Any]:
    return {
        "identifier": name,
        "name": name,
        "required": True,
        "callType": "async",
        "method": f"thing.service.property.{name}",
        "inputData": taken,
        "outputData": given,
    }
