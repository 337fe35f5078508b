"""Saying that the agent lives, in the words of sd_notify(3): to systemd, or to `edgectl guard`."""

import socket
from contextlib import suppress
from pathlib import Path


class Watchdog:
    """Datagrams to `address` ($NOTIFY_SOCKET; "" for nobody); nobody listening is no error."""

    def __init__(self, address: str = "") -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if self._address else None
        if self._socket is not None:
            self._socket.setblocking(False)  # whoever does not read must not stop the agent

    def say(self, *lines: str) -> None:
        """For example `READY=1`, `WATCHDOG=1`, `STOPPING=1`, `STATUS=...`."""
        if self._socket is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError):
            self._socket.sendto("\n".join(lines).encode(), address)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def listen(path: str) -> socket.socket:
    """The other end: a socket that takes the datagrams. Raises OSError."""
    with suppress(FileNotFoundError):
        Path(path).unlink()
    found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        found.bind(path)
    except OSError:
        found.close()
        raise
    return found
