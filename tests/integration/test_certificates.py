"""Client certificates against the running platform: authorities come and go while it runs, and sessions with them."""

import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import httpx
import pytest

from edge_agent.northbound.link import MqttUplink
from edge_agent.ports import LinkDown
from protocols.edgelink.frame import FrameHeader, encode_frame
from protocols.edgelink.lanes import Lane
from protocols.edgelink.topics import EdgeChannel
from protocols.errors import Reason
from protocols.mqtt.codec import Connect, Disconnect, Packet, PingReq, PingResp, PublishRun, encode
from tests.e2e.platform import Cloud, wait_until
from tests.fakes.maker import Maker
from tests.integration.access_rig import RawClient
from tests.integration.test_registration import TSL, held


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("platform"), crash_points=False) as running:
        yield running


@pytest.fixture
def api(cloud: Cloud) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {cloud.admin_key}"}
    with httpx.Client(base_url=cloud.api_url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def product_key(cloud: Cloud) -> str:
    return cloud.product("Stove", TSL)


def context(cloud: Cloud, certificate: Path | None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=cloud.data / "tls" / "ca.pem")
    if certificate is not None:
        made.load_cert_chain(certificate)
    return made


class TlsClient(RawClient):
    """A device on the TLS port, maybe with a certificate and no password."""

    def __init__(self, cloud: Cloud, name: str, product_key: str, certificate: Path | None, username: str | None = None) -> None:
        super().__init__(cloud.mqtts_port, name, version=5, product_key=product_key)
        self.connect = Connect("any-id", username, version=5)
        self.sock = context(cloud, certificate).wrap_socket(self.sock, server_hostname="localhost")

    def code(self) -> int | None:
        """The CONNACK's code; None: TLS or the server has closed."""
        try:
            self.sock.sendall(encode(self.connect, 5))
            packet = self.next(20)
        except (ssl.SSLError, ConnectionError):
            return None
        return None if packet is None else int(getattr(packet, "reason", -1))

    def lives(self) -> bool:
        self.sock.sendall(encode(PingReq()))
        return isinstance(self.next_but_answers(20), PingResp)

    def next_but_answers(self, timeout_s: float) -> Packet | PublishRun | None:
        """The next packet that is no answer to a post."""
        while isinstance(packet := self.next(timeout_s), PublishRun):
            pass
        return packet


Add = Callable[[Maker], int]


@pytest.fixture
def add(api: httpx.Client) -> Iterator[Add]:
    """Adds an authority and returns its number; it is retired behind the test."""
    numbers: list[int] = []

    def one(maker: Maker) -> int:
        noted = f"# 厨电 CA\n{maker.pem}"  # as tools write it: words around the certificate, in any alphabet
        answer = api.post("/v1/certificate-authorities", json={"pem": noted})
        assert answer.status_code == 201, answer.text
        numbers.append(int(answer.json()["number"]))
        return numbers[-1]

    yield one
    for number in numbers:
        api.delete(f"/v1/certificate-authorities/{number}")


def test_a_certificate_lets_its_device_in_and_one_authority_takes_over_from_another(
    cloud: Cloud, api: httpx.Client, add: Add, product_key: str, tmp_path: Path
) -> None:
    old, new = Maker.new("Maker CA 2025"), Maker.new("Maker CA 2026")
    cloud.device(product_key, "d1")
    cloud.device(product_key, "d2")
    number = add(old)
    by_old = old.file(tmp_path, "d1", product_key)
    wait_until(lambda: TlsClient(cloud, "d1", product_key, by_old).code() == 0, 30, "the authority is known without a restart")
    first = TlsClient(cloud, "d1", product_key, by_old)
    assert first.code() == 0, "without a user name: CN and O name the device"
    first.publish(b'{"id":"1","params":{"Power":7}}', 1)
    assert first.acks(1) == [(1, 0)]
    add(new)
    by_new = new.file(tmp_path, "d2")
    wait_until(lambda: TlsClient(cloud, "d2", product_key, by_new, f"d2&{product_key}").code() == 0, 30, "and so is the next")
    second = TlsClient(cloud, "d2", product_key, by_new, f"d2&{product_key}")
    assert second.code() == 0
    assert first.lives(), "both are in force during a rotation"
    assert api.delete(f"/v1/certificate-authorities/{number}").status_code == 204
    assert first.next_but_answers(60) == Disconnect(0x98)
    assert second.lives()
    wait_until(lambda: TlsClient(cloud, "d1", product_key, by_old).code() == 0x86, 30, "the retired one lets nobody in")
    listed = {one["subject"]: one["retired"] for one in api.get("/v1/certificate-authorities").json()["items"]}
    assert listed["CN=Maker CA 2025"]
    assert listed["CN=Maker CA 2026"] is None
    wait_until(lambda: held(api, Reason.BAD_CERTIFICATE), 20, "the operator is told")
    entry = next(one for one in held(api, Reason.BAD_CERTIFICATE) if one["device_name"] == "d1")
    assert "none of your authorities in force" in entry["detail"]


def refused(api: httpx.Client) -> float:
    """How many certificates were refused, in the door's own words."""
    name = f'hearthline_access_refused_total{{reason="{Reason.BAD_CERTIFICATE}",'
    return sum(float(line.rpartition(" ")[2]) for line in api.get("/metrics").text.splitlines() if line.startswith(name))


def test_a_certificate_that_proves_nothing_is_refused_and_counted_with_its_address(
    cloud: Cloud, api: httpx.Client, add: Add, product_key: str, tmp_path: Path
) -> None:
    maker, stranger = Maker.new("Maker CA of refusals"), Maker.new("Stranger CA")
    secret = cloud.device(product_key, "d1")
    add(maker)
    good = maker.file(tmp_path, "d1", product_key)
    wait_until(lambda: TlsClient(cloud, "d1", product_key, good).code() == 0, 30, "the authority is known")
    before = -1.0
    while before != refused(api):  # the attempts before the authority was known are still being counted
        before = refused(api)
        time.sleep(1.0)
    for certificate in (stranger.file(tmp_path, "d1", product_key), maker.file(tmp_path, "d1", product_key, days=(-2, -1))):
        assert TlsClient(cloud, "d1", product_key, certificate).code() is None, "TLS itself says no"
    assert TlsClient(cloud, "d1", product_key, maker.file(tmp_path, "d2", product_key), f"d1&{product_key}").code() == 0x86
    assert TlsClient(cloud, "d1", product_key, maker.file(tmp_path, "d1", "another")).code() == 0x86
    assert TlsClient(cloud, "d1", product_key, None).code() == 0x86

    def details() -> str:
        return "\n".join(str(one["detail"]) for one in held(api, Reason.BAD_CERTIFICATE))

    wait_until(lambda: refused(api) == before + 3, 20, "the stranger's, the expired one and that of another device are counted")
    # whichever handshake ended first stands in the quarantine; the other, from the same address, is in its count
    wait_until(lambda: "was not added" in details() or "has expired" in details(), 20, "what TLS refused is in the quarantine")
    assert all(one["address"].startswith("127.0.0.1:") for one in held(api, Reason.BAD_CERTIFICATE))
    plain = RawClient(cloud.mqtt_port, "d1", product_key=product_key, secret=secret.encode()).open()
    assert api.put(f"/v1/devices/{product_key}/d1/identity", json={"accepts": "certificate"}).json()["accepts"] == "certificate"
    assert plain.next(60) is None, "a session by the secret ends"
    assert TlsClient(cloud, "d1", product_key, good).code() == 0


async def test_a_client_of_mqtt_5_connects_with_its_certificate(cloud: Cloud, add: Add, product_key: str, tmp_path: Path) -> None:
    maker = Maker.new("Maker CA of aiomqtt")
    cloud.device(product_key, "d1")
    add(maker)
    certificate = maker.file(tmp_path, "d1", product_key)
    tls = context(cloud, certificate)
    wait_until(lambda: TlsClient(cloud, "d1", product_key, certificate).code() == 0, 30, "the authority is known")
    async with aiomqtt.Client(
        "localhost", cloud.mqtts_port, identifier="x", tls_context=tls, protocol=aiomqtt.ProtocolVersion.V5
    ) as client:
        await client.publish(f"/sys/{product_key}/d1/thing/event/property/post", b'{"id":"1","params":{"Power":8}}', qos=1)


def test_authorities_live_through_a_restart_of_the_front_door(
    cloud: Cloud, api: httpx.Client, add: Add, product_key: str, tmp_path: Path
) -> None:
    maker = Maker.new("Maker CA of restarts")
    cloud.device(product_key, "d1")
    number = add(maker)
    certificate = maker.file(tmp_path, "d1", product_key)
    cloud.kill_role("access")

    def let_in() -> bool:
        try:
            return TlsClient(cloud, "d1", product_key, certificate).code() == 0
        except OSError:
            return False

    wait_until(let_in, 30, "let in by the new process")
    other: Any = api.post("/v1/certificate-authorities", json={"pem": "nonsense"})
    assert (other.status_code, other.json()["type"]) == (422, "urn:hearthline:problem:bad-certificate")
    assert api.delete(f"/v1/certificate-authorities/{number}").status_code == 204


async def test_a_gateway_s_uplink_shows_its_certificate(cloud: Cloud, api: httpx.Client, add: Add, tmp_path: Path) -> None:
    maker = Maker.new("Maker CA of gateways")
    secret = cloud.device("gateway", "gw-1")
    add(maker)
    certificate = maker.file(tmp_path, "gw-1", "gateway")
    wait_until(lambda: TlsClient(cloud, "gw-1", "gateway", certificate).code() == 0, 30, "the authority is known")
    assert api.put("/v1/devices/gateway/gw-1/identity", json={"accepts": "certificate"}).status_code == 200
    more: Any = {"keepalive_s": 30, "window": 4, "tls": True, "ca_file": cloud.data / "tls" / "ca.pem"}
    bare = MqttUplink("localhost", cloud.mqtts_port, "gateway", "gw-1", secret, **more)
    with pytest.raises(LinkDown):
        async with bare.connect():
            pass
    uplink = MqttUplink("localhost", cloud.mqtts_port, "gateway", "gw-1", secret, certificate=(certificate, certificate), **more)
    async with uplink.connect() as session:
        frame = encode_frame(FrameHeader(bytes(16), 1, Lane.LIVE, 1, 1, 0, 1))
        assert await session.publish(EdgeChannel.UP_LIVE, frame) == 0
