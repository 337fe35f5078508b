"""Routes of configurations: one file for all devices of a product, and the address that they download it from."""

import asyncio
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from cloud.artefacts.model import Kind as ArtefactKind
from cloud.artefacts.service import Depot, Upload, keep
from cloud.devices.ports import Downlink
from cloud.foundation.audit import record
from cloud.foundation.db import Database, UnitOfWork
from cloud.foundation.problems import Problem
from cloud.products.service import own_product
from cloud.rollouts.configuration import (
    MOST_BYTES,
    delete_configuration,
    download_of,
    find_configuration,
    put_configuration,
    switch_configuration,
)
from cloud.rollouts.model import Configuration
from cloud.tenancy.api import Caller
from cloud.tenancy.model import Principal
from protocols.alink.messages import encode_command
from protocols.alink.topics import Kind

router = APIRouter(tags=["configuration"])

PATH = "/v1/products/{product_key}/configuration"


class ConfigurationView(BaseModel):
    configuration_id: Annotated[str, Field(description="Another one with every file.")]
    product_key: str
    size: Annotated[int, Field(description="Bytes.")]
    sha256: str
    enabled: Annotated[bool, Field(description="While it is not, devices are answered 6713 and download nothing.")]
    updated: int


class Switch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    enabled: bool


class Told(BaseModel):
    told: Annotated[int, Field(description="How many connected devices were told; what they answer stands in their logs.")]


def _view(found: Configuration) -> ConfigurationView:
    return ConfigurationView(
        configuration_id=found.configuration_id,
        product_key=found.product_key,
        size=found.size,
        sha256=found.sha256,
        enabled=found.enabled,
        updated=found.updated_ms,
    )


def _held(work: UnitOfWork, product_key: str) -> Configuration:
    own_product(work, product_key)
    found = find_configuration(work, product_key)
    if found is None:
        raise Problem(404, "no-configuration", f"Product {product_key} has no configuration; PUT one.")
    return found


@router.put(
    PATH,
    operation_id="put_configuration",
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def put(request: Request, caller: Caller, product_key: str) -> ConfigurationView:
    """Give all devices of a product this file, the body of the request: up to 1 MiB. It takes the place of the one before."""
    database: Database = request.app.state.database
    depot: Depot = request.app.state.depot

    def check() -> None:
        with database.reading(caller.tenant_id) as work:
            own_product(work, product_key)

    await asyncio.to_thread(check)
    upload = depot.receive(MOST_BYTES)
    with upload:
        async for chunk in request.stream():
            await asyncio.to_thread(upload.write, chunk)
        return await asyncio.to_thread(_finish, database, caller, upload, product_key)


def _finish(database: Database, caller: Principal, upload: Upload, product_key: str) -> ConfigurationView:
    sha256, md5 = upload.finish()
    with database.unit_of_work(caller.tenant_id) as work:
        own_product(work, product_key)
        made = put_configuration(work, product_key, keep(work, ArtefactKind.CONFIGURATION, sha256, md5, upload.size))
        record(work.session, caller.tenant_id, caller.key_name, "put_configuration", product_key, {"sha256": sha256})
        work.commit()
    return _view(made)


@router.get(PATH, operation_id="get_configuration")
def get(request: Request, caller: Caller, product_key: str) -> ConfigurationView:
    """What is known of a product's configuration; its bytes are under `/content`."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        return _view(_held(work, product_key))


@router.get(f"{PATH}/content", operation_id="get_configuration_content", response_class=FileResponse)
def content(request: Request, caller: Caller, product_key: str) -> Any:
    """The file itself."""
    database: Database = request.app.state.database
    depot: Depot = request.app.state.depot
    with database.reading(caller.tenant_id) as work:
        found = _held(work, product_key)
    return FileResponse(depot.path_of(found.sha256), media_type="application/octet-stream")


@router.patch(PATH, operation_id="switch_configuration")
def switch(request: Request, caller: Caller, product_key: str, body: Switch) -> ConfigurationView:
    """Switch a configuration on or off."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        _held(work, product_key)
        switch_configuration(work, product_key, body.enabled)
        record(work.session, caller.tenant_id, caller.key_name, "switch_configuration", product_key, {"enabled": body.enabled})
        work.commit()
    return get(request, caller, product_key)


@router.delete(PATH, status_code=204, operation_id="delete_configuration")
def remove(request: Request, caller: Caller, product_key: str) -> None:
    """Take the file away; devices that ask are answered 6710."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        _held(work, product_key)
        delete_configuration(work, product_key)
        record(work.session, caller.tenant_id, caller.key_name, "delete_configuration", product_key)
        work.commit()


@router.post(f"{PATH}/push", operation_id="push_configuration")
async def push(request: Request, caller: Caller, product_key: str) -> Told:
    """Tell all connected devices of a product of its configuration, at once and at most once; others ask when they come."""
    database: Database = request.app.state.database
    downlink: Downlink = request.app.state.downlink

    def find() -> Configuration:
        with database.reading(caller.tenant_id) as work:
            return _held(work, product_key)

    found = await asyncio.to_thread(find)
    if not found.enabled:
        raise Problem(409, "configuration-off", "The configuration is switched off: switch it on first.")
    offer = found.offer(request.app.state.base_url())
    payload = encode_command(secrets.randbelow(1 << 32), "thing.config.push", offer)
    return Told(told=await downlink.tell_all(product_key, Kind.CONFIG_PUSH, payload, 1))


@router.get("/configuration/{token}", operation_id="download_configuration", tags=["devices' own"], response_class=FileResponse)
def download(request: Request, token: str) -> Any:
    """Where a device downloads the configuration it was told of: the token is the key, until the next file. Takes `Range`."""
    database: Database = request.app.state.database
    depot: Depot = request.app.state.depot
    sha256 = download_of(database, token) if len(token) <= 64 else None
    if sha256 is None:
        raise Problem(404, "no-such-download", "There is no such download any more; ask for the configuration again.")
    return FileResponse(depot.path_of(sha256), media_type="application/octet-stream", filename="configuration.bin")
