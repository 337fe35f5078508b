"""The one topic grammar of Alink, both ways (alink.md par. 4, 9 and 10). A new topic is a new row of `_ROWS`."""

import enum
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Self

from protocols.errors import Reason, Refused


class Kind(enum.Enum):
    """What a topic is for. `X_REPLY` answers `X`."""

    # properties, events, services
    PROPERTY_POST = "property_post"
    PROPERTY_POST_REPLY = "property_post_reply"
    BATCH_POST = "batch_post"
    BATCH_POST_REPLY = "batch_post_reply"
    HISTORY_POST = "history_post"
    HISTORY_POST_REPLY = "history_post_reply"
    PACK_POST = "pack_post"
    PACK_POST_REPLY = "pack_post_reply"
    EVENT_POST = "event_post"
    EVENT_POST_REPLY = "event_post_reply"
    PROPERTY_SET = "property_set"
    PROPERTY_SET_REPLY = "property_set_reply"
    PROPERTY_GET = "property_get"
    PROPERTY_GET_REPLY = "property_get_reply"
    SERVICE = "service"
    SERVICE_REPLY = "service_reply"
    RRPC_SERVICE = "rrpc_service"
    RRPC_CUSTOM = "rrpc_custom"
    RRPC_REQUEST = "rrpc_request"
    RRPC_RESPONSE = "rrpc_response"
    DESIRED_GET = "desired_get"
    DESIRED_GET_REPLY = "desired_get_reply"
    DESIRED_DELETE = "desired_delete"
    DESIRED_DELETE_REPLY = "desired_delete_reply"
    RAW_UP = "raw_up"
    RAW_UP_REPLY = "raw_up_reply"
    RAW_DOWN = "raw_down"
    RAW_DOWN_REPLY = "raw_down_reply"
    # what a device is, and what it is told
    TAGS_UPDATE = "tags_update"
    TAGS_UPDATE_REPLY = "tags_update_reply"
    TAGS_DELETE = "tags_delete"
    TAGS_DELETE_REPLY = "tags_delete_reply"
    TSL_GET = "tsl_get"
    TSL_GET_REPLY = "tsl_get_reply"
    DYNAMIC_TSL_GET = "dynamic_tsl_get"
    DYNAMIC_TSL_GET_REPLY = "dynamic_tsl_get_reply"
    CONFIG_GET = "config_get"
    CONFIG_GET_REPLY = "config_get_reply"
    CONFIG_PUSH = "config_push"
    CONFIG_PUSH_REPLY = "config_push_reply"
    LOG_CONFIG_GET = "log_config_get"
    LOG_CONFIG_GET_REPLY = "log_config_get_reply"
    LOG_CONFIG_PUSH = "log_config_push"
    LOG_POST = "log_post"
    LOG_POST_REPLY = "log_post_reply"
    OTHER_LOG_POST = "other_log_post"
    OTHER_LOG_POST_REPLY = "other_log_post_reply"
    DIAG_POST = "diag_post"
    DIAG_POST_REPLY = "diag_post_reply"
    NTP_REQUEST = "ntp_request"
    NTP_RESPONSE = "ntp_response"
    SHADOW_UPDATE = "shadow_update"
    SHADOW_GET = "shadow_get"
    DISABLE = "disable"
    DISABLE_REPLY = "disable_reply"
    ENABLE = "enable"
    ENABLE_REPLY = "enable_reply"
    DELETE = "delete"
    DELETE_REPLY = "delete_reply"
    RESET = "reset"
    RESET_REPLY = "reset_reply"
    # firmware and jobs
    OTA_INFORM = "ota_inform"
    OTA_UPGRADE = "ota_upgrade"
    OTA_PROGRESS = "ota_progress"
    OTA_REQUEST = "ota_request"
    OTA_FIRMWARE_GET = "ota_firmware_get"
    OTA_FIRMWARE_GET_REPLY = "ota_firmware_get_reply"
    JOB_GET = "job_get"
    JOB_GET_REPLY = "job_get_reply"
    JOB_UPDATE = "job_update"
    JOB_UPDATE_REPLY = "job_update_reply"
    JOB_NOTIFY = "job_notify"
    # gateways and sub-devices
    SUB_REGISTER = "sub_register"
    SUB_REGISTER_REPLY = "sub_register_reply"
    PRODUCT_REGISTER = "product_register"
    PRODUCT_REGISTER_REPLY = "product_register_reply"
    TOPO_ADD = "topo_add"
    TOPO_ADD_REPLY = "topo_add_reply"
    TOPO_DELETE = "topo_delete"
    TOPO_DELETE_REPLY = "topo_delete_reply"
    TOPO_GET = "topo_get"
    TOPO_GET_REPLY = "topo_get_reply"
    TOPO_ADD_NOTIFY = "topo_add_notify"
    TOPO_ADD_NOTIFY_REPLY = "topo_add_notify_reply"
    TOPO_CHANGE = "topo_change"
    TOPO_CHANGE_REPLY = "topo_change_reply"
    LIST_FOUND = "list_found"
    LIST_FOUND_REPLY = "list_found_reply"
    LOGIN = "login"
    LOGIN_REPLY = "login_reply"
    BATCH_LOGIN = "batch_login"
    BATCH_LOGIN_REPLY = "batch_login_reply"
    LOGOUT = "logout"
    LOGOUT_REPLY = "logout_reply"
    BATCH_LOGOUT = "batch_logout"
    BATCH_LOGOUT_REPLY = "batch_logout_reply"
    SESSION_ERROR = "session_error"
    GATEWAY_PERMIT = "gateway_permit"
    GATEWAY_PERMIT_REPLY = "gateway_permit_reply"
    # Living (Wi-Fi) products
    AWSS_MATCH = "awss_match"
    AWSS_MATCH_REPLY = "awss_match_reply"
    AWSS_FOUND = "awss_found"
    AWSS_FOUND_REPLY = "awss_found_reply"
    AWSS_CHECKIN = "awss_checkin"
    AWSS_CHECKIN_REPLY = "awss_checkin_reply"
    AWSS_SWITCHAP = "awss_switchap"
    AWSS_SWITCHAP_REPLY = "awss_switchap_reply"
    CIPHER_GET = "cipher_get"
    CIPHER_GET_REPLY = "cipher_get_reply"
    LAN_PREFIX_GET = "lan_prefix_get"
    LAN_PREFIX_GET_REPLY = "lan_prefix_get_reply"
    LAN_PREFIX_UPDATE = "lan_prefix_update"
    LAN_PREFIX_UPDATE_REPLY = "lan_prefix_update_reply"
    LAN_BLACKLIST_UPDATE = "lan_blacklist_update"
    LAN_BLACKLIST_UPDATE_REPLY = "lan_blacklist_update_reply"
    # beside the dialogue
    BOOTSTRAP_NOTIFY = "bootstrap_notify"
    BOOTSTRAP_NOTIFY_REPLY = "bootstrap_notify_reply"
    REGISTERED = "registered"
    REGISTERED_NO_WHITELIST = "registered_no_whitelist"
    BROADCAST_REQUEST = "broadcast_request"
    BROADCAST = "broadcast"
    CUSTOM = "custom"


