"""The bus: requests, events and streams over one NATS connection.

A lost connection ends what waits on it at once with `BusAway` instead of after a timeout, and comes back by itself within
milliseconds of the server. Nothing is ever parked for later: what could not be sent is the caller's to send again.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from cloud.foundation.logs import get_logger
from protocols.errors import Broken, TryAgain

MAX_PAYLOAD = 4 * 1024 * 1024

# JetStream's error codes that callers tell apart.
WRONG_LAST_SEQUENCE = 10071
STREAM_FULL = 10077
NO_SUCH_STREAM = 10059
STREAM_EXISTS = 10058

_RECONNECT_WAIT_S = 0.05

Handler = Callable[[bytes], Awaitable[bytes]]
Listener = Callable[[bytes], Awaitable[None]]


class BusAway(TryAgain):
    """There is no connection to NATS, or it was lost while waiting; whether a request arrived is then unknown."""


class NobodyAnswers(TryAgain):
    """No process serves this subject now."""


class NoAnswer(TryAgain):
    """Somebody serves this subject but did not answer in time; whether it acted is unknown."""


class StreamRefused(TryAgain):
    """JetStream refused a request; nothing was stored. `code` is HTTP-like, `err_code` is JetStream's own (10071, 10077, ...)."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"JetStream refused: {description} ({code}, {err_code})")
        self.code, self.err_code, self.description = code, err_code, description


class StreamAck(msgspec.Struct, frozen=True, gc=False):
    """A message is on disk at `seq` of `stream`; `duplicate` if its Nats-Msg-Id was there before."""

    stream: str
    seq: int
    duplicate: bool = False


class StreamInfo(msgspec.Struct, frozen=True, gc=False):
    """`stream_id` is random and made with the stream: another one means that the stream's data was lost."""

    stream_id: str
    first_seq: int
    last_seq: int
    messages: int
    size_bytes: int


class StreamMessage(msgspec.Struct, frozen=True, gc=False):
    seq: int
    data: bytes
    headers: Mapping[str, str]


class _Error(msgspec.Struct, frozen=True):
    code: int
    description: str = ""
    err_code: int = 0


class _State(msgspec.Struct, frozen=True):
    messages: int
    bytes: int
    first_seq: int
    last_seq: int


class _Config(msgspec.Struct, frozen=True):
    metadata: dict[str, str] = {}


class _StreamReply(msgspec.Struct, frozen=True):
    error: _Error | None = None
    config: _Config | None = None
    state: _State | None = None


class _AckReply(msgspec.Struct, frozen=True):
    error: _Error | None = None
    stream: str = ""
    seq: int = 0
    duplicate: bool = False


_ack_decoder = msgspec.json.Decoder(_AckReply)
_stream_decoder = msgspec.json.Decoder(_StreamReply)


