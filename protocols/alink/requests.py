"""Requests of a device that need what the server knows: which there are, and their params, checked. A new one is a new row of `_PARAMS`."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec

from protocols.alink.deviceinfo import (
    LONGEST_KEY,
    LONGEST_VALUE,
    MOST_LINES,
    MOST_TAGS,
    ClockQuestion,
    DesiredVersion,
    Diagnosis,
    LogLine,
    Nodes,
    Scope,
    Tag,
    TagKey,
    TemplateLog,
    Token,
)
from protocols.alink.envelope import UNREADABLE, MessageRefused, OpenedRequest, check_utf8, open_request
from protocols.alink.jobs import JobQuestion, JobUpdate
from protocols.alink.ota import Inform, Module, Progress
from protocols.alink.shadow import ShadowMessage, ShadowRefused, read_shadow_message
from protocols.alink.topics import Kind
from protocols.alink.topology import MOST_A_BATCH, Identity, NamedInJson, SignedIdentity, read_signed
from protocols.errors import Reason

MOST_IDENTIFIERS: Final = 200
MOST_DEVICES: Final = 200  # of a list of names, where the vendor gives no number


class DeviceRequest(msgspec.Struct, frozen=True, gc=False):
    """A request, read; `params` is what `_PARAMS` makes of them. `id` is raw JSON."""

    kind: Kind
    id: bytes
    wants_reply: bool
    params: Any


class ProxyRegistration(msgspec.Struct, frozen=True, gc=False):
    """A gateway registers a sub-device with the secret of its product."""

    productKey: NamedInJson  # noqa: N815  # the wire's own spelling
    deviceName: NamedInJson  # noqa: N815
    random: str
    sign: str
    signMethod: str = "hmacSha256"  # noqa: N815


class _Proxied(msgspec.Struct, gc=False):
    proxieds: Annotated[list[ProxyRegistration], msgspec.Meta(min_length=1, max_length=MOST_A_BATCH)]


class _Batch(msgspec.Struct, gc=False):
    deviceList: list[dict[str, Any]]  # noqa: N815
    signMethod: str = ""  # noqa: N815


Read = Callable[[OpenedRequest], Any]


def read_request(kind: Kind, payload: bytes) -> DeviceRequest:
    """Raises `MessageRefused`: BAD_JSON, BAD_ENVELOPE, MISSING_PARAMETER, TOO_MANY..., with the id to answer to."""
    if kind is Kind.SHADOW_UPDATE:
        return DeviceRequest(kind, b"", True, _read_shadow(payload))
    if kind is Kind.NTP_REQUEST:
        return DeviceRequest(kind, b"", True, _read_clock(payload))
    opened = open_request(payload)
    return DeviceRequest(kind, opened.id, opened.wants_reply, _PARAMS[kind](opened))


def is_request(kind: Kind) -> bool:
    """Whether devices send requests of this kind.

    >>> is_request(Kind.TOPO_GET), is_request(Kind.PROPERTY_POST)
    (True, False)
    """
    return kind in _PARAMS or kind in (Kind.SHADOW_UPDATE, Kind.NTP_REQUEST)


def _read_shadow(payload: bytes) -> ShadowMessage | ShadowRefused:
    """What is wrong with a shadow message is answered in the shadow's own way, so it is a value here."""
    try:
        return read_shadow_message(payload)
    except ShadowRefused as refused:
        refused.__context__ = refused.__cause__ = None
        return refused.with_traceback(None)


def _read_clock(payload: bytes) -> ClockQuestion:
    check_utf8(payload)
    try:
        question = msgspec.json.decode(payload, type=ClockQuestion)
    except msgspec.ValidationError as error:
        raise MessageRefused(Reason.BAD_ENVELOPE, f"not a question for the time: {error}", wants_reply=False) from error
    except UNREADABLE as error:
        raise MessageRefused(Reason.BAD_JSON, f"not JSON: {error}", wants_reply=False) from error
    if bytes(question.deviceSendTime)[:1] not in b'"-0123456789' or len(bytes(question.deviceSendTime)) > 64:
        raise MessageRefused(Reason.BAD_ENVELOPE, "deviceSendTime has to be a number, or its digits", wants_reply=False)
    return question


def _typed(expected: Any, default: bytes = b"", most: int | None = None, too_many: Reason = Reason.TOO_MANY_DEVICES) -> Read:
    """Params of a type; `default` stands for absent ones, `most` bounds a list."""
    decode = msgspec.json.Decoder(expected).decode

    def read(opened: OpenedRequest) -> Any:
        params = opened.params or default
        if not params:
            raise opened.refuse(Reason.MISSING_PARAMETER, "params are missing")
        try:
            found = decode(params)
        except msgspec.ValidationError as error:
            reason = Reason.MISSING_PARAMETER if "missing required field" in str(error) else Reason.BAD_ENVELOPE
            raise opened.refuse(reason, f"params: {error}") from error
        except UNREADABLE as error:
            raise opened.refuse(Reason.BAD_JSON, f"not JSON: {error}") from error
        if most is not None and not 0 < len(found) <= most:
            raise opened.refuse(too_many if found else Reason.BAD_ENVELOPE, f"params: {len(found)} entries, 1 to {most} allowed")
        return found

    return read


