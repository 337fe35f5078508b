"""What a swarm sends, encoded beforehand: publish packets back to back, so that sending is slicing."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from firmware_sim.devices import DeviceSpec
from protocols.alink.credentials import sign
from protocols.alink.topics import Kind, Topic
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import FrameHeader, encode_frame
from protocols.edgelink.lanes import Lane
from protocols.edgelink.topics import EdgeChannel, EdgeTopic
from protocols.mqtt.packets import Connect
from protocols.mqtt.run import encode_publish

_IDS = 65_535
KEEPALIVE_S = 1_200  # no pings: a load keeps talking


@dataclass(frozen=True, slots=True)
class Load:
    """One connection's messages: `ends[i]` is where packet i begins in `blob`, `ends[-1]` its length; sent in a ring up to `total`."""

    connect: Connect
    blob: bytes
    ends: tuple[int, ...]
    total: int | None

    @property
    def ring(self) -> int:
        return len(self.ends) - 1


def connect_of(spec: DeviceSpec) -> Connect:
    """CONNECT of a device with its credentials."""
    fields = sign(spec.product_key, spec.device_name, spec.device_secret)
    return Connect(fields.client_id, fields.username, fields.password, keepalive=KEEPALIVE_S)


def anonymous(index: int) -> Connect:
    """CONNECT without credentials, for another broker."""
    return Connect(f"swarm-{index}", keepalive=KEEPALIVE_S)


def load_of(connect: Connect, topic: str, payloads: Iterable[bytes], total: int | None) -> Load:
    """Number the payloads as QoS 1 packets; packet ids repeat after 65,535, far beyond any window."""
    packets = [encode_publish(topic, payload, 1, index % _IDS + 1) for index, payload in enumerate(payloads)]
    return Load(connect, b"".join(packets), (0, *itertools.accumulate(map(len, packets))), total)


def filler(size: int, ring: int) -> Iterator[bytes]:
    """`ring` payloads of `size` bytes."""
    return (bytes([65 + index % 26]) * size for index in range(ring))


def posts(identifiers: Sequence[str], count: int, start_ms: int, step_ms: int, *, reply: bool = False) -> Iterator[bytes]:
    """`count` Alink property posts, every value with an explicit time of its own message; one-decimal values."""
    for index in range(count):
        params = {
            name: {"value": (index + place) % 1_000 / 10, "time": start_ms + index * step_ms} for place, name in enumerate(identifiers)
        }
        envelope = {
            "id": str(index + 1),
            "version": "1.0",
            "sys": {"ack": int(reply)},
            "params": params,
            "method": "thing.event.property.post",
        }
        yield msgspec.json.encode(envelope)


def frames(
    behind: Sequence[tuple[str, str]], identifiers: Sequence[str], readings: int, count: int, start_ms: int, step_ms: int
) -> Iterator[bytes]:
    """`count` frames of about `readings` readings of the devices `behind` a gateway, in a buffer of its own; one-decimal values."""
    dictionary = tuple((product_key, device_name, name) for product_key, device_name in behind for name in identifiers)
    width = len(dictionary)
    steps = max(1, readings // width)
    series = np.repeat(np.arange(width, dtype=np.uint32), steps)
    buffer_id = os.urandom(16)
    for index in range(count):
        ticks = np.arange(index * steps, (index + 1) * steps, dtype=np.int64)
        times = np.tile(start_ms + ticks * step_ms, width)
        values = np.concatenate([(ticks + place) % 1_000 / 10 for place in range(width)])
        header = FrameHeader(buffer_id, 1, Lane.LIVE, index + 1, 1, start_ms)
        yield encode_frame(header, Columns(dictionary, series, times, values))


def post_topic(product_key: str, device_name: str) -> str:
    """Where a device posts properties."""
    return str(Topic(Kind.PROPERTY_POST, product_key, device_name))


def live_topic(product_key: str, device_name: str) -> str:
    """Where a gateway sends frames."""
    return str(EdgeTopic(product_key, device_name, EdgeChannel.of_lane(Lane.LIVE)))
