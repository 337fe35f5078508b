"""A raw MQTT 3.1.1 sender for the ingest benches: every connection sends its own packets, made beforehand, in a window of QoS 1.

    python -m tests.benchmarks.uplink PLAN.pickle        floods, paces or keeps a rate; prints {"first", "last_ack", "cpu_share", ...}

It knows nothing of our codec. A plan is pickled by the bench that made it: trusted, on this machine, for this run.
"""

import contextlib
import json
import pickle
import resource
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.generator import Client

HOST = "127.0.0.1"


@dataclass(slots=True)
class Stream:
    """One connection: its packets back to back, where each begins (and the end), how many may be in flight."""

    client: Client
    packets: bytes
    offsets: list[int]
    window: int

    @property
    def count(self) -> int:
        return len(self.offsets) - 1


@dataclass(slots=True)
class _Sender:
    stream: Stream
    sock: socket.socket
    view: memoryview
    sent: int = 0  # packets allowed out
    at: int = 0  # bytes the socket took
    acked: int = 0
    replies: int = 0
    rest: bytes = b""
    waits: bool = field(default=False)


def connect(client: Client, port: int) -> socket.socket:
    """An accepted connection, not blocking. Raises ConnectionError."""
    sock = socket.create_connection((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(client.connect())
    answer = sock.recv(4)
    if answer != b"\x20\x02\x00\x00":
        raise ConnectionError(f"{client.client_id} was refused: {answer.hex()}")
    sock.setblocking(False)
    return sock


def split(data: bytes) -> tuple[int, list[bytes], bytes]:
    """(PUBACKs, bodies of PUBLISH packets, unfinished rest) of what a server sent."""
    if not data.startswith(b"\x30") and len(data) % 4 == 0 and data[::4] == b"\x40" * (len(data) // 4):
        return len(data) // 4, [], b""
    acks, bodies, at, end = 0, [], 0, len(data)
    while at + 2 <= end:
        length, start = data[at + 1], at + 2
        if length & 0x80:
            if start >= end:
                break
            length, start = (length & 0x7F) | (data[start] << 7), start + 1
        if start + length > end:
            break
        if data[at] == 0x40:
            acks += 1
        else:
            bodies.append(data[start : start + length])
        at = start + length
    return acks, bodies, data[at:]


TICK_S = 0.005


def flood(port: int, streams: Sequence[Stream], steady: float | None = None) -> dict[str, Any]:
    """Send everything as fast as the windows allow, or `steady` messages/s over all; returns when everything is acknowledged.

    Times are wall clock, in s.
    """
    senders = [_Sender(stream, connect(stream.client, port), memoryview(stream.packets)) for stream in streams]
    poll = select.epoll()
    by_fd = {sender.sock.fileno(): sender for sender in senders}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    outstanding = sum(stream.count for stream in streams)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime
    first = time.time()
    if steady is None:
        for sender in senders:
            _push(sender, sender.stream.window, poll)
    each, begun, ticks = (steady or 0) / len(senders), time.monotonic(), 0
    while outstanding:
        if steady is not None and (now := time.monotonic() - begun) >= ticks * TICK_S:
            ticks = int(now / TICK_S) + 1
            for number, sender in enumerate(senders):
                due = int(each * now + number / len(senders))  # not all at the same moment
                _push(sender, max(0, min(due, sender.acked + sender.stream.window) - sender.sent), poll)
        for fd, event in poll.poll(30 if steady is None else TICK_S):
            sender = by_fd[fd]
            if event & select.EPOLLIN:
                data = sender.rest + sender.sock.recv(1 << 18)
                acks, bodies, sender.rest = split(data)
                sender.replies += len(bodies)
                sender.acked += acks
                outstanding -= acks
                _push(sender, acks if steady is None else 0, poll)
            elif event & select.EPOLLOUT:
                _push(sender, 0, poll)
            else:
                raise ConnectionError(f"{sender.stream.client.client_id} was closed")
    last_ack = time.time()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = usage.ru_utime + usage.ru_stime - cpu
    return {
        "messages": sum(stream.count for stream in streams),
        "first": first,
        "last_ack": last_ack,
        "cpu_share": spent / (last_ack - first),
        "replies": sum(sender.replies for sender in senders),
    }


def _push(sender: _Sender, more: int, poll: select.epoll) -> None:
    sender.sent = min(sender.sent + more, sender.stream.count)
    end = sender.stream.offsets[sender.sent]
    if sender.at < end:
        with contextlib.suppress(BlockingIOError):
            sender.at += sender.sock.send(sender.view[sender.at : end])
    waits = sender.at < end
    if waits != sender.waits:
        sender.waits = waits
        poll.modify(sender.sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if waits else 0))


def pace(port: int, streams: Sequence[Stream], per_second: int) -> dict[str, Any]:
    """Send one message after another, taking turns, at a steady rate; the time from each message to its reply, in ms."""
    socks = [connect(stream.client, port) for stream in streams]
    poll = select.poll()
    turn = {sock.fileno(): index for index, sock in enumerate(socks)}
    for sock in socks:
        poll.register(sock, select.POLLIN)
    sent_at: list[list[float]] = [[] for _ in streams]
    rests = [b"" for _ in streams]
    latencies: list[float] = []
    total = sum(stream.count for stream in streams)
    start, sent = time.perf_counter(), 0
    while len(latencies) < total:
        now = time.perf_counter()
        while sent < total and now - start >= sent / per_second:
            index, number = sent % len(streams), sent // len(streams)
            stream = streams[index]
            socks[index].sendall(stream.packets[stream.offsets[number] : stream.offsets[number + 1]])
            sent_at[index].append(now)
            sent += 1
        for fd, _ in poll.poll(max(0.0, (start + sent / per_second - now) * 1000) if sent < total else 1000):
            index = turn[fd]
            _, bodies, rests[index] = split(rests[index] + socks[index].recv(1 << 16))
            answered = time.perf_counter()
            latencies += [(answered - sent_at[index].pop(0)) * 1000 for _ in bodies]  # replies come in order on one connection
        if now - start > total / per_second + 30:
            raise TimeoutError(f"{total - len(latencies)} of {total} messages were never answered")
    latencies.sort()
    return {
        name: latencies[min(total - 1, int(total * share))] for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
    }


def main() -> int:
    way, port, streams, per_second = pickle.loads(Path(sys.argv[1]).read_bytes())
    print(json.dumps(pace(port, streams, per_second) if way == "pace" else flood(port, streams, per_second)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
