"""Sockets of the TLS port: handshakes that are bounded, and authorities that come while it runs."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.access.certificates import Trust
from cloud.access.tls import Authorities, Tls, ask_for_certificates, take
from cloud.devices.model import TrustedAuthority
from cloud.foundation.authority import Authority
from protocols.errors import TryAgain
from tests.fakes.maker import Maker
from tests.unit.cloud.access.test_group import until
from tests.unit.cloud.access.test_server import Rig, rig

__all__ = ["rig"]  # the fixture


@pytest.fixture
async def tls(tmp_path: Path) -> AsyncIterator[Tls]:
    authority = Authority(tmp_path)
    authority.ensure_server(["localhost"], 30)
    context = authority.context()
    ask_for_certificates(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Tls(listener, context, lambda: False, lambda _context: None)


def client(tmp_path: Path, certificate: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


async def test_connections_that_never_shake_hands_keep_nobody_out(rig: Rig, tls: Tls, tmp_path: Path) -> None:
    taking = asyncio.create_task(take(rig.door, tls, most=3))
    host, port = tls.listener.getsockname()
    silent = [await asyncio.open_connection(host, port) for _ in range(5)]
    for reader, _ in silent[:2]:
        assert await reader.read() == b"", "the oldest are closed"
    _, writer = await asyncio.open_connection(host, port, ssl=client(tmp_path), server_hostname="localhost")
    await until(lambda: len(rig.door.connections) == 1)
    assert rig.door.refusals.totals == {"too_many_connections": 3}
    for open_still in (writer, *(each for _, each in silent)):
        open_still.close()
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)


async def test_a_certificate_that_tls_does_not_take_is_counted_with_its_address(rig: Rig, tls: Tls, tmp_path: Path) -> None:
    taking = asyncio.create_task(take(rig.door, tls))
    host, port = tls.listener.getsockname()
    stranger = client(tmp_path, Maker.new("Stranger CA").file(tmp_path, "d1"))
    reader, writer = await asyncio.open_connection(host, port, ssl=stranger, server_hostname="localhost")
    with contextlib.suppress(OSError):  # TLS 1.3 tells the client behind the handshake, as an alert or an end
        assert await reader.read() == b""
    await until(lambda: rig.door.refusals.totals == {"bad_certificate": 1})
    client_of = rig.door.refusals.unnoted()[0].client
    assert client_of.address.startswith("127.0.0.1:")
    writer.close()
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)


async def test_what_is_known_of_authorities_stays_when_the_registry_is_away(tls: Tls) -> None:
    maker, trust, away = Maker.new("Maker CA"), Trust(), False

    def lookup() -> list[TrustedAuthority]:
        if away:
            raise TryAgain("locked")
        return [TrustedAuthority(1, "one", maker.pem, 1 << 50), TrustedAuthority(2, "two", Maker.new("Second").pem, 1 << 50)]

    authorities = Authorities(trust, lookup, tls.context)
    assert await authorities.refresh()
    assert (trust.of(1, 0), trust.of(2, 0)) == (["one"], ["two"])
    assert tls.context.cert_store_stats()["x509_ca"] == 2
    away = True
    assert not await authorities.refresh()
    assert trust.of(1, 0) == ["one"]
