"""Lists are read page by page: `limit` rows after an opaque `cursor`, `next` for the page that follows, null at the end."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from cloud.foundation.problems import Problem

Row = TypeVar("Row")
Limit = Annotated[int, Query(ge=1, le=1000, description="Rows of one page.")]
Cursor = Annotated[str | None, Query(max_length=64, description="`next` of the page before.")]


def write_cursor(place: int) -> str:
    """
    >>> read_cursor(write_cursor(41))
    41
    """
    return base64.urlsafe_b64encode(b"%d" % place).decode().rstrip("=")


def next_page(rows: Sequence[Row], limit: int, place: Callable[[Row], int]) -> str | None:
    """`next` of a page: `rows` were asked for with one more than `limit`, which tells whether there is another.

    >>> next_page([5, 6], 2, int) is None
    True
    >>> read_cursor(next_page([5, 6, 7], 2, int))
    6
    """
    return write_cursor(place(rows[limit - 1])) if len(rows) > limit else None


def read_cursor(cursor: str | None) -> int:
    """The place after which the page starts; 0 without a cursor. Raises Problem 400."""
    if cursor is None:
        return 0
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        if not text.isdigit() or len(text) > 18:
            raise ValueError(cursor)
        return int(text)
    except (binascii.Error, ValueError) as error:
        raise Problem(400, "bad-cursor", "Take `cursor` from `next` of the page before, or leave it out to start again.") from error
