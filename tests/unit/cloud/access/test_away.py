"""The front door and devices that are away: what waits for them, what becomes of their wills, and who has no session any more."""

import time
from typing import Any

import pytest

from cloud.access.model import Downlink, Kind, decode_downlink, encode_downlink
from cloud.access.server import Connection
from cloud.access.worker import DoorMetrics
from cloud.devices.model import Credentials
from cloud.foundation.clock import now_ms
from cloud.foundation.metrics import Metrics
from protocols.mqtt.codec import (
    ConnAck,
    Connect,
    Decoder,
    Disconnect,
    Properties,
    PubAck,
    PublishRun,
    Subscribe,
    Will,
    encode,
    encode_publish,
)
from protocols.mqtt.lobby import Bounds
from protocols.mqtt.packets import ReasonCode
from tests.unit.cloud.access.test_group import until
from tests.unit.cloud.access.test_server import POST, Rig, Transport, credentials, read, rig

__all__ = ["rig"]  # the fixture

SET = "/sys/pk/dn/thing/service/property/set"
GONE = Will("/pk/dn/user/gone", b"bye", 0, False, Properties(will_delay_interval=30))
NEWS = "/broadcast/pk/news"


def coming(
    rig: Rig, *, name: str = "dn", version: int = 5, clean: bool = False, will: Will | None = None, known: Credentials | None = None
) -> tuple[Connection, Transport]:
    """A device connects and asks for a session of an hour."""
    properties = Properties(session_expiry_interval=3_600) if version == 5 else Properties()
    connect = Connect("id", f"{name}&pk", b"p", clean, 60, will, version, properties)
    connection, transport = rig.connection()
    connection.data_received(encode(connect, version))
    rig.door.decided(connection, connect, known or credentials(name))
    return connection, transport


def waits(payload: bytes, *, name: str = "dn", topic: str = SET, qos: int = 1, in_s: float = 60.0, waits: bool = True) -> Downlink:
    return Downlink("pk", name, topic, payload, qos, int(now_ms() + in_s * 1_000) if in_s else 0, waits)


def payloads(transport: Transport, version: int = 5) -> list[tuple[bytes, bool]]:
    """What was sent to a device, and whether as a duplicate."""
    return [(payload, run.dup) for run in read(transport, version) if isinstance(run, PublishRun) for payload in run.payloads()]


def present(transport: Transport, version: int = 5) -> bool:
    ack = Decoder(version, server_side=False).feed(bytes(transport.sent))[0]
    assert isinstance(ack, ConnAck)
    return ack.session_present


async def test_what_may_wait_is_there_when_the_device_is_back_and_did_not_count_as_delivered(rig: Rig) -> None:
    connection, _ = coming(rig)
    assert rig.door.deliver([waits(b"1")]) == 1
    connection.connection_lost(None)
    others = [waits(b"qos 0", qos=0), waits(b"no time", in_s=0), waits(b"may not", waits=False), waits(b"late", in_s=-1)]
    assert rig.door.deliver([waits(b"2"), *others, waits(b"stranger", name="nobody"), waits(b"3")]) == 0
    _, transport = coming(rig)
    assert (present(transport), payloads(transport)) == (True, [(b"1", True), (b"2", False), (b"3", False)])
    assert rig.door.away.waiting == 2


async def test_a_message_of_an_older_build_is_understood_and_waits_for_nobody(rig: Rig) -> None:
    old = encode_downlink(["pk", "dn", SET, b"1", 1])
    assert decode_downlink(old) == Downlink("pk", "dn", SET, b"1", 1, 0, False)


async def test_a_clean_start_has_nothing_of_what_was_before(rig: Rig) -> None:
    connection, _ = coming(rig)
    rig.door.deliver([waits(b"1")])
    connection.connection_lost(None)
    _, transport = coming(rig, clean=True)
    assert (present(transport), payloads(transport)) == (False, [])


async def test_a_takeover_goes_on_with_the_session(rig: Rig) -> None:
    _, old = coming(rig, version=4)
    rig.door.deliver([waits(b"1")])
    _, new = coming(rig, version=4)
    assert old.closed
    assert (present(new, 4), payloads(new, 4)) == (True, [(b"1", True)])
    assert len(rig.door.away.kept) == 0


