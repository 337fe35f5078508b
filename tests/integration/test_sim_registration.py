"""A simulated device that registers, against a peer that pushes what it is told to."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest

from firmware_sim.conduct import Shadow
from firmware_sim.devices import DeviceSpec
from firmware_sim.home import HomeOptions, live
from firmware_sim.wire.enrolment import FILE, Enrolment
from protocols.alink.registration import Grant, check_claim, claim_of_connect
from protocols.errors import Refused
from protocols.mqtt.packets import ConnectCode
from protocols.mqtt.session import ConnectRequested, ServerSession

KEY = ("pk", "dn")
PRODUCT_SECRET = "p" * 32


class Registrar:
    """Checks each claim and pushes `grant`, or another device's first."""

    def __init__(self, grant: Grant) -> None:
        self.grant, self.claims, self.port = grant, 0, 0
        self.first: Grant | None = None

    async def run(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = ServerSession(0.0)
        while data := await reader.read(4096):
            for event in session.receive(data, 0.0):
                if isinstance(event, ConnectRequested):
                    connect = event.connect
                    claim = claim_of_connect(connect.client_id, connect.username, connect.password)
                    if claim is None:
                        session.refuse(ConnectCode.BAD_CREDENTIALS)
                        continue
                    check_claim(claim, PRODUCT_SECRET.encode())
                    self.claims += 1
                    session.accept()
                    for grant in filter(None, (self.first, self.grant)):
                        session.deliver(grant.topic, grant.to_bytes())
            writer.write(session.take_output())
            if session.should_close:
                break
        writer.close()


@pytest.fixture
async def registrar() -> AsyncIterator[Registrar]:
    found = Registrar(Grant(*KEY, "s" * 32))
    server = await found.run()
    yield found
    server.close()


def enrolment(registrar: Registrar, folder: Path, *, token: bool = False) -> Enrolment:
    return Enrolment(KEY, PRODUCT_SECRET, "127.0.0.1", registrar.port, folder, token=token)


async def test_what_a_device_is_given_is_kept_and_asked_for_once(registrar: Registrar, tmp_path: Path) -> None:
    registrar.first = Grant("pk", "another", "x" * 32)
    fields = await enrolment(registrar, tmp_path)()
    assert fields.username == "dn&pk"
    assert (tmp_path / FILE).read_bytes() == registrar.grant.to_bytes()
    assert (await enrolment(registrar, tmp_path)()).username == "dn&pk"
    assert registrar.claims == 1


async def test_a_device_that_asks_for_a_token_connects_with_it(registrar: Registrar, tmp_path: Path) -> None:
    registrar.grant = Grant(*KEY, client_id="c-1", device_token="t" * 32)
    for _ in range(2):
        fields = await enrolment(registrar, tmp_path, token=True)()
        assert (fields.client_id.partition("|")[0], fields.password) == ("c-1", b"t" * 32)
    assert registrar.claims == 1


async def test_a_server_that_is_away_is_told_as_a_lost_connection(registrar: Registrar, tmp_path: Path) -> None:
    registrar.port = 1
    with pytest.raises(aiomqtt.MqttError):
        await enrolment(registrar, tmp_path)()
    assert not (tmp_path / FILE).exists()


def test_a_file_that_is_damaged_is_named_with_what_to_do(registrar: Registrar, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(Refused, match="remove it, and the device registers again"):
        enrolment(registrar, tmp_path)


async def test_a_device_without_any_secret_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    spec = DeviceSpec(*KEY, kind="range_hood", product_secret=PRODUCT_SECRET)
    options = HomeOptions("127.0.0.1", 1, (spec,), tmp_path, shadow=Shadow.OFF)
    with pytest.raises(Refused, match="dn needs a device_secret, or a product_secret and --state-dir"):
        await live(options, asyncio.Event())
