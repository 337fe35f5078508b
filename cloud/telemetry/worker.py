"""The store's owner on the bus: `store.state` tells position and series, `store.append` takes appends from ingest."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec

from cloud.foundation.bus import Bus
from cloud.foundation.crashpoint import crash_point
from cloud.foundation.logs import get_logger
from cloud.foundation.priority import stand_back
from cloud.telemetry.model import AppendReply, Assembler, Position, Series, Verdict
from cloud.telemetry.ports import TelemetryStore
from protocols.errors import Broken

STATE_SUBJECT = "store.state"
APPEND_SUBJECT = "store.append"
SERIES_A_PAGE: Final = 20_000  # about 1.5 MB

_T = TypeVar("_T")


class StateRequest(msgspec.Struct, frozen=True):
    """Asks for the series with an id above `after`."""

    after: int = 0


class StateReply(msgspec.Struct, frozen=True):
    """Where the store stands, and one page of its series; another page follows a full one."""

    position: Position
    series: list[Series]


_decode_state = msgspec.msgpack.Decoder(StateRequest).decode
_encode = msgspec.msgpack.Encoder().encode


class StoreWorker:
    """Serves one store. Appends run in a thread of their own, one after another."""

    def __init__(self, store: TelemetryStore, bus: Bus) -> None:
        self._store, self._bus = store, bus
        self._assembler = Assembler()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-append", initializer=stand_back, initargs=(5,))
        self._subscriptions: list[object] = []

    async def start(self) -> None:
        """Begin to answer."""
        await self._bus.serve(STATE_SUBJECT, self._state)
        await self._bus.serve(APPEND_SUBJECT, self._append)

    async def close(self) -> None:
        """Wait for the append that is under way; the bus is closed first, so none follows."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def _state(self, data: bytes) -> bytes:
        request = _decode_state(data)
        return _encode(StateReply(self._store.position(), list(self._store.series(request.after, SERIES_A_PAGE))))

    async def _append(self, data: bytes) -> bytes:
        return await self.between_appends(self._apply, data)

    async def between_appends(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call it in the thread that appends: nothing is appended meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _apply(self, data: bytes) -> bytes:
        try:
            append = self._assembler.add(data)
        except Broken as error:
            get_logger().error("store.bad_append", error=str(error))
            return _encode(AppendReply(Verdict.REFUSED, self._store.position()))
        if append is None:
            return _encode(AppendReply(Verdict.MORE, self._store.position()))
        verdict = self._store.append(append)
        crash_point("core.after_append")
        if verdict is Verdict.REFUSED:
            get_logger().warning("store.refused", start=append.start, end=append.end, position=self._store.position())
        return _encode(AppendReply(verdict, self._store.position()))
