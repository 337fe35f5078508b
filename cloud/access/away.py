"""Devices that are away while their session is kept: what may wait for them waits, and their wills are published in time (ADR 22)."""

import time
from collections.abc import Collection, Iterable
from typing import Protocol

import msgspec

from cloud.access.gate import FrameGate
from cloud.access.model import Downlink
from cloud.access.proof import fingerprint
from cloud.access.topics import check_frames, needs_subscription, uplink_lane
from cloud.devices.model import Credentials
from cloud.foundation.clock import now_ms
from protocols.errors import Refused
from protocols.mqtt.codec import Decoder, PublishRun, Will, encode_publish
from protocols.mqtt.downlink import NEVER, Message
from protocols.mqtt.events import Disconnected, KeptSession, Limits
from protocols.mqtt.kept import KeptSessions
from protocols.mqtt.offence import SAMPLE

Key = tuple[str, str]


class Farewell(msgspec.Struct, frozen=True, gc=False):
    """Who a connection was, for what is published in its name after it has ended."""

    credentials: Credentials
    fingerprint: int
    row: bytes
    address: str


class CountRefused(Protocol):
    """Told of a will that is not taken."""

    def __call__(self, farewell: Farewell, refused: Refused, topic: str, sample: bytes) -> None: ...


class Nobody:
    """Waits for no acknowledgement: a will has left its connection."""

    def committed(self, acks: bytes, messages: int, size: int) -> None:
        """Nothing to do."""


NOBODY = Nobody()


def expires_at(message: Downlink) -> float:
    """When a message expires, in monotonic seconds."""
    return time.monotonic() + (message.expires_ms - now_ms()) / 1_000 if message.expires_ms else NEVER


class Away:
    """The kept sessions of a front door. `epoch` of a row stays that of the session which left it."""

    def __init__(self, kept_bytes: int, limits: Limits, gate: FrameGate, refuse: CountRefused) -> None:
        self.kept: KeptSessions[Key, Farewell] = KeptSessions(kept_bytes, limits)
        self._gate = gate
        self._refuse = refuse
        self.waiting = 0  # messages that were kept for a device, ever

    def left(self, key: Key, farewell: Farewell, event: Disconnected) -> None:
        """A connection has ended: publish its will, and keep its session if it is to be kept."""
        if event.will is not None:
            self._publish(((farewell, event.will),))
        if event.kept is not None:
            self._publish(self.kept.keep(key, event.kept, farewell, time.monotonic()))

    def back(self, key: Key, credentials: Credentials, clean_start: bool) -> KeptSession | None:
        """The device is there again: its session, unless it starts anew or is known otherwise than before."""
        if key not in self.kept:
            return None
        if clean_start or self.kept.owner(key).fingerprint != fingerprint(credentials):
            self._publish(self.kept.end(key))
            return None
        self.sweep(time.monotonic())  # it may be over since the last sweep
        return self.kept.resume(key)

    def deliver(self, message: Downlink) -> bool:
        """Keep a message for its device, if it may wait and the device's session is kept."""
        key = (message.product_key, message.device_name)
        if not (message.waits and message.qos and message.expires_ms) or key not in self.kept:
            return False
        if needs_subscription(message.topic) and not self.kept.granted(key, message.topic):
            return False
        waits = Message(message.topic, message.payload, expires_at(message))
        taken, wills = self.kept.offer(key, waits, time.monotonic())
        self.waiting += taken
        self._publish(wills)
        return taken

    def recheck(self, key: Key, standing: Collection[int]) -> None:
        """Drop the session of a device that is gone, disabled, or whose proof does not stand any more."""
        if key in self.kept and self.kept.owner(key).fingerprint not in standing:
            self._publish(self.kept.end(key))

    def sweep(self, now: float) -> None:
        """End sessions whose time is over, and publish the wills that are due."""
        self._publish(self.kept.due(now))

    def close(self) -> None:
        """The front door stops: every session ends, and every will that waits is published."""
        self._publish(self.kept.end_all())

    def _publish(self, wills: Iterable[tuple[Farewell, Will]]) -> None:
        for farewell, will in wills:
            for run in Decoder().feed(encode_publish(will.topic, will.payload)):
                assert isinstance(run, PublishRun)
                try:
                    lane = uplink_lane(farewell.credentials, run.topic)
                    if lane is not None:
                        check_frames(run, lane)
                except Refused as refused:
                    self._refuse(farewell, refused, run.topic, run.data[:SAMPLE])
                else:
                    self._gate.gather(NOBODY, farewell.row, run, b"", now_ms(), lane)
