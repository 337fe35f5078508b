"""What connectors and the front door are told to do, as plain values: points and tags, how rows are sampled, how many may come in."""

from dataclasses import dataclass

from protocols.field.modbus import Point
from protocols.field.serial_line import TagType
from protocols.mqtt.lobby import Bounds

FRONT_DOOR_BOUNDS = Bounds(connections=1_000, strangers=500, packet_s=60.0, session_s=0)
"""Unless the configuration says otherwise: room for every appliance of a site, twice, on a small gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPoint:
    """A register value with a name; without `property` it is read (for `sample_on`, `time_from`) and not stored."""

    name: str
    point: Point
    property: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusPlan:
    """One polled unit. `sample_on` names the counter point that says when a row is new; `time_from` the point with its epoch ms."""

    name: str
    kind: str = "modbus-tcp"
    device: str
    host: str
    port: int = 502
    unit_id: int = 1
    poll_ms: int = 1000
    timeout_ms: int = 1000
    sample_on: str | None = None
    time_from: str | None = None
    points: tuple[NamedPoint, ...]

    def point(self, name: str) -> NamedPoint:
        """The point called `name`; raises KeyError."""
        for point in self.points:
            if point.name == name:
                return point
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialTag:
    """A value of a controller's rows; the property's number is the tag's times `scale`."""

    tag: int
    type: TagType
    scale: float = 1.0
    property: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialPlan:
    """One controller on a serial line. `own_time`: its rows carry their time; `silence_ms` without a frame and it is taken to be away."""

    name: str
    kind: str = "serial-line"
    device: str
    path: str
    baud: int = 115_200
    silence_ms: int = 5_000
    set_s: int = 60
    own_time: bool = False
    tags: tuple[SerialTag, ...]


Plan = ModbusPlan | SerialPlan
