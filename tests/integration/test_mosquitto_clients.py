"""The front door as `mosquitto_pub` and `mosquitto_sub` see it, on topics of a product's own."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from cloud.access.model import Delivered, Downlink, Kind, encode_downlink
from cloud.foundation.bus import Bus
from protocols.alink.credentials import sign
from tests.fakes.front_door import PRODUCT_KEY, SECRET
from tests.integration.access_rig import Door, Nats, wait_for

pytestmark = pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="mosquitto_pub is not installed: make ci-deps")

VERSIONS = ("mqttv31", "mqttv311", "mqttv5")
UP, DOWN = f"/{PRODUCT_KEY}/d1/user/status", f"/{PRODUCT_KEY}/d1/user/order"


def arguments(program: str, door: Door, version: str, secret: bytes = SECRET) -> list[str]:
    proof = sign(PRODUCT_KEY, "d1", secret)
    who = ["-i", proof.client_id, "-u", proof.username, "-P", proof.password.decode()]
    return [program, "-h", "127.0.0.1", "-p", str(door.port), "-V", version, *who]


def publish(door: Door, version: str, *more: str, secret: bytes = SECRET) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*arguments("mosquitto_pub", door, version, secret), *more], capture_output=True, text=True, timeout=20)


@contextmanager
def subscribed(door: Door, version: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A `mosquitto_sub` whose SUBACK is there."""
    command = ["stdbuf", "-oL", *arguments("mosquitto_sub", door, version), "-d", "-F", "got %t %q %p", *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Subscribed"):
                break
        yield process
    finally:
        process.kill()
        process.communicate()


def deliver(nats: Nats, *messages: Downlink) -> list[bool]:
    async def ask(bus: Bus) -> list[bool]:
        answers = [await bus.request("access.deliver", encode_downlink(message)) for message in messages]
        return [msgspec.msgpack.decode(answer, type=Delivered).delivered for answer in answers]

    return nats.on_bus(ask)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", ["0", "1"])
def test_mosquitto_pub_publishes_on_a_custom_topic(nats: Nats, door: Door, version: str, qos: str) -> None:
    done = publish(door, version, "-t", UP, "-q", qos, "-m", "hello")
    assert (done.returncode, done.stderr) == (0, "")
    wait_for(lambda: nats.payloads())
    (row,) = [row for row in nats.rows() if row.kind is Kind.PUBLISH]
    assert (row.topic, nats.payloads()) == (UP, [b"hello"])


@pytest.mark.parametrize("version", VERSIONS)
def test_mosquitto_sub_receives_what_is_sent_on_a_custom_topic(nats: Nats, door: Door, version: str) -> None:
    with subscribed(door, version, "-t", f"/{PRODUCT_KEY}/d1/user/#", "-q", "1", "-C", "2") as process:
        orders = [Downlink(PRODUCT_KEY, "d1", DOWN, payload, qos) for qos, payload in ((1, b"one"), (0, b"two"))]
        assert deliver(nats, *orders) == [True, True]
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert [line for line in out.splitlines() if line.startswith("got")] == [f"got {DOWN} 1 one", f"got {DOWN} 0 two"]


def test_mosquitto_sub_is_told_that_another_devices_topics_are_not_its_own(door: Door) -> None:
    command = [*arguments("mosquitto_sub", door, "mqttv5"), "-t", f"/{PRODUCT_KEY}/d2/user/#", "-q", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.stderr == "All subscription requests were denied.\n"


def test_mosquitto_pub_with_a_wrong_secret_is_refused_by_name(nats: Nats, door: Door) -> None:
    for version, said in (("mqttv311", "bad user name or password"), ("mqttv5", "bad user name or password")):
        done = publish(door, version, "-t", UP, "-q", "1", "-m", "x", secret=b"wrong")
        assert done.returncode != 0
        assert said.lower() in done.stderr.lower()
    assert nats.payloads() == []


def test_mosquitto_pub_is_told_that_there_is_no_qos_2(nats: Nats, door: Door) -> None:
    done = publish(door, "mqttv5", "-t", UP, "-q", "2", "-m", "x")
    assert "QoS" in done.stderr + done.stdout, (done.returncode, done.stdout, done.stderr)
    assert nats.payloads() == []
