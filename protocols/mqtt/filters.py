"""Topic filters: which topics they match (MQTT 5 par. 4.7), and those that one session has subscribed."""

from collections.abc import Iterable


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a (valid) filter matches a topic: `+` fills one level, `#` all that follow and their parent.

    >>> [matches("/a/#", topic) for topic in ("/a", "/a/b/c", "/ab")]
    [True, True, False]
    >>> matches("#", "$SYS/uptime")
    False
    """
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):  # par. 4.7.2
        return False
    levels, asked = topic.split("/"), topic_filter.split("/")
    for at, wanted in enumerate(asked):
        if wanted == "#":
            return True
        if at == len(levels) or wanted not in ("+", levels[at]):
            return False
    return len(asked) == len(levels)


class Subscriptions:
    """The filters of one session with the QoS granted; at most `filters` of them, with `characters` in all.

    They lie in one string, each behind its QoS and before a NUL (which no filter holds): one string each would be most of an idle session.
    """

    __slots__ = ("_characters", "_filters", "_packed")

    def __init__(self, filters: int, characters: int) -> None:
        self._filters = filters
        self._characters = characters
        self._packed = ""

    def __len__(self) -> int:
        return self._packed.count("\0")

    @property
    def size(self) -> int:
        """Characters of all filters."""
        return len(self._packed) - 2 * len(self)

    def subscribe(self, asked: Iterable[tuple[str, int]]) -> list[bool]:
        """Add filters, or give those that are there another QoS (par. 3.8.4); False for one that there is no room for."""
        granted, size, taken = self._unpacked(), self.size, []
        for text, qos in asked:
            if text not in granted:
                if len(granted) >= self._filters or size + len(text) > self._characters:
                    taken.append(False)
                    continue
                size += len(text)
            granted[text] = qos
            taken.append(True)
        self._pack(granted)
        return taken

    def unsubscribe(self, filters: Iterable[str]) -> list[bool]:
        """Remove filters, compared character by character (par. 3.10.4); False for one that was not there."""
        granted = self._unpacked()
        removed = [granted.pop(text, None) is not None for text in filters]
        self._pack(granted)
        return removed

    def granted(self, topic: str) -> int | None:
        """The greatest QoS granted to a filter that matches, None when none does (par. 3.3.4)."""
        return max((qos for text, qos in self._unpacked().items() if matches(text, topic)), default=None)

    def _unpacked(self) -> dict[str, int]:
        return {one[1:]: int(one[0]) for one in self._packed.split("\0")[:-1]}

    def _pack(self, granted: dict[str, int]) -> None:
        self._packed = "".join(f"{qos}{text}\0" for text, qos in granted.items())