class Bus:
    """One connection to NATS; make it with `Bus.connect`."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._lost = asyncio.get_running_loop().create_future()
        self._on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self._on_disconnect: list[Callable[[], None]] = []
        self._closing = False
        self._last_error: Exception | None = None

    @classmethod
    async def connect(cls, url: str, token: str, name: str, *, wait_s: float = 30.0) -> "Bus":
        """Connect, trying for `wait_s` seconds. Raises BusAway."""
        client = Client()
        bus = cls(client, name)
        try:
            async with asyncio.timeout(wait_s):
                await client.connect(  # tries again by itself, for ever
                    url,
                    token=token,
                    name=name,
                    error_cb=bus._error,
                    disconnected_cb=bus._disconnected,
                    reconnected_cb=bus._reconnected,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_WAIT_S,  # type: ignore[arg-type]  # used as seconds in asyncio.sleep
                    connect_timeout=2,
                    ping_interval=2,
                    max_outstanding_pings=2,
                )
        except (TimeoutError, OSError, nats.errors.Error) as error:
            bus._closing = True
            await client.close()
            raise BusAway(f"no connection to NATS at {url} within {wait_s:g} s: {bus._last_error or error!r}") from error
        return bus

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Run `callback` after each reconnect, in the order of registration."""
        self._on_reconnect.append(callback)

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Run `callback` as soon as the connection is lost."""
        self._on_disconnect.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """Take back an `on_disconnect`."""
        self._on_disconnect.remove(callback)

    async def close(self) -> None:
        """Send what is queued and disconnect; twice is harmless."""
        if self._closing:
            return
        self._closing = True
        if self._client.is_connected:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await self._client.flush(timeout=1)
        await self._client.close()

    # Events and requests

    async def publish(self, subject: str, data: bytes) -> None:
        """Send an event at most once. Raises BusAway when not connected."""
        if not self._client.is_connected:
            raise BusAway("not connected to NATS")
        try:
            await self._client.publish(subject, data)
        except (nats.errors.Error, OSError) as error:
            raise BusAway(f"could not publish on {subject}: {error!r}") from error

    async def subscribe(self, subject: str, listener: Listener) -> Subscription:
        """Hand every event on `subject` to `listener`, one after another; survives reconnects."""

        async def received(message: Msg) -> None:
            try:
                await listener(message.data)
            except Exception:  # noqa: BLE001 - one bad event must not end the subscription
                get_logger().exception("bus.listener_failed", subject=subject)

        return await self._subscribe(subject, received)

    async def serve(self, subject: str, handler: Handler) -> Subscription:
        """Answer requests on `subject`, one after another. A handler's error is logged and not answered."""

        async def received(message: Msg) -> None:
            try:
                answer = await handler(message.data)
                if message.reply:
                    await self._client.publish(message.reply, answer)
            except nats.errors.Error as error:
                get_logger().warning("bus.answer_lost", subject=subject, error=repr(error))
            except Exception:  # noqa: BLE001 - one bad request must not end the service
                get_logger().exception("bus.handler_failed", subject=subject)

        return await self._subscribe(subject, received)

    async def _subscribe(self, subject: str, received: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """When this returns the server knows, unless the connection is lost: then it hears on the reconnect."""
        subscription = await self._client.subscribe(subject, cb=received)
        if self._client.is_connected:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await self._client.flush(timeout=2)
        return subscription

    async def request(self, subject: str, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        """Ask and wait for one answer. Raises BusAway, NobodyAnswers, NoAnswer."""
        message = await self._request(subject, data, timeout_s, None)
        return message.data

    async def _request(self, subject: str, data: bytes, timeout_s: float, headers: dict[str, str] | None) -> Msg:
        if not self._client.is_connected:
            raise BusAway("not connected to NATS")
        lost = self._lost
        answer = asyncio.ensure_future(self._client.request(subject, data, timeout=timeout_s, headers=headers))
        try:
            await asyncio.wait((answer, lost), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise BusAway(f"the connection to NATS was lost while waiting on {subject}")
            return answer.result()
        except nats.errors.NoRespondersError as error:
            raise NobodyAnswers(f"nobody serves {subject}") from error
        except (TimeoutError, nats.errors.TimeoutError) as error:
            raise NoAnswer(f"no answer on {subject} within {timeout_s:g} s") from error
        except (nats.errors.Error, OSError) as error:
            raise BusAway(f"the request on {subject} failed: {error!r}") from error
        finally:
            answer.cancel()

    # Streams

    async def ensure_stream(self, name: str, subjects: list[str], *, max_bytes: int, duplicate_window_s: float = 120.0) -> StreamInfo:
        """The stream, made if missing: on disk, `discard: new` (a full stream refuses, it never drops), with a random id."""
        try:
            return await self.stream_info(name)
        except StreamRefused as error:
            if error.err_code != NO_SUCH_STREAM:
                raise
        config = {
            "name": name,
            "subjects": subjects,
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_bytes": max_bytes,
            "max_msgs": -1,
            "max_age": 0,
            "max_msg_size": -1,
            "num_replicas": 1,
            "duplicate_window": int(duplicate_window_s * 1e9),
            "allow_direct": True,
            "metadata": {"stream_id": secrets.token_hex(8)},
        }
        try:
            await self._api(f"STREAM.CREATE.{name}", config)
        except StreamRefused as error:
            if error.err_code != STREAM_EXISTS:  # another role made it in this moment, with another random id
                raise
        return await self.stream_info(name)

    async def stream_info(self, name: str) -> StreamInfo:
        """Raises StreamRefused (err_code 10059) when there is none."""
        reply = await self._api(f"STREAM.INFO.{name}", {})
        if reply.state is None or reply.config is None:
            raise Broken(f"JetStream described {name} without state")
        state = reply.state
        return StreamInfo(reply.config.metadata.get("stream_id", ""), state.first_seq, state.last_seq, state.messages, state.bytes)

    async def commit(self, subject: str, data: bytes, headers: dict[str, str] | None = None, *, timeout_s: float = 5.0) -> StreamAck:
        """Put a message into the stream behind `subject`; returns when it is on disk.

        Raises StreamRefused (not stored), or BusAway, NoAnswer, NobodyAnswers (unknown: repeat with the same headers).
        """
        message = await self._request(subject, data, timeout_s, headers)
        reply = _ack_decoder.decode(message.data)
        if reply.error is not None:
            raise StreamRefused(reply.error.code, reply.error.err_code, reply.error.description)
        return StreamAck(reply.stream, reply.seq, reply.duplicate)

    async def get_message(self, stream: str, seq: int) -> StreamMessage | None:
        """The message at `seq`, None if there is none."""
        message = await self._request(f"$JS.API.DIRECT.GET.{stream}", b'{"seq":%d}' % seq, 5.0, None)
        headers = message.headers or {}
        if headers.get("Status") == "404":
            return None
        if "Status" in headers and "Nats-Sequence" not in headers:
            raise StreamRefused(int(headers["Status"]), 0, headers.get("Description", ""))
        return StreamMessage(int(headers["Nats-Sequence"]), message.data, headers)

    async def purge_below(self, stream: str, seq: int) -> None:
        """Forget everything below `seq`, but never the last message, which carries the stream's sequence."""
        info = await self.stream_info(stream)
        keep_from = min(seq, info.last_seq)
        if keep_from > info.first_seq:
            await self._api(f"STREAM.PURGE.{stream}", {"seq": keep_from})

    async def _api(self, call: str, body: Mapping[str, Any]) -> _StreamReply:
        message = await self._request(f"$JS.API.{call}", msgspec.json.encode(body), 5.0, None)
        reply = _stream_decoder.decode(message.data)
        if reply.error is not None:
            raise StreamRefused(reply.error.code, reply.error.err_code, reply.error.description)
        return reply

    # Parts the stream reader builds on

    async def api(self, call: str, body: Mapping[str, Any]) -> None:
        """A JetStream API call whose answer carries nothing but success. Raises StreamRefused."""
        await self._api(call, body)

    async def listen(self, subject: str, received: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Raw messages with headers, for JetStream deliveries."""
        return await self._client.subscribe(subject, cb=received, pending_msgs_limit=-1, pending_bytes_limit=-1)

    async def ask(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None = None) -> None:
        """A request whose answers arrive on a subject that is listened on. Raises BusAway."""
        if not self._client.is_connected:
            raise BusAway("not connected to NATS")
        try:
            await self._client.publish(subject, data, reply=reply, headers=headers)
        except (nats.errors.Error, OSError) as error:
            raise BusAway(f"could not ask on {subject}: {error!r}") from error

    def new_inbox(self) -> str:
        return str(self._client.new_inbox())

    # Connection events

    async def _disconnected(self) -> None:
        if self._closing:
            return
        get_logger().warning("bus.disconnected", connection=self._name)
        lost, self._lost = self._lost, asyncio.get_running_loop().create_future()
        if not lost.done():
            lost.set_result(None)
        for callback in tuple(self._on_disconnect):
            callback()

    async def _reconnected(self) -> None:
        get_logger().info("bus.reconnected", connection=self._name)
        for callback in self._on_reconnect:
            try:
                await callback()
            except Exception:  # noqa: BLE001 - one that fails must keep neither the others nor the connection
                get_logger().exception("bus.callback_failed", connection=self._name)

    async def _error(self, error: Exception) -> None:
        self._last_error = error
        # Refused reconnect attempts come here 20 times a second: `bus.disconnected` has said it once.
        if not isinstance(error, OSError | nats.errors.UnexpectedEOF):
            get_logger().debug("bus.error", error=repr(error))