class Sender(enum.Enum):
    """Who publishes on a topic."""

    DEVICE = "device"
    SERVER = "server"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class _Row:
    template: str
    sender: Sender
    reply: Kind | None = None


_D, _S, _B = Sender.DEVICE, Sender.SERVER, Sender.BOTH

# {name} is an identifier or an id, {rest} one level or more, {mid} the server's id of a call. A third entry names the reply, which travels
# the other way on the same topic with `_reply` behind it. Order matters: a fixed level stands before the {name} that would also take it.
_ROWS: tuple[tuple[Kind, str, Sender] | tuple[Kind, str, Sender, Kind], ...] = (
    (Kind.PROPERTY_POST, "/sys/{pk}/{dn}/thing/event/property/post", _D, Kind.PROPERTY_POST_REPLY),
    (Kind.BATCH_POST, "/sys/{pk}/{dn}/thing/event/property/batch/post", _D, Kind.BATCH_POST_REPLY),
    (Kind.HISTORY_POST, "/sys/{pk}/{dn}/thing/event/property/history/post", _D, Kind.HISTORY_POST_REPLY),
    (Kind.PACK_POST, "/sys/{pk}/{dn}/thing/event/property/pack/post", _D, Kind.PACK_POST_REPLY),
    (Kind.EVENT_POST, "/sys/{pk}/{dn}/thing/event/{name}/post", _D, Kind.EVENT_POST_REPLY),
    (Kind.PROPERTY_SET, "/sys/{pk}/{dn}/thing/service/property/set", _S, Kind.PROPERTY_SET_REPLY),
    (Kind.PROPERTY_GET, "/sys/{pk}/{dn}/thing/service/property/get", _S, Kind.PROPERTY_GET_REPLY),
    (Kind.SERVICE, "/sys/{pk}/{dn}/thing/service/{name}", _S, Kind.SERVICE_REPLY),
    (Kind.RRPC_SERVICE, "/ext/rrpc/{mid}/sys/{pk}/{dn}/thing/service/{name}", _B),
    (Kind.RRPC_CUSTOM, "/ext/rrpc/{mid}/{pk}/{dn}/user/{rest}", _B),
    (Kind.RRPC_REQUEST, "/sys/{pk}/{dn}/rrpc/request/{mid}", _S),
    (Kind.RRPC_RESPONSE, "/sys/{pk}/{dn}/rrpc/response/{mid}", _D),
    (Kind.DESIRED_GET, "/sys/{pk}/{dn}/thing/property/desired/get", _D, Kind.DESIRED_GET_REPLY),
    (Kind.DESIRED_DELETE, "/sys/{pk}/{dn}/thing/property/desired/delete", _D, Kind.DESIRED_DELETE_REPLY),
    (Kind.RAW_UP, "/sys/{pk}/{dn}/thing/model/up_raw", _D, Kind.RAW_UP_REPLY),
    (Kind.RAW_DOWN, "/sys/{pk}/{dn}/thing/model/down_raw", _S, Kind.RAW_DOWN_REPLY),
    (Kind.TAGS_UPDATE, "/sys/{pk}/{dn}/thing/deviceinfo/update", _D, Kind.TAGS_UPDATE_REPLY),
    (Kind.TAGS_DELETE, "/sys/{pk}/{dn}/thing/deviceinfo/delete", _D, Kind.TAGS_DELETE_REPLY),
    (Kind.TSL_GET, "/sys/{pk}/{dn}/thing/dsltemplate/get", _D, Kind.TSL_GET_REPLY),
    (Kind.DYNAMIC_TSL_GET, "/sys/{pk}/{dn}/thing/dynamicTsl/get", _D, Kind.DYNAMIC_TSL_GET_REPLY),
    (Kind.CONFIG_GET, "/sys/{pk}/{dn}/thing/config/get", _D, Kind.CONFIG_GET_REPLY),
    (Kind.CONFIG_PUSH, "/sys/{pk}/{dn}/thing/config/push", _S, Kind.CONFIG_PUSH_REPLY),
    (Kind.LOG_CONFIG_GET, "/sys/{pk}/{dn}/thing/config/log/get", _D, Kind.LOG_CONFIG_GET_REPLY),
    (Kind.LOG_CONFIG_PUSH, "/sys/{pk}/{dn}/thing/config/log/push", _S),
    (Kind.LOG_POST, "/sys/{pk}/{dn}/thing/log/post", _D, Kind.LOG_POST_REPLY),
    (Kind.OTHER_LOG_POST, "/sys/{pk}/{dn}/thing/config/log/post", _D, Kind.OTHER_LOG_POST_REPLY),
    (Kind.DIAG_POST, "/sys/{pk}/{dn}/_thing/diag/post", _D, Kind.DIAG_POST_REPLY),
    (Kind.NTP_REQUEST, "/ext/ntp/{pk}/{dn}/request", _D),
    (Kind.NTP_RESPONSE, "/ext/ntp/{pk}/{dn}/response", _S),
    (Kind.SHADOW_UPDATE, "/shadow/update/{pk}/{dn}", _D),
    (Kind.SHADOW_GET, "/shadow/get/{pk}/{dn}", _S),
    (Kind.DISABLE, "/sys/{pk}/{dn}/thing/disable", _S, Kind.DISABLE_REPLY),
    (Kind.ENABLE, "/sys/{pk}/{dn}/thing/enable", _S, Kind.ENABLE_REPLY),
    (Kind.DELETE, "/sys/{pk}/{dn}/thing/delete", _S, Kind.DELETE_REPLY),
    (Kind.RESET, "/sys/{pk}/{dn}/thing/reset", _D, Kind.RESET_REPLY),
    (Kind.OTA_INFORM, "/ota/device/inform/{pk}/{dn}", _D),
    (Kind.OTA_UPGRADE, "/ota/device/upgrade/{pk}/{dn}", _S),
    (Kind.OTA_PROGRESS, "/ota/device/progress/{pk}/{dn}", _D),
    (Kind.OTA_REQUEST, "/ota/device/request/{pk}/{dn}", _D),
    (Kind.OTA_FIRMWARE_GET, "/sys/{pk}/{dn}/thing/ota/firmware/get", _D, Kind.OTA_FIRMWARE_GET_REPLY),
    (Kind.JOB_GET, "/sys/{pk}/{dn}/thing/job/get", _D, Kind.JOB_GET_REPLY),
    (Kind.JOB_UPDATE, "/sys/{pk}/{dn}/thing/job/update", _D, Kind.JOB_UPDATE_REPLY),
    (Kind.JOB_NOTIFY, "/sys/{pk}/{dn}/thing/job/notify", _S),
    (Kind.SUB_REGISTER, "/sys/{pk}/{dn}/thing/sub/register", _D, Kind.SUB_REGISTER_REPLY),
    (Kind.PRODUCT_REGISTER, "/sys/{pk}/{dn}/thing/proxy/provisioning/product_register", _D, Kind.PRODUCT_REGISTER_REPLY),
    (Kind.TOPO_ADD, "/sys/{pk}/{dn}/thing/topo/add", _D, Kind.TOPO_ADD_REPLY),
    (Kind.TOPO_DELETE, "/sys/{pk}/{dn}/thing/topo/delete", _D, Kind.TOPO_DELETE_REPLY),
    (Kind.TOPO_GET, "/sys/{pk}/{dn}/thing/topo/get", _D, Kind.TOPO_GET_REPLY),
    (Kind.TOPO_ADD_NOTIFY, "/sys/{pk}/{dn}/thing/topo/add/notify", _S, Kind.TOPO_ADD_NOTIFY_REPLY),
    (Kind.TOPO_CHANGE, "/sys/{pk}/{dn}/thing/topo/change", _S, Kind.TOPO_CHANGE_REPLY),
    (Kind.LIST_FOUND, "/sys/{pk}/{dn}/thing/list/found", _D, Kind.LIST_FOUND_REPLY),
    (Kind.LOGIN, "/ext/session/{pk}/{dn}/combine/login", _D, Kind.LOGIN_REPLY),
    (Kind.BATCH_LOGIN, "/ext/session/{pk}/{dn}/combine/batch_login", _D, Kind.BATCH_LOGIN_REPLY),
    (Kind.LOGOUT, "/ext/session/{pk}/{dn}/combine/logout", _D, Kind.LOGOUT_REPLY),
    (Kind.BATCH_LOGOUT, "/ext/session/{pk}/{dn}/combine/batch_logout", _D, Kind.BATCH_LOGOUT_REPLY),
    (Kind.SESSION_ERROR, "/ext/error/{pk}/{dn}", _S),
    (Kind.GATEWAY_PERMIT, "/sys/{pk}/{dn}/thing/gateway/permit", _S, Kind.GATEWAY_PERMIT_REPLY),
    (Kind.AWSS_MATCH, "/sys/{pk}/{dn}/thing/awss/enrollee/match", _D, Kind.AWSS_MATCH_REPLY),
    (Kind.AWSS_FOUND, "/sys/{pk}/{dn}/thing/awss/enrollee/found", _D, Kind.AWSS_FOUND_REPLY),
    (Kind.AWSS_CHECKIN, "/sys/{pk}/{dn}/thing/awss/enrollee/checkin", _D, Kind.AWSS_CHECKIN_REPLY),
    (Kind.AWSS_SWITCHAP, "/sys/{pk}/{dn}/thing/awss/device/switchap", _D, Kind.AWSS_SWITCHAP_REPLY),
    (Kind.CIPHER_GET, "/sys/{pk}/{dn}/thing/cipher/get", _D, Kind.CIPHER_GET_REPLY),
    (Kind.LAN_PREFIX_GET, "/sys/{pk}/{dn}/thing/lan/prefix/get", _D, Kind.LAN_PREFIX_GET_REPLY),
    (Kind.LAN_PREFIX_UPDATE, "/sys/{pk}/{dn}/thing/lan/prefix/update", _D, Kind.LAN_PREFIX_UPDATE_REPLY),
    (Kind.LAN_BLACKLIST_UPDATE, "/sys/{pk}/{dn}/thing/lan/blacklist/update", _D, Kind.LAN_BLACKLIST_UPDATE_REPLY),
    (Kind.BOOTSTRAP_NOTIFY, "/sys/{pk}/{dn}/thing/bootstrap/notify", _S, Kind.BOOTSTRAP_NOTIFY_REPLY),
    (Kind.REGISTERED, "/ext/register", _S),
    (Kind.REGISTERED_NO_WHITELIST, "/ext/regnwl", _S),
    (Kind.BROADCAST_REQUEST, "/sys/{pk}/{dn}/broadcast/request/{mid}", _S),
    (Kind.BROADCAST, "/broadcast/{pk}/{rest}", _S),
    (Kind.CUSTOM, "/{pk}/{dn}/user/{rest}", _B),
)