async def test_a_client_id_that_changes_is_the_same_device(rig: Rig) -> None:
    for n, expected in enumerate((False, True, True)):
        connection, transport = rig.connection()
        connect = Connect(f"time-{n}", "dn&pk", b"p", False)
        connection.data_received(encode(connect))
        rig.door.decided(connection, connect, credentials())
        assert present(transport, 4) is expected


@pytest.mark.parametrize("known", [credentials(secret=b"new"), credentials(enabled=False), None])
async def test_a_device_that_is_gone_disabled_or_known_otherwise_loses_its_kept_session(rig: Rig, known: Credentials | None) -> None:
    connection, _ = coming(rig)
    connection.connection_lost(None)
    assert rig.door.keys_of("pk", "dn") == rig.door.keys_of("pk", None) == rig.door.all_keys() == [("pk", "dn")]
    rig.door.recheck(("pk", "dn"), credentials())
    assert len(rig.door.away.kept) == 1
    rig.door.recheck(("pk", "dn"), known)
    assert rig.door.all_keys() == []
    _, transport = coming(rig)
    assert not present(transport)
    rig.door.recheck(("pk", "dn"), known)
    assert transport.closed
    assert rig.door.all_keys() == [], "connected or not"


async def test_a_secret_that_was_changed_while_nobody_looked_ends_the_session_too(rig: Rig) -> None:
    connection, _ = coming(rig)
    connection.connection_lost(None)
    _, transport = coming(rig, known=credentials(secret=b"new"))
    assert not present(transport)


async def test_a_session_ends_with_its_time(rig: Rig) -> None:
    connection, _ = coming(rig)
    connection.connection_lost(None)
    await rig.door.sweep(time.monotonic() + 3_500)
    assert len(rig.door.away.kept) == 1
    await rig.door.sweep(time.monotonic() + 3_700)
    _, transport = coming(rig)
    assert not present(transport)


# wills


async def test_a_will_that_waits_is_published_by_the_clock(rig: Rig) -> None:
    connection, _ = coming(rig, will=GONE)
    connection.connection_lost(None)
    await rig.door.sweep(time.monotonic() + 20)
    await rig.commit.settled()
    assert [kind for kind, _, _ in rig.rows()] == [Kind.OPENED, Kind.CLOSED]
    await rig.door.sweep(time.monotonic() + 31)
    await rig.commit.settled()
    assert rig.rows()[2:] == [(Kind.PUBLISH, "dn", [b"bye"])]
    await rig.door.sweep(time.monotonic() + 4_000)
    await rig.commit.settled()
    assert len(rig.rows()) == 3


@pytest.mark.parametrize(("clean", "published"), [(False, []), (True, [b"bye"])])
async def test_a_device_that_is_back_takes_its_will_back_unless_it_starts_anew(rig: Rig, clean: bool, published: list[bytes]) -> None:
    connection, _ = coming(rig, will=GONE)
    connection.connection_lost(None)
    coming(rig, clean=clean)
    await rig.door.sweep(time.monotonic() + 60)
    await rig.commit.settled()
    assert [payload for kind, _, found in rig.rows() if kind is Kind.PUBLISH for payload in found] == published


async def test_wills_that_wait_are_published_when_the_front_door_stops(rig: Rig) -> None:
    away, _ = coming(rig, will=GONE)
    away.connection_lost(None)
    _, here = coming(rig, name="other", will=Will("/pk/other/user/gone", b"too", 0, False, Properties(will_delay_interval=9)))
    rig.door.close_all(ReasonCode.SERVER_SHUTTING_DOWN)
    await rig.commit.settled()
    assert [found for kind, _, found in rig.rows() if kind is Kind.PUBLISH] == [[b"bye"], [b"too"]]
    assert isinstance(read(here, 5)[-1], Disconnect)
    assert rig.door.all_keys() == []


async def test_a_foreign_will_that_waits_is_dropped_and_counted(rig: Rig) -> None:
    connection, _ = coming(rig, will=Will("/pk/other/user/gone", b"bye", 0, False, Properties(will_delay_interval=5)))
    connection.connection_lost(None)
    assert rig.door.refusals.totals == {}
    await rig.door.sweep(time.monotonic() + 6)
    assert rig.door.refusals.totals == {"foreign_topic": 1}


# bounds


