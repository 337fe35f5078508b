"""Use cases of a device's life: each move as lifecycle.py allows it, with a line in the audit trail. Everything here blocks."""

from sqlalchemy import delete, select

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
    before = State(device.state)
    state, state_before = moved(before, None if device.state_before is None else State(device.state_before), move)
    if is_done(before, move):
        return True
    detail: dict[str, object] = {"from": before, "to": state}
    if move in (Move.CLAIM, Move.TRANSFER):
        if site is None:
            raise Refused(Reason.MISSING_PARAMETER, f"name the site: a home or a line that the device is to {move} to")
        device.site_id = site_id(work, site)
        detail["site"] = site
    elif move is Move.UNCLAIM:
        device.site_id = None
    elif move is Move.RETIRE:
        work.session.execute(delete(TopologyRow).where(TopologyRow.device_id == device.id))
        work.session.execute(delete(TopologyRow).where(TopologyRow.gateway_id == device.id))
        work.session.execute(delete(GroupMemberRow).where(GroupMemberRow.device_id == device.id))
    device.state, device.state_before = str(state), None if state_before is None else str(state_before)
    device.enabled = lets_in(state)
    assert work.tenant_id is not None
    record(work.session, work.tenant_id, actor, move, f"{product_key}/{device_name}", detail)
    work.session.flush()
    return True
