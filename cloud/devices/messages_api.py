"""Routes of messages that no thing model describes: broadcasts to a product, and messages on custom topics."""

import asyncio
import base64
import binascii
import secrets
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from cloud.devices.ports import Downlink
from cloud.devices.registry import find_device
from cloud.foundation.audit import record
from cloud.foundation.db import Database
from cloud.foundation.problems import not_found
from cloud.products.service import own_product
from cloud.tenancy.api import Caller
from protocols.alink.topics import Kind, Topic
from protocols.errors import Reason, Refused

router = APIRouter(tags=["messages"])

MOST_BYTES: Final = 256 * 1024
TopicTail = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^+#?\x00/][^+#?\x00]*$")]


class Payload(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Annotated[str | None, Field(description="The payload as UTF-8 text; or `base64`.")] = None
    base64: Annotated[str | None, Field(description="The payload as bytes in base64.")] = None
    qos: Literal[0, 1] = 0

    def to_bytes(self) -> bytes:
        """Raises Refused: BAD_ENVELOPE (neither, both, no base64), TOO_MANY (bytes)."""
        if (self.text is None) == (self.base64 is None):
            raise Refused(Reason.BAD_ENVELOPE, "give the payload either as `text` or as `base64`")
        try:
            data = self.text.encode() if self.text is not None else base64.b64decode(self.base64 or "", validate=True)
        except (binascii.Error, UnicodeEncodeError) as error:
            raise Refused(Reason.BAD_ENVELOPE, f"payload: {error}") from error
        if len(data) > MOST_BYTES:
            raise Refused(Reason.TOO_MANY, f"payload: {len(data)} bytes, at most {MOST_BYTES} allowed")
        return data


class BroadcastMessage(Payload):
    topic: Annotated[
        TopicTail | None,
        Field(description="To those that subscribed /broadcast/{product_key}/{topic} only; without it to all, subscribed or not."),
    ] = None


class CustomMessage(Payload):
    topic: Annotated[TopicTail, Field(description="What stands behind /{product_key}/{device_name}/user/.")]


class ReachedView(BaseModel):
    reached: Annotated[int, Field(description="How many connected devices took it.")]


class DeliveredView(BaseModel):
    delivered: Annotated[bool, Field(description="Whether the device's session took it; nothing waits for a device that is away.")]


@router.post("/v1/products/{product_key}/broadcast", operation_id="broadcast")
async def broadcast(request: Request, caller: Caller, product_key: str, body: BroadcastMessage) -> ReachedView:
    """Send a message to all connected devices of a product, at once and at most once; also to those behind gateways that speak Alink."""
    database: Database = request.app.state.database
    downlink: Downlink = request.app.state.downlink
    payload = body.to_bytes()

    def check() -> None:
        with database.unit_of_work(caller.tenant_id) as work:
            own_product(work, product_key)
            record(work.session, caller.tenant_id, caller.key_name, "broadcast", product_key, {"topic": body.topic, "bytes": len(payload)})
            work.commit()

    await asyncio.to_thread(check)
    if body.topic is None:
        call = str(secrets.randbelow(1 << 32))
        return ReachedView(reached=await downlink.tell_all(product_key, Kind.BROADCAST_REQUEST, payload, body.qos, call=call))
    topic = str(Topic(Kind.BROADCAST, product_key, "", body.topic))
    return ReachedView(reached=await downlink.tell_subscribers(product_key, topic, payload, body.qos))


@router.post("/v1/devices/{product_key}/{device_name}/messages", operation_id="send_message")
async def send(request: Request, caller: Caller, product_key: str, device_name: str, body: CustomMessage) -> DeliveredView:
    """Send a message to a connected device on a topic of its maker's own: /{product_key}/{device_name}/user/{topic}."""
    database: Database = request.app.state.database
    downlink: Downlink = request.app.state.downlink
    payload = body.to_bytes()

    def check() -> None:
        with database.reading(caller.tenant_id) as work:
            if find_device(work, product_key, device_name, lease_held=False) is None:
                raise not_found(f"Device {product_key}/{device_name}")

    await asyncio.to_thread(check)
    topic = str(Topic(Kind.CUSTOM, product_key, device_name, body.topic))
    return DeliveredView(delivered=await downlink.deliver_message((product_key, device_name), topic, payload, body.qos))
