"""A network link that a test can cut and listen to: a TCP relay in a thread, outside every process it connects."""

import contextlib
import selectors
import socket
import threading
import time

CHUNK = 65536


class Link:
    """Relay from a loopback port of its own to `target`. `cut()` drops every connection and refuses new ones until `restore()`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._open = True
        self._ended = False
        self.spoke: list[float] = []  # monotonic seconds of each segment from the client's side
        self._thread = threading.Thread(target=self._run, name=f"link-{self.port}", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """The cable is out: connections die at once, new ones are dropped as they arrive."""
        with self._lock:
            self._open = False

    def restore(self) -> None:
        with self._lock:
            self._open = True

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

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._ended:
                for key, _ in selector.select(0.02):
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._pairs:
                        self._pump(key.fileobj, selector)
                if not self._open:
                    for side in list(self._clients):
                        self._drop(side, selector)
            for side in list(self._clients):
                self._drop(side, selector)
        self._listener.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        client, _ = self._listener.accept()
        if not self._open:
            client.close()
            return
        try:
            server = socket.create_connection(self._target, 5)
        except OSError:
            client.close()
            return
        for side, other in ((client, server), (server, client)):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[side] = other
            selector.register(side, selectors.EVENT_READ)
        self._clients.add(client)

    def _pump(self, side: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            data = side.recv(CHUNK)
            if data:
                if side in self._clients:
                    self.spoke.append(time.monotonic())
                self._pairs[side].sendall(data)
                return
        except OSError:
            pass
        self._drop(side, selector)

    def _drop(self, side: socket.socket, selector: selectors.BaseSelector) -> None:
        other = self._pairs.pop(side, None)
        for end in (side, other):
            if end is not None:
                self._pairs.pop(end, None)
                self._clients.discard(end)
                with contextlib.suppress(KeyError, ValueError):
                    selector.unregister(end)
                end.close()