_OTHER_WAY = {_D: _S, _S: _D}


def _rows() -> Iterator[tuple[Kind, _Row]]:
    for kind, template, sender, *reply in _ROWS:
        if reply:
            yield reply[0], _Row(template + "_reply", _OTHER_WAY[sender])
        yield kind, _Row(template, sender, *reply)


_GRAMMAR: dict[Kind, _Row] = dict(_rows())
TEMPLATES: Mapping[Kind, str] = {kind: row.template for kind, row in _GRAMMAR.items()}
"""Every topic, with {pk}, {dn}, {name}, {mid} and {rest} where its parts belong."""

_FAMILIES = ("sys", "ext", "shadow", "ota", "broadcast", "edge")  # first levels that are no product key
_LEVEL = r"[^/+#\x00?]+"
_GROUPS = {
    "pk": rf"(?P<pk>{_LEVEL})",
    "dn": rf"(?P<dn>{_LEVEL})",
    "mid": rf"(?P<mid>{_LEVEL})",
    "name": r"(?P<name>[A-Za-z0-9_:]+)",
    "rest": r"(?P<name>[^+#\x00?]+)",
}


def _alike(levels: Sequence[str], free: bool) -> tuple[str, int]:
    """What topics of a template have in common: the first level, unless it is a product key, and how many there are, if that is fixed."""
    first = levels[1] if len(levels) > 1 else ""
    return ("" if first == "{pk}" else first), (0 if free else len(levels))


