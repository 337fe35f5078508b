"""MQTT over TLS: sockets are accepted here one by one, so that a client certificate that is not taken has an address and is counted.

The listener asks for a client certificate and takes none too. An authority that is added is known to connections from then on; one that is
retired cannot be taken out of a context, so who comes with its certificates is judged at admission (certificates.py).
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloud.access.certificates import Trust, refused_in_handshake
from cloud.access.door import FrontDoor
from cloud.access.ports import AuthorityLookup
from cloud.access.refusals import Client
from cloud.access.server import Connection
from cloud.foundation.logs import get_logger
from protocols.errors import PlatformError, TryAgain
from protocols.mqtt.lobby import no_room

HANDSHAKE_S: Final = 20.0
HANDSHAKES: Final = 4_000
"""At once; beyond them the oldest is closed, so that connections which never finish keep nobody out."""
RENEW_S: Final = 3_600.0
NO_FILES_S: Final = 1.0
"""After an accept that failed for want of file descriptors or memory."""
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Tls:
    """A listener beside the plain one. `renew` makes a new certificate when it is time and says so; `load` puts it into the context."""

    listener: socket.socket
    context: ssl.SSLContext
    renew: Callable[[], bool]
    load: Callable[[ssl.SSLContext], None]


def ask_for_certificates(context: ssl.SSLContext) -> None:
    """Clients may show a certificate; an authority counts though it is not a root."""
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


class Authorities:
    """Keeps what the door and its context know of tenants' authorities up to date."""

    def __init__(self, trust: Trust, lookup: AuthorityLookup, context: ssl.SSLContext | None) -> None:
        self._trust, self._lookup, self._context = trust, lookup, context
        self._busy = asyncio.Lock()
        self._loaded: set[str] = set()

    async def refresh(self) -> bool:
        """Look them up; False when the registry did not answer, and all is as it was."""
        async with self._busy:
            try:
                found = await asyncio.to_thread(self._lookup)
            except TryAgain as error:
                get_logger().warning("access.authorities_delayed", error=str(error))
                return False
            fresh = [pem for pem in self._trust.replace(found) if pem not in self._loaded]
            if self._context is not None:
                for pem in fresh:
                    self._load(self._context, pem)
            return True

    def _load(self, context: ssl.SSLContext, pem: str) -> None:
        self._loaded.add(pem)
        try:
            context.load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError) as error:  # cryptography has read it; one that OpenSSL does not must not end the door
            get_logger().error("access.authority_not_loaded", error=str(error), pem=pem)


async def take(door: FrontDoor, tls: Tls, most: int = HANDSHAKES) -> None:
    """Accept connections for ever; each shakes hands in a task of its own, at most `most` at once and `HANDSHAKE_S` long."""
    loop = asyncio.get_running_loop()
    tls.listener.setblocking(False)
    shaking: dict[asyncio.Task[None], str] = {}  # oldest first, with its address
    async with asyncio.TaskGroup() as tasks:
        while True:
            try:
                sock, peer = await loop.sock_accept(tls.listener)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    get_logger().warning("access.accept_failed", error=str(error))
                    await asyncio.sleep(NO_FILES_S)
                continue  # else a client that has gone again
            if len(shaking) >= most:
                oldest = next(iter(shaking))
                door.refuse(Client(shaking.pop(oldest)), no_room(most))
                oldest.cancel()
            address = f"{peer[0]}:{peer[1]}"
            task = tasks.create_task(_shake_hands(door, tls.context, sock, address), name="access.handshake")
            shaking[task] = address
            task.add_done_callback(lambda done: shaking.pop(done, None))


async def _shake_hands(door: FrontDoor, context: ssl.SSLContext, sock: socket.socket, address: str) -> None:
    loop = asyncio.get_running_loop()
    try:
        await loop.connect_accepted_socket(lambda: Connection(door), sock, ssl=context, ssl_handshake_timeout=HANDSHAKE_S)
    except ssl.SSLCertVerificationError as error:
        door.refuse(Client(address), refused_in_handshake(error.verify_code, error.verify_message))
    except OSError:  # plain MQTT, a scanner, a client that does not trust us: it hears so from TLS
        return
    except Exception as error:  # noqa: BLE001 - one connection must not end the door
        get_logger().error("access.handshake_failed", error=str(error), exc_info=error)


async def keep_renewed(tls: Tls) -> None:
    """Look after the server's certificate for ever."""
    while True:
        try:
            if await asyncio.to_thread(tls.renew):
                tls.load(tls.context)
                get_logger().info("access.certificate_renewed")
        except (OSError, PlatformError) as error:  # the present one is still good for a third of its life
            get_logger().error("access.certificate_not_renewed", error=str(error))
        await asyncio.sleep(RENEW_S)
