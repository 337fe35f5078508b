"""Routes of commands: what is asked of devices, and what became of it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from cloud.devices.commands import SET_METHOD, commands_of, create_command, fail_command, find_command, order_of, stayed
from cloud.devices.lifecycle import State
from cloud.devices.model import CALL_TTL_MS, COMMAND_TTL_MS, LONGEST_COMMAND_S, Command, CommandState, Order, Route
from cloud.devices.ports import Downlink, Sessions
from cloud.devices.registry import find_device, find_route
from cloud.foundation.bus import NobodyAnswers
from cloud.foundation.db import Database, UnitOfWork
from cloud.foundation.idempotency import Once
from cloud.foundation.logs import get_logger
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.foundation.problems import Problem, not_found
from cloud.products.service import find_product
from cloud.tenancy.api import Caller
from cloud.tenancy.model import Principal
from protocols.errors import Reason, Refused, TryAgain
from protocols.thing.model import ThingModel

router = APIRouter(tags=["commands"])

GET_METHOD: Final = "thing.service.property.get"
LONGEST_WAIT_S: Final = 30
_LOOK_S: Final = 0.1


class CommandAccepted(BaseModel):
    command_id: str


class CommandView(BaseModel):
    command_id: str
    product_key: str
    device_name: str
    method: str
    params: Any
    state: Annotated[
        str, Field(description="queued (device or gateway is away), sent, completed, failed or expired. The last three are its end.")
    ]
    created: int
    sent: Annotated[int | None, Field(description="When it was handed to a session; null while it is queued.")]
    expires: int
    finished: int | None
    code: Annotated[int | None, Field(description="The device's code; 200 is done.")]
    reply: Any
    requested_by: Annotated[str, Field(description="The name of the key that asked.")]


class CommandPage(BaseModel):
    items: list[CommandView]
    next: str | None


ExpiresInS = Annotated[
    int | None,
    Query(ge=1, le=LONGEST_COMMAND_S, description="How long it may wait for its end: 60 s if not given, 8 s for a service that is sync."),
]
OnlyOnline = Annotated[bool, Query(description="Refuse at once (409) when the device is not connected, instead of letting it wait.")]
WaitS = Annotated[
    int, Query(ge=0, le=LONGEST_WAIT_S, description="Wait so long for the end of the command and answer with all of it (200).")
]


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the routes of commands take beside the body: whom it is for, and how it is to be carried out."""

    request: Request
    caller: Caller
    product_key: str
    device_name: str
    once: Once
    expires_in_s: ExpiresInS = None
    only_online: OnlyOnline = False
    wait_s: WaitS = 0


Instructed = Annotated[Instruction, Depends()]


@router.post(
    "/v1/devices/{product_key}/{device_name}/properties",
    status_code=202,
    operation_id="set_properties",
    response_model=CommandAccepted,
    responses={200: {"model": CommandView}},
)
async def set_properties(told: Instructed, body: dict[str, Any]) -> Any:
    """Ask a device to take these property values (identifier -> value); read the outcome at /v1/commands/{command_id}.

    It is carried out at most once. When the device, or the gateway that carries it, is away, it waits until it expires.
    """

    def ask(model: ThingModel) -> tuple[Mapping[str, object], bool]:
        if not body:
            raise Refused(Reason.BAD_ENVELOPE, "The body must map at least one property identifier to a value.")
        return model.coerce_set(body), False

    return await _command(told, SET_METHOD, ask)


@router.post(
    "/v1/devices/{product_key}/{device_name}/properties/read",
    status_code=202,
    operation_id="read_properties",
    response_model=CommandAccepted,
    responses={200: {"model": CommandView}},
)
async def read_properties(told: Instructed, body: list[str]) -> Any:
    """Ask a device for the present values of these properties. Not every SDK answers; the shadow knows what was reported last."""

    def ask(model: ThingModel) -> tuple[list[str], bool]:
        if not body:
            raise Refused(Reason.BAD_ENVELOPE, "The body must list at least one property identifier.")
        for identifier in body:
            if identifier not in model.properties:
                raise Refused(Reason.UNKNOWN_IDENTIFIER, f"{identifier[:64]}: no such property in the thing model")
        return body, False

    return await _command(told, GET_METHOD, ask)


@router.post(
    "/v1/devices/{product_key}/{device_name}/services/{identifier}",
    status_code=202,
    operation_id="call_service",
    response_model=CommandAccepted,
    responses={200: {"model": CommandView}},
)
async def call_service(
    told: Instructed,
    identifier: str,
    body: Annotated[dict[str, Any] | None, Field(description="The service's input, by identifier.")] = None,
) -> Any:
    """Call a service of a device; `body` is its input. Read the outcome at /v1/commands/{command_id}, or wait for it with `wait_s`.

    It is carried out at most once, and only the device's own reply completes it. While the device is away it waits until it expires.
    """

    def ask(model: ThingModel) -> tuple[Mapping[str, object], bool]:
        return model.coerce_input(identifier, body or {}), model.services[identifier].call_type == "sync"

    method = f"thing.service.{identifier}"
    return await _command(told, method, ask)


Ask = Callable[[ThingModel], tuple[object, bool]]
"""(params as the device gets them, whether it is asked for an answer at once); raises Refused."""


async def _command(told: Instruction, method: str, ask: Ask) -> Any:
    answer, command_id, order = await asyncio.to_thread(_prepare, told, method, ask)
    if order is not None:
        await _hand_over(told, order)
    if not told.wait_s or command_id is None:
        return answer
    return await _await_end(told.request, told.caller, command_id, told.wait_s)


