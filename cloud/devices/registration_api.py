"""Routes for devices themselves: registration by form, and where to connect to (alink.md par. 2.2). They need no key: a form proves itself.

The answer's status is 200 whatever became of it, its `code` says what: device SDKs read no other.
"""

import asyncio
import time
from typing import Final
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response

from cloud.devices.registration import register
from cloud.foundation.db import Database
from cloud.foundation.logs import get_logger
from cloud.foundation.metrics import Metrics
from cloud.foundation.vault import Vault
from protocols.alink.codes import Code
from protocols.alink.registration import MOST_FIELD, Claim, Grant, RegistrationRefused, bootstrap_answer, claim_of_form, refusal
from protocols.errors import Reason, TryAgain
from protocols.mqtt.throttle import Throttle

router = APIRouter(tags=["for devices"])

MOST_FORM: Final = 4_096
"""Bytes of a form; a longer one is refused unread."""
MOST_WAITING: Final = 200
"""Slowed answers at once; beyond them who has failed often is told to come again later at once (code 429)."""
AT_ONCE: Final = 4
"""Forms that are looked at: the API's own requests need the database too."""
MOST_IN_LINE: Final = 500
"""Forms that wait for that; a further one is answered 429."""


class Doorkeeper:
    """Answers whose address has failed often are slow, as at the MQTT door; a right form is never slowed."""

    def __init__(self) -> None:
        self._throttle = Throttle()
        self._waiting = self._in_line = 0
        self._room = asyncio.Semaphore(AT_ONCE)

    async def register(self, database: Database, vault: Vault, claim: Claim) -> Grant:
        """In its turn. Raises RegistrationRefused (429 when the line is full), DatabaseAway."""
        if self._in_line >= MOST_IN_LINE:
            message = f"{MOST_IN_LINE} devices wait to be registered: the device comes again by itself"
            raise RegistrationRefused(Code.TOO_MANY_REQUESTS, Reason.QUOTA_EXCEEDED, message)
        self._in_line += 1
        try:
            async with self._room:
                return await asyncio.to_thread(register, database, vault, claim)
        finally:
            self._in_line -= 1

    async def refused(self, address: str, code: Code) -> Code:
        """A form from there was refused; wait as long as that costs. The code to answer with."""
        delay_s = self._throttle.failed(address, time.monotonic())
        if not delay_s:
            return code
        if self._waiting >= MOST_WAITING:
            return Code.TOO_MANY_REQUESTS
        self._waiting += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._waiting -= 1
        return code


def _fields(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), max_num_fields=32))
    except ValueError:  # not UTF-8, or too many fields
        return {}


async def _form(request: Request) -> dict[str, str]:
    body = await request.body()
    return _fields(body) if len(body) <= MOST_FORM else {}


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


@router.post("/auth/register/device", operation_id="register_device")
async def register_device(request: Request) -> Response:
    """A device is given its secret for a proof of its product's: a form of productKey, deviceName, random, sign and signMethod."""
    database: Database = request.app.state.database
    vault: Vault = request.app.state.vault
    metrics: Metrics = request.app.state.metrics
    keeper: Doorkeeper = request.app.state.doorkeeper
    address = request.client.host if request.client else ""
    fields = await _form(request)

    def count(code: Code) -> None:
        metrics.counter("hearthline_registrations", "Forms of devices that register, by code.", ["code"]).labels(int(code)).inc()

    try:
        grant = await keeper.register(database, vault, claim_of_form(fields))
    except RegistrationRefused as refused:
        who = {name: fields.get(name, "")[:MOST_FIELD] for name in ("productKey", "deviceName")}
        count(refused.code)
        get_logger().warning("registration.refused", code=int(refused.code), detail=str(refused), address=address, **who)
        return _json(refusal(await keeper.refused(address, refused.code)))
    except TryAgain as error:
        count(Code.SERVER_ERROR)
        get_logger().warning("registration.unavailable", error=str(error))
        return _json(refusal(Code.SERVER_ERROR))
    count(Code.DONE)
    get_logger().info("registration.granted", product_key=grant.product_key, device_name=grant.device_name, address=address)
    return _json(grant.answer())


@router.post("/auth/bootstrap", operation_id="bootstrap_device")
async def bootstrap(request: Request) -> Response:
    """Where devices connect to, the same for all: a form of productKey and deviceName."""
    host, port = request.app.state.device_address
    fields = await _form(request)
    if not fields.get("productKey") or not fields.get("deviceName"):
        return _json(refusal(Code.BAD_PARAMS))
    return _json(bootstrap_answer(host, port))
