"""Certificate authorities of tenants: whose certificates devices may show. Everything here blocks: asyncio code runs it in a thread."""

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from cloud.devices.model import TrustedAuthority
from cloud.devices.tables import TenantAuthorityRow
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database, UnitOfWork, is_duplicate
from cloud.foundation.problems import Problem
from protocols.errors import Reason, Refused

MOST_VALID: Final = 4
"""Authorities of a tenant that are not retired: two during a rotation, and room."""
MOST_PEM: Final = 16 * 1024
LEAST_RSA_BITS: Final = 2048


@dataclass(frozen=True, slots=True)
class Authority:
    """What may be shown of one; times in epoch ms."""

    number: int
    fingerprint: str
    subject: str
    from_ms: int
    to_ms: int
    added_ms: int
    retired_ms: int | None


def add_authority(work: UnitOfWork, pem: str) -> Authority:
    """Trust an authority from now on, also one that was retired. Raises Refused (what is wrong), Problem 409 (too many, another's)."""
    certificate = read_authority(pem)
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    valid = select(func.count()).select_from(TenantAuthorityRow).where(TenantAuthorityRow.retired_ms.is_(None))
    row = work.session.scalars(select(TenantAuthorityRow).where(TenantAuthorityRow.fingerprint == fingerprint)).one_or_none()
    if (row is None or row.retired_ms is not None) and (work.session.scalar(valid) or 0) >= MOST_VALID:
        raise Problem(409, "too-many-authorities", f"{MOST_VALID} authorities are in force; retire one first.")
    if row is not None:
        row.retired_ms = None
        work.session.flush()
        return _view(row)
    row = TenantAuthorityRow(
        fingerprint=fingerprint,
        subject=canonical_name(certificate.subject),
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        from_ms=_ms(certificate.not_valid_before_utc.timestamp()),
        to_ms=_ms(certificate.not_valid_after_utc.timestamp()),
        added_ms=now_ms(),
        retired_ms=None,
    )
    work.session.add(row)
    try:
        work.session.flush()
    except IntegrityError as error:
        if not is_duplicate(error):
            raise
        name = certificate.subject.rfc4514_string()
        detail = f"There is an authority of the name {name} already, yours or another tenant's; give the new one a subject of its own."
        raise Problem(409, "authority-exists", detail) from error
    return _view(row)


def read_authority(pem: str) -> x509.Certificate:
    """Exactly one certificate of an authority that is valid now. Raises Refused(BAD_CERTIFICATE) saying what to give instead."""
    if "PRIVATE KEY" in pem:
        raise _bad("the text holds a private key, which is nobody's but yours: send the certificate alone, and consider the key known")
    if len(pem) > MOST_PEM:
        raise _bad(f"the text is longer than {MOST_PEM} characters: send one certificate in PEM")
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
        if len(found) != 1:
            raise _bad(f"the text holds {len(found)} certificates: send the one that issues your devices' certificates")
        certificate = found[0]
        subject = canonical_name(certificate.subject)
        key = certificate.public_key()
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        raise _bad("the certificate is no authority's: it has no basic constraints; send the CA's, not a device's") from error
    except Refused:
        raise
    except Exception as error:
        raise _bad("the text is no certificate in PEM that can be read: send what stands between BEGIN and END CERTIFICATE") from error
    if not constraints.ca:
        raise _bad("the certificate is no authority's (CA:FALSE): send the CA's, not a device's")
    try:
        signs = certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        signs = True
    if not signs:
        raise _bad("the certificate may not sign others: make it with the key usage keyCertSign")
    small = isinstance(key, rsa.RSAPublicKey) and key.key_size < LEAST_RSA_BITS
    if small or not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise _bad(f"the key is of a kind that is not taken: use an elliptic curve, or RSA of {LEAST_RSA_BITS} bits or more")
    if not 0 < len(subject) <= 512:
        raise _bad("the certificate needs a subject of at most 512 characters: its devices' certificates name it")
    if not _ms(certificate.not_valid_before_utc.timestamp()) <= now_ms() < _ms(certificate.not_valid_after_utc.timestamp()):
        raise _bad("the certificate is not valid now: send one that is, or set the clock of whoever made it")
    return certificate


def list_authorities(work: UnitOfWork, after: int, limit: int) -> list[Authority]:
    """The tenant's, retired ones among them, by time of adding, behind the number `after`."""
    query = select(TenantAuthorityRow).where(TenantAuthorityRow.id > after).order_by(TenantAuthorityRow.id).limit(limit)
    return [_view(row) for row in work.session.scalars(query)]


def retire_authority(work: UnitOfWork, number: int) -> bool:
    """Trust it no more; False when the tenant has none of this number. Twice is harmless."""
    row = work.session.get(TenantAuthorityRow, number)
    if row is None:
        return False
    row.retired_ms = row.retired_ms or now_ms()
    work.session.flush()
    return True


def trusted_authorities(database: Database) -> list[TrustedAuthority]:
    """Those of all tenants that are in force now. Raises DatabaseAway."""
    with database.system_reading() as work:
        query = select(TenantAuthorityRow).where(TenantAuthorityRow.retired_ms.is_(None), TenantAuthorityRow.to_ms > now_ms())
        return [TrustedAuthority(row.tenant_id, row.fingerprint, row.pem, row.to_ms) for row in work.session.scalars(query)]


def canonical_name(name: x509.Name) -> str:
    """A name as OpenSSL compares names when it looks for an issuer: case and runs of spaces do not count (RFC 5280 par. 7.1)."""
    return ",".join("+".join(sorted(f"{one.rfc4514_attribute_name}={_folded(one.value)}" for one in part)) for part in name.rdns)


def _folded(value: str | bytes) -> str:
    return " ".join(value.lower().split()) if isinstance(value, str) else value.hex()


def _view(row: TenantAuthorityRow) -> Authority:
    subject = x509.load_pem_x509_certificate(row.pem.encode()).subject.rfc4514_string()
    return Authority(row.id, row.fingerprint, subject, row.from_ms, row.to_ms, row.added_ms, row.retired_ms)


def _bad(message: str) -> Refused:
    return Refused(Reason.BAD_CERTIFICATE, message)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
