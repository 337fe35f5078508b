"""Connectors by name. A new kind is a new row: its plan is read in settings, its class lives beside this file."""

from collections.abc import Callable

from edge_agent.domain.clock import Clock
from edge_agent.domain.sampling import LastRow
from edge_agent.ports import DeviceKey, Intake, PresenceBoard
from edge_agent.southbound.modbus import ModbusConnector, PymodbusUnit
from edge_agent.southbound.plan import ModbusPlan
from protocols.thing.model import ThingModel

Build = Callable[[ModbusPlan, DeviceKey, ThingModel, Intake, PresenceBoard, Clock, LastRow | None, bool], ModbusConnector]


def _modbus_tcp(
    plan: ModbusPlan,
    device: DeviceKey,
    model: ThingModel,
    intake: Intake,
    presence: PresenceBoard,
    clock: Clock,
    last: LastRow | None,
    clean: bool,
) -> ModbusConnector:
    unit = PymodbusUnit(plan.host, plan.port, plan.unit_id, plan.timeout_ms / 1000)
    return ModbusConnector(plan, device, model, unit, intake, presence, clock, last=last, clean=clean)


CONNECTORS: dict[str, Build] = {"modbus-tcp": _modbus_tcp}
