"""What ends a sub-device's session at the door, with which code, and how many a gateway may have."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cloud.access.server import Connection
from cloud.devices.model import Credentials, Identity, SubDevice
from protocols.alink.topology import MOST_ONLINE, sign_identity
from protocols.errors import TryAgain
from protocols.mqtt.codec import PublishRun, encode, encode_publish
from tests.unit.cloud.access.test_server import CONNECT, Rig, Transport, credentials, read, rig

__all__ = ["rig"]  # the fixture

LOGIN = "/ext/session/pk/dn/combine/login"
SECRET = "secret"


def sub(name: str) -> SubDevice:
    gateway = credentials()
    known = replace(gateway, device_id=1_000, device_name=name, secret=SECRET.encode())
    return SubDevice(known, gateway.device_id)


async def logged_in(rig: Rig, *names: str) -> tuple[Connection, Transport]:
    """A gateway with these logged in."""
    connection, transport = rig.connection()
    connection.data_received(encode(CONNECT))
    rig.door.decided(connection, CONNECT, credentials())
    for name in names:
        params = sign_identity("pk", name, SECRET, f"pk.{name}", "1")
        connection.data_received(encode_publish(LOGIN, json.dumps({"id": "1", "params": params}).encode()))
        await run(rig, {("pk", name): sub(name)})
    return connection, transport


async def run(rig: Rig, known: dict[tuple[str, str], SubDevice], confirm: Callable[[Sequence[int]], None] | None = None) -> None:
    """Let what was asked be answered."""
    task = asyncio.create_task(rig.door.subs.run(lambda _keys: known, confirm))
    await asyncio.sleep(0.05)
    task.cancel()


def messages(transport: Transport) -> list[tuple[str, Any]]:
    """What was sent since the last call."""
    runs = [packet for packet in read(transport) if isinstance(packet, PublishRun)]
    transport.sent.clear()
    return [(run.topic, json.loads(payload)) for run in runs for payload in run.payloads()]


@pytest.mark.parametrize(
    ("known", "code"),
    [
        (None, 521),
        (replace(sub("s1"), credentials=replace(sub("s1").credentials, enabled=False)), 522),
        (replace(sub("s1"), gateway_id=0), 6401),
        (replace(sub("s1"), credentials=replace(sub("s1").credentials, secret=b"rotated")), 520),
        (sub("s1"), None),
    ],
)
async def test_what_became_of_a_sub_device_ends_its_session_with_a_code(rig: Rig, known: SubDevice | None, code: int | None) -> None:
    _, transport = await logged_in(rig, "s1")
    assert [answer["code"] for _, answer in messages(transport)] == [200]
    rig.door.subs.recheck(("pk", "s1"), known)
    told = [(topic, answer["code"], answer["data"]["deviceName"]) for topic, answer in messages(transport)]
    assert told == ([] if code is None else [("/ext/error/pk/dn", code, "s1")])
    assert (("pk", "s1") in rig.door.subs.carriers) is (code is None)


async def test_a_gateway_has_at_most_so_many_sub_devices(rig: Rig) -> None:
    connection, transport = await logged_in(rig, "s1")
    messages(transport)
    assert connection.carried is not None
    held: Credentials = connection.carried.sessions["pk", "s1"].credentials
    for n in range(MOST_ONLINE - 1):
        connection.carried.sessions["pk", f"more{n}"] = replace(connection.carried.sessions["pk", "s1"], credentials=held)
    params = sign_identity("pk", "s2", SECRET, "pk.s2", "1")
    connection.data_received(encode_publish(LOGIN, json.dumps({"id": "1", "params": params}).encode()))
    await run(rig, {("pk", "s2"): sub("s2")})
    assert [answer["code"] for _, answer in messages(transport)] == [428]


def registered(name: str) -> SubDevice:
    known = sub(name)
    return replace(known, credentials=replace(known.credentials, identity=Identity(unconfirmed=True)))


async def test_a_sub_device_that_logs_in_with_what_registration_gave_it_has_used_it(rig: Rig) -> None:
    connection, transport = await logged_in(rig)
    told: list[Sequence[int]] = []
    for secret in ("guessed", SECRET):
        params = sign_identity("pk", "s1", secret, "pk.s1", "1")
        connection.data_received(encode_publish(LOGIN, json.dumps({"id": "1", "params": params}).encode()))
        await run(rig, {("pk", "s1"): registered("s1")}, told.append)
    assert [answer["code"] for _, answer in messages(transport)] == [6287, 200]
    assert told == [[1_000]], "whoever guesses uses nothing up"


async def test_a_sub_device_is_not_let_in_before_it_is_written_that_it_used_its_registration(rig: Rig) -> None:
    connection, transport = await logged_in(rig)

    def away(_ids: Sequence[int]) -> None:
        raise TryAgain("the database is away")

    params = sign_identity("pk", "s1", SECRET, "pk.s1", "1")
    connection.data_received(encode_publish(LOGIN, json.dumps({"id": "1", "params": params}).encode()))
    await run(rig, {("pk", "s1"): registered("s1")}, away)
    ((_, answer),) = messages(transport)
    assert answer["code"] == 400
    assert "try again" in answer["message"]
    assert rig.door.subs.carriers == {}
