"""Use cases of topology: which sub-devices belong to which gateway. Everything here blocks.

A sub-device belongs to one gateway at a time. Another one that proves its secret is told so (6619): the first, or a person, lets go of it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, aliased

from cloud.devices.conversation import DeviceKey
from cloud.devices.model import Credentials
from cloud.devices.tables import DeviceRow, TopologyRow
from cloud.foundation.db import UnitOfWork
from protocols.alink.codes import Code
from protocols.alink.topology import SignedIdentity

MOST_SUB_DEVICES: Final = 5_000
"""Of one gateway; more are refused (6400)."""


class TopologyRefused(Exception):
    """Nothing was changed; `code` is for the gateway."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def check_sub_device(
    gateway_id: int, tenant_id: int, item: SignedIdentity, known: Credentials | None, wrong: Code, now_ms: int
) -> Credentials:
    """Whether the gateway may speak for a sub-device, by the secret; `wrong` is the code of a wrong sign. Raises TopologyRefused."""
    name = f"{item.product_key}/{item.device_name}"
    if known is None or known.tenant_id != tenant_id:
        raise TopologyRefused(Code.DEVICE_UNKNOWN, f"{name}: no such device: enter it on the platform, or correct its name")
    if known.device_id == gateway_id:
        raise TopologyRefused(Code.WITH_ITSELF, f"{name}: a gateway is not its own sub-device")
    if not any(item.proves(secret) for secret in known.secrets_at(now_ms)):
        raise TopologyRefused(wrong, f"{name}: the sign is not the one that the sub-device's secret makes")
    if not known.enabled:
        raise TopologyRefused(Code.DEVICE_DISABLED, f"{name}: the device is disabled")
    return known


def gateway_of(session: Session, device_id: int) -> int | None:
    """The gateway that a sub-device belongs to."""
    return session.scalar(select(TopologyRow.gateway_id).where(TopologyRow.device_id == device_id))


def gateway_key(work: UnitOfWork, product_key: str, device_name: str) -> DeviceKey | None:
    """The gateway that a device of the tenant's belongs to."""
    sub = aliased(DeviceRow)
    query = (
        select(DeviceRow.product_key, DeviceRow.device_name)
        .join(TopologyRow, TopologyRow.gateway_id == DeviceRow.id)
        .join(sub, sub.id == TopologyRow.device_id)
        .where(sub.product_key == product_key, sub.device_name == device_name)
    )
    row = work.session.execute(query).one_or_none()
    return None if row is None else (row.product_key, row.device_name)


def add_sub_devices(session: Session, gateway_id: int, found: Sequence[Credentials], now_ms: int, most: int = MOST_SUB_DEVICES) -> None:
    """Enter sub-devices whose secret was proved; one that is there already stays. Raises TopologyRefused with nothing entered."""
    keys = {(device.product_key, device.device_name): device.device_id for device in found}
    add_known_devices(session, gateway_id, keys, now_ms, most)


def add_known_devices(session: Session, gateway_id: int, found: Mapping[DeviceKey, int], now_ms: int, most: int = MOST_SUB_DEVICES) -> None:
    """The same for devices whose owner says so. Raises TopologyRefused with nothing entered."""
    fresh: list[int] = []
    for key, device_id in found.items():
        name = "/".join(key)
        if device_id == gateway_id:
            raise TopologyRefused(Code.WITH_ITSELF, f"{name}: a gateway is not its own sub-device")
        owner = gateway_of(session, device_id)
        if owner not in (None, gateway_id):
            message = f"{name}: it belongs to another gateway: delete it from the topology of that one first"
            raise TopologyRefused(Code.OTHER_GATEWAY, message)
        if owner is None:
            fresh.append(device_id)
    held = session.scalar(select(func.count()).select_from(TopologyRow).where(TopologyRow.gateway_id == gateway_id)) or 0
    if held + len(fresh) > most:
        raise TopologyRefused(Code.TOPOLOGY_FULL, f"the gateway has {held} sub-devices, at most {most} are allowed")
    session.add_all(TopologyRow(device_id=device_id, gateway_id=gateway_id, since_ms=now_ms) for device_id in fresh)
    session.flush()


def remove_sub_devices(session: Session, gateway_id: int, keys: Sequence[DeviceKey]) -> list[DeviceKey]:
    """Let go of sub-devices; which of them belonged to the gateway."""
    rows = {key: device_id for device_id, key in _sub_devices(session, gateway_id)}
    gone = [key for key in dict.fromkeys(keys) if key in rows]
    session.execute(delete(TopologyRow).where(TopologyRow.device_id.in_([rows[key] for key in gone])))
    return gone


def sub_devices_of(session: Session, gateway_id: int) -> list[DeviceKey]:
    """The gateway's sub-devices, the oldest first."""
    return [key for _, key in _sub_devices(session, gateway_id)]


def _sub_devices(session: Session, gateway_id: int) -> list[tuple[int, DeviceKey]]:
    query = (
        select(DeviceRow.id, DeviceRow.product_key, DeviceRow.device_name)
        .join(TopologyRow, TopologyRow.device_id == DeviceRow.id)
        .where(TopologyRow.gateway_id == gateway_id)
        .order_by(TopologyRow.since_ms, DeviceRow.id)
    )
    return [(row.id, (row.product_key, row.device_name)) for row in session.execute(query)]
