"""Client certificates at the door: whose device they name, and whether an authority of that device's tenant has issued them.

OpenSSL has checked the chain when a certificate comes here, against the authorities of all tenants; which tenant's, and whether it was
retired meanwhile, only we know. The subject names the device (CN) and, where it has an O, the product key.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from cloud.devices.model import TrustedAuthority
from protocols.alink.credentials import parse_username
from protocols.errors import Reason, Refused
from protocols.mqtt.packets import Connect

MOST_NAME: Final = 128


class Trust:
    """The authorities in force, by tenant. Replaced as a whole, read from any thread."""

    def __init__(self, authorities: Sequence[TrustedAuthority] = ()) -> None:
        self._parsed: dict[str, x509.Certificate] = {}
        self._held: dict[int, list[TrustedAuthority]] = {}
        self.replace(authorities)

    def replace(self, authorities: Sequence[TrustedAuthority]) -> list[str]:
        """From now on these; the PEM of those that were not there before."""
        parsed = {
            one.fingerprint: self._parsed.get(one.fingerprint) or x509.load_pem_x509_certificate(one.pem.encode()) for one in authorities
        }
        fresh = [one.pem for one in authorities if one.fingerprint not in self._parsed]
        held: dict[int, list[TrustedAuthority]] = {}
        for one in authorities:
            held.setdefault(one.tenant_id, []).append(one)
        self._parsed, self._held = parsed, held
        return fresh

    def of(self, tenant_id: int, now_ms: int) -> list[str]:
        """The fingerprints of a tenant's authorities that are valid now."""
        return [one.fingerprint for one in self._held.get(tenant_id, ()) if now_ms < one.to_ms]

    def issuer(self, certificate: x509.Certificate, tenant_id: int, now_ms: int) -> str:
        """The fingerprint of the tenant's authority that issued a certificate itself; raises Refused(BAD_CERTIFICATE)."""
        parsed = self._parsed
        for fingerprint in self.of(tenant_id, now_ms):
            try:
                certificate.verify_directly_issued_by(parsed[fingerprint])
            except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, KeyError):
                continue
            return fingerprint
        who = _issuer(certificate)
        raise _bad(
            f"its certificate was issued by {who!r}, which is none of your authorities in force: add it, or issue the certificate anew"
        )


def named_by(certificate: bytes, connect: Connect) -> Connect:
    """A CONNECT without a user name, with the one that its certificate's CN and O make; unchanged when they make none."""
    if connect.username:
        return connect
    try:
        device_name, product_key = _subject(x509.load_der_x509_certificate(certificate))
    except (Refused, ValueError):
        return connect
    if not device_name or not product_key or "\x00" in device_name + product_key:
        return connect
    return msgspec.structs.replace(connect, username=f"{device_name}&{product_key}")


def prove(certificate: bytes, connect: Connect, trust: Trust, tenant_id: int, now_ms: int) -> tuple[str, int]:
    """(fingerprint of the authority, epoch ms at which the certificate ends) of a certificate that proves the CONNECT's device.

    Raises Refused(BAD_CERTIFICATE) saying what to change.
    """
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        device_name, product_key = _subject(leaf)
    except ValueError as error:
        raise _bad(f"its certificate cannot be read: {error}; issue it anew") from error
    asked_key, asked_name = parse_username(connect.username)
    if device_name != asked_name:
        raise _bad(f"its certificate is that of {device_name[:MOST_NAME]!r} (CN): the user name has to name the same device")
    if product_key and product_key != asked_key:
        raise _bad(f"its certificate is for product {product_key[:MOST_NAME]!r} (O): O has to be the product key, or to be left out")
    until_ms = int(leaf.not_valid_after_utc.timestamp() * 1000)
    if not int(leaf.not_valid_before_utc.timestamp() * 1000) <= now_ms < until_ms:
        raise _bad("its certificate is not valid now: issue a new one, or look at the clock of whoever issued it")
    return trust.issuer(leaf, tenant_id, now_ms), until_ms


def _subject(certificate: x509.Certificate) -> tuple[str, str]:
    """(CN, O), each empty where there is not exactly one."""
    subject = certificate.subject
    names, organisations = (subject.get_attributes_for_oid(oid) for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME))
    if len(organisations) > 1:
        raise _bad("its certificate names several products (O): issue one with the product key, or without O")
    name = str(names[0].value) if len(names) == 1 else ""
    return name, str(organisations[0].value) if organisations else ""


def _issuer(certificate: x509.Certificate) -> str:
    try:
        return certificate.issuer.rfc4514_string()[:MOST_NAME]
    except ValueError:  # OpenSSL took the chain; a name of old encodings is only said worse
        return "?"


def _bad(message: str) -> Refused:
    return Refused(Reason.BAD_CERTIFICATE, message)


# What OpenSSL says of a chain that it does not take (X509_V_ERR_...), as a person can act on it.
_WORDS: Final = {
    9: "is not valid yet: look at the clock of whoever issued it",
    10: "has expired: issue a new one",
    18: "is self-signed: issue it with an authority that was added",
    19: "comes from an authority that was not added: `hearthline authority add` takes its certificate",
    20: "comes from an authority that was not added, or was retired: `hearthline authority add` takes its certificate",
    21: "comes from an authority that was not added, or was retired: `hearthline authority add` takes its certificate",
    26: "is not for clients: issue it with the extended key usage clientAuth, or without any",
}


def refused_in_handshake(code: int, message: str) -> Refused:
    """A client certificate that TLS did not take; its device is not known then.

    >>> refused_in_handshake(10, "certificate has expired").args[0]
    'the client certificate has expired: issue a new one'
    """
    return _bad(f"the client certificate {_WORDS.get(code, f'was not taken ({message}): issue it anew')}")
