"""Use cases of a device's life: each move as lifecycle.py allows it, with a line in the audit trail. Everything here blocks."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cloud.devices.lifecycle import Move, State, is_done, lets_in, moved
from cloud.devices.registry import site_id
from cloud.devices.tables import DeviceRow, GroupMemberRow, TopologyRow
from cloud.foundation.audit import record
from cloud.foundation.db import UnitOfWork
from protocols.errors import Reason, Refused


def move_device(work: UnitOfWork, product_key: str, device_name: str, move: Move, actor: str, *, site: str | None = None) -> bool:
    """Make a move in the life of a device; False when there is none. `site` is where it is claimed or transferred to.

    Raises Refused: NOT_ALLOWED, or MISSING_PARAMETER (no site for a claim).
    """
    query = select(DeviceRow).where(DeviceRow.product_key == product_key, DeviceRow.device_name == device_name)
    device = work.session.scalars(query.with_for_update()).one_or_none()
    if device is None:
        return False
    where = None if site is None or move not in (Move.CLAIM, Move.TRANSFER) else (site, site_id(work, site))
    _apply(work.session, device, move, actor, where)
    return True


def freed_by_device(session: Session, device_id: int) -> bool:
    """A device was reset by its owner: it is nobody's any more. False when it was not claimed. The caller commits."""
    device = session.get(DeviceRow, device_id, with_for_update=True)
    if device is None or State(device.state) is not State.CLAIMED:
        return False
    _apply(session, device, Move.UNCLAIM, "device", None)
    return True


def _apply(session: Session, device: DeviceRow, move: Move, actor: str, site: tuple[str, int] | None) -> None:
    before = State(device.state)
    state, state_before = moved(before, None if device.state_before is None else State(device.state_before), move)
    if is_done(before, move):
        return
    detail: dict[str, object] = {"from": before, "to": state}
    if move in (Move.CLAIM, Move.TRANSFER):
        if site is None:
            raise Refused(Reason.MISSING_PARAMETER, f"name the site: a home or a line that the device is to {move} to")
        detail["site"], device.site_id = site
    elif move is Move.UNCLAIM:
        device.site_id = None
    elif move is Move.RETIRE:
        session.execute(delete(TopologyRow).where(TopologyRow.device_id == device.id))
        session.execute(delete(TopologyRow).where(TopologyRow.gateway_id == device.id))
        session.execute(delete(GroupMemberRow).where(GroupMemberRow.device_id == device.id))
    device.state, device.state_before = str(state), None if state_before is None else str(state_before)
    device.enabled = lets_in(state)
    record(session, device.tenant_id, actor, move, f"{device.product_key}/{device.device_name}", detail)
    session.flush()