async def _hand_over(told: Instruction, order: Order) -> None:
    """What certainly did not leave waits on, or fails where it must not wait: then the same request may be tried again."""
    downlink: Downlink = told.request.app.state.downlink

    def fails(work: UnitOfWork, command_id: str) -> None:
        fail_command(work, command_id)
        told.once.release(work)

    try:
        left = await downlink.deliver_command(order)
    except NobodyAnswers:
        if told.only_online:
            await _change(told, order, fails)
            raise
        left = False
    except TryAgain as error:
        # It may have left: the command stays `sent`, and the answer or the expiry decides.
        get_logger().warning("command.delivery_unknown", command_id=order.command_id, error=str(error))
        left = True
    if left:
        if told.only_online and told.once.given:
            await _change(told, order, lambda work, _: told.once.settle(work))
        return
    if told.only_online:
        await _change(told, order, fails)
        raise _offline(*order.target)
    await _change(told, order, stayed)


async def _await_end(request: Request, caller: Principal, command_id: str, wait_s: int) -> Any:
    until = time.monotonic() + wait_s
    while True:
        view = await asyncio.to_thread(get_command, request, caller, command_id)
        if CommandState(view.state).ended or time.monotonic() >= until:
            return JSONResponse(view.model_dump(mode="json"), 200 if CommandState(view.state).ended else 202)
        await asyncio.sleep(_LOOK_S)


def _prepare(told: Instruction, method: str, ask: Ask) -> tuple[Response, str | None, Order | None]:
    """The answer, the command on disk (None: it was made before), and what leaves now (None: nobody is there to take it)."""
    database: Database = told.request.app.state.database
    sessions: Sessions = told.request.app.state.sessions
    once, key = told.once, (told.product_key, told.device_name)
    product_key, device_name = key
    with database.unit_of_work(told.caller.tenant_id) as work:
        if (known := once.known(work)) is not None:
            return known, None, None
        device = find_device(work, product_key, device_name, lease_held=sessions.lease_held())
        product = find_product(work, product_key)
        if device is None or product is None:
            raise not_found(f"Device {product_key}/{device_name}")
        if not device.enabled:
            over = device.state == State.RETIRED
            advice = "its life is over: name another device" if over else "enable it before you ask anything of it"
            detail = f"Device {product_key}/{device_name} is {device.state}; {advice}."
            raise Problem(409, "device-disabled", detail)
        params, is_call = ask(product.thing_model)
        route, state = find_route(work, device, lease_held=sessions.lease_held()), CommandState.SENT
        if route is None:
            if told.only_online:
                raise _offline(product_key, device_name)
            route = find_route(work, device, lease_held=sessions.lease_held(), away=True) or Route(device.device_id, key)
            state = CommandState.QUEUED
        ttl_ms = 1000 * told.expires_in_s if told.expires_in_s is not None else CALL_TTL_MS if is_call else COMMAND_TTL_MS
        by = told.caller.key_name
        table = product.thing_model.raw_table
        command = create_command(work, route, method, params, ttl_ms=ttl_ms, state=state, is_call=is_call, requested_by=by, table=table)
        order = order_of(work, command, route) if state is CommandState.SENT else None
        accepted = CommandAccepted(command_id=command.command_id)
        answer = once.commit(work, accepted, 202, running=told.only_online and order is not None)
    return answer, command.command_id, order


async def _change(told: Instruction, order: Order, change: Callable[[UnitOfWork, str], None]) -> None:
    database: Database = told.request.app.state.database

    def apply() -> None:
        with database.unit_of_work(told.caller.tenant_id) as work:
            change(work, order.command_id)
            work.commit()

    await asyncio.to_thread(apply)


def _offline(product_key: str, device_name: str) -> Problem:
    advice = "send the request again once GET shows `online`, or without `only_online` to let it wait"
    detail = f"Device {product_key}/{device_name} is not connected; {advice}."
    return Problem(409, "device-offline", detail)


def _view(found: Command) -> CommandView:
    return CommandView(
        command_id=found.command_id,
        product_key=found.product_key,
        device_name=found.device_name,
        method=found.method,
        params=found.params,
        state=found.state,
        created=found.created_ms,
        sent=found.sent_ms,
        expires=found.expires_ms,
        finished=found.finished_ms,
        code=found.code,
        reply=found.reply,
        requested_by=found.requested_by,
    )


@router.get("/v1/commands/{command_id}", operation_id="get_command")
def get_command(request: Request, caller: Caller, command_id: str) -> CommandView:
    """What became of a command."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = find_command(work, command_id)
    if found is None:
        raise not_found(f"Command {command_id}")
    return _view(found)


@router.get("/v1/devices/{product_key}/{device_name}/commands", operation_id="list_commands")
def list_commands(
    request: Request, caller: Caller, product_key: str, device_name: str, limit: Limit = 100, cursor: Cursor = None
) -> CommandPage:
    """What was asked of a device, newest first."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        device = find_device(work, product_key, device_name, lease_held=False)
        if device is None:
            raise not_found(f"Device {product_key}/{device_name}")
        found = commands_of(work, device.device_id, read_cursor(cursor), limit + 1)
    return CommandPage(items=[_view(one) for one in found[:limit]], next=next_page(found, limit, lambda one: int(one.command_id)))
