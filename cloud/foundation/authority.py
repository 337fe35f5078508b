"""The platform's own certificate authority: one CA certificate for gateways to trust, and a server certificate that renews itself."""

import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocols.errors import Broken, Reason, Refused

CA_DAYS = 3_650
CLOCK_SKEW = timedelta(days=1)
"""A certificate is valid from so long before it was made: a gateway's clock may be behind."""
RENEW_AT = 1 / 3
"""The share of a certificate's life that is left when it is renewed."""

_USES = dict.fromkeys(("content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What people ask about a certificate; times in epoch ms."""

    subject: str
    names: tuple[str, ...]
    from_ms: int
    to_ms: int
    sha256: str


class Authority:
    """Files `ca.pem`, `ca.key`, `server.pem`, `server.key` in one directory; made at first use, keys for their owner only."""

    def __init__(self, directory: Path) -> None:
        """Raises Broken when the CA's files do not fit together."""
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.ca_file.exists():
            self._make()
        try:
            self._certificate = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
            key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
        except (OSError, ValueError) as error:
            raise Broken(f"{directory}: the certificate authority cannot be read: {error}; restore it from a backup") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self._certificate.public_key():
            raise Broken(f"{directory}: ca.key is not the key of ca.pem; restore both from one backup")
        self._key = key

    @property
    def ca_file(self) -> Path:
        """What gateways are given (`uplink.ca_file`)."""
        return self._directory / "ca.pem"

    @property
    def server_file(self) -> Path:
        """The server's certificate, the CA's behind it."""
        return self._directory / "server.pem"

    def _make(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Hearthline CA {os.urandom(4).hex()}")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=False, key_encipherment=False, key_cert_sign=True, crl_sign=True, **_USES), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(self._directory / "ca.key", _pem(key))
        _write(self.ca_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)

    def ensure_server(self, names: Sequence[str], days: float, now: datetime | None = None) -> bool:
        """Make the server's certificate, or make it anew when its life is nearly over or its names are others; whether it did.

        Raises Refused for a name that is neither a host name nor an address.
        """
        now = now or datetime.now(UTC)
        if self.server_file.exists():
            held = x509.load_pem_x509_certificate(self.server_file.read_bytes())
            left = (held.not_valid_after_utc - now) / (held.not_valid_after_utc - held.not_valid_before_utc)
            if left > RENEW_AT and set(_names(held)) == set(names) and held.issuer == self._certificate.subject:
                return False
        key = ec.generate_private_key(ec.SECP256R1())
        until = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.KeyUsage(digital_signature=True, key_encipherment=False, key_cert_sign=False, crl_sign=False, **_USES), True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        # Key and chain in one file: a stop between two files would leave a pair that does not fit.
        chain = certificate.public_bytes(serialization.Encoding.PEM) + self.ca_file.read_bytes() + _pem(key)
        _write(self.server_file, chain)
        return True

    def context(self) -> ssl.SSLContext:
        """For a listener: TLS 1.2 and newer, with the server's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Connections from now on see the server's present certificate."""
        context.load_cert_chain(self.server_file)

    def certificates(self) -> list[Certificate]:
        """The CA's, and the server's if there is one."""
        found = [self._certificate]
        if self.server_file.exists():
            found.append(x509.load_pem_x509_certificate(self.server_file.read_bytes()))
        return [_describe(certificate) for certificate in found]


def _describe(certificate: x509.Certificate) -> Certificate:
    return Certificate(
        certificate.subject.rfc4514_string(),
        tuple(_names(certificate)),
        int(certificate.not_valid_before_utc.timestamp() * 1000),
        int(certificate.not_valid_after_utc.timestamp() * 1000),
        certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in found]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name.encode("idna").decode())
    except UnicodeError as error:
        raise Refused(Reason.BAD_CONFIGURATION, f"HEARTHLINE_TLS_NAMES: {name!r} is neither a host name nor an address") from error


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """All of it or nothing: a new file, fsynced, in the old one's place."""
    fresh = path.with_name(path.name + ".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)
    fresh.replace(path)
