"""What proves a device at the door, and which sessions stand."""

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cloud.access.admission import Denied, judge
from cloud.access.certificates import Trust, named_by, prove, refused_in_handshake
from cloud.access.proof import fingerprint, standing
from cloud.devices.model import Accepts, Credentials, Identity, TrustedAuthority
from protocols.alink.credentials import sign
from protocols.alink.registration import Grant, show_token
from protocols.errors import Reason, Refused
from protocols.mqtt.codec import Connect
from protocols.mqtt.packets import ConnectCode
from tests.fakes.maker import Maker, der

NOW = int(time.time() * 1000)
DAY_MS = 86_400_000
MAKER, NEXT, FOREIGN, OWN_KEYS = (Maker.new(name) for name in ("Maker CA", "Maker CA 2", "Foreign CA", "Nobody's CA"))
SECRET, PREVIOUS = b"the-present-secret", b"the-secret-before"


def trusted(tenant: int, maker: Maker, to_ms: int = NOW + DAY_MS) -> TrustedAuthority:
    return TrustedAuthority(tenant, maker.certificate.subject.rfc4514_string(), maker.pem, to_ms)


TRUST = Trust([trusted(1, MAKER), trusted(1, NEXT), trusted(2, FOREIGN)])
PLAIN = Credentials(1, 2, "pk", "dn", None, False, True, SECRET)


def known(**identity: object) -> Credentials:
    return replace(PLAIN, identity=Identity(**identity))  # type: ignore[arg-type]


def signed(secret: bytes) -> Connect:
    fields = sign("pk", "dn", secret)
    return Connect(fields.client_id, fields.username, fields.password)


def verdict(connect: Connect, credentials: Credentials, certificate: bytes | None = None, now: int = NOW) -> Credentials | Denied:
    return judge(connect, {("pk", "dn"): credentials}, certificate, TRUST, now)


def let_in(*arguments: object, **more: object) -> Credentials:
    found = verdict(*arguments, **more)  # type: ignore[arg-type]
    assert isinstance(found, Credentials), found
    return found


def denied(reason: Reason, *arguments: object, **more: object) -> str:
    found = verdict(*arguments, **more)  # type: ignore[arg-type]
    assert isinstance(found, Denied)
    assert (found.code, found.reason) == (ConnectCode.BAD_CREDENTIALS, reason)
    return found.detail


def test_the_secret_before_counts_until_its_grace_is_over() -> None:
    rotated = known(previous=PREVIOUS, previous_until_ms=NOW + 1000)
    assert let_in(signed(SECRET), rotated) == rotated
    assert let_in(signed(PREVIOUS), rotated).proof_until_ms == NOW + 1000
    assert denied(Reason.BAD_CREDENTIALS, signed(PREVIOUS), rotated, now=NOW + 1000)
    assert denied(Reason.BAD_CREDENTIALS, signed(PREVIOUS), PLAIN)


def test_a_session_ends_with_the_secret_that_it_rests_on() -> None:
    before = fingerprint(replace(PLAIN, secret=PREVIOUS))
    rotated = known(previous=PREVIOUS, previous_until_ms=NOW + 1000)
    with_old, with_new = fingerprint(let_in(signed(PREVIOUS), rotated)), fingerprint(let_in(signed(SECRET), rotated))
    assert before == with_old, "it is the same secret, whether the session began before the rotation or after"
    assert {with_old, with_new} <= standing(rotated, (), NOW)
    assert with_old not in standing(rotated, (), NOW + 1000)
    assert with_new in standing(rotated, (), NOW + 1000)
    assert standing(replace(rotated, enabled=False), (), NOW) == set()
    assert with_new not in standing(replace(rotated, site_id=7), (), NOW)


def test_a_token_counts_under_its_client_id_until_it_is_gone() -> None:
    holder = known(token=b"t" * 32, token_client_id="abc")
    fields = show_token(Grant("pk", "dn", client_id="abc", device_token="t" * 32))
    connect = Connect(fields.client_id, fields.username, fields.password)
    session = fingerprint(let_in(connect, holder))
    assert session in standing(holder, (), NOW)
    assert session not in standing(PLAIN, (), NOW)
    assert denied(Reason.BAD_CREDENTIALS, connect, PLAIN)
    assert denied(Reason.BAD_CREDENTIALS, Connect(fields.client_id.replace("abc", "abd"), fields.username, fields.password), holder)


def test_a_certificate_of_either_authority_lets_its_device_in_without_a_password() -> None:
    for maker in (MAKER, NEXT):
        for organisation in ("pk", ""):
            leaf = der(maker.issue("dn", organisation)[0])
            found = let_in(Connect("anything", "dn&pk"), PLAIN, leaf)
            assert found.proof_until_ms is not None
            assert fingerprint(found) in standing(PLAIN, TRUST.of(1, NOW), NOW)
    assert TRUST.of(1, NOW + DAY_MS) == []


