"""A raw MQTT 3.1.1 load: packets encoded beforehand, N connections with M QoS 1 publishes in flight, PUBACKs counted and checked.

It knows nothing of our codec, so that every front door is measured by the same hand. It prints one JSON line; `cpu_share` near 1.0 means
that the generator, not the server, was the limit, and that the rate says nothing.
"""

import argparse
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def remaining_length(length: int) -> bytes:
    out = bytearray()
    while True:
        length, digit = divmod(length, 128)
        out.append(digit | (128 if length else 0))
        if not length:
            return bytes(out)


def text(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + remaining_length(len(body)) + body


def connect(client_id: bytes, username: bytes | None = None, password: bytes | None = None, keepalive: int = 60) -> bytes:
    flags = 0x02 | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    body = text(b"MQTT") + bytes((4, flags)) + struct.pack(">H", keepalive) + text(client_id)
    body += text(username) if username is not None else b""
    body += text(password) if password is not None else b""
    return packet(0x10, body)


def publish(topic: bytes, payload: bytes, packet_id: int) -> bytes:
    return packet(0x32, text(topic) + struct.pack(">H", packet_id) + payload)


def subscribe(packet_id: int, topic_filter: bytes, qos: int) -> bytes:
    return packet(0x82, struct.pack(">H", packet_id) + text(topic_filter) + bytes((qos,)))


@dataclass(frozen=True, slots=True)
class Client:
    """One connection to make."""

    client_id: str
    topic: str
    username: str | None = None
    password: str | None = None

    def connect(self) -> bytes:
        username = self.username.encode() if self.username is not None else None
        return connect(self.client_id.encode(), username, self.password.encode() if self.password is not None else None)


class Lane:
    """One connection: a window of publishes that moves as PUBACKs come back, which must come in order."""

    __slots__ = (
        "_acks",
        "_length",
        "_packets",
        "_partial",
        "_unsent",
        "_window",
        "acked",
        "next_ack",
        "next_send",
        "sock",
        "wrong",
    )

    def __init__(self, sock: socket.socket, topic: bytes, payloads: Sequence[bytes], in_flight: int) -> None:
        self.sock = sock
        packets = [publish(topic, payloads[i % len(payloads)], i + 1) for i in range(in_flight)]
        self._length = len(packets[0])
        if any(len(p) != self._length for p in packets):
            raise ValueError("payloads must be of one length")
        self._packets = memoryview(b"".join(packets) * 2)
        self._acks = b"".join(b"\x40\x02" + struct.pack(">H", i + 1) for i in range(in_flight)) * 2
        self._window = in_flight
        self._partial = b""
        self._unsent: memoryview | None = None
        self.acked = self.next_ack = self.next_send = self.wrong = 0

    def send(self, count: int) -> None:
        start = self.next_send * self._length
        data = self._packets[start : start + count * self._length]
        self.next_send = (self.next_send + count) % self._window
        if self._unsent is not None:
            self._unsent = memoryview(bytes(self._unsent) + bytes(data))
            return
        self._push(data)

    def _push(self, data: memoryview) -> None:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        self._unsent = data[sent:] if sent < len(data) else None

    def push_rest(self) -> bool:
        """Send what the socket refused; True when nothing is left."""
        if self._unsent is not None:
            self._push(self._unsent)
        return self._unsent is None

    def receive(self) -> int:
        """Read PUBACKs; how many came. Raises ConnectionError when the server closed."""
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the server closed a connection under load")
        if self._partial:
            data = self._partial + data
        count, rest = divmod(len(data), 4)
        self._partial = data[len(data) - rest :] if rest else b""
        done = 0
        while done < count:
            take = min(count - done, self._window)
            expected = self._acks[self.next_ack * 4 : (self.next_ack + take) * 4]
            if data[done * 4 : (done + take) * 4] != expected:
                self.wrong += 1
            self.next_ack = (self.next_ack + take) % self._window
            done += take
        self.acked += count
        return count


def open_lanes(host: str, port: int, clients: Sequence[Client], payloads: Sequence[bytes], in_flight: int) -> list[Lane]:
    """Connect everybody, all CONNECTs sent before the first CONNACK is awaited. Raises ConnectionError on a refusal."""
    socks = []
    for client in clients:
        sock = socket.create_connection((host, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(client.connect())
        socks.append(sock)
    for sock, client in zip(socks, clients, strict=True):
        answer = sock.recv(4)
        if answer != b"\x20\x02\x00\x00":
            raise ConnectionError(f"{client.client_id} was refused: {answer.hex()}")
        sock.setblocking(False)
    return [Lane(sock, client.topic.encode(), payloads, in_flight) for sock, client in zip(socks, clients, strict=True)]


def run_load(lanes: Sequence[Lane], in_flight: int, *, warm_s: float, seconds: float, watch: Sequence[int] = ()) -> dict[str, Any]:
    """Keep every window full for `warm_s` + `seconds`; the rate is taken over `seconds` only, then the windows run dry."""
    poll = select.epoll()
    by_fd = {lane.sock.fileno(): lane for lane in lanes}
    for lane in lanes:
        poll.register(lane.sock.fileno(), select.EPOLLIN)
    start = time.monotonic()
    measure_from, end, give_up = start + warm_s, start + warm_s + seconds, start + warm_s + seconds + 30
    counted_from: tuple[float, int, list[float]] | None = None
    counted_to: tuple[float, int, list[float]] | None = None
    acked = 0
    outstanding = len(lanes) * in_flight
    longest_pause = 0.0
    for lane in lanes:
        lane.send(in_flight)
        if not lane.push_rest():
            poll.modify(lane.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
    last = start
    while outstanding:
        events = poll.poll(1)
        now = time.monotonic()
        longest_pause, last = max(longest_pause, now - last), now
        if counted_from is None and now >= measure_from:
            counted_from = (now, acked, _cpu_of(watch))
        if counted_to is None and now >= end:
            counted_to = (now, acked, _cpu_of(watch))
        if now > give_up:
            raise TimeoutError(f"{outstanding} publishes were never acknowledged")
        for fd, event in events:
            lane = by_fd[fd]
            if event & select.EPOLLOUT and lane.push_rest():
                poll.modify(fd, select.EPOLLIN)
            if event & ~select.EPOLLOUT:
                count = lane.receive()
                acked += count
                outstanding -= count
                if counted_to is None and count:
                    lane.send(count)
                    outstanding += count
                    if not lane.push_rest():
                        poll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
    assert counted_from is not None
    assert counted_to is not None
    wall = counted_to[0] - counted_from[0]
    shares = [round((after - before) / wall, 3) for before, after in zip(counted_from[2], counted_to[2], strict=True)]
    return {
        "acked": acked,
        "rate": round((counted_to[1] - counted_from[1]) / wall),
        "seconds": round(wall, 3),
        "cpu_share": shares[0],
        "watched": shares[1:],
        "misordered": sum(lane.wrong for lane in lanes),
        "longest_pause_ms": round(longest_pause * 1000, 1),
    }


def run_subscriber(host: str, port: int, topic_filter: str, seconds: float) -> dict[str, Any]:
    """Take everything under `topic_filter` at QoS 0 with little work, which favours the broker; messages have one length."""
    sock = socket.create_connection((host, port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.sendall(connect(b"subscriber") + subscribe(1, topic_filter.encode(), 0))
    answer = sock.recv(4) + sock.recv(5)  # CONNACK, SUBACK
    if answer[3] or answer[8:] != b"\0":
        raise ConnectionError(f"the subscription was refused: {answer.hex()}")
    print('{"ready": true}', flush=True)
    buffer = bytearray(1 << 22)
    sock.settimeout(0.2)
    received, length, end = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.002)  # one large read instead of a wake-up for each message: the broker gets the core
        try:
            part = sock.recv_into(buffer)
        except TimeoutError:
            continue
        if not part:
            break
        if not received and part > 3:
            length = 2 + buffer[1] if buffer[1] < 128 else 3 + (buffer[1] & 127) + (buffer[2] << 7)
        received += part
    return {"received": received // length if length else 0, "cpu_s": round(_cpu(), 3)}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _cpu_of(pids: Sequence[int]) -> list[float]:
    """CPU seconds of this process and of others."""
    taken = [_cpu()]
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        taken.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    return taken


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--in-flight", type=int, default=10)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm", type=float, default=1.0)
    parser.add_argument("--topic", default="/sys/bench/{n}/thing/event/property/post", help="for anonymous clients")
    parser.add_argument("--clients", type=Path, help="JSON: [[client_id, topic, username, password], ...]")
    parser.add_argument("--watch", type=int, nargs="*", default=[], help="processes whose CPU share is wanted too")
    parser.add_argument("--subscribe", help="be a subscriber of this filter for --seconds instead")
    options = parser.parse_args(arguments)
    if options.subscribe:
        result = run_subscriber(options.host, options.port, options.subscribe, options.seconds)
    else:
        if options.clients:
            clients = [Client(*row) for row in json.loads(options.clients.read_text())][: options.connections]
        else:
            clients = [Client(f"bench-{n}", options.topic.format(n=n)) for n in range(options.connections)]
        payload = (os.urandom(options.size).hex().encode())[: options.size]
        lanes = open_lanes(options.host, options.port, clients, [payload], options.in_flight)
        result = run_load(lanes, options.in_flight, warm_s=options.warm, seconds=options.seconds, watch=options.watch)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
