"""The one topic grammar of Alink, both ways (alink.md par. 4). A new topic is a new row of `_GRAMMAR`."""

import enum
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from protocols.errors import Reason, Refused


class Kind(enum.Enum):
    """What a topic is for."""

    PROPERTY_POST = "property_post"
    PROPERTY_POST_REPLY = "property_post_reply"
    EVENT_POST = "event_post"
    EVENT_POST_REPLY = "event_post_reply"
    PROPERTY_SET = "property_set"
    PROPERTY_SET_REPLY = "property_set_reply"
    CUSTOM = "custom"


class Sender(enum.Enum):
    """Who publishes on a topic."""

    DEVICE = "device"
    SERVER = "server"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class _Row:
    template: str  # {name} is one level, {rest} is one or more
    sender: Sender
    reply: Kind | None = None


# Order matters: a fixed level stands before the {name} that would also take it.
_GRAMMAR: dict[Kind, _Row] = {
    Kind.PROPERTY_POST: _Row("/sys/{pk}/{dn}/thing/event/property/post", Sender.DEVICE, Kind.PROPERTY_POST_REPLY),
    Kind.PROPERTY_POST_REPLY: _Row("/sys/{pk}/{dn}/thing/event/property/post_reply", Sender.SERVER),
    Kind.EVENT_POST: _Row("/sys/{pk}/{dn}/thing/event/{name}/post", Sender.DEVICE, Kind.EVENT_POST_REPLY),
    Kind.EVENT_POST_REPLY: _Row("/sys/{pk}/{dn}/thing/event/{name}/post_reply", Sender.SERVER),
    Kind.PROPERTY_SET: _Row("/sys/{pk}/{dn}/thing/service/property/set", Sender.SERVER, Kind.PROPERTY_SET_REPLY),
    Kind.PROPERTY_SET_REPLY: _Row("/sys/{pk}/{dn}/thing/service/property/set_reply", Sender.DEVICE),
    Kind.CUSTOM: _Row("/{pk}/{dn}/user/{rest}", Sender.BOTH),
}

_FAMILIES = ("sys", "ext", "shadow", "ota", "broadcast", "edge")  # first levels that are no product key
_LEVEL = r"[^/+#\x00?]+"
_GROUPS = {"pk": rf"(?P<pk>{_LEVEL})", "dn": rf"(?P<dn>{_LEVEL})", "name": r"(?P<name>[A-Za-z0-9_:]+)", "rest": r"(?P<name>[^+#\x00?]+)"}
_PATTERNS = [(kind, re.compile(row.template.format(**_GROUPS))) for kind, row in _GRAMMAR.items()]
_THING = re.compile(rf"/sys/{_LEVEL}/{_LEVEL}/(?P<method>thing/.+?)(?:_reply)?")

# What belongs to a device, by prefix: wider than the grammar, so that an unknown topic of its own is quarantined, not refused.
_OWN = (
    "/sys/{pk}/{dn}/",
    "/{pk}/{dn}/user/",
    "/shadow/update/{pk}/{dn}",
    "/ota/device/inform/{pk}/{dn}",
    "/ota/device/progress/{pk}/{dn}",
    "/ota/device/request/{pk}/{dn}",
    "/ext/ntp/{pk}/{dn}/",
    "/ext/session/{pk}/{dn}/",
)
_RRPC = re.compile(rf"/ext/rrpc/{_LEVEL}(?P<inner>/.+)")
_DOWNLINK = (
    "/sys/{pk}/{dn}/#",
    "/{pk}/{dn}/user/#",
    "/shadow/get/{pk}/{dn}",
    "/ota/device/upgrade/{pk}/{dn}",
    "/ext/ntp/{pk}/{dn}/response",
    "/ext/session/{pk}/{dn}/#",
    "/ext/error/{pk}/{dn}",
    "/ext/rrpc/+/sys/{pk}/{dn}/#",
    "/ext/rrpc/+/{pk}/{dn}/user/#",
    "/ext/register",
    "/ext/regnwl",
    "/broadcast/{pk}/#",
)


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic; `name` is the event of an event topic and the free part of a custom one, else empty."""

    kind: Kind
    product_key: str
    device_name: str
    name: str = ""

    def __str__(self) -> str:
        return _GRAMMAR[self.kind].template.format(pk=self.product_key, dn=self.device_name, name=self.name, rest=self.name)

    @classmethod
    def parse(cls, topic: str) -> Self:
        """Raises `Refused(UNKNOWN_TOPIC)`. A `?...` tail (C SDK over MQTT) is dropped."""
        path = topic.partition("?")[0]
        for kind, pattern in _PATTERNS:
            if (found := pattern.fullmatch(path)) and (kind is not Kind.CUSTOM or found["pk"] not in _FAMILIES):
                parts = found.groupdict()
                return cls(kind, parts["pk"], parts["dn"], parts.get("name", ""))
        raise Refused(Reason.UNKNOWN_TOPIC, f"no such topic: {topic[:128]}")

    @property
    def sender(self) -> Sender:
        return _GRAMMAR[self.kind].sender

    @property
    def method(self) -> str:
        """The envelope's `method`: "thing.event.property.post"; empty for a custom topic."""
        found = _THING.fullmatch(str(self))
        return found["method"].replace("/", ".") if found else ""

    @property
    def reply(self) -> "Topic | None":
        """Where the answer to a request on this topic goes; None when it asks for none."""
        kind = _GRAMMAR[self.kind].reply
        return None if kind is None else Topic(kind, self.product_key, self.device_name, self.name)


@lru_cache(maxsize=4096)
def _filled(templates: tuple[str, ...], product_key: str, device_name: str) -> tuple[str, ...]:
    return tuple(template.format(pk=product_key, dn=device_name) for template in templates)


def belongs_to(topic: str, product_key: str, device_name: str) -> bool:
    """Whether a device may publish on `topic`: its own name space, in or outside the grammar."""
    path = topic.partition("?")[0]
    if rrpc := _RRPC.fullmatch(path):
        path = rrpc["inner"]
    for prefix in _filled(_OWN, product_key, device_name):
        if path.startswith(prefix) and (prefix[-1] == "/" or len(path) == len(prefix)):
            return True
    return False


def downlink_filters(product_key: str, device_name: str) -> tuple[str, ...]:
    """Everything the server may push to the device, whether it subscribes or not."""
    return _filled(_DOWNLINK, product_key, device_name)


def may_subscribe(topic_filter: str, product_key: str, device_name: str) -> bool:
    """Whether an explicit SUBSCRIBE stays within what the server pushes to this device anyway."""
    return any(
        topic_filter == allowed or (allowed.endswith("#") and topic_filter.startswith(allowed[:-1]))
        for allowed in downlink_filters(product_key, device_name)
    )
