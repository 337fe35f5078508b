"""Topic filters: which topics they match (MQTT 5 par. 4.7), and those that one session has subscribed."""


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
    """The filters of one session with the QoS granted; at most `filters` of them, with `size` characters in all."""

    __slots__ = ("_filters", "_granted", "_size", "size")

    def __init__(self, filters: int, size: int) -> None:
        self._filters = filters
        self._size = size
        self._granted: dict[str, int] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._granted)

    def add(self, topic_filter: str, qos: int) -> bool:
        """Subscribe, or subscribe anew with another QoS (par. 3.8.4); False when there is no room."""
        if topic_filter not in self._granted:
            if len(self._granted) >= self._filters or self.size + len(topic_filter) > self._size:
                return False
            self.size += len(topic_filter)
        self._granted[topic_filter] = qos
        return True

    def remove(self, topic_filter: str) -> bool:
        """Unsubscribe, character by character the same filter (par. 3.10.4); False when there was none."""
        if self._granted.pop(topic_filter, None) is None:
            return False
        self.size -= len(topic_filter)
        return True

    def granted(self, topic: str) -> int | None:
        """The greatest QoS granted to a filter that matches, None when none does (par. 3.3.4)."""
        return max((qos for text, qos in self._granted.items() if matches(text, topic)), default=None)
