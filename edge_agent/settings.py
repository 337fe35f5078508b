"""The one TOML file of the agent: read once, typed, handed down. An error names the key and says what is allowed.

Every value under [gateway], [uplink], [front_door], [buffer] and [inference], and `data_dir`, can be overridden by a variable that is named
after its key: HEARTHLINE_EDGE_UPLINK_HOST is `uplink.host`, HEARTHLINE_EDGE_DATA_DIR is `data_dir`. HEARTHLINE_CRASH_DIR arms the crash
points of tests.
"""

import os
import re
import ssl
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from edge_agent.domain.clock import Trust
from edge_agent.domain.quotas import LanePolicy, Overflow, Quotas, default_policy
from edge_agent.domain.window import DailyHours
from edge_agent.sections import NAME_LIMIT, Section, read_private, read_toml, refuse
from edge_agent.southbound.catalogue import CONNECTORS
from edge_agent.southbound.plan import FRONT_DOOR_BOUNDS, ModbusPlan, NamedPoint, SerialPlan, SerialTag
from edge_agent.southbound.plan import Plan as ConnectorPlan
from protocols.edgelink.lanes import LANES, Lane
from protocols.errors import Refused
from protocols.field.modbus import NumberType, Point, Table, WordOrder
from protocols.field.serial_line import VALUE_TAGS, TagType
from protocols.inference.card import ModelCard
from protocols.inference.onnx_card import card_of
from protocols.mqtt.lobby import Bounds
from protocols.thing import library
from protocols.thing.datatypes import is_numeric
from protocols.thing.model import ThingModel, parse_thing_model

CRASH_DIR = "HEARTHLINE_CRASH_DIR"


@dataclass(frozen=True, slots=True)
class Gateway:
    product_key: str
    device_name: str
    secret: str


@dataclass(frozen=True, slots=True)
class Uplink:
    host: str
    port: int
    keepalive_s: int
    window: int
    ca_file: Path | None
    tls: bool
    bytes_per_s: float
    bulk_hours: DailyHours
    start_spread_s: int
    reconnect_max_s: int
    certificate: tuple[Path, Path] | None
    """The gateway's own, which it shows the platform, and its key."""


@dataclass(frozen=True, slots=True)
class FrontDoor:
    """`secrets` by (product_key, device_name)."""

    host: str
    port: int
    secrets: Mapping[tuple[str, str], str]
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class Buffer:
    quotas: Quotas
    close_after_ms: int
    ballast_bytes: int
    bulk_after_s: int
    key: bytes | None = field(default=None, repr=False)  # 32 bytes: what is stored is encrypted with it


@dataclass(frozen=True, slots=True)
class Device:
    product_key: str
    device_name: str
    model: ThingModel


@dataclass(frozen=True, slots=True)
class Inference:
    """Bounds of the process that runs the models, and of the queue before it."""

    deadline_ms: int
    memory_mib: int
    queue_rows: int


@dataclass(frozen=True, slots=True)
class Model:
    """An anomaly model, and what becomes of its scores: property `score`, `event` ("" = none) behind `raise_after` high ones in a row."""

    name: str
    file: Path
    card: ModelCard
    devices: tuple[str, ...]
    score: str
    event: str
    raise_after: int
    clear_after: int


@dataclass(frozen=True, slots=True)
class Settings:
    path: Path
    data_dir: Path
    gateway: Gateway
    uplink: Uplink
    front_door: FrontDoor | None
    buffer: Buffer
    devices: tuple[Device, ...]
    connectors: tuple[ConnectorPlan, ...]
    inference: Inference
    models: tuple[Model, ...]
    crash_dir: Path | None
    trust: Trust = Trust.AUTO
    notify_socket: str = ""

    def device(self, name: str) -> Device:
        """The device called `name`; raises KeyError."""
        return next(device for device in self.devices if device.device_name == name)


