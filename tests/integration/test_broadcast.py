"""Broadcasts through a real front door: every connected device of the product, or those that subscribed, and nobody else."""

from cloud.access.service import AccessDownlink
from cloud.foundation.bus import Bus
from protocols.alink.topics import Kind
from protocols.mqtt.codec import PublishRun, Subscribe, encode
from tests.fakes.front_door import PRODUCT_KEY
from tests.integration.access_rig import Door, Nats, RawClient


def heard(client: RawClient) -> tuple[str, list[bytes]]:
    packet = client.next()
    assert isinstance(packet, PublishRun), packet
    return packet.topic, packet.payloads()


def test_a_broadcast_reaches_every_connected_device_or_those_that_subscribed(nats: Nats, door: Door) -> None:
    clients = [RawClient(door.port, f"d{n}").open() for n in range(3)]
    clients[0].sock.sendall(encode(Subscribe(1, ((f"/broadcast/{PRODUCT_KEY}/news", 0),)), 4))
    clients[0].next()  # SUBACK

    async def tell(bus: Bus) -> list[int]:
        downlink = AccessDownlink(bus)
        return [
            await downlink.tell_all(PRODUCT_KEY, Kind.BROADCAST_REQUEST, b"all", call="42"),
            await downlink.tell_subscribers(PRODUCT_KEY, f"/broadcast/{PRODUCT_KEY}/news", b"some"),
            await downlink.tell_all("another", Kind.BROADCAST_REQUEST, b"none", call="43"),
            await downlink.tell_all(PRODUCT_KEY, Kind.CONFIG_PUSH, b"{}"),
        ]

    assert nats.on_bus(tell) == [3, 1, 0, 3]
    for n, client in enumerate(clients):
        own = f"/sys/{PRODUCT_KEY}/d{n}"
        assert heard(client) == (f"{own}/broadcast/request/42", [b"all"])
        if n == 0:
            assert heard(client) == (f"/broadcast/{PRODUCT_KEY}/news", [b"some"])
        assert heard(client) == (f"{own}/thing/config/push", [b"{}"])
        client.close()
