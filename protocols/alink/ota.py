"""Firmware updates over the air (alink.md par. 7): what a device says about its firmware, and how one is offered to it."""

import enum
import hashlib
import re
from dataclasses import dataclass

import msgspec

DEFAULT_MODULE = "default"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Inform(msgspec.Struct, frozen=True, gc=False):
    """The version a module of the device runs; after an update this is the only proof that it worked."""

    version: str
    module: str = DEFAULT_MODULE


class Progress(msgspec.Struct, frozen=True, gc=False):
    """How far an update is: `step` 0 to 100 percent, or one of `Failure`."""

    step: str | int | float
    desc: str = ""
    module: str = DEFAULT_MODULE

    @property
    def percent(self) -> int | None:
        """`step` as a number; None when it is none."""
        try:
            return int(float(self.step))
        except (ValueError, OverflowError):
            return None


class Module(msgspec.Struct, frozen=True, gc=False):
    """Which module a device asks about."""

    module: str = DEFAULT_MODULE


class Failure(enum.IntEnum):
    """Negative steps."""

    UPGRADE = -1
    DOWNLOAD = -2
    DIGEST = -3
    FLASH = -4


class SignMethod(enum.StrEnum):
    """Spelled exactly so: other spellings crash the Python SDK's digest check."""

    MD5 = "Md5"
    SHA256 = "SHA256"


@dataclass(frozen=True, slots=True)
class Image:
    """A firmware as it is offered. Digests are lower-case hex; `md5` goes along in any case, since old C SDKs look at nothing else."""

    version: str
    module: str
    size: int
    url: str
    md5: str
    sha256: str
    method: SignMethod = SignMethod.SHA256
    is_diff: bool = False

    def offer(self) -> dict[str, object]:
        """`data` of an upgrade push and of a reply to firmware/get."""
        return {
            "size": self.size,
            "version": self.version,
            "isDiff": int(self.is_diff),
            "url": self.url,
            "sign": self.md5 if self.method is SignMethod.MD5 else self.sha256,
            "signMethod": str(self.method),
            "md5": self.md5,
            "module": self.module,
            "extData": {},
        }


def upgrade_push(message_id: int, image: Image) -> bytes:
    """What offers a firmware; `code` is a string and the id a number here."""
    return msgspec.json.encode({"code": "1000", "data": image.offer(), "id": message_id, "message": "success"})


def matches(data: bytes, sign: str, method: str) -> bool:
    """Whether an image has the digest it was offered with; an unknown method matches nothing."""
    digest = {"md5": hashlib.md5, "sha256": hashlib.sha256}.get(method.lower())
    return digest is not None and digest(data).hexdigest() == sign.lower()


def is_name(text: str) -> bool:
    """Whether `text` is a version or the name of a module.

    >>> is_name("1.0.0-rc.1"), is_name("a b"), is_name("")
    (True, False, False)
    """
    return bool(_NAME.fullmatch(text))
