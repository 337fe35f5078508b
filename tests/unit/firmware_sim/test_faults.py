"""The network that fails on command."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from firmware_sim.faults import TcpProxy


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = TcpProxy("127.0.0.1", server.sockets[0].getsockname()[1])
    await proxy.start()
    yield proxy
    await proxy.stop()
    server.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    writer.write(text)
    return await reader.readexactly(len(text))


async def test_bytes_pass_both_ways_and_the_end_passes_too(proxy: TcpProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await ask(reader, writer, b"hello") == b"hello"
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()


async def test_a_cut_drops_what_exists_and_refuses_what_is_new_until_restored(proxy: TcpProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    await ask(reader, writer, b"a")
    port = proxy.port
    await proxy.cut()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)
    await proxy.restore()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await ask(reader, writer, b"b") == b"b"
    writer.close()


async def test_a_frozen_link_says_nothing_and_goes_on_where_it_stopped(proxy: TcpProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    await ask(reader, writer, b"a")
    await proxy.cut(existing="freeze", new="hang")
    writer.write(b"late")
    waiting = asyncio.ensure_future(reader.readexactly(4))
    hanging_reader, hanging_writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    hanging_writer.write(b"new")
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    await proxy.restore()
    assert await waiting == b"late"
    assert await hanging_reader.readexactly(3) == b"new"
    writer.close()
    hanging_writer.close()


async def test_a_slow_link_delays_and_keeps_the_order(proxy: TcpProxy) -> None:
    proxy.delay_s = 0.05
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await ask(reader, writer, b"one") == b"one"
    assert loop.time() - began >= 0.1
    writer.close()
