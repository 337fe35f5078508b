"""A network that fails on command: a TCP proxy whose link can be cut, frozen, slowed and restored."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Literal

CHUNK = 65536

Existing = Literal["drop", "freeze"]
New = Literal["refuse", "hang"]


class TcpProxy:
    """Forwards HOST:port to a target; `port` is known after `start`.

    `cut` drops the connections that exist (both ends see a reset) or freezes them (bytes wait, as behind a dead radio), and refuses new
    ones or lets them hang unanswered until `restore`.
    """

    def __init__(self, target_host: str, target_port: int, *, host: str = "127.0.0.1", port: int = 0, delay_s: float = 0.0) -> None:
        self.target_host, self.target_port, self.host, self.port, self.delay_s = target_host, target_port, host, port, delay_s
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing, self._answering = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        self._answering.set()
        self.is_cut, self.accepted = False, 0

    async def start(self) -> int:
        """Listen; returns the port, which stays the same over cuts."""
        self._listener = await asyncio.start_server(self._accept, self.host, self.port, limit=CHUNK)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self.port

    async def stop(self) -> None:
        """Close everything; twice is harmless."""
        await self._refuse()
        await self._drop()

    async def cut(self, existing: Existing = "drop", new: New = "refuse") -> None:
        """The link fails."""
        self.is_cut = True
        if new == "refuse":
            await self._refuse()
        else:
            self._answering.clear()
        if existing == "drop":
            await self._drop()
        else:
            self._flowing.clear()

    async def restore(self) -> None:
        """The link works again; what was frozen or hanging goes on."""
        self.is_cut = False
        if self._listener is None:
            await self.start()
        self._flowing.set()
        self._answering.set()

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _drop(self) -> None:
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._listener is None:  # accepted by the kernel just before the cut
            writer.transport.abort()
            return
        self._connections.add(task)
        self.accepted += 1
        try:
            await self._answering.wait()
            await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            # A cut cancels this task, and nothing waits for it but `_drop`; Python 3.11's streams complain about a cancelled handler.
            writer.transport.abort()
        finally:
            self._connections.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self.target_host, self.target_port, limit=CHUNK)
        clean = False
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, far_writer), name="proxy.up")
                both.create_task(self._pump(far_reader, writer), name="proxy.down")
            clean = True
        except* OSError:
            pass  # one end was reset: so is the other, below
        finally:
            for end in (writer, far_writer):
                if clean:
                    end.close()
                else:
                    end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Move bytes one way until the source ends, each chunk `delay_s` late, none while frozen."""
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)  # full = stop reading, as a full wire does
        async with asyncio.TaskGroup() as pair:
            pair.create_task(self._read(source, late), name="proxy.read")
            pair.create_task(self._write(late, sink), name="proxy.write")

    async def _read(self, source: asyncio.StreamReader, late: asyncio.Queue[tuple[float, bytes]]) -> None:
        while data := await source.read(CHUNK):
            await late.put((time.monotonic() + self.delay_s, data))
        await late.put((time.monotonic() + self.delay_s, b""))

    async def _write(self, late: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        while True:
            due, data = await late.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._flowing.wait()
            if not data:
                with contextlib.suppress(OSError):
                    sink.write_eof()
                return
            sink.write(data)
            await sink.drain()


async def obey(link: TcpProxy, orders: AsyncIterator[str], say: Callable[[str], None]) -> None:
    """Do what each line says (`cut`, `cut freeze`, `restore`, `delay SECONDS`) and say when it is done; at the end, wait for ever."""
    async for order in orders:
        match order.split():
            case ["cut"]:
                await link.cut()
            case ["cut", "freeze"]:
                await link.cut(existing="freeze", new="hang")
            case ["restore"]:
                await link.restore()
            case ["delay", seconds] if seconds.replace(".", "", 1).isdecimal():
                link.delay_s = float(seconds)
            case _:
                say("unknown")
                continue
        say(order.split()[0])
    await asyncio.Event().wait()
