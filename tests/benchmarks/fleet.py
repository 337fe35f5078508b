"""A fleet that connects all at once: raw MQTT 3.1.1 over plain TCP, sockets and packets made beforehand. It knows nothing of our codec.

    python -m tests.benchmarks.fleet PORT CLIENTS.json

`connect` on stdin: every device connects, one JSON line says how long it took from the first SYN until the last CONNACK. `drop`: every
connection is reset, as when the network goes. The end of stdin is the end.
"""

import json
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.generator import connect

KEEPALIVE_S = 600
ADDRESSES = 8  # loopback source addresses: a single one has 28,000 ports, and some wait in TIME_WAIT
ACCEPTED = b"\x20\x02\x00\x00"
GIVE_UP_S = 60.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


def sockets(count: int) -> list[socket.socket]:
    """Sockets that are ready to connect, without a port yet."""
    made = []
    for number in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is chosen with the destination in view
        sock.bind((f"127.0.0.{2 + number % ADDRESSES}", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        made.append(sock)
    return made


def connect_all(port: int, socks: Sequence[socket.socket], packets: Sequence[bytes]) -> dict[str, Any]:
    """Connect everybody as fast as this process can, then read CONNACKs. Raises ConnectionError on any other answer, TimeoutError."""
    poll = select.epoll()
    waiting = {}
    cpu, begun = time.process_time(), time.monotonic()
    for sock, packet in zip(socks, packets, strict=True):
        sock.connect_ex(("127.0.0.1", port))  # the handshake over loopback is done when this returns, unless the backlog is full
        try:
            sock.send(packet)
            poll.register(sock, select.EPOLLIN)
            waiting[sock.fileno()] = (sock, b"")
        except (BlockingIOError, BrokenPipeError):
            poll.register(sock, select.EPOLLOUT)
            waiting[sock.fileno()] = (sock, packet)
    sent = time.monotonic()
    connected = 0
    while waiting:
        for fd, event in poll.poll(1, 1_000):
            sock, packet = waiting[fd]
            if event & (select.EPOLLERR | select.EPOLLHUP):
                raise ConnectionError(
                    f"a connection was closed after {connected} CONNACKs: {sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)}"
                )
            if packet:
                sock.send(packet)
                waiting[fd] = (sock, b"")
                poll.modify(fd, select.EPOLLIN)
                continue
            answer = sock.recv(4)
            if answer != ACCEPTED:
                raise ConnectionError(f"a device was refused: {answer.hex()}")
            connected += 1
            poll.unregister(fd)
            del waiting[fd]
        if time.monotonic() - begun > GIVE_UP_S:
            raise TimeoutError(f"{len(waiting)} of {len(socks)} devices got no CONNACK")
    wall = time.monotonic() - begun
    return {"connacks": connected, "seconds": wall, "sent_s": sent - begun, "cpu_share": (time.process_time() - cpu) / wall}


def main() -> int:
    port, clients = int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    packets = [connect(row[0].encode(), row[2].encode(), row[3].encode(), KEEPALIVE_S) for row in clients]
    socks: list[socket.socket] = []
    for line in sys.stdin:
        order, _, count = line.strip().partition(" ")
        if order == "connect":
            some = packets[: int(count)] if count else packets
            socks = sockets(len(some))
            print(json.dumps(connect_all(port, socks, some)), flush=True)
        elif order == "drop":
            for sock in socks:
                sock.close()
            socks = []
            print("{}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