def _anything(_opened: OpenedRequest) -> None:
    """Nothing in the params matters."""
    return


_read_tags = _typed(list[Tag], most=MOST_TAGS, too_many=Reason.BAD_ENVELOPE)


def _tags(opened: OpenedRequest) -> list[Tag]:
    tags: list[Tag] = _read_tags(opened)
    for tag in tags:
        if not 0 < len(tag.attrKey) <= LONGEST_KEY or len(tag.text) > LONGEST_VALUE or "\0" in tag.attrKey + tag.text:
            raise opened.refuse(
                Reason.BAD_ENVELOPE, f"{tag.attrKey[:80]!r}: a key has 1 to {LONGEST_KEY} characters, a value at most {LONGEST_VALUE}"
            )
    return tags


_read_log = _typed(list[LogLine] | TemplateLog)


def _log(opened: OpenedRequest) -> list[LogLine] | TemplateLog:
    found: list[LogLine] | TemplateLog = _read_log(opened)
    if isinstance(found, list) and not 0 < len(found) <= MOST_LINES:
        raise opened.refuse(Reason.BAD_ENVELOPE, f"params: {len(found)} lines, 1 to {MOST_LINES} allowed")
    return found


def _signed(read: Read, items: Callable[[Any], list[dict[str, Any]]], most: int, method: Callable[[Any], str] = lambda _: "") -> Read:
    def read_all(opened: OpenedRequest) -> list[SignedIdentity]:
        found = read(opened)
        entries = items(found)
        if not 0 < len(entries) <= most:
            raise opened.refuse(Reason.TOO_MANY_DEVICES if entries else Reason.BAD_ENVELOPE, f"{len(entries)} devices, 1 to {most} allowed")
        try:
            return [read_signed(entry, method(found)) for entry in entries]
        except ValueError as error:
            raise opened.refuse(Reason.MISSING_PARAMETER, f"params: {error}") from error

    return read_all


_pairs = _typed(list[Identity], most=MOST_DEVICES)

_PARAMS: Mapping[Kind, Read] = {
    Kind.DESIRED_GET: _typed(list[str], most=MOST_IDENTIFIERS, too_many=Reason.TOO_MANY_DESIRED),
    Kind.DESIRED_DELETE: _typed(dict[str, DesiredVersion], most=MOST_IDENTIFIERS, too_many=Reason.TOO_MANY_DESIRED),
    Kind.TAGS_UPDATE: _tags,
    Kind.TAGS_DELETE: _typed(list[TagKey], most=MOST_TAGS, too_many=Reason.BAD_ENVELOPE),
    Kind.TSL_GET: _anything,
    Kind.DYNAMIC_TSL_GET: _typed(Nodes, b"{}"),
    Kind.CONFIG_GET: _typed(Scope, b"{}"),
    Kind.LOG_CONFIG_GET: _typed(Scope, b"{}"),
    Kind.LOG_POST: _log,
    Kind.OTHER_LOG_POST: _log,
    Kind.DIAG_POST: _typed(Diagnosis),
    Kind.RESET: _anything,
    Kind.OTA_INFORM: _typed(Inform),
    Kind.OTA_PROGRESS: _typed(Progress),
    Kind.OTA_REQUEST: _typed(Module, b"{}"),
    Kind.OTA_FIRMWARE_GET: _typed(Module, b"{}"),
    Kind.JOB_GET: _typed(JobQuestion, b"{}"),
    Kind.JOB_UPDATE: _typed(JobUpdate),
    Kind.SUB_REGISTER: _pairs,
    Kind.PRODUCT_REGISTER: _typed(_Proxied),
    Kind.TOPO_ADD: _signed(_typed(list[dict[str, Any]]), list, MOST_A_BATCH),
    Kind.TOPO_DELETE: _pairs,
    Kind.TOPO_GET: _anything,
    Kind.LIST_FOUND: _pairs,
    Kind.LOGIN: _signed(_typed(dict[str, Any]), lambda found: [found], 1),
    Kind.BATCH_LOGIN: _signed(_typed(_Batch), lambda found: found.deviceList, MOST_A_BATCH, lambda found: found.signMethod),
    Kind.LOGOUT: lambda opened: [_typed(Identity)(opened)],
    Kind.BATCH_LOGOUT: _typed(list[Identity], most=MOST_A_BATCH),
    Kind.AWSS_MATCH: _typed(Token),
    Kind.AWSS_FOUND: _anything,
    Kind.AWSS_CHECKIN: _anything,
    Kind.AWSS_SWITCHAP: _anything,
    Kind.CIPHER_GET: _anything,
    Kind.LAN_PREFIX_GET: _anything,
    Kind.LAN_PREFIX_UPDATE: _anything,
    Kind.LAN_BLACKLIST_UPDATE: _anything,
}
"""What the params of each request become."""

__all__ = ["DeviceRequest", "ProxyRegistration", "is_request", "read_request"]
