"""What the door does with those it does not let in: slowed, counted, noted, and out of the way of the others."""

import time
from collections.abc import Sequence

import pytest

from cloud.access.admission import Denied
from cloud.access.model import Kind, RefusalNote, UplinkBatch
from cloud.access.server import Connection
from cloud.access.worker import note
from protocols.errors import Reason, TryAgain
from protocols.mqtt.codec import ConnAck, Connect, Decoder, Disconnect, PubAck, encode, encode_publish
from protocols.mqtt.lobby import Bounds
from protocols.mqtt.packets import ConnectCode
from protocols.mqtt.throttle import FREE
from tests.unit.cloud.access.test_group import until
from tests.unit.cloud.access.test_server import POST, Rig, Transport, credentials, read, rig

__all__ = ["rig"]  # the fixture

GUESS = Connect("id", "dn&pk", b"guess")
WRONG = Denied(ConnectCode.BAD_CREDENTIALS, Reason.BAD_CREDENTIALS, "wrong secret")


def asked(rig: Rig, connect: Connect = GUESS) -> tuple[Connection, Transport]:
    connection, transport = rig.connection()
    connection.data_received(encode(connect, connect.version))
    return connection, transport


def denied(rig: Rig, connect: Connect = GUESS) -> tuple[Connection, Transport]:
    connection, transport = asked(rig, connect)
    rig.door.decided(connection, connect, WRONG)
    return connection, transport


def tenants(claims: Sequence[tuple[str, str]]) -> list[int]:
    return [7 if product_key == "pk" else 9 for product_key, _ in claims]


def noted(rig: Rig) -> list[tuple[int, RefusalNote]]:
    rows = (row for _, data in rig.stream.stored for row in UplinkBatch.from_bytes(data))
    return [(row.session.tenant_id, row.refusal()) for row in rows if row.kind is Kind.REFUSED]


async def test_a_guesser_waits_ever_longer_and_the_right_secret_is_let_in_at_once(rig: Rig) -> None:
    for _ in range(FREE):
        assert read(denied(rig)[1]) == [ConnAck(reason=4)]
    slowed = [denied(rig) for _ in range(20)]
    assert all(bytes(transport.sent) == b"" for _, transport in slowed)
    assert not any(transport.closed for _, transport in slowed)
    owner, transport = asked(rig)
    rig.door.decided(owner, GUESS, credentials())
    assert read(transport) == [ConnAck()]
    assert rig.door.refusals.totals == {"bad_credentials": FREE + 20}
    slowed[0][0].tick(time.monotonic() + 1.0)
    assert read(slowed[0][1]) == [ConnAck(reason=4)]
    assert slowed[0][1].closed
    slowed[-1][0].tick(time.monotonic() + 1.0)
    assert not slowed[-1][1].closed
    assert rig.door.refusals.totals == {"bad_credentials": FREE + 20}  # each once


async def test_who_comes_from_where_much_has_failed_stands_in_the_second_line(rig: Rig) -> None:
    suspects: list[bool] = []
    rig.door.ask = lambda _connection, _connect, suspect: suspects.append(suspect)
    for _ in range(FREE + 1):
        denied(rig)
    assert suspects == [False] * FREE + [True]


async def test_a_guesser_who_has_to_make_room_gets_his_answer(rig: Rig) -> None:
    small = Rig(Bounds(connections=FREE + 2, strangers=FREE + 2))
    try:
        waiting = [denied(small) for _ in range(2 * FREE)]
        for _ in range(FREE + 2):
            small.connection()
        assert all(read(transport) == [ConnAck(reason=4)] for _, transport in waiting)
        assert small.door.refusals.totals == {"bad_credentials": 2 * FREE}
        assert small.door.lobby.strangers == FREE + 2
    finally:
        small.task.cancel()


async def test_a_verdict_of_ours_is_no_refusal(rig: Rig) -> None:
    connection, transport = asked(rig)
    rig.door.decided(connection, GUESS, Denied(ConnectCode.UNAVAILABLE))
    assert read(transport) == [ConnAck(reason=3)]
    assert rig.door.refusals.totals == {}


async def test_refused_messages_and_the_end_of_their_session_are_counted_each(rig: Rig) -> None:
    connection, transport = rig.open(version=5)
    foreign = b"".join(encode_publish("/theirs", bytes(5_000), 1, n, version=5) for n in (1, 2, 3))
    connection.data_received(foreign + encode_publish(POST, b"x", 1, 4, version=5))
    await until(lambda: sum(isinstance(packet, PubAck) for packet in read(transport, 5)) == 4)
    connection.data_received(b"\xc1\0")
    assert rig.door.refusals.totals == {"foreign_topic": 3, "malformed_packet": 1}
    assert isinstance(Decoder(5, server_side=False).feed(bytes(transport.sent))[-1], Disconnect)
    await note(rig.door, tenants, rig.door.refusals.due(0.0))
    await until(lambda: len(noted(rig)) == 2)
    (tenant, first), (_, second) = noted(rig)
    assert (tenant, first.device_name, first.count, first.topic, len(first.sample)) == (1, "dn", 3, "/theirs", 1024)
    assert (second.reason, second.sample) == (Reason.MALFORMED_PACKET, b"\xc1\0")


async def test_a_note_goes_to_whom_it_concerns_and_waits_for_a_busy_registry(rig: Rig) -> None:
    def away(claims: Sequence[tuple[str, str]]) -> list[int]:
        raise TryAgain("locked")

    denied(rig)
    denied(rig, Connect("id", "x&other", b"guess"))
    assert rig.door.refused_first.is_set()
    with pytest.raises(TryAgain):
        await note(rig.door, away, rig.door.refusals.due(0.0))
    denied(rig)
    assert noted(rig) == []
    await note(rig.door, tenants, rig.door.refusals.due(0.0))
    await until(lambda: len(noted(rig)) == 2)
    assert [(tenant, found.product_key, found.username, found.count) for tenant, found in noted(rig)] == [
        (7, "pk", "dn&pk", 2),
        (9, "other", "x&other", 1),
    ]
    await note(rig.door, tenants, rig.door.refusals.due(0.0))
    assert len(noted(rig)) == 2


async def test_a_client_that_reads_nothing_is_closed_and_one_that_reads_slowly_is_not(rig: Rig) -> None:
    started = time.monotonic()  # the session's clock: a machine that has just booted must see the same
    for reads, closed in ((0, True), (1, False)):
        connection, transport = rig.open()
        transport.unsent = 100_000
        connection.pause_writing()
        for second in range(40):
            connection.data_received(encode_publish(POST, b"x", 1, second + 1))  # it is not silent
            connection.tick(started + second)
            transport.unsent -= reads
        assert transport.closed is closed
        connection.connection_lost(None)
    assert rig.door.refusals.totals == {"slow_reader": 1}
