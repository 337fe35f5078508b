"""Everything bad that reaches a gateway's front door, with the cloud away: the answer, what `edgectl status` says; others go on."""

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_agent.cli import app
from protocols.alink.codes import Code
from protocols.errors import Reason
from protocols.mqtt.codec import ConnAck, Connect, Disconnect, PubAck, PublishRun, SubAck, Subscribe, encode, encode_publish
from protocols.mqtt.packets import ReasonCode
from tests.integration.access_rig import RawClient, wait_for
from tests.integration.bad_input import BAD_BEGINNINGS, BAD_PACKETS, HOSTS, SAME_IN_5, Good, address, closed
from tests.integration.test_edge_agent import Agent

PRODUCT, SECRET = "pk", b"s"
BOUNDS = """
connections = 40
strangers = 20
connect_s = 1
packet_s = 1
unread_s = 1
"""
APPLIANCES = ("hood", "other")


class Gateway:
    """A running agent, and what it says of what it refused."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def client(self, name: str = "other", *, version: int = 4, keepalive: int = 60, host: str | None = None) -> RawClient:
        return RawClient(
            self.agent.port,
            name,
            version=version,
            keepalive=keepalive,
            host=host or next(HOSTS),
            product_key=PRODUCT,
            secret=SECRET,
        )

    def raw(self, data: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.agent.port), timeout=10, source_address=(next(HOSTS), 0))
        sock.sendall(data)
        return sock

    def status(self) -> dict[str, Any]:
        """What `edgectl status -o json` reads."""
        found: dict[str, Any] = json.loads((self.agent.home / "data" / "status.json").read_text())
        door: dict[str, Any] = found["front_door"]
        return door

    def refused(self) -> dict[str, dict[str, Any]]:
        return {entry["reason"]: entry for entry in self.status()["refused"]}

    def counts(self) -> Counter[str]:
        return Counter({reason: entry["count"] for reason, entry in self.refused().items()})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    agent = Agent(tmp_path_factory.mktemp("edge"))
    text = agent.config.read_text().replace("[[device]]", f"{BOUNDS}[[device]]", 1)
    agent.config.write_text(text + '[[device]]\nproduct_key = "pk"\ndevice_name = "other"\nthing_model = "range_hood"\n')
    (agent.home / "appliances.toml").write_text('[pk]\nhood = "s"\nother = "s"\n')
    with agent.running():
        yield Gateway(agent)


@contextmanager
def offences(gateway: Gateway, expected: Counter[str]) -> Iterator[None]:
    """What happens inside is counted exactly so, while the hood posts and is acknowledged."""
    first = int(time.time() * 1000)

    def payload(n: int) -> bytes:
        return json.dumps({"id": str(n), "version": "1.0", "params": {"PowerSwitch": {"value": n % 2, "time": first + n}}}).encode()

    before = gateway.counts()
    good = Good(gateway.client("hood").open(), payload)
    good.start()
    good.goes_on(2)
    yield
    good.goes_on()
    wait_for(lambda: sum((gateway.counts() - before).values()) >= expected.total())
    assert gateway.counts() - before == expected
    good.finish()


def of(reason: Reason, count: int = 1) -> Counter[str]:
    return Counter({reason.value: count})


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    ("name", "secret", "reason"), [("other", b"wrong", Reason.BAD_CREDENTIALS), ("nobody", b"s", Reason.UNKNOWN_DEVICE)]
)
def test_a_wrong_password_or_an_unknown_appliance(gateway: Gateway, version: int, name: str, secret: bytes, reason: Reason) -> None:
    with offences(gateway, of(reason)):
        client = RawClient(gateway.agent.port, name, version=version, host=next(HOSTS), product_key=PRODUCT, secret=secret)
        client.sock.sendall(encode(client.connect, version))
        answer = client.next()
        assert isinstance(answer, ConnAck)
        assert answer.reason == (0x86 if version == 5 else 4)
        assert ("compare" in (answer.properties.reason_string or "")) == (version == 5)
        assert client.next() is None
        wait_for(lambda: gateway.refused().get(reason, {}).get("address") == address(client.sock))
        assert gateway.refused()[reason]["who"] == f"{name}&{PRODUCT}"


def test_what_was_refused_is_said_by_edgectl_status(gateway: Gateway) -> None:
    with offences(gateway, of(Reason.BAD_CREDENTIALS)):
        assert closed(gateway.raw(encode(Connect("id", "garbled", b"p")))) == bytes.fromhex("20020004")
    said = CliRunner().invoke(app, ["--config", str(gateway.agent.config), "status"]).stdout
    assert "bad_credentials, last garbled at" in said
    assert "deviceName&productKey" in said


def test_a_foreign_topic(gateway: Gateway) -> None:
    foreign = "/sys/pk/hood/thing/event/property/post"
    with offences(gateway, of(Reason.FOREIGN_TOPIC, 4)):
        old = gateway.client(version=4).open()
        old.publish(b"{}", 1, topic=foreign)
        assert old.next() is None
        new = gateway.client(version=5).open()
        new.publish(b"{}", 1, topic=foreign)
        answer = new.next()
        assert isinstance(answer, PubAck)
        assert answer.reason == ReasonCode.NOT_AUTHORIZED
        assert answer.properties.reason_string
        for version, code in ((5, 0x87), (4, 0x80)):
            client = gateway.client(version=version).open()
            client.sock.sendall(encode(Subscribe(7, (("/sys/#", 1),)), version))
            assert client.next() == SubAck(7, (code,))


def test_a_topic_that_this_door_does_not_have(gateway: Gateway) -> None:
    with offences(gateway, of(Reason.UNKNOWN_TOPIC)):
        client = gateway.client(version=5).open()
        client.publish(b"x", 1, topic="/pk/other/user/anything")
        answer = client.next()
        assert isinstance(answer, PubAck)
        assert (answer.reason, bool(answer.properties.reason_string)) == (ReasonCode.TOPIC_NAME_INVALID, True)


@pytest.mark.parametrize(
    ("topic", "params"),
    [
        ("thing/event/property/history/post", []),
        ("thing/event/property/batch/post", {"properties": {}}),
        ("thing/property/desired/get", ["Power"]),
        ("thing/deviceinfo/update", [{"attrKey": "a", "attrValue": "b"}]),
        ("thing/config/get", {}),
    ],
)
@pytest.mark.parametrize("version", [4, 5])
def test_what_only_the_cloud_serves_is_counted_and_answered(gateway: Gateway, version: int, topic: str, params: object) -> None:
    own = f"/sys/{PRODUCT}/other/{topic}"
    with offences(gateway, of(Reason.UNKNOWN_TOPIC)):
        client = gateway.client(version=version).open()
        client.publish(json.dumps({"id": "7", "version": "1.0", "params": params}).encode(), 1, topic=own)
        got = [client.next(), client.next()]
        (ack,) = [one for one in got if isinstance(one, PubAck)]
        (answer,) = [one for one in got if isinstance(one, PublishRun)]
        assert ack.reason == (ReasonCode.TOPIC_NAME_INVALID if version == 5 else 0)
        said = json.loads(answer.payloads()[0])
        assert (answer.topic, said["id"], said["code"]) == (f"{own}_reply", "7", Code.TOPIC_UNKNOWN)
        assert "connect the device to the cloud" in said["message"]


@pytest.mark.parametrize("topic", ["/shadow/update/{}/other", "/ext/ntp/{}/other/request", "/sys/{}/other/thing/model/up_raw"])
def test_what_has_no_word_for_no_is_counted(gateway: Gateway, topic: str) -> None:
    with offences(gateway, of(Reason.UNKNOWN_TOPIC)):
        client = gateway.client(version=5).open()
        client.publish(b'{"method":"get","deviceSendTime":"1"}', 1, topic=topic.format(PRODUCT))
        answer = client.next()
        assert isinstance(answer, PubAck)
        assert answer.reason == ReasonCode.TOPIC_NAME_INVALID


@pytest.mark.parametrize("version", [4, 5])
def test_bad_packets_of_an_attached_appliance(gateway: Gateway, version: int) -> None:
    names = SAME_IN_5 if version == 5 else list(BAD_PACKETS)
    expected = Counter(BAD_PACKETS[name][1].value for name in names)
    with offences(gateway, expected):
        for name in names:
            data, _, code = BAD_PACKETS[name]
            client = gateway.client(version=version).open()
            client.sock.sendall(data)
            answer = client.next()
            if version == 5:
                assert isinstance(answer, Disconnect), name
                assert (answer.reason, bool(answer.properties.reason_string)) == (code, True), name
                answer = client.next()
            assert answer is None, name
    assert len(names) >= 15


def test_connections_that_begin_with_something_else(gateway: Gateway) -> None:
    expected = Counter(reason.value for _, reason, _, _ in BAD_BEGINNINGS.values())
    with offences(gateway, expected):
        for name, (data, _, answer, _) in BAD_BEGINNINGS.items():
            assert closed(gateway.raw(data)) == answer, name
    assert len(BAD_BEGINNINGS) >= 10


def test_deadlines(gateway: Gateway) -> None:
    """No CONNECT, half a CONNECT, half a packet, and silence."""
    expected = of(Reason.CONNECT_TIMEOUT, 2) + of(Reason.SLOW_WRITER) + of(Reason.KEEPALIVE_TIMEOUT)
    with offences(gateway, expected):
        silent, half = gateway.raw(), gateway.raw(encode(Connect("half", "of&it", b"p"))[:12])
        writer = gateway.client(version=5).open()
        writer.sock.sendall(encode_publish(writer.topic, bytes(1_000), 1, 1, version=5)[:500])
        for sock in (silent, half):
            assert closed(sock) == b""
        answer = writer.next()
        assert isinstance(answer, Disconnect)
        assert answer.reason == ReasonCode.QUOTA_EXCEEDED
        sleeper = gateway.client(version=5, keepalive=1).open()
        answer = sleeper.next()
        assert isinstance(answer, Disconnect)
        assert answer.reason == ReasonCode.KEEP_ALIVE_TIMEOUT
    assert "no CONNECT in 1 s" in gateway.refused()["connect_timeout"]["detail"]


def test_an_appliance_that_does_not_read_is_closed(gateway: Gateway) -> None:
    """It asks and asks for what it does not read."""
    with offences(gateway, of(Reason.SLOW_READER)):
        slow = gateway.client(version=4).open()
        slow.sock.settimeout(90)  # of a machine that is busy with other things
        pings = bytes.fromhex("c000") * 20_000_000
        with pytest.raises(ConnectionError):
            slow.sock.sendall(pings)
        wait_for(lambda: "slow_reader" in gateway.refused())


def test_strangers_make_room_and_appliances_stay(gateway: Gateway) -> None:
    with offences(gateway, of(Reason.TOO_MANY_CONNECTIONS, 30)):
        other = gateway.client().open()
        strangers = [gateway.raw() for _ in range(50)]
        for stranger in strangers[:30]:
            assert closed(stranger) == b""
        other.publish(b'{"id":"1","version":"1.0","params":{"PowerSwitch":1}}', 9)
        assert other.next() == PubAck(9)
        for stranger in strangers:
            stranger.close()
        wait_for(lambda: gateway.status()["strangers"] == 0)


def test_guesses_are_slowed_and_the_appliance_at_the_same_address_gets_in(gateway: Gateway) -> None:
    host = next(HOSTS)
    with offences(gateway, of(Reason.BAD_CREDENTIALS, 15)):
        guesses = [gateway.client(host=host) for _ in range(15)]
        for guess in guesses:
            guess.sock.sendall(encode(Connect(guess.connect.client_id, guess.connect.username, b"0" * 64)))
        wait_for(lambda: gateway.refused()["bad_credentials"]["address"] == host)
        assert guesses[0].next() == ConnAck(reason=4)
        owner = gateway.client(host=host).open()
        owner.publish(b'{"id":"2","version":"1.0","params":{"PowerSwitch":0}}', 9)
        assert owner.next() == PubAck(9)
        with pytest.raises(TimeoutError):
            guesses[-1].next(0.001)
        for guess in guesses:
            guess.close()
