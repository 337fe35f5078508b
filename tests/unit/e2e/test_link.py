"""The link of the end-to-end tests: what passes, what a cut does, what it hears."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.e2e.link import Link


@pytest.fixture
def echo() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                threading.Thread(target=answer, args=(peer,), daemon=True).start()

    def answer(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(100):
                peer.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_a_cut_ends_connections_and_a_restored_link_carries_again(echo: int) -> None:
    link = Link(("127.0.0.1", echo))
    before = time.monotonic()
    with socket.create_connection(("127.0.0.1", link.port), 5) as first:
        first.sendall(b"one")
        assert first.recv(10) == b"one"
        assert link.first_word_after(before, 1) >= before
        link.cut()
        assert first.recv(10) == b""
    with socket.create_connection(("127.0.0.1", link.port), 5) as second:
        assert second.recv(10) == b""
    link.restore()
    with socket.create_connection(("127.0.0.1", link.port), 5) as third:
        third.sendall(b"two")
        assert third.recv(10) == b"two"
    link.close()
