"""The cloud's front door as a simulated device sees it: our session code in a small asyncio server, with a PUBACK switch."""

import asyncio
from collections.abc import Callable

from protocols.alink.credentials import parse_username, verify
from protocols.mqtt.packets import ConnectCode
from protocols.mqtt.session import ConnectRequested, Published, ServerSession


class AlinkServer:
    """Takes devices whose secrets it knows; `acknowledging` = False keeps PUBACKs back until `acknowledge` or the connection's end."""

    def __init__(self, secrets: dict[tuple[str, str], str]) -> None:
        self.secrets, self.acknowledging = secrets, True
        self.received: list[tuple[str, bytes]] = []
        self.refused = 0
        self.connections: dict[tuple[str, str], Connection] = {}
        self.changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> int:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()

    def drop(self) -> None:
        """Reset every connection."""
        for connection in tuple(self.connections.values()):
            connection.abort()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait for what the devices do."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def note(self) -> None:
        self.changed.set()


class Connection(asyncio.Protocol):
    """Socket glue of one device."""

    def __init__(self, server: AlinkServer) -> None:
        self._server = server
        self._session = ServerSession(asyncio.get_running_loop().time())
        self._transport: asyncio.Transport | None = None
        self._key: tuple[str, str] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for event in self._session.receive(data, asyncio.get_running_loop().time()):
            if isinstance(event, ConnectRequested):
                connect = event.connect
                self._key = parse_username(connect.username)
                if verify(connect.client_id, connect.username, connect.password, self._server.secrets.get(self._key, "")):
                    self._server.connections[self._key] = self
                    assert not self._session.accept()
                else:
                    self._server.refused += 1
                    self._session.refuse(ConnectCode.BAD_CREDENTIALS)
            elif isinstance(event, Published):
                self._server.received += [(event.run.topic, payload) for payload in event.run.payloads()]
                if self._server.acknowledging:
                    self._session.acknowledge(event.run.acks())
        self.flush()
        self._server.note()

    def deliver(self, topic: str, payload: bytes) -> None:
        self._session.deliver(topic, payload)
        self.flush()

    def flush(self) -> None:
        if self._transport is not None:
            self._transport.write(self._session.take_output())
            if self._session.should_close:
                self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._key is not None and self._server.connections.get(self._key) is self:
            del self._server.connections[self._key]
        self._server.note()
