"""Connectors by name. A new kind is a new row: its plan is read in settings, its class lives beside this file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge_agent.domain.clock import Clock
from edge_agent.domain.sampling import LastRow
from edge_agent.ports import DeviceKey, Intake, PresenceBoard, Route
from edge_agent.southbound.modbus import ModbusConnector, PymodbusUnit
from edge_agent.southbound.plan import ModbusPlan, Plan, SerialPlan
from edge_agent.southbound.serial_line import PyserialLine, SerialConnector
from protocols.alink.messages import Reply
from protocols.thing.model import ThingModel


class Connector(Protocol):
    """What reads one device."""

    @property
    def busy_since(self) -> float | None:
        """Since when (monotonic) it has waited for an answer; None while it waits for none."""
        ...

    async def run(self) -> None:
        """Read until cancelled."""
        ...

    def status(self) -> dict[str, object]:
        """What `edgectl status` shows of it."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a connector works with: its device, where rows go, what the run before left, and the way down to the device."""

    device: DeviceKey
    model: ThingModel
    intake: Intake
    presence: PresenceBoard
    clock: Clock
    last: LastRow | None
    clean: bool
    routes: dict[DeviceKey, Route]
    answered: Callable[[DeviceKey, Reply], None]


Build = Callable[[Plan, Surroundings], Connector]


def _modbus_tcp(plan: Plan, on: Surroundings) -> Connector:
    assert isinstance(plan, ModbusPlan)
    unit = PymodbusUnit(plan.host, plan.port, plan.unit_id, plan.timeout_ms / 1000)
    return ModbusConnector(plan, on.device, on.model, unit, on.intake, on.presence, on.clock, last=on.last, clean=on.clean)


def _serial_line(plan: Plan, on: Surroundings) -> Connector:
    assert isinstance(plan, SerialPlan)
    line = PyserialLine(plan.path, plan.baud)
    return SerialConnector(
        plan, on.device, on.model, line, on.intake, on.presence, on.clock, on.routes, on.answered, last=on.last
    )  # fmt: skip


CONNECTORS: dict[str, Build] = {"modbus-tcp": _modbus_tcp, "serial-line": _serial_line}