def _candidates() -> dict[tuple[str, int], list[Kind]]:
    found = defaultdict[tuple[str, int], list[Kind]](list)
    for kind, row in _GRAMMAR.items():
        found[_alike(row.template.split("/"), "{rest}" in row.template)].append(kind)
    return dict(found)


_CANDIDATES = _candidates()


@cache
def _pattern(kind: Kind) -> re.Pattern[str]:
    """Made when it is first asked for: a gateway needs few of the hundred, and starts within a second."""
    return re.compile(_GRAMMAR[kind].template.format(**_GROUPS))


_METHOD = re.compile(rf"(?:/ext/rrpc/{_LEVEL})?/(?:sys|ext/session)/{_LEVEL}/{_LEVEL}/(?P<method>(?:_?thing|combine)/.+)")

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
    """One topic. `name` is the event or service of its topic, or the free part of a custom one; `call` the server's id of a call (RRPC)."""

    kind: Kind
    product_key: str
    device_name: str
    name: str = ""
    call: str = ""

    def __str__(self) -> str:
        return _GRAMMAR[self.kind].template.format(pk=self.product_key, dn=self.device_name, name=self.name, rest=self.name, mid=self.call)

    @classmethod
    def parse(cls, topic: str) -> Self:
        """Raises `Refused(UNKNOWN_TOPIC)`. A `?...` tail (C SDK over MQTT) is dropped."""
        path = topic.partition("?")[0]
        levels = path.split("/")
        alike = _alike(levels, free=False)
        for bucket in (alike, (alike[0], 0), ("", 0)):
            for kind in _CANDIDATES.get(bucket, ()):
                if (found := _pattern(kind).fullmatch(path)) and (kind is not Kind.CUSTOM or found["pk"] not in _FAMILIES):
                    parts = found.groupdict()
                    return cls(kind, parts.get("pk", ""), parts.get("dn", ""), parts.get("name", ""), parts.get("mid", ""))
        raise Refused(Reason.UNKNOWN_TOPIC, f"no such topic: {topic[:128]}")

    @property
    def sender(self) -> Sender:
        return _GRAMMAR[self.kind].sender

    @property
    def method(self) -> str:
        """The envelope's `method`: "thing.event.property.post"; empty where the topic has none."""
        found = _METHOD.fullmatch(str(self))
        return found["method"].replace("/", ".").removesuffix("_reply") if found else ""

    @property
    def reply(self) -> "Topic | None":
        """Where the answer to a request on this topic goes; None when it asks for none, or when the answer's topic follows no rule."""
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
