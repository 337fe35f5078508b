"""Every error of the API is an RFC 9457 problem: `type`, `title`, `status`, and a `detail` that says what to do next."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

TYPE = "urn:hearthline:problem:"


class Problem(Exception):
    """An answer that is an error. `kind` is the stable end of `type`; `more` adds members, `headers` adds headers."""

    def __init__(
        self, status: int, kind: str, detail: str, *, more: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.more, self.headers = dict(more or {}), dict(headers or {})

    def body(self) -> dict[str, Any]:
        return {
            "type": TYPE + self.kind,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }


def not_found(what: str) -> Problem:
    """The same answer for what does not exist and for what belongs to another tenant."""
    return Problem(404, "not-found", f"{what} does not exist, or your key belongs to another tenant.")
