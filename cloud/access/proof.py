"""What a session rests on, and whether that still stands: a secret, a token, or the authority that issued a certificate. Pure."""

import hashlib
from collections.abc import Collection

from cloud.devices.model import Accepts, Credentials


def mark_secret(secret: bytes) -> bytes:
    """The mark of a session that was let in by this secret."""
    return _mark(b"secret", secret)


def mark_token(token: bytes) -> bytes:
    """The mark of a session that was let in by this token."""
    return _mark(b"token", token)


def mark_authority(fingerprint: str) -> bytes:
    """The mark of a session that was let in by a certificate of this authority."""
    return _mark(b"authority", fingerprint.encode())


def _mark(kind: bytes, value: bytes) -> bytes:
    return hashlib.sha256(kind + b"\0" + value).digest()


def fingerprint(credentials: Credentials) -> int:
    """Changes when a session has to end: another proof, another site. Only comparable within this process."""
    return _fingerprint(credentials, credentials.proof or mark_secret(credentials.secret))


def _fingerprint(credentials: Credentials, proof: bytes) -> int:
    return hash((credentials.device_id, proof, credentials.site_id, credentials.tenant_id))


def standing(credentials: Credentials, authorities: Collection[str], now_ms: int) -> set[int]:
    """The fingerprints of sessions that this device may have now; `authorities` are those of its tenant in force."""
    identity, proofs = credentials.identity, list[bytes]()
    if not credentials.enabled:
        return set()
    if identity.accepts is not Accepts.CERTIFICATE:
        proofs.append(mark_secret(credentials.secret))
        if identity.previous and now_ms < identity.previous_until_ms:
            proofs.append(mark_secret(identity.previous))
        if identity.token:
            proofs.append(mark_token(identity.token))
    if identity.accepts is not Accepts.SECRET:
        proofs += [mark_authority(one) for one in authorities]
    return {_fingerprint(credentials, proof) for proof in proofs}
