"""Artefacts as values."""

import enum
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """What an artefact is."""

    FIRMWARE = "firmware"
    CONFIGURATION = "configuration"


@dataclass(frozen=True, slots=True)
class Artefact:
    """Bytes that are kept; digests in lower-case hex, `size` in bytes."""

    artefact_id: int
    kind: str
    sha256: str
    md5: str
    size: int
    created_ms: int
