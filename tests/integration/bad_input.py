"""Bytes that no front door takes, a device that does everything right meanwhile, and what the offender sees of its socket."""

import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable

from protocols.errors import Reason
from protocols.mqtt.codec import Connect, PubAck, PublishRun, encode, encode_publish
from tests.integration.access_rig import RawClient, wait_for

HOSTS = (f"127.{a}.{b}.{c}" for a, b, c in itertools.product(range(1, 255), range(1, 255), range(1, 255)))


class Good(threading.Thread):
    """A device that does everything right, one message at a time, and keeps what it saw."""

    def __init__(self, client: RawClient, payload: Callable[[int], bytes]) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._payload = payload
        self._enough = threading.Event()
        self.sent: list[bytes] = []
        self.acked = 0
        self.fault = ""

    def run(self) -> None:
        while not self._enough.is_set():
            payload = self._payload(len(self.sent))
            packet_id = len(self.sent) % 60_000 + 1
            self.sent.append(payload)
            self._client.publish(payload, packet_id)
            try:
                answer = self._client.next(20)
                while isinstance(answer, PublishRun):  # the reply to a post
                    answer = self._client.next(20)
            except TimeoutError:
                answer = None
            if answer != PubAck(packet_id):
                self.fault = f"message {packet_id} was answered with {answer}"
                return
            self.acked += 1
            time.sleep(0.002)

    def goes_on(self, count: int = 5, timeout_s: float = 15.0) -> None:
        """Wait for so many more acknowledgements; fails when they do not come."""
        goal = self.acked + count
        wait_for(lambda: self.acked >= goal or self.fault, timeout_s)
        assert not self.fault

    def finish(self) -> list[bytes]:
        self._enough.set()
        self.join(30)
        assert not self.fault
        assert self.acked == len(self.sent) > 0
        self._client.close()
        return self.sent


def closed(sock: socket.socket, timeout_s: float = 10.0) -> bytes:
    """What comes until the server closes."""
    sock.settimeout(timeout_s)
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


def is_open(sock: socket.socket) -> bool:
    """Whether the server still holds the connection; it sends nothing on it."""
    sock.settimeout(0.001)
    try:
        return sock.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


def address(sock: socket.socket) -> str:
    return str(sock.getsockname()[0])


def _publish(topic: bytes, payload: bytes = b"x", first: int = 0x32, packet_id: int = 7) -> bytes:
    """A PUBLISH of 3.1.1 with whatever in it."""
    body = struct.pack(">H", len(topic)) + topic + struct.pack(">H", packet_id) + payload
    assert len(body) < 128
    return bytes((first, len(body))) + body


BAD_PACKETS = {
    "reserved flags": (bytes.fromhex("c100"), Reason.MALFORMED_PACKET, 0x81),
    "packet type 0": (bytes.fromhex("0000"), Reason.MALFORMED_PACKET, 0x81),
    "a length of five bytes": (bytes.fromhex("30ffffffff7f"), Reason.MALFORMED_PACKET, 0x81),
    "QoS 3": (_publish(b"t", first=0x36), Reason.MALFORMED_PACKET, 0x81),
    "packet id 0": (_publish(b"t", packet_id=0), Reason.MALFORMED_PACKET, 0x81),
    "a topic that is not UTF-8": (_publish(b"/sys/\xff\xfe/x"), Reason.MALFORMED_PACKET, 0x81),
    "a surrogate": (_publish(b"/sys/\xed\xa0\x80/x"), Reason.MALFORMED_PACKET, 0x81),
    "NUL in a topic": (_publish(b"/sys/a\0b"), Reason.MALFORMED_PACKET, 0x81),
    "a wildcard in a topic": (_publish(b"/sys/+/x"), Reason.MALFORMED_PACKET, 0x81),
    "a body that ends too early": (bytes.fromhex("3203 0009 41"), Reason.MALFORMED_PACKET, 0x81),
    "a subscription to nothing": (bytes.fromhex("8202 0001"), Reason.PROTOCOL_ERROR, 0x82),
    "a packet only servers send": (bytes.fromhex("d000"), Reason.PROTOCOL_ERROR, 0x82),
    "QoS 2": (_publish(b"t", first=0x34), Reason.UNSUPPORTED_QOS, 0x9B),
    "PUBREL": (bytes.fromhex("6202 0001"), Reason.UNSUPPORTED_QOS, 0x9B),
    "a second CONNECT": (encode(Connect("x", "y", b"Sesame-open")), Reason.PROTOCOL_ERROR, 0x82),
    "more than the largest packet": (bytes.fromhex("30ffffff7f"), Reason.PACKET_TOO_LARGE, 0x95),
}
SAME_IN_5 = [name for name in BAD_PACKETS if name != "a subscription to nothing"]  # (5 reads a length of properties there)


BAD_BEGINNINGS = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: hearth\r\nAuthorization: Basic c2VzYW1l\r\n\r\n" + bytes(99), Reason.MALFORMED_PACKET, b"", "HTTP"),
    "TLS": (bytes.fromhex("16030102000100") + bytes(506), Reason.MALFORMED_PACKET, b"", "TLS"),
    "noise": (bytes(range(200, 256)) * 9, Reason.MALFORMED_PACKET, b"", "remaining length"),
    "PINGREQ first": (bytes.fromhex("c000"), Reason.PROTOCOL_ERROR, b"", "PINGREQ"),
    "PUBLISH first": (encode_publish("/t", b"x", 1, 1), Reason.PROTOCOL_ERROR, b"", "PUBLISH"),
    "another protocol name": (bytes.fromhex("100d 0004 4d515450 04 02 003c 0001 61"), Reason.PROTOCOL_ERROR, b"", "protocol name"),
    "level 7": (bytes.fromhex("100d 0004 4d515454 07 02 003c 0001 61"), Reason.UNSUPPORTED_VERSION, bytes.fromhex("20020001"), "level 7"),
    "the reserved flag of CONNECT": (bytes.fromhex("100d 0004 4d515454 04 03 003c 0001 61"), Reason.MALFORMED_PACKET, b"", "reserved"),
    "a client id with NUL": (bytes.fromhex("100d 0004 4d515454 04 02 003c 0001 00"), Reason.MALFORMED_PACKET, b"", "NUL"),
    "a CONNECT of 17 KiB": (encode(Connect("c" * 17_000, "u", b"Sesame-open")), Reason.PACKET_TOO_LARGE, b"", "larger than"),
}