def load(path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in `path`; raises Refused(BAD_CONFIGURATION) naming the key."""
    environ = os.environ if environ is None else environ
    document = read_toml(path)
    home = path.resolve().parent
    root = Section(document, "", environ)
    data_dir = home / root.text("data_dir", "data")

    section = Section(root.take("gateway"), "gateway", environ)
    gateway = Gateway(section.identity("product_key"), section.identity("device_name"), _secret(section, home))
    section.finish()

    section = Section(root.take("uplink"), "uplink", environ)
    ca_file, tls = _tls(section, home)
    uplink = Uplink(
        section.text("host"),
        section.integer("port", 1883, low=1, high=65535),
        section.integer("keepalive_s", 30, low=2, high=1200),
        section.integer("window", 16, low=1, high=1024),
        ca_file,
        tls,
        section.integer("bandwidth_kbit_s", 0, low=0, high=10_000_000) * 125.0,
        DailyHours(_minute(section, "bulk_from", "00:00"), _minute(section, "bulk_to", "24:00")),
        section.integer("start_spread_s", 30, low=0, high=3_600),
        section.integer("reconnect_max_s", 30, low=1, high=3_600),
        _certificate(section, home, tls),
    )
    section.finish()

    section = Section(root.take("buffer", {}), "buffer", environ)
    buffer = Buffer(
        _quotas(section),
        section.integer("close_after_ms", 50, low=1, high=10_000),
        section.integer("ballast_bytes", 4 << 20, low=0, high=1 << 30),
        section.integer("bulk_after_s", 10, low=0, high=86_400),
        _buffer_key(section, home),
    )
    section.finish()

    devices = tuple(_device(table, home) for table in root.tables("device"))
    _unique("device", "device_name", [device.device_name for device in devices])
    front_door = _front_door(root.take("front_door", None), home, environ, devices)
    connectors = tuple(_connector(table, devices) for table in root.tables("connector"))
    _unique("connector", "name", [connector.name for connector in connectors])
    _unique("connector", "device", [connector.device for connector in connectors])
    section = Section(root.take("inference", {}), "inference", environ)
    inference = Inference(
        section.integer("deadline_ms", 2_000, low=10, high=60_000),
        section.integer("memory_mib", 160, low=32, high=4_096),
        section.integer("queue_rows", 10_000, low=100, high=1_000_000),
    )
    section.finish()
    models = tuple(_model(table, home, devices) for table in root.tables("model"))
    _unique("model", "name", [model.name for model in models])
    _unique("model", "score", [f"{device} {model.score}" for model in models for device in model.devices])
    section = Section(root.take("clock", {}), "clock", environ)
    trust = Trust(section.choice("trust", tuple(Trust), Trust.AUTO))
    section.finish()
    root.finish()
    crash_dir = environ.get(CRASH_DIR)
    return Settings(
        path.resolve(), data_dir, gateway, uplink, front_door, buffer, devices, connectors, inference, models,
        Path(crash_dir) if crash_dir else None, trust, environ.get("NOTIFY_SOCKET", ""),
    )  # fmt: skip


def _tls(section: Section, home: Path) -> tuple[Path | None, bool]:
    name = section.optional("ca_file")
    tls = section.flag("tls", name is not None)
    if name is None:
        return None, tls
    file = home / name
    try:
        ssl.create_default_context(cafile=str(file))
    except (OSError, ssl.SSLError) as problem:
        hint = "give the file that `hearthline ca export` printed"
        raise refuse(section.key("ca_file"), f"{file} holds no CA certificate ({problem}); {hint}") from problem
    if not tls:
        raise refuse(section.key("tls"), "is false, and ca_file is given: take one of them out")
    return file, tls


def _certificate(section: Section, home: Path, tls: bool) -> tuple[Path, Path] | None:
    name, key_name = section.optional("certificate_file"), section.optional("certificate_key_file")
    if name is None and key_name is None:
        return None
    if name is None or key_name is None:
        raise refuse(section.key("certificate_file"), "and certificate_key_file are given together, or neither")
    if not tls:
        raise refuse(section.key("certificate_file"), "is shown over TLS: give ca_file or tls too")
    files = home / name, home / key_name
    try:
        ssl.create_default_context().load_cert_chain(*files)
    except (OSError, ssl.SSLError) as problem:
        hint = "give the certificate that your authority issued for this gateway, and the key it was issued for"
        raise refuse(section.key("certificate_file"), f"{files[0]} and its key cannot be used ({problem}); {hint}") from problem
    return files


def _minute(section: Section, key: str, usual: str) -> int:
    """A time of day as minutes."""
    text = section.text(key, usual)
    found = re.fullmatch(r"([01]\d|2[0-4]):([0-5]\d)", text)
    minute = 60 * int(found[1]) + int(found[2]) if found else None
    if minute is None or minute > 24 * 60:
        raise refuse(section.key(key), f'must be a time of day like "22:00", not {text!r}')
    return minute


def _quotas(section: Section) -> Quotas:
    total = section.integer("quota_bytes", 1 << 30, low=1 << 20, high=1 << 50)
    lanes: dict[Lane, LanePolicy] = {}
    for lane in LANES:
        table = section.table(lane.value)
        # An outage's readings lie in `bulk`: what was said of `live` holds there too, where nothing else is said.
        usual = replace(lanes[Lane.LIVE], reserve_bytes=0) if lane is Lane.BULK else default_policy(lane, total)
        lanes[lane] = LanePolicy(
            Overflow(table.choice("overflow", tuple(Overflow), usual.overflow)),
            table.integer("quota_bytes", usual.quota_bytes or total, low=1 << 16, high=total),
            table.integer("reserve_bytes", usual.reserve_bytes, low=0, high=total),
            table.integer("keep_every", usual.keep_every, low=2, high=1_000),
            table.integer("max_age_s", usual.max_age_s or 0, low=0, high=1_000_000_000) or None,
        )
        table.finish()
    try:
        return Quotas(total, lanes)
    except ValueError as problem:
        raise refuse(section.key("reserve_bytes"), str(problem)) from problem


def _buffer_key(section: Section, home: Path) -> bytes | None:
    name = section.optional("key_file")
    return read_buffer_key(home / name, section.key("key_file")) if name else None


def read_buffer_key(file: Path, key: str) -> bytes:
    """A key of the buffer from its file; `key` is named in what is said of a wrong one. Raises Refused."""
    text = read_private(file, key).strip()
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise refuse(key, f"{file} holds no key: 64 hexadecimal digits, as `edgectl buffer make-key` writes them")
    return bytes.fromhex(text)


def _secret(section: Section, home: Path) -> str:
    key = section.key("secret_file")
    secret = read_private(home / section.text("secret_file", "gateway.secret"), key).strip()
    if not secret:
        raise refuse(key, "is empty; it must hold the device secret that the cloud gave for this gateway")
    return secret


def _front_door(table: object, home: Path, environ: Mapping[str, str], devices: tuple[Device, ...]) -> FrontDoor | None:
    if table is None:
        return None
    section = Section(table, "front_door", environ)
    host = section.text("host", "127.0.0.1")
    port = section.integer("port", 1884, low=0, high=65535)
    file = home / section.text("secrets_file", "appliances.toml")
    key = section.key("secrets_file")
    most = FRONT_DOOR_BOUNDS
    bounds = Bounds(
        connections=section.integer("connections", most.connections, low=1, high=100_000),
        strangers=section.integer("strangers", most.strangers, low=1, high=100_000),
        connect_s=section.integer("connect_s", int(most.connect_s), low=1, high=3_600),
        packet_s=section.integer("packet_s", int(most.packet_s), low=1, high=3_600),
        unread_s=section.integer("unread_s", int(most.unread_s), low=1, high=3_600),
        session_s=most.session_s,
    )
    section.finish()
    try:
        document = tomllib.loads(read_private(file, key))
    except tomllib.TOMLDecodeError as problem:
        raise refuse(key, f"{file} is not TOML: {problem}") from problem
    known = {(device.product_key, device.device_name) for device in devices}
    secrets: dict[tuple[str, str], str] = {}
    for product_key, names in document.items():
        if not isinstance(names, dict):
            raise refuse(key, f'{file}: write [{product_key}], then device_name = "secret" lines below it')
        for name, secret in names.items():
            if not isinstance(secret, str) or not secret:
                raise refuse(key, f"{file}: {product_key}.{name} must be a text")
            if (product_key, name) not in known:
                raise refuse(key, f"{file}: {product_key}.{name} has no [[device]] in the configuration")
            secrets[product_key, name] = secret
    return FrontDoor(host, port, secrets, bounds)


def _device(section: Section, home: Path) -> Device:
    product_key, name = section.identity("product_key"), section.identity("device_name")
    source = section.text("thing_model")
    section.finish()
    return Device(product_key, name, _thing_model(source, home, section.key("thing_model")))


def _thing_model(source: str, home: Path, key: str) -> ThingModel:
    if source in library.names():
        return library.load(source)
    try:
        return parse_thing_model((home / source).read_bytes())
    except OSError as problem:
        names = ", ".join(library.names())
        raise refuse(key, f"{source!r} is no readable file ({problem.strerror}) and none of the library: {names}") from problem
    except Refused as problem:
        raise refuse(key, f"{source}: {problem}") from problem


def _connector(section: Section, devices: tuple[Device, ...]) -> ConnectorPlan:
    name = section.text("name", limit=NAME_LIMIT)
    kind = section.choice("kind", tuple(CONNECTORS))
    device_name = section.text("device", limit=NAME_LIMIT)
    device = next((device for device in devices if device.device_name == device_name), None)
    if device is None:
        names = ", ".join(device.device_name for device in devices) or "none"
        raise refuse(section.key("device"), f"must be the device_name of a [[device]] ({names}), not {device_name!r}")
    return READ_PLANS[kind](section, name, device)


def _modbus_plan(section: Section, name: str, device: Device) -> ModbusPlan:
    host = section.text("host")
    port = section.integer("port", 502, low=1, high=65535)
    unit_id = section.integer("unit_id", 1, low=0, high=255)
    poll_ms = section.integer("poll_ms", 1000, low=5, high=86_400_000)
    timeout_ms = section.integer("timeout_ms", 1000, low=10, high=60_000)
    sample_on, time_from = section.optional("sample_on"), section.optional("time_from")
    points = tuple(_point(table, device) for table in section.tables("point"))
    section.finish()
    if not points:
        raise refuse(section.key("point"), "is missing: a connector needs at least one [[connector.point]]")
    key = section.key("point")
    _unique(key, "name", [point.name for point in points])
    _unique(key, "property", [point.property for point in points if point.property])
    for role, wanted in (("sample_on", sample_on), ("time_from", time_from)):
        if wanted is None:
            continue
        chosen = next((point for point in points if point.name == wanted), None)
        if chosen is None:
            raise refuse(section.key(role), f"must be the name of one of this connector's points, not {wanted!r}")
        if chosen.point.type in (NumberType.BOOL, NumberType.FLOAT32, NumberType.FLOAT64) or chosen.point.scale != 1.0:
            raise refuse(section.key(role), f"must name an integer point with scale 1; {wanted!r} is {chosen.point.type}")
    return ModbusPlan(
        name=name, device=device.device_name, host=host, port=port, unit_id=unit_id, poll_ms=poll_ms, timeout_ms=timeout_ms,
        sample_on=sample_on, time_from=time_from, points=points,
    )  # fmt: skip


def _serial_plan(section: Section, name: str, device: Device) -> SerialPlan:
    if find_spec("serial") is None:
        raise refuse(section.key("kind"), "a serial line needs pyserial: pip install 'hearthline[edge,serial]'")
    path = section.text("path")
    baud = section.integer("baud", 115_200, low=300, high=4_000_000)
    silence_ms = section.integer("silence_ms", 5_000, low=100, high=86_400_000)
    set_s = section.integer("set_s", 60, low=1, high=3_600)
    own_time = section.flag("own_time", False)
    tags = tuple(_tag(table, device) for table in section.tables("tag"))
    section.finish()
    if not tags:
        raise refuse(section.key("tag"), "is missing: a serial line needs at least one [[connector.tag]]")
    key = section.key("tag")
    _unique(key, "tag", [str(tag.tag) for tag in tags])
    _unique(key, "property", [tag.property for tag in tags])
    return SerialPlan(
        name=name, device=device.device_name, path=path, baud=baud, silence_ms=silence_ms, set_s=set_s, own_time=own_time, tags=tags
    )  # fmt: skip


def _tag(section: Section, device: Device) -> SerialTag:
    tag = section.integer("tag", low=VALUE_TAGS.start, high=VALUE_TAGS.stop - 1)
    kind = TagType(section.choice("type", tuple(TagType)))
    scale = section.number("scale", 1.0)
    identifier = section.text("property", limit=NAME_LIMIT)
    section.finish()
    if scale == 0:
        raise refuse(section.key("scale"), "must not be 0")
    found = device.model.properties.get(identifier)
    if found is None or not is_numeric(found.data_type):
        raise refuse(section.key("property"), f"must be a numeric property of {device.device_name}'s thing model, not {identifier!r}")
    return SerialTag(tag=tag, type=kind, scale=scale, property=identifier)


READ_PLANS: Mapping[str, Callable[[Section, str, Device], ConnectorPlan]] = {"modbus-tcp": _modbus_plan, "serial-line": _serial_plan}


def _model(section: Section, home: Path, devices: tuple[Device, ...]) -> Model:
    if find_spec("onnxruntime") is None:
        raise refuse(section.key("file"), "running a model needs ONNX Runtime: pip install 'hearthline[edge,inference]'")
    name = section.identity("name")
    file = home / section.text("file")
    names = section.texts("devices")
    score, event = section.text("score", "AnomalyScore"), section.take("event", "AnomalyDetected")
    raise_after = section.integer("raise_after", 3, low=1, high=1_000)
    clear_after = section.integer("clear_after", 10, low=1, high=1_000)
    section.finish()
    try:
        card = card_of(file.read_bytes())
    except OSError as problem:
        raise refuse(section.key("file"), f"{file} cannot be read: {problem.strerror}") from problem
    except Refused as problem:
        raise refuse(section.key("file"), f"{file}: {problem}") from problem
    for device_name in names:
        device = next((device for device in devices if device.device_name == device_name), None)
        if device is None:
            known = ", ".join(device.device_name for device in devices) or "none"
            raise refuse(section.key("devices"), f"must be device_names of [[device]] tables ({known}), not {device_name!r}")
        for key, identifier in (*(("file", signal) for signal in card.signals), ("score", score)):
            found = device.model.properties.get(identifier)
            if found is None or not is_numeric(found.data_type):
                what = "the model reads" if key == "file" else "the score needs"
                raise refuse(section.key(key), f"{what} {identifier!r}, which is no numeric property of {device_name}'s thing model")
        if event and event not in device.model.events:
            known = ", ".join(sorted(device.model.events)) or "none"
            raise refuse(section.key("event"), f'must be an event of {device_name}\'s thing model ({known}) or "", not {event!r}')
    return Model(name, file, card, names, score, event, raise_after, clear_after)


def _point(section: Section, device: Device) -> NamedPoint:
    name = section.text("name", limit=NAME_LIMIT)
    table = Table(section.choice("table", tuple(Table)))
    address = section.integer("address", low=0, high=65535)
    kinds = (NumberType.BOOL,) if table.is_bits else tuple(NumberType)
    kind = NumberType(section.choice("type", kinds, NumberType.BOOL if table.is_bits else NumberType.UINT16))
    word_order = WordOrder(section.choice("word_order", tuple(WordOrder), WordOrder.BIG))
    scale = section.number("scale", 1.0)
    identifier = section.optional("property")
    section.finish()
    try:
        point = Point(table, address, kind, word_order, scale)
    except Refused as problem:
        raise refuse(section.key("scale" if scale == 0 else "address"), str(problem)) from problem
    if identifier is not None and identifier not in device.model.properties:
        names = ", ".join(sorted(device.model.properties))
        raise refuse(section.key("property"), f"must be a property of {device.device_name}'s thing model ({names}), not {identifier!r}")
    if identifier is not None and not is_numeric(device.model.properties[identifier].data_type):
        raise refuse(section.key("property"), f"{identifier!r} is no number in the thing model, and a register is one")
    return NamedPoint(name=name, point=point, property=identifier)


def _unique(section: str, key: str, values: list[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise refuse(f"{section}[].{key}", f"{twice[0]!r} is used twice")
