"""How simulated devices behave: what a fleet does with commands, which of it are away, what a home does about shadows. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING

from protocols.errors import Reason, Refused

if TYPE_CHECKING:
    from firmware_sim.devices import DeviceSpec  # which takes an MQTT client to import


class Response(StrEnum):
    """What a device does with a command."""

    OBEY = "obey"
    REFUSE = "refuse"
    IGNORE = "ignore"


class Carrier(StrEnum):
    """How a device is called at once (RRPC): on the service's own topic, on the older one that names only the call, or half of each."""

    TOPIC = "topic"
    REQUEST = "request"
    BOTH = "both"


class Shadow(StrEnum):
    """What devices do about their shadow: nothing, keep it on its own topics, or ask for desired values when they connect."""

    OFF = "off"
    DOCUMENT = "document"
    DESIRED = "desired"


@dataclass(frozen=True, slots=True)
class Conduct:
    """Shares from 0 to 1. `refuse` and `ignore` are of the commands that come, `away` of the devices; raises Refused for other shares."""

    refuse: float = 0.0
    ignore: float = 0.0
    away: float = 0.0
    carrier: Carrier = Carrier.BOTH
    seed: int = 1

    def __post_init__(self) -> None:
        if min(self.refuse, self.ignore, self.away) < 0 or self.refuse + self.ignore > 1 or self.away > 1:
            raise Refused(Reason.BAD_CONFIGURATION, "--refuse, --ignore and --away are shares: 0 to 1, the first two together too")

    def response(self, device_name: str, message_id: str) -> Response:
        """What the device does with this command; the same whenever it is asked.

        >>> Conduct(refuse=1.0).response("d1", "7"), Conduct().response("d1", "7")
        (<Response.REFUSE: 'refuse'>, <Response.OBEY: 'obey'>)
        """
        chance = Random(f"{self.seed} {device_name} {message_id}").random()  # noqa: S311  a chance, no secret
        if chance < self.refuse:
            return Response.REFUSE
        return Response.IGNORE if chance < self.refuse + self.ignore else Response.OBEY

    def at_home(self, specs: Sequence["DeviceSpec"]) -> "tuple[list[DeviceSpec], list[DeviceSpec]]":
        """(the devices that connect at once, those that are away), the latter in the order in which they come back."""
        order = list(specs)
        Random(self.seed).shuffle(order)  # noqa: S311  a chance, no secret
        away = order[: round(len(order) * self.away)]
        names = {(spec.product_key, spec.device_name) for spec in away}
        return [spec for spec in specs if (spec.product_key, spec.device_name) not in names], away

    def ext(self, place: int) -> int:
        """The bitmap of a device's client id; `place` counts the devices."""
        if self.carrier is Carrier.BOTH:
            return place % 2
        return int(self.carrier is Carrier.TOPIC)
