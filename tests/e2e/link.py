"""A network link that a test can break in every way a network breaks, and listen to: a TCP relay in a thread, outside every process."""

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

CHUNK = 4_096
HELD_BYTES = 64 * 1024  # of one direction, beyond what sockets hold: then the sender has to wait


@dataclass(slots=True)
class _Way:
    """One direction of one connection: chunks with the time they are due."""

    to: socket.socket
    upward: bool
    chunks: deque[tuple[float, bytes]] = field(default_factory=deque)
    held: int = 0
    free_at: float = 0.0


class Link:
    """Relay from a loopback port of its own to `target`. Faults hold until `restore()`:

    `cut()` drops every connection and refuses new ones; `freeze()` lets bytes wait (both ways, or one: half-open); `reset()` answers
    every connection with a reset; `shape()` delays, throttles, and now and then stalls, as a lossy link looks from above TCP.
    """

    def __init__(self, target: tuple[str, int], chance: Callable[[], float] = random.random) -> None:
        self._target, self._chance = target, chance
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ways: dict[socket.socket, _Way] = {}  # by where its bytes come from
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._open, self._frozen_up, self._frozen_down, self._resets = True, False, False, False
        self._delay_s, self._bytes_per_s, self._stalls = 0.0, 0.0, 0.0
        self._ended = False
        self.accepted = 0
        self.spoke: list[float] = []  # monotonic seconds of each segment from the client's side
        self._thread = threading.Thread(target=self._run, name=f"link-{self.port}", daemon=True)
        self._thread.start()

    # --- faults

    def cut(self) -> None:
        """The cable is out: connections die at once, new ones are dropped as they arrive."""
        with self._lock:
            self._open = False

    def freeze(self, *, up: bool = True, down: bool = True) -> None:
        """The radio is dead: nothing is refused, nothing arrives."""
        with self._lock:
            self._frozen_up, self._frozen_down = up, down

    def reset(self) -> None:
        """Every connection is reset, new ones as soon as they are made."""
        with self._lock:
            self._resets, self._open = True, False

    def shape(self, *, delay_s: float = 0.0, bytes_per_s: float = 0.0, stalls: float = 0.0) -> None:
        """One-way delay, throughput (0: any), and the share of segments that are held up for 0.2 to 1.2 s."""
        with self._lock:
            self._delay_s, self._bytes_per_s, self._stalls = delay_s, bytes_per_s, stalls

    def restore(self) -> None:
        with self._lock:
            self._open, self._resets, self._frozen_up, self._frozen_down = True, False, False, False
            self._delay_s, self._bytes_per_s, self._stalls = 0.0, 0.0, 0.0

    def mend(self) -> None:
        """The cable is in again; its shape stays."""
        with self._lock:
            self._open = True

    def redirect(self, target: tuple[str, int]) -> None:
        """New connections go somewhere else."""
        self._target = target

    # --- listening

    def first_word_after(self, since: float, timeout_s: float = 30.0) -> float:
        """When the client side first sent a byte after `since` (monotonic seconds); waits for it."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            later = [at for at in list(self.spoke) if at > since]
            if later:
                return later[0]
            time.sleep(0.01)
        raise TimeoutError(f"nobody spoke on the link to {self._target} within {timeout_s:g} s")

    def close(self) -> None:
        self._ended = True
        self._thread.join(5)

    # --- the thread

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._ended:
                for key, _ in selector.select(0.02 if not self._busy() else 0.002):
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._ways:
                        self._read(key.fileobj, selector)
                self._flush(selector)
                if not self._open:
                    for side in list(self._clients):
                        self._drop(side, selector)
            for side in list(self._clients):
                self._drop(side, selector)
        self._listener.close()

    def _busy(self) -> bool:
        return any(way.chunks for way in self._ways.values())

    def _accept(self, selector: selectors.BaseSelector) -> None:
        client, _ = self._listener.accept()
        self.accepted += 1
        if not self._open:
            self._end(client)
            return
        try:
            server = socket.create_connection(self._target, 5)
        except OSError:
            client.close()
            return
        for side, other, upward in ((client, server, True), (server, client, False)):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ways[side] = _Way(other, upward)
            selector.register(side, selectors.EVENT_READ)
        self._clients.add(client)

    def _read(self, side: socket.socket, selector: selectors.BaseSelector) -> None:
        way = self._ways[side]
        if way.held >= HELD_BYTES:
            selector.unregister(side)  # until there is room again
            return
        try:
            data = side.recv(CHUNK)
        except OSError:
            data = b""
        if not data:
            self._drop(side, selector)
            return
        if side in self._clients:
            self.spoke.append(time.monotonic())
        due = time.monotonic() + self._delay_s
        if self._stalls and self._chance() < self._stalls:
            due += 0.2 + self._chance()
        if self._bytes_per_s:
            way.free_at = max(way.free_at, time.monotonic()) + len(data) / self._bytes_per_s
            due = max(due, way.free_at + self._delay_s)
        if way.chunks:
            due = max(due, way.chunks[-1][0])  # a stream stays in order
        way.chunks.append((due, data))
        way.held += len(data)

    def _flush(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for side, way in list(self._ways.items()):
            if side not in self._ways or (self._frozen_up if way.upward else self._frozen_down):
                continue
            try:
                while way.chunks and way.chunks[0][0] <= now:
                    way.to.sendall(way.chunks[0][1])
                    way.held -= len(way.chunks.popleft()[1])
            except OSError:
                self._drop(side, selector)
                continue
            if way.held < HELD_BYTES and side.fileno() >= 0 and side not in selector.get_map():
                selector.register(side, selectors.EVENT_READ)

    def _end(self, side: socket.socket) -> None:
        if self._resets:
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        side.close()

    def _drop(self, side: socket.socket, selector: selectors.BaseSelector) -> None:
        way = self._ways.pop(side, None)
        for end in (side, way.to if way else None):
            if end is not None:
                self._ways.pop(end, None)
                self._clients.discard(end)
                with contextlib.suppress(KeyError, ValueError):
                    selector.unregister(end)
                self._end(end)
