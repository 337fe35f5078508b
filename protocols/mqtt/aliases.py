"""Topic aliases of one connection, one set a direction (MQTT 5 par. 3.3.2.3.4): a number instead of a topic that was sent before."""

from protocols.errors import Reason, Refused
from protocols.mqtt.fields import protocol_error

REMEMBERED = 16
"""Topics sent once that are remembered, to give the next sending an alias; the oldest is forgotten."""


class BadAlias(Refused):
    """A topic alias of 0, or above what was offered (par. 3.3.2.3.4, 0x94)."""

    def __init__(self, alias: int, maximum: int) -> None:
        offered = f"1 to {maximum} were offered" if maximum else "none were offered"
        super().__init__(Reason.PROTOCOL_ERROR, f"PUBLISH has the topic alias {alias}, and {offered}")


class ReceivedAliases:
    """What the other end's aliases stand for; at most `maximum` of them."""

    __slots__ = ("_maximum", "_topics")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._topics: dict[int, str] = {}

    def resolve(self, topic: str, alias: int | None) -> str:
        """The topic of a PUBLISH with an alias, or with neither; raises `Refused`, a `BadAlias` for a number that was not offered."""
        if alias is None:
            if not topic:
                raise protocol_error("PUBLISH has neither a topic nor a topic alias")
            return topic
        if not 0 < alias <= self._maximum:
            raise BadAlias(alias, self._maximum)
        if topic:
            self._topics[alias] = topic
            return topic
        if alias not in self._topics:
            raise protocol_error(f"PUBLISH has the topic alias {alias}, which stands for no topic yet")
        return self._topics[alias]


class SentAliases:
    """Aliases for what we send: a topic that is sent a second time gets the next one, until all are given; it keeps it."""

    __slots__ = ("_given", "_maximum", "_once")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._given: dict[str, int] = {}
        self._once: dict[str, None] = {}

    def write(self, topic: str) -> tuple[str, int | None]:
        """The topic as it is to be written, and the alias beside it. The packet has to be sent, and in this order.

        >>> aliases = SentAliases(1)
        >>> [aliases.write(topic) for topic in ("t", "t", "t", "u", "u")]
        [('t', None), ('t', 1), ('', 1), ('u', None), ('u', None)]
        """
        if (alias := self._given.get(topic)) is not None:
            return "", alias
        if len(self._given) == self._maximum:
            return topic, None
        if topic in self._once:
            del self._once[topic]
            alias = self._given[topic] = len(self._given) + 1
            return topic, alias
        self._once[topic] = None
        if len(self._once) > REMEMBERED:
            del self._once[next(iter(self._once))]
        return topic, None