def test_a_session_ends_when_the_authority_of_its_certificate_is_retired() -> None:
    session = fingerprint(let_in(Connect("x", "dn&pk"), PLAIN, der(MAKER.issue("dn")[0])))
    trust = Trust([trusted(1, MAKER), trusted(1, NEXT)])
    assert session in standing(PLAIN, trust.of(1, NOW), NOW)
    assert trust.replace([trusted(1, NEXT)]) == []
    assert session not in standing(PLAIN, trust.of(1, NOW), NOW)
    assert trust.replace([trusted(1, NEXT), trusted(1, MAKER)]) == [MAKER.pem]


@pytest.mark.refusal(Reason.BAD_CERTIFICATE)
@pytest.mark.parametrize(
    ("maker", "cn", "organisation", "days", "told"),
    [
        (FOREIGN, "dn", "pk", (-1, 30), "none of your authorities"),
        (OWN_KEYS, "dn", "pk", (-1, 30), "none of your authorities"),
        (MAKER, "other", "pk", (-1, 30), "user name has to name the same device"),
        (MAKER, "dn", "another", (-1, 30), "O has to be the product key"),
        (MAKER, "dn", "pk", (-2, -1), "not valid now"),
        (MAKER, "dn", "pk", (1, 2), "not valid now"),
    ],
)
def test_a_wrong_certificate_is_refused_and_a_password_does_not_make_it_good(
    maker: Maker, cn: str, organisation: str, days: tuple[float, float], told: str
) -> None:
    leaf = der(maker.issue(cn, organisation, days=days)[0])
    assert told in denied(Reason.BAD_CERTIFICATE, Connect("x", "dn&pk"), PLAIN, leaf)
    assert told in denied(Reason.BAD_CERTIFICATE, signed(SECRET), PLAIN, leaf)


def test_a_certificate_issued_through_one_in_between_is_refused() -> None:
    between, key = MAKER.issue("Between", ca=True)
    leaf = der(Maker(between, key).issue("dn")[0])
    assert "none of your authorities" in denied(Reason.BAD_CERTIFICATE, Connect("x", "dn&pk"), PLAIN, leaf)


def test_bytes_that_are_no_certificate_are_refused() -> None:
    with pytest.raises(Refused, match="cannot be read"):
        prove(b"\x30\x03abc", Connect("x", "dn&pk"), TRUST, 1, NOW)
    assert named_by(b"junk", Connect("x")) == Connect("x")


def test_what_a_device_may_show_is_its_owners_choice() -> None:
    leaf = der(MAKER.issue("dn", "pk")[0])
    only_certificates, only_secrets = known(accepts=Accepts.CERTIFICATE), known(accepts=Accepts.SECRET)
    assert "showed none" in denied(Reason.BAD_CERTIFICATE, signed(SECRET), only_certificates)
    assert let_in(Connect("x", "dn&pk"), only_certificates, leaf).proof
    assert denied(Reason.BAD_CREDENTIALS, Connect("x", "dn&pk"), only_secrets, leaf)
    assert let_in(signed(SECRET), only_secrets, leaf) == only_secrets, "then its certificate is not looked at"
    by_secret, by_certificate = fingerprint(PLAIN), fingerprint(let_in(Connect("x", "dn&pk"), PLAIN, leaf))
    authorities = TRUST.of(1, NOW)
    assert by_secret not in standing(only_certificates, authorities, NOW)
    assert by_certificate not in standing(only_secrets, authorities, NOW)


@pytest.mark.parametrize(("cn", "organisation", "username"), [("dn", "pk", "dn&pk"), ("dn", "", None), ("a&b", "pk", "a&b&pk")])
def test_without_a_user_name_the_subject_names_the_device(cn: str, organisation: str, username: str | None) -> None:
    leaf = der(MAKER.issue(cn, organisation)[0])
    assert named_by(leaf, Connect("id")).username == username
    assert named_by(leaf, Connect("id", "given&one")).username == "given&one"


def test_a_disabled_device_is_denied_whatever_it_shows() -> None:
    off = replace(PLAIN, enabled=False)
    for shown in ((signed(SECRET), off), (Connect("x", "dn&pk"), off, der(MAKER.issue("dn")[0]))):
        found = verdict(*shown)
        assert isinstance(found, Denied)
        assert found.code is ConnectCode.NOT_AUTHORISED


def test_what_tls_did_not_take_is_said_in_words_for_people() -> None:
    codes: Sequence[int] = (9, 10, 18, 19, 20, 21, 26, 99)
    told = {str(refused_in_handshake(code, "openssl's words")) for code in codes}
    assert len(told) == len(codes) - 1
    assert any("openssl's words" in text for text in told)
