"""Who is signed in, and how they like the page: cookies. The session is sealed with the platform's vault, so nobody can make one up."""

import base64
import binascii
import enum
from dataclasses import dataclass
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from cloud.console.texts import Language, preferred
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database
from cloud.foundation.vault import Vault
from cloud.tenancy.model import Principal, key_prefix
from cloud.tenancy.service import authenticate, key_holder
from protocols.errors import Broken

COOKIE: Final = "hearthline_session"
LANGUAGE: Final = "hearthline_language"
THEME: Final = "hearthline_theme"
LASTS_S: Final = 12 * 3_600
_CONTEXT: Final = "console session"
_YEAR_S: Final = 365 * 86_400


class Theme(enum.StrEnum):
    AUTO = "auto"
    LIGHT = "light"
    DARK = "dark"


class _Session(msgspec.Struct, frozen=True, array_like=True):
    """The key's prefix names the key and does not let anyone in by itself."""

    prefix: str
    until_ms: int


@dataclass(frozen=True, slots=True)
class Taste:
    """How this browser likes the page."""

    language: Language
    theme: Theme

    @classmethod
    def of(cls, request: Request) -> "Taste":
        language, theme = request.cookies.get(LANGUAGE), request.cookies.get(THEME)
        return cls(
            Language(language) if language in tuple(Language) else preferred(request.headers.get("accept-language")),
            Theme(theme) if theme in tuple(Theme) else Theme.AUTO,
        )


class Sessions:
    """Opens and checks sessions. Everything here blocks: asyncio code runs it in a thread."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault

    def open(self, key: str) -> str | None:
        """The cookie's value for this API key; None when it is nobody's or revoked. Raises DatabaseAway."""
        prefix = key_prefix(key)
        if prefix is None or authenticate(self._database, key) is None:
            return None
        session = msgspec.msgpack.encode(_Session(prefix, now_ms() + LASTS_S * 1000))
        return base64.urlsafe_b64encode(self._vault.seal(session, _CONTEXT)).decode()

    def holder(self, cookie: str | None) -> Principal | None:
        """Whose session this is: None when it is forged, over, or its key was revoked. Raises DatabaseAway."""
        if not cookie or len(cookie) > 512:
            return None
        try:
            sealed = base64.urlsafe_b64decode(cookie)
            session = msgspec.msgpack.decode(self._vault.open(sealed, _CONTEXT), type=_Session)
        except (binascii.Error, ValueError, Broken, msgspec.MsgspecError):
            return None
        return key_holder(self._database, session.prefix) if session.until_ms > now_ms() else None


def remember(response: Response, session: str, *, secure: bool) -> None:
    """Set the session cookie: no script sees it, no other site sends it."""
    response.set_cookie(COOKIE, session, max_age=LASTS_S, path="/console", secure=secure, httponly=True, samesite="strict")


def prefer(response: Response, name: str, value: str) -> None:
    """Remember a taste."""
    response.set_cookie(name, value, max_age=_YEAR_S, path="/console", httponly=True, samesite="lax")
