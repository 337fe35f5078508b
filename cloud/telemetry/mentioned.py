"""Which devices a table mentions at all: most have no gap and no note, and a chart need not ask for them."""

from collections.abc import Iterable
from typing import Final

MOST: Final = 100_000  # pairs, 22 MiB with names of 24 characters; beyond, the table is always asked


class Mentioned:
    """Pairs of (product key, device name), as rows of a table have them: an empty part stands for every one.

    One thread adds, any may ask. What retention deletes stays mentioned until the next start, which costs a question.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs: set[tuple[str, str]] | None = set(pairs)

    def add(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Rows with these are about to be seen."""
        if self._pairs is not None:
            self._pairs.update(pairs)
            if len(self._pairs) > MOST:
                self._pairs = None

    def may_hold(self, product_key: str, device_name: str) -> bool:
        """
        >>> Mentioned([("stove", "")]).may_hold("stove", "s1"), Mentioned([("stove", "s2")]).may_hold("stove", "s1")
        (True, False)
        """
        pairs = self._pairs
        if pairs is None:
            return True
        return any(pair in pairs for pair in ((product_key, device_name), (product_key, ""), ("", device_name), ("", "")))
