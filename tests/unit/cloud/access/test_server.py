"""One connection of the front door without a socket: bounds, order, takeover, wills. Time is passed in."""

import asyncio
import gc
from dataclasses import dataclass, field
from typing import Any

import pytest

from cloud.access.admission import Denied
from cloud.access.door import FrontDoor
from cloud.access.group import GroupCommit
from cloud.access.model import Downlink, Kind, UplinkBatch
from cloud.access.server import IN_FLIGHT_BYTES, IN_FLIGHT_MESSAGES, WAITING_BYTES, Connection
from cloud.access.worker import DoorMetrics
from cloud.devices.model import Credentials
from cloud.foundation.metrics import Metrics
from protocols.errors import Reason
from protocols.mqtt.codec import (
    ConnAck,
    Connect,
    ConnectCode,
    Decoder,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PublishRun,
    Will,
    encode,
    encode_publish,
)
from protocols.mqtt.lobby import Bounds
from tests.unit.cloud.access.test_group import FakeStream, until

CONNECT = Connect("id", "u&pk", b"p")
WRONG = Denied(ConnectCode.BAD_CREDENTIALS, Reason.BAD_CREDENTIALS, "wrong secret")
POST = "/sys/pk/dn/thing/event/property/post"


class Transport(asyncio.Transport):
    """Writes down what is sent; remembers whether the socket is read."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 5)})
        self.sent = bytearray()
        self.reading = True
        self.closed = False
        self.unsent = 0

    def write(self, data: Any) -> None:
        self.sent += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


@dataclass
class Rig:
    bounds: Bounds = field(default_factory=Bounds)
    stream: FakeStream = field(default_factory=FakeStream)
    asked: list[Connect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.commit = GroupCommit(self.stream, last_sequence=0, instance="me")
        self.door = FrontDoor(self.commit, self.bounds)
        self.door.ask = lambda _connection, connect, _suspect: self.asked.append(connect)
        self.task = asyncio.create_task(self.commit.run())

    def connection(self) -> tuple[Connection, Transport]:
        connection, transport = Connection(self.door), Transport()
        connection.connection_made(transport)
        return connection, transport

    def open(self, name: str = "dn", *, version: int = 4, will: Will | None = None, behind: bytes = b"") -> tuple[Connection, Transport]:
        connection, transport = self.connection()
        connection.data_received(encode(Connect("id", "u", b"p", will=will, version=version), version) + behind)
        self.door.decided(connection, CONNECT, credentials(name))
        return connection, transport

    def rows(self) -> list[tuple[Kind, str, list[bytes]]]:
        return [
            (row.kind, row.session.device_name, row.payloads() if row.kind is Kind.PUBLISH else [row.note().reason.encode()])
            for _, data in self.stream.stored
            for row in UplinkBatch.from_bytes(data)
        ]


@pytest.fixture
async def rig() -> Any:
    rig = Rig()
    yield rig
    rig.task.cancel()
    await asyncio.gather(rig.task, return_exceptions=True)


def alive() -> int:
    return sum(type(one) is Connection for one in gc.get_objects())


async def test_a_connection_that_has_ended_is_freed_without_the_garbage_collector(rig: Rig) -> None:
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for ending in (b"", encode(PingReq()), b"\xff\xff", encode(Disconnect()), encode_publish("/sys/other/dn/x", b"")):
            connection, transport = rig.open(behind=ending)
            assert alive() == before + 1, "those of before are gone, and this one is seen"
            connection.connection_lost(None)
            stranger, unknown = rig.connection()
            stranger.data_received(b"GET / HTTP/1.1\r\n\r\n" if ending else b"")
            stranger.connection_lost(None)
            del stranger, unknown
        del connection, transport
        await asyncio.sleep(0.05)
        assert alive() == before
    finally:
        gc.enable()


def credentials(name: str = "dn", *, secret: bytes = b"s", enabled: bool = True) -> Credentials:
    return Credentials(
        tenant_id=1, device_id=2, product_key="pk", device_name=name, site_id=None, is_gateway=False, enabled=enabled, secret=secret
    )


def read(transport: Transport, version: int = 4) -> list[Packet | PublishRun]:
    return Decoder(version, server_side=False).feed(bytes(transport.sent))


async def test_a_connection_waits_for_admission_unread(rig: Rig) -> None:
    connection, transport = rig.connection()
    connection.data_received(encode(Connect("id", "u", b"p")))
    assert (len(rig.asked), transport.reading, bytes(transport.sent)) == (1, False, b"")
    rig.door.decided(connection, CONNECT, credentials())
    assert (transport.reading, read(transport)) == (True, [ConnAck()])


async def test_a_refused_connection_is_closed_and_counted(rig: Rig) -> None:
    connection, transport = rig.connection()
    connection.data_received(encode(Connect("id", "u", b"p")))
    rig.door.decided(connection, CONNECT, WRONG)
    assert read(transport) == [ConnAck(reason=4)]
    assert transport.closed
    assert rig.door.refusals.totals == {"bad_credentials": 1}


async def test_a_verdict_for_a_connection_that_went_away_changes_nothing(rig: Rig) -> None:
    connection, _ = rig.connection()
    connection.data_received(encode(Connect("id", "u", b"p")))
    connection.connection_lost(None)
    rig.door.decided(connection, CONNECT, credentials())
    assert rig.door.sessions == {}
    assert rig.door.connections == set()


async def test_what_came_behind_connect_is_not_lost(rig: Rig) -> None:
    _, transport = rig.open(behind=encode_publish(POST, b"early", 1, 9))
    await until(lambda: len(read(transport)) == 2)
    assert read(transport) == [ConnAck(), PubAck(9)]
    assert [payloads for kind, _, payloads in rig.rows() if kind is Kind.PUBLISH] == [[b"early"]]


async def test_all_sockets_together_are_read_no_further_than_64_mib_and_one_read_each(rig: Rig) -> None:
    rig.stream.open.clear()
    size, opened = 250_000, list[Transport]()
    while rig.commit.waiting_bytes < WAITING_BYTES:
        connection, transport = rig.open(f"d{len(opened)}")
        opened.append(transport)
        for n in range(2):  # far below what one connection may have in flight
            connection.data_received(encode_publish(POST.replace("dn", f"d{len(opened) - 1}"), bytes(size), 1, n + 1))
    assert rig.commit.waiting_bytes < WAITING_BYTES + 2 * size
    late, quiet = rig.open("late"), rig.open("quiet")
    late[0].data_received(encode_publish(POST.replace("dn", "late"), b"x", 1, 1))
    assert not late[1].reading
    assert quiet[1].reading, "who has sent nothing is heard"
    rig.stream.open.set()
    await until(lambda: late[1].reading and rig.commit.waiting_bytes == 0)


@pytest.mark.parametrize(("count", "size"), [(IN_FLIGHT_MESSAGES, 1), (IN_FLIGHT_BYTES // 50_000 + 1, 50_000)])
async def test_a_socket_is_not_read_beyond_its_bound_and_read_again_when_things_are_on_disk(rig: Rig, count: int, size: int) -> None:
    rig.stream.open.clear()
    connection, transport = rig.open()
    for n in range(count):
        assert transport.reading
        connection.data_received(encode_publish(POST, bytes(size), 1, n + 1))
    assert not transport.reading
    connection.tick(1e9)
    assert not transport.closed  # silence while we do not read is not the client's
    rig.stream.open.set()
    await until(lambda: transport.reading)
    await until(lambda: len(read(transport)) == count + 1)
    assert (connection.messages, connection.bytes, rig.commit.waiting_bytes) == (0, 0, 0)


async def test_pings_are_answered_while_commits_stall(rig: Rig) -> None:
    rig.stream.open.clear()
    connection, transport = rig.open()
    connection.data_received(encode_publish(POST, b"x", 1, 1) + encode(PingReq()))
    await asyncio.sleep(0)
    assert read(transport) == [ConnAck(), PingResp()]


async def test_the_newest_connection_wins_and_the_order_of_presence_shows_it(rig: Rig) -> None:
    first, old = rig.open(version=5)
    second, new = rig.open()
    assert read(old, 5)[-1] == Disconnect(0x8E)
    assert (old.closed, new.closed) == (True, False)
    first.connection_lost(None)
    assert rig.door.sessions == {("pk", "dn"): second}
    await until(lambda: len(rig.rows()) == 3)
    assert [kind for kind, _, _ in rig.rows()] == [Kind.OPENED, Kind.CLOSED, Kind.OPENED]


async def test_a_will_is_published_before_the_session_is_noted_as_closed(rig: Rig) -> None:
    connection, _ = rig.open(will=Will("/pk/dn/user/gone", b"bye"))
    connection.connection_lost(None)
    await until(lambda: len(rig.rows()) == 3)
    assert rig.rows()[1:] == [(Kind.PUBLISH, "dn", [b"bye"]), (Kind.CLOSED, "dn", [b"lost"])]


async def test_a_foreign_will_is_dropped_and_counted(rig: Rig) -> None:
    connection, _ = rig.open(will=Will("/pk/other/user/gone", b"bye"))
    connection.connection_lost(None)
    await until(lambda: len(rig.rows()) == 2)
    assert rig.door.refusals.totals == {"foreign_topic": 1}


async def test_a_farewell_drops_the_will(rig: Rig) -> None:
    connection, transport = rig.open(will=Will("/pk/dn/user/gone", b"bye"))
    connection.data_received(encode(Disconnect()))
    assert transport.closed
    await until(lambda: len(rig.rows()) == 2)
    assert rig.rows()[1] == (Kind.CLOSED, "dn", [b"disconnected"])


async def test_nothing_behind_a_refused_publish_of_an_old_client_is_taken_but_its_will(rig: Rig) -> None:
    connection, transport = rig.open(will=Will("/pk/dn/user/gone", b"bye"))
    foreign = encode_publish("/sys/pk/other/thing/event/property/post", b"theirs", 1, 2)
    connection.data_received(encode_publish(POST, b"first", 1, 1) + foreign + encode_publish(POST, b"behind", 1, 3))
    assert transport.closed
    await until(lambda: len(rig.rows()) == 4)
    published = (Kind.PUBLISH, "dn")
    assert rig.rows()[1:] == [(*published, [b"first"]), (*published, [b"bye"]), (Kind.CLOSED, "dn", [b"refused"])]
    assert rig.door.refusals.totals == {"foreign_topic": 1}


async def test_the_door_counts_what_it_does(rig: Rig) -> None:
    metrics = Metrics()
    metrics.registry.register(DoorMetrics(rig.door))
    connection, transport = rig.open(version=5)
    connection.data_received(encode_publish(POST, b"x", 1, 1, version=5) + encode_publish("/theirs", b"y", 1, 2, version=5))
    await until(lambda: len(read(transport, 5)) == 3)
    text = metrics.render().decode()
    for line in (
        "hearthline_access_sessions 1.0",
        "hearthline_access_accepted_total 1.0",
        "hearthline_access_waiting_bytes 0.0",
        'hearthline_access_refused_total{reason="foreign_topic"} 1.0',
    ):
        assert line in text


async def test_messages_find_their_device_and_only_the_connected_one(rig: Rig) -> None:
    _, transport = rig.open()
    taken = rig.door.deliver([Downlink("pk", "dn", "/sys/pk/dn/a", b"1"), Downlink("pk", "x", "/sys/pk/x/a", b"2")])
    assert taken == 1
    _, run = read(transport)
    assert isinstance(run, PublishRun)
    assert (run.topic, run.payloads()) == ("/sys/pk/dn/a", [b"1"])


async def test_a_client_that_does_not_read_gets_no_more_than_its_bound(rig: Rig) -> None:
    connection, transport = rig.open()
    connection.pause_writing()
    sent = len(transport.sent)
    taken = rig.door.deliver(Downlink("pk", "dn", "/sys/pk/dn/a", bytes(10_000)) for _ in range(1_000))
    assert 50 < taken < 200
    assert len(transport.sent) == sent
    connection.resume_writing()
    assert len(transport.sent) > 500_000


@pytest.mark.parametrize(
    ("now_known", "stays"),
    [(credentials(), True), (credentials(secret=b"new"), False), (credentials(enabled=False), False), (None, False)],
)
async def test_a_session_ends_when_the_registry_says_otherwise(rig: Rig, now_known: Credentials | None, stays: bool) -> None:
    _, transport = rig.open()
    assert rig.door.keys_of("pk", None) == rig.door.keys_of("pk", "dn") == [("pk", "dn")]
    assert rig.door.keys_of("pk2", None) == rig.door.keys_of("pk", "dn2") == []
    rig.door.recheck(("pk", "dn"), now_known)
    assert transport.closed is not stays


async def test_who_never_says_connect_is_closed(rig: Rig) -> None:
    connection, transport = rig.connection()
    connection.tick(1e9)
    assert transport.closed
    assert rig.door.refusals.totals == {"connect_timeout": 1}
    connection.connection_lost(None)
    assert rig.door.connections == set()


async def test_epochs_grow(rig: Rig) -> None:
    epochs = [rig.door.next_epoch() for _ in range(1_000)]
    assert epochs == sorted(set(epochs))
    assert epochs[-1] < 2**53
