"""Reads a stream from a position on, without acknowledgements: the reader's own position is the only truth.

A pull consumer in the server's memory with at most one request open; it is made again at position + 1 after every lost connection.
"""

import asyncio
from collections import deque

from nats.aio.msg import Msg

from cloud.foundation.bus import Bus, BusAway, NoAnswer, NobodyAnswers, StreamMessage, StreamRefused
from cloud.foundation.logs import get_logger
from protocols.errors import TryAgain

_PULL_S = 5.0
_RETRY_S = 0.1


class StreamHole(TryAgain):
    """Messages between the position and what the stream still has are gone: `expected` was next, `got` came. The reader stands at `got`."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"the stream lost messages {expected} to {got - 1}")
        self.expected, self.got = expected, got


class StreamReplaced(TryAgain):
    """The stream is another one than this reader was opened on: its data was lost, positions start again at 1."""

    def __init__(self, stream_id: str) -> None:
        super().__init__(f"the stream was made anew with id {stream_id}")
        self.stream_id = stream_id


class StreamReader:
    """Messages of `stream` after sequence `after`, in order, each once. One task reads; `close()` ends it."""

    def __init__(
        self, bus: Bus, stream: str, stream_id: str, *, after: int, max_messages: int = 64, max_bytes: int = 8 * 1024 * 1024
    ) -> None:
        self._bus, self._stream, self._stream_id = bus, stream, stream_id
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._last = after  # the last sequence handed into the queue
        self._queue: deque[StreamMessage | StreamHole | StreamReplaced] = deque()
        self._wake = asyncio.Event()
        self._generation = 0
        self._pulled = 0  # messages the open request may still bring
        self._lost = asyncio.Event()
        self._drained = asyncio.Event()  # woken: something changed for the task that pulls
        bus.on_disconnect(self._restart)
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"read {stream}")

    async def next(self, limit: int = 1) -> list[StreamMessage]:
        """Up to `limit` messages that are there, waiting for the first. Raises StreamHole, StreamReplaced (open a new reader then)."""
        queue = self._queue
        while not queue:
            if self._task.done():
                raise BusAway(f"the reader of {self._stream} is closed")
            self._wake.clear()
            await self._wake.wait()
        messages: list[StreamMessage] = []
        while queue and len(messages) < limit:
            head = queue[0]
            if isinstance(head, StreamMessage):
                messages.append(head)
            elif messages:
                break
            else:
                queue.popleft()
                raise head
            queue.popleft()
        if len(queue) * 2 <= self._max_messages:
            self._drained.set()
        return messages

    async def close(self) -> None:
        """Stop reading; a waiting `next` ends with BusAway. Twice is harmless."""
        if not self._task.done():
            self._bus.forget(self._restart)
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._wake.set()

    def _restart(self) -> None:
        self._lost.set()
        self._drained.set()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._follow()
                except (BusAway, NoAnswer, NobodyAnswers, StreamRefused) as error:
                    get_logger().debug("stream.reopen", stream=self._stream, error=str(error))
                    await asyncio.sleep(_RETRY_S if self._bus.connected else _RETRY_S / 2)
        except StreamReplaced as error:
            self._queue.append(error)
        finally:
            self._wake.set()

    async def _follow(self) -> None:
        """One consumer's life: made at the position, pulled from until the connection is lost or it falls silent."""
        info = await self._bus.stream_info(self._stream)
        if info.stream_id != self._stream_id:
            raise StreamReplaced(info.stream_id)
        self._generation += 1
        generation = self._generation
        self._lost.clear()
        consumer = f"reader-{self._bus.new_inbox().rpartition('.')[2]}"
        config = {
            "name": consumer,
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._last + 1,
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(30e9),
        }
        await self._bus.api(f"CONSUMER.CREATE.{self._stream}.{consumer}", {"stream_name": self._stream, "config": config})

        async def received(message: Msg) -> None:
            if generation == self._generation:
                self._received(message)

        inbox = self._bus.new_inbox()
        subscription = await self._bus.listen(inbox, received)
        request = b'{"batch":%d,"max_bytes":%d,"expires":%d}' % (self._max_messages, self._max_bytes, int(_PULL_S * 1e9))
        try:
            while not self._lost.is_set():
                self._drained.clear()
                self._pulled = self._max_messages
                await self._bus.ask(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}", request, inbox)
                async with asyncio.timeout(_PULL_S + 2):  # silence beyond the request's own end: the consumer is gone
                    while self._pulled > 0 and not self._lost.is_set():
                        await self._pause()
                while len(self._queue) * 2 > self._max_messages and not self._lost.is_set():
                    await self._pause()
        except TimeoutError as error:
            raise NoAnswer(f"the consumer of {self._stream} fell silent") from error
        finally:
            if self._bus.connected:
                await subscription.unsubscribe()
        raise BusAway(f"the connection was lost while reading {self._stream}")

    async def _pause(self) -> None:
        self._drained.clear()
        if not self._lost.is_set():
            await self._drained.wait()

    def _received(self, message: Msg) -> None:
        headers = message.headers or {}
        if "Status" in headers and not message.reply:  # 404, 408, 409: this request brings nothing more
            self._pulled = 0
            self._drained.set()
            return
        seq = int(message.reply.split(".")[5])  # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
        if seq != self._last + 1:
            if seq <= self._last:
                return
            self._queue.append(StreamHole(self._last + 1, seq))
        self._last = seq
        self._queue.append(StreamMessage(seq, message.data, headers))
        self._pulled -= 1
        if self._pulled == 0:
            self._drained.set()
        self._wake.set()
