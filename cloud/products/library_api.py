"""Routes of the standard library: product models to make products from. They are the same for every tenant."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from cloud.foundation.paging import Cursor, Limit, read_cursor, write_cursor
from cloud.foundation.problems import not_found
from cloud.products.model import StandardModel
from cloud.products.standard import standard_model, standard_models
from cloud.tenancy.api import Caller
from protocols.errors import Refused

router = APIRouter(prefix="/v1/library", tags=["library"])


class MatterView(BaseModel):
    id: str
    name: str


class LibrarySummary(BaseModel):
    key: Annotated[str, Field(description="Give it as `library` when you create a product.")]
    name: str
    names: Annotated[dict[str, str], Field(description="By language: `en`, `zh`.")]
    kind: Annotated[str, Field(description="appliance, equipment or gateway.")]
    matter: Annotated[MatterView | None, Field(description="Its main device type in Matter, where one exists.")]


class LibraryModel(LibrarySummary):
    tsl: dict[str, Any]


class LibraryPage(BaseModel):
    items: list[LibrarySummary]
    next: str | None


def _summary(model: StandardModel) -> LibrarySummary:
    matter = None if model.matter is None else MatterView(id=model.matter[0], name=model.matter[1])
    return LibrarySummary(key=model.key, name=model.name, names=model.names, kind=model.kind, matter=matter)


@router.get("", operation_id="list_library")
def list_all(_caller: Caller, limit: Limit = 100, cursor: Cursor = None) -> LibraryPage:
    """The models of the standard library, by key."""
    start = read_cursor(cursor)
    models = standard_models()
    items = [_summary(model) for model in models[start : start + limit]]
    return LibraryPage(items=items, next=write_cursor(start + limit) if start + limit < len(models) else None)


@router.get("/{key}", operation_id="get_library_model")
def get(_caller: Caller, key: str) -> LibraryModel:
    """One model of the standard library with its TSL."""
    try:
        model = standard_model(key)
    except Refused as error:
        raise not_found(f"Model {key[:64]} of the library") from error
    return LibraryModel(**dict(_summary(model)), tsl=model.thing_model.to_dict())
