"""A maker's certificate authority: what devices show over TLS in tests."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey
DAY = timedelta(days=1)


def subject(cn: str, organisation: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, cn)]
    return x509.Name(parts + ([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)] if organisation else []))


def certificate(
    name: x509.Name, key: Key, issuer: x509.Name, issuer_key: Key, *, ca: bool = False, days: tuple[float, float] = (-1, 30)
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now + days[0] * DAY).not_valid_after(now + days[1] * DAY)
    return builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True).sign(issuer_key, hashes.SHA256())


def pem(one: x509.Certificate) -> str:
    return one.public_bytes(serialization.Encoding.PEM).decode()


def der(one: x509.Certificate) -> bytes:
    return one.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True)
class Maker:
    """An authority with its key."""

    certificate: x509.Certificate
    key: Key

    @classmethod
    def new(cls, name: str, days: tuple[float, float] = (-1, 365)) -> "Maker":
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(certificate(subject(name), key, subject(name), key, ca=True, days=days), key)

    @property
    def pem(self) -> str:
        return pem(self.certificate)

    def issue(
        self, cn: str, organisation: str = "", *, days: tuple[float, float] = (-1, 30), ca: bool = False
    ) -> tuple[x509.Certificate, Key]:
        key = ec.generate_private_key(ec.SECP256R1())
        return certificate(subject(cn, organisation), key, self.certificate.subject, self.key, ca=ca, days=days), key

    def file(self, folder: Path, cn: str, organisation: str = "", *, days: tuple[float, float] = (-1, 30)) -> Path:
        """A device's certificate and key, in one file."""
        one, key = self.issue(cn, organisation, days=days)
        plain = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path = folder / f"{cn}-{one.serial_number}.pem"
        path.write_bytes(pem(one).encode() + plain)
        return path
