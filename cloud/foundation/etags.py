"""Entity tags: what did not change is not sent again (304), a change based on an old answer is refused (412). RFC 9110 par. 13."""

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Response

from cloud.foundation.problems import Problem

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e]*")')


def revision_tag(*parts: object) -> str:
    """A tag of what has a revision of its own: it differs whenever one of the parts does.

    >>> revision_tag("draft", 7)
    '"draft-7"'
    """
    return '"' + "-".join(str(part) for part in parts) + '"'


def body_tag(body: bytes) -> str:
    """A tag of what has no revision: of its bytes."""
    return revision_tag(hashlib.sha256(body).hexdigest()[:32])


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader holds already."""

    if_none_match: str | None

    def unchanged(self, tag: str) -> Response | None:
        """The answer 304 when the reader holds `tag` (compared weakly, as par. 13.1.2 wants it), else None."""
        held = {found.group(2) for found in _TAG.finditer(self.if_none_match or "")}
        if tag in held or (self.if_none_match or "").strip() == "*":
            return Response(status_code=304, headers={"ETag": tag})
        return None


@dataclass(frozen=True, slots=True)
class Writing:
    """What a change is based on."""

    if_match: str | None

    def check(self, tag: str | None) -> None:
        """`tag` is of what is there now, None when nothing is. Raises Problem 412; nothing without the header.

        Compared strongly (par. 13.1.1): `W/"..."` never matches.
        """
        if self.if_match is None:
            return
        based_on = {found.group(2) for found in _TAG.finditer(self.if_match) if found.group(1) is None}
        if tag is None or (tag not in based_on and self.if_match.strip() != "*"):
            detail = "It was changed since you read it: read it again, make your change to that, and send the new ETag in If-Match."
            raise Problem(412, "precondition-failed", detail, headers={} if tag is None else {"ETag": tag})


def _reading(
    held: Annotated[
        str | None, Header(alias="If-None-Match", description="The ETag you hold: answered 304 while it is the newest.")
    ] = None,
) -> Reading:
    return Reading(held)


def _writing(
    based_on: Annotated[str | None, Header(alias="If-Match", description="The ETag your change is based on: otherwise 412.")] = None,
) -> Writing:
    return Writing(based_on)


IfNoneMatch = Annotated[Reading, Depends(_reading)]
IfMatch = Annotated[Writing, Depends(_writing)]
