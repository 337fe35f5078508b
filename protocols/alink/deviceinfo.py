"""What a device tells about itself and asks about its product (alink.md par. 6): tags, thing model, configuration, logs, time."""

from collections.abc import Mapping

import msgspec

MOST_TAGS = 100
LONGEST_KEY, LONGEST_VALUE = 64, 1_024
MOST_LINES = 200
LEVELS = ("FATAL", "ERROR", "WARN", "INFO", "DEBUG", "OTHER")


class Tag(msgspec.Struct, frozen=True, gc=False):
    """One tag; the domain SYSTEM marks what an SDK says about itself."""

    attrKey: str  # noqa: N815  # the wire's own spelling
    attrValue: str | int | float | bool  # noqa: N815
    domain: str | None = None

    @property
    def text(self) -> str:
        """The value as text."""
        if isinstance(self.attrValue, bool):
            return "true" if self.attrValue else "false"
        return str(self.attrValue)


class TagKey(msgspec.Struct, frozen=True, gc=False):
    """Which tag goes."""

    attrKey: str  # noqa: N815


class DesiredVersion(msgspec.Struct, frozen=True, gc=False):
    """A desired value goes if it still has this version; without one in any case."""

    version: int | None = None


class Nodes(msgspec.Struct, frozen=True, gc=False):
    """What of the thing model is wanted: `identifier`, `type`."""

    nodes: tuple[str, ...] = ("type", "identifier")
    addDefault: bool = False  # noqa: N815


class Scope(msgspec.Struct, frozen=True, gc=False):
    """Which configuration is asked for."""

    configScope: str = "product"  # noqa: N815
    getType: str = "file"  # noqa: N815


class LogLine(msgspec.Struct, frozen=True, gc=False):
    """One line of a device's own log."""

    utcTime: str = ""  # noqa: N815
    logLevel: str = "OTHER"  # noqa: N815
    module: str = ""
    code: str | int = ""
    traceContext: str | int = ""  # noqa: N815
    logContent: str = ""  # noqa: N815


class TemplateLog(msgspec.Struct, frozen=True, gc=False):
    """An older form that Wi-Fi firmware posts: kept as text."""

    template: str
    contents: list[object]


class Diagnosis(msgspec.Struct, frozen=True, gc=False):
    """Measurements of the link: `p` by group, `model` says how to read them."""

    p: dict[str, object]
    model: str = ""


class ClockQuestion(msgspec.Struct, frozen=True, gc=False):
    """NTP over MQTT: when the device asked, by its own clock; echoed as it came."""

    deviceSendTime: msgspec.Raw  # noqa: N815


class Token(msgspec.Struct, frozen=True, gc=False):
    """Who shows the same token to the cloud holds the device in his hands."""

    token: str


def log_content(mode: int) -> dict[str, object]:
    """What says whether a device is to post its log: 1 yes, 0 no."""
    return {"getType": "content", "content": {"mode": mode}}


def clock_answer(question: ClockQuestion, received_ms: int, sent_ms: int) -> bytes:
    """Numbers as strings.

    >>> clock_answer(ClockQuestion(msgspec.Raw(b'"17"')), 20, 21)
    b'{"deviceSendTime":"17","serverRecvTime":"20","serverSendTime":"21"}'
    """
    return b'{"deviceSendTime":%b,"serverRecvTime":"%d","serverSendTime":"%d"}' % (
        bytes(question.deviceSendTime),
        received_ms,
        sent_ms,
    )


def reduced_tsl(document: Mapping[str, object], nodes: tuple[str, ...]) -> dict[str, object]:
    """What `dynamicTsl/get` wants of a thing model: of each entry its identifier and, asked for, its data types by name."""
    whole: dict[str, object] = {}
    for part in ("properties", "events", "services"):
        found = document.get(part)
        whole[part] = [_reduced(entry, nodes) for entry in found] if isinstance(found, list) else []
    return whole


def _reduced(entry: object, nodes: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(entry, dict):
        return {}
    kept: dict[str, object] = {
        name: entry[name]
        for name in ("identifier", "name", "required", "accessMode")
        if name in entry and (name == "identifier" or name in nodes)
    }
    data_type = entry.get("dataType")
    if "type" in nodes and isinstance(data_type, dict):
        kept["dataType"] = {"type": data_type.get("type")}
    elif "type" in nodes and "type" in entry:
        kept["type"] = entry["type"]
    for part in ("inputData", "outputData"):
        arguments = entry.get(part)
        if isinstance(arguments, list):
            kept[part] = [argument if isinstance(argument, str) else _reduced(argument, nodes) for argument in arguments]
    return kept