async def test_all_kept_sessions_are_bounded_and_the_one_that_waits_longest_ends_first() -> None:
    small = Rig(Bounds(kept_bytes=20_000))
    try:
        for name in "abc":
            connection, _ = coming(small, name=name)
            connection.connection_lost(None)
        for n in range(8):
            small.door.deliver([waits(bytes(2_000), name="c", topic=f"/sys/pk/c/{n}")])
        assert small.door.away.kept.size <= 20_000
        assert [name for _, name in small.door.all_keys()] == ["b", "c"]
        metrics = Metrics()
        metrics.registry.register(DoorMetrics(small.door))
        text = metrics.render().decode()
        assert "hearthline_access_kept_sessions 2.0" in text
        assert "hearthline_access_kept_given_up_total 1.0" in text
        assert "hearthline_access_kept_messages_total 8.0" in text
    finally:
        small.task.cancel()


async def test_with_0_seconds_no_session_outlives_its_connection() -> None:
    none = Rig(Bounds(session_s=0))
    try:
        connection, _ = coming(none)
        connection.connection_lost(None)
        assert none.door.all_keys() == []
    finally:
        none.task.cancel()


# broadcasts


def subscribed(rig: Rig, name: str, topic_filter: str, qos: int = 1) -> tuple[Connection, Transport]:
    connection, transport = coming(rig, name=name)
    connection.data_received(encode(Subscribe(1, ((topic_filter, qos),)), 5))
    return connection, transport


async def test_a_broadcast_reaches_those_who_subscribed_at_the_quality_they_were_granted_and_nobody_else(rig: Rig) -> None:
    found: dict[str, Any] = {
        "all": subscribed(rig, "all", "/broadcast/pk/#"),
        "zero": subscribed(rig, "zero", "/broadcast/pk/+", 0),
        "other": subscribed(rig, "other", "/broadcast/pk/weather"),
        "none": coming(rig, name="none"),
    }
    assert rig.door.broadcast("pk", NEWS, b"n", 1) == 2
    assert rig.door.broadcast("pk2", NEWS, b"n", 1) == 0
    got = {name: [run.qos for run in read(transport, 5) if isinstance(run, PublishRun)] for name, (_, transport) in found.items()}
    assert got == {"all": [1], "zero": [0], "other": [], "none": []}
    assert rig.door.deliver([Downlink("pk", name, NEWS, b"one", 1) for name in found]) == 2


async def test_a_broadcast_that_expires_waits_for_subscribers_that_are_away(rig: Rig) -> None:
    for name, topic_filter in (("a", "/broadcast/pk/#"), ("b", "/broadcast/pk/weather")):
        connection, _ = subscribed(rig, name, topic_filter)
        connection.connection_lost(None)
    assert rig.door.broadcast("pk", NEWS, b"n", 1, now_ms() + 60_000) == 0
    assert payloads(coming(rig, name="a")[1]) == [(b"n", False)]
    assert payloads(coming(rig, name="b")[1]) == []


async def test_a_client_that_came_without_a_client_id_is_given_one(rig: Rig) -> None:
    connection, transport = rig.connection()
    connect = Connect("", "dn&pk", b"p", True, version=5)
    connection.data_received(encode(connect, 5))
    rig.door.decided(connection, connect, credentials())
    (ack,) = read(transport, 5)
    assert isinstance(ack, ConnAck)
    assert ack.properties.assigned_client_identifier == "pk&dn"


async def test_a_puback_makes_room_for_an_mqtt_5_client_that_was_told_a_thousand(rig: Rig) -> None:
    connection, transport = coming(rig)
    rig.stream.open.clear()
    many = b"".join(encode_publish(POST, b"x", 1, n + 1, version=5) for n in range(1_000))
    connection.data_received(many)
    assert not transport.closed
    rig.stream.open.set()
    await until(lambda: sum(isinstance(packet, PubAck) for packet in read(transport, 5)) == 1_000)
    rig.stream.open.clear()
    connection.data_received(many)
    assert not transport.closed
    connection.data_received(encode_publish(POST, b"x", 1, 2_000, version=5))
    assert transport.closed
    assert read(transport, 5)[-1] == Disconnect(
        ReasonCode.RECEIVE_MAXIMUM_EXCEEDED,
        Properties(reason_string="more than 1000 messages without PUBACK: wait for acknowledgements, as CONNACK's receive maximum says"),
    )
    rig.stream.open.set()
