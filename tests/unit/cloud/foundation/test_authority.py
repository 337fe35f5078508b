"""The platform's own certificate authority: made once, for its owner only; the server's certificate renews itself in time."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloud.foundation.authority import Authority
from protocols.errors import Broken, Refused

NAMES = ("localhost", "127.0.0.1")


def test_keys_are_for_their_owner_and_the_ca_stays_the_same(tmp_path: Path) -> None:
    first = Authority(tmp_path / "tls")
    assert first.ensure_server(NAMES, 90)
    again = Authority(tmp_path / "tls")
    assert again.certificates() == first.certificates()
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "tls" / "ca.key", again.server_file)] == [0o600, 0o600]
    assert again.certificates()[1].names == NAMES


def test_the_server_s_certificate_is_made_anew_when_a_third_of_its_life_is_left_or_its_names_change(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    now = datetime.now(UTC)
    assert authority.ensure_server(NAMES, 90, now)
    assert not authority.ensure_server(NAMES, 90, now + timedelta(days=59))
    assert authority.ensure_server(NAMES, 90, now + timedelta(days=61))
    assert not authority.ensure_server(NAMES, 90, now + timedelta(days=100))
    assert authority.ensure_server((*NAMES, "edge.example"), 90, now + timedelta(days=100))


def test_a_context_serves_the_renewed_certificate_to_those_who_trust_the_ca(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.ensure_server(NAMES, 90, datetime.now(UTC) - timedelta(days=70))
    context = authority.context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    before = shown(context, authority.ca_file)
    assert authority.ensure_server(NAMES, 90)
    authority.load_into(context)
    assert shown(context, authority.ca_file) != before


def shown(server: ssl.SSLContext, ca_file: Path) -> bytes:
    """The certificate a client sees, through memory."""
    client = ssl.create_default_context(cafile=str(ca_file))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (one, other, one, other):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found = one.getpeercert(binary_form=True)
    assert found is not None
    return found


def test_files_that_do_not_fit_and_names_that_are_none_are_named(tmp_path: Path) -> None:
    one, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    with pytest.raises(Refused, match="TLS_NAMES"):
        one.ensure_server(("a" * 70 + ".x",), 90)
    (tmp_path / "a" / "ca.key").write_bytes((tmp_path / "b" / "ca.key").read_bytes())
    with pytest.raises(Broken, match="one backup"):
        Authority(tmp_path / "a")
    assert other.certificates()
