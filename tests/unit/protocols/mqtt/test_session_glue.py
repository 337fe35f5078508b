"""The server in the documentation of `session` works as it stands there."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from protocols.mqtt import codec, session
from protocols.mqtt.codec import ConnAck, Connect, Disconnect, PubAck, PublishRun, Will, encode, encode_publish
from tests.unit.protocols.mqtt.packets import decode, singles


class FakeServer:
    def __init__(self) -> None:
        self.stored: list[bytes] = []
        self.wills: list[Will | None] = []

    def knows(self, connect: Connect) -> bool:
        return connect.username == "dev&pk"

    def store(self, run: PublishRun) -> None:
        self.stored += run.payloads()

    def forget(self, connection: object, will: Will | None) -> None:
        self.wills.append(will)


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def documented() -> Callable[[FakeServer], Any]:
    """`Connection`, executed out of the module's docstring."""
    text = inspect.cleandoc(session.__doc__ or "")
    block = text.split("::\n", 1)[1]
    code = "\n".join(line for line in block.splitlines() if not line or line.startswith("    "))
    names: dict[str, Any] = {**vars(codec), **vars(session)}
    exec(compile(inspect.cleandoc("\n" + code), "session.__doc__", "exec"), names)
    made: Callable[[FakeServer], Any] = names["Connection"]
    return made


def test_the_documented_glue_serves_a_device() -> None:
    server, transport = FakeServer(), FakeTransport()
    connection = documented()(server)
    assert isinstance(connection, asyncio.Protocol)
    connection.connection_made(transport)
    connection.data_received(encode(Connect("a", "dev&pk", b"x", will=Will("w", b""))) + encode_publish("t", b"1", 1, 7) * 2)
    connection.pause_writing()
    connection.data_received(encode_publish("t", b"2", 1, 8))
    assert singles(decode(transport.written, server_side=False)) == [ConnAck(), PubAck(7), PubAck(7)]
    connection.resume_writing()
    assert singles(decode(transport.written, server_side=False))[-1] == PubAck(8)
    connection.data_received(encode(Disconnect()))
    connection.connection_lost(None)
    assert (server.stored, server.wills, transport.closed) == ([b"1", b"1", b"2"], [None], True)


def test_the_documented_glue_turns_a_stranger_away() -> None:
    server, transport = FakeServer(), FakeTransport()
    connection = documented()(server)
    connection.connection_made(transport)
    connection.data_received(encode(Connect("a", "other&pk", b"x")) + encode_publish("t", b"1"))
    assert decode(transport.written, server_side=False) == [ConnAck(False, 4)]
    assert (server.stored, server.wills, transport.closed) == ([], [], True)
