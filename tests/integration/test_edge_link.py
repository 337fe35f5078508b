"""The uplink against a real MQTT 5 server of a few lines: reason codes, downlink, refusal, and a link that has gone silent."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloud.foundation.authority import Authority
from edge_agent.northbound.link import MqttUplink
from edge_agent.ports import LinkDown
from protocols.alink.credentials import verify
from protocols.edgelink.lanes import Lane
from protocols.edgelink.messages import Command, Committed, ExchangeReply, encode_message
from protocols.edgelink.topics import EdgeChannel
from protocols.mqtt.packets import ConnectCode
from protocols.mqtt.run import PublishRun
from protocols.mqtt.session import ConnectRequested, Event, Published, ServerSession

ID = "0" * 32


class Cloud(asyncio.Protocol):
    """One connection of a cloud that does as told."""

    def __init__(self, secret: str, reason: Callable[[PublishRun], int], current: "list[Cloud]") -> None:
        self.secret, self.reason, self.current = secret, reason, current
        self.session = ServerSession(time.monotonic())
        self.deaf = False
        self.runs: list[PublishRun] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.current.append(self)

    def data_received(self, data: bytes) -> None:
        if not self.deaf:
            self.handle(self.session.receive(data, time.monotonic()))

    def handle(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case ConnectRequested(connect):
                    if verify(connect.client_id, connect.username, connect.password, self.secret):
                        assert (connect.version, connect.username) == (5, "gw1&gateway")
                        self.handle(self.session.accept())
                    else:
                        self.session.refuse(ConnectCode.BAD_CREDENTIALS)
                case Published(run):
                    self.runs.append(run)
                    self.session.acknowledge(run.acks(self.reason(run), 5))
        self.flush()

    def say(self, topic: str, payload: bytes) -> None:
        self.session.deliver(topic, payload, 1)
        self.flush()

    def flush(self) -> None:
        if output := self.session.take_output():
            self.transport.write(output)
        if self.session.should_close:
            self.transport.close()


@asynccontextmanager
async def cloud(secret: str = "s", reason: Callable[[PublishRun], int] = lambda run: 0) -> AsyncIterator[tuple[int, list[Cloud]]]:
    current: list[Cloud] = []
    server = await asyncio.get_running_loop().create_server(lambda: Cloud(secret, reason, current), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], current
    finally:
        server.close()
        for connection in current:
            connection.transport.abort()


def uplink(port: int, *, keepalive_s: int = 30) -> MqttUplink:
    return MqttUplink("127.0.0.1", port, "gateway", "gw1", "s", keepalive_s=keepalive_s, window=16)


async def test_the_puback_brings_its_reason_code() -> None:
    async with cloud(reason=lambda run: 0x99 if b"bad" in run.data else 0) as (port, current), uplink(port).connect() as session:
        outcomes = await asyncio.gather(*(session.publish(EdgeChannel.UP_LIVE, text) for text in (b"good", b"bad", b"good")))
        assert outcomes == [0, 0x99, 0]
        assert {run.topic for run in current[0].runs} == {"/edge/gateway/gw1/up/live"}


async def test_a_window_of_frames_is_under_way_at_once() -> None:
    async with cloud() as (port, _), uplink(port).connect() as session:
        assert await asyncio.gather(*(session.publish(EdgeChannel.UP_BULK, b"x" * 200_000) for _ in range(32))) == [0] * 32


async def test_what_the_cloud_says_arrives_typed_and_rubbish_is_left_out() -> None:
    async with cloud() as (port, current), uplink(port).connect() as session:
        command = Command("c", "pk", "dn", "thing.service.property.set", {"Fan": 1}, 5)
        current[0].say("/edge/gateway/gw1/down/committed", b"rubbish")
        current[0].say("/edge/gateway/gw1/down/manifest", b"{}")
        current[0].say("/edge/gateway/gw1/down/committed", encode_message(Committed(ID, {Lane.LIVE: 4})))
        current[0].say("/edge/gateway/gw1/down/exchange", encode_message(ExchangeReply(ID, {})))
        current[0].say("/edge/gateway/gw1/down/command", encode_message(command))
        messages = session.messages()
        assert [await anext(messages) for _ in range(3)] == [Committed(ID, {Lane.LIVE: 4}), ExchangeReply(ID, {}), command]


async def test_wrong_credentials_are_a_link_that_is_down_and_say_what_to_check() -> None:
    async with cloud(secret="other") as (port, _):
        with pytest.raises(LinkDown, match=r"check gateway\.device_name and gateway\.secret_file"):
            async with uplink(port).connect():
                pass


async def test_nobody_there_is_a_link_that_is_down() -> None:
    async with cloud() as (port, _):
        pass
    with pytest.raises(LinkDown):
        async with uplink(port).connect():
            pass


async def listen(up: MqttUplink, connected: asyncio.Event) -> None:
    async with up.connect() as session:
        connected.set()
        async for _ in session.messages():
            pass


async def test_a_connection_that_ends_before_it_is_accepted_is_given_up_at_once() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        link = MqttUplink("127.0.0.1", port, "gateway", "gw1", "secret", keepalive_s=30, window=4)
        async with asyncio.timeout(5):
            with pytest.raises(LinkDown, match="before it was accepted"):
                async with link.connect():
                    raise AssertionError("never")


async def test_a_broken_connection_ends_the_listening() -> None:
    async with cloud() as (port, current):
        connected = asyncio.Event()
        task = asyncio.create_task(listen(uplink(port), connected))
        await connected.wait()
        current[0].transport.abort()
        with pytest.raises(LinkDown):
            await asyncio.wait_for(task, 5)


async def test_a_link_that_has_gone_silent_is_noticed_by_its_keepalive() -> None:
    async with cloud() as (port, current):
        connected = asyncio.Event()
        task = asyncio.create_task(listen(uplink(port, keepalive_s=4), connected))
        await connected.wait()
        current[0].deaf = True
        start = time.monotonic()
        with pytest.raises(LinkDown):
            await asyncio.wait_for(task, 15)
        assert time.monotonic() - start <= 1.5 * 4 + 3  # paho looks once a second, and twice


# --- TLS


@asynccontextmanager
async def tls_cloud(context: ssl.SSLContext) -> AsyncIterator[int]:
    current: list[Cloud] = []
    server = await asyncio.get_running_loop().create_server(lambda: Cloud("s", lambda run: 0, current), "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in current:
            connection.transport.abort()


def over_tls(port: int, ca_file: Path | None, host: str = "127.0.0.1") -> MqttUplink:
    return MqttUplink(host, port, "gateway", "gw1", "s", keepalive_s=30, window=16, tls=True, ca_file=ca_file)


async def refused_because(up: MqttUplink) -> str:
    with pytest.raises(LinkDown) as caught:
        async with asyncio.timeout(15), up.connect():
            pass
    return str(caught.value)


async def test_the_uplink_trusts_the_platform_s_own_ca_and_nobody_else(tmp_path: Path) -> None:
    ours, strange = Authority(tmp_path / "ours"), Authority(tmp_path / "strange")
    for authority in (ours, strange):
        authority.ensure_server(("127.0.0.1",), 90)
    async with tls_cloud(ours.context()) as port:
        async with over_tls(port, ours.ca_file).connect() as session:
            assert await session.publish(EdgeChannel.UP_LIVE, b"x") == 0
        assert "hearthline ca export" in await refused_because(over_tls(port, strange.ca_file)), "it says what to check"
        assert "CERTIFICATE_VERIFY_FAILED" in await refused_because(over_tls(port, strange.ca_file))
        assert "CERTIFICATE_VERIFY_FAILED" in await refused_because(over_tls(port, None))
        assert "CERTIFICATE_VERIFY_FAILED" in await refused_because(over_tls(port, ours.ca_file, "localhost")), "another name"
    ours.ensure_server(("127.0.0.1",), 1, datetime.now(UTC) - timedelta(days=30))
    (tmp_path / "ours" / "server.pem").unlink()
    ours.ensure_server(("127.0.0.1",), 1, datetime.now(UTC) - timedelta(days=30))
    async with tls_cloud(ours.context()) as port:
        assert "expired" in await refused_because(over_tls(port, ours.ca_file))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # which is the point
async def test_old_tls_is_refused_by_the_uplink(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.ensure_server(("127.0.0.1",), 90)
    context = authority.context()
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with tls_cloud(context) as port:
        assert await refused_because(over_tls(port, authority.ca_file))


async def test_a_captive_portal_gets_no_credentials_and_no_frames(tmp_path: Path) -> None:
    """The hotel's web server answers on the cloud's port: plain HTTP, whatever it is asked."""
    heard: list[bytes] = []

    async def portal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(4_096))
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/login\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(portal, "127.0.0.1", 0)
    async with server:
        problem = await refused_because(over_tls(server.sockets[0].getsockname()[1], Authority(tmp_path).ca_file))
    assert "SSL" in problem or "WRONG_VERSION" in problem
    assert "speaks no TLS" in problem
    assert heard
    assert not any(b"gw1" in data for data in heard)


async def test_a_name_that_does_not_resolve_is_a_link_that_is_down() -> None:
    assert "no-such-host.invalid" in await refused_because(
        MqttUplink("no-such-host.invalid", 1883, "gateway", "gw1", "s", keepalive_s=30, window=1)
    )
