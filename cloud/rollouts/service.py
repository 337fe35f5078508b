"""Use cases of firmware: take an image in, offer it to devices, follow what becomes of it. Everything here blocks.

Rollouts in rings come on top of this; an offer is what each device sees of one.
"""

import secrets
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Row, Table, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cloud.artefacts.model import Artefact
from cloud.devices.registry import device_ids
from cloud.devices.service import device_keys
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database, UnitOfWork, is_duplicate, upsert
from cloud.foundation.problems import Problem
from cloud.rollouts.model import OPEN, Firmware, Offer, OfferState, after_inform, after_progress
from cloud.rollouts.tables import FirmwareRow, ModuleRow, OfferRow
from protocols.alink.ota import Image, Inform, Progress, SignMethod, is_name
from protocols.errors import Reason, Refused

_module: Table = ModuleRow.__table__  # type: ignore[assignment]

MOST_AT_ONCE: Final = 1_000
"""Devices of one offer; more are several requests."""


def create_firmware(
    work: UnitOfWork, artefact: Artefact, product_key: str, module: str, version: str, method: SignMethod, *, is_diff: bool, note: str
) -> Firmware:
    """Enter an image. Raises Refused (names), Problem 409 (there is such a version)."""
    for what, text in (("version", version), ("module", module)):
        if not is_name(text):
            raise Refused(Reason.OUT_OF_RANGE, f"{what}: 1 to 64 letters, digits or any of _ . - are allowed")
    row = FirmwareRow(
        product_key=product_key,
        module=module,
        version=version,
        artefact_id=artefact.artefact_id,
        sha256=artefact.sha256,
        md5=artefact.md5,
        size=artefact.size,
        sign_method=str(method),
        is_diff=is_diff,
        note=note,
        created_ms=now_ms(),
    )
    try:
        with work.session.begin_nested():
            work.session.add(row)
    except IntegrityError as error:
        if not is_duplicate(error):
            raise
        detail = (
            f"Product {product_key} has a firmware {version} of module {module} already; an image never changes: give it a new version."
        )
        raise Problem(409, "firmware-exists", detail) from error
    return _firmware(row)


def _firmware(row: FirmwareRow) -> Firmware:
    return Firmware(
        row.id,
        row.product_key,
        row.module,
        row.version,
        row.size,
        row.sha256,
        row.md5,
        row.sign_method,
        row.is_diff,
        row.note,
        row.created_ms,
    )


def list_firmware(work: UnitOfWork, product_key: str | None, after: int, limit: int) -> list[Firmware]:
    """The tenant's images, oldest first."""
    query = select(FirmwareRow).where(FirmwareRow.id > after).order_by(FirmwareRow.id).limit(limit)
    if product_key is not None:
        query = query.where(FirmwareRow.product_key == product_key)
    return [_firmware(row) for row in work.session.scalars(query)]


def count_firmware(work: UnitOfWork, product_key: str) -> int:
    """How many images of a product there are: it is not deleted before them."""
    return work.session.scalar(select(func.count(FirmwareRow.id)).where(FirmwareRow.product_key == product_key)) or 0


def find_firmware(work: UnitOfWork, firmware_id: int) -> Firmware | None:
    row = work.session.scalars(select(FirmwareRow).where(FirmwareRow.id == firmware_id)).one_or_none()
    return None if row is None else _firmware(row)


def delete_firmware(work: UnitOfWork, firmware_id: int) -> None:
    """Raises Problem 409 while it is offered to somebody."""
    offered = work.session.scalar(select(OfferRow.id).where(OfferRow.firmware_id == firmware_id, OfferRow.state.in_(OPEN)).limit(1))
    if offered is not None:
        raise Problem(409, "firmware-offered", "It is offered to devices that have not ended it: cancel those offers first.")
    work.session.execute(delete(OfferRow).where(OfferRow.firmware_id == firmware_id))
    work.session.execute(delete(FirmwareRow).where(FirmwareRow.id == firmware_id))


def offer_to(work: UnitOfWork, firmware: Firmware, device_names: Sequence[str]) -> tuple[list[Offer], list[str]]:
    """Offer an image to devices of its product: (the offers, the names that do not exist).

    A device has one open offer for a module: an older one of another version is cancelled. One that ended is offered again, one that is
    open stays as it is.
    """
    ids = device_ids(work, firmware.product_key, device_names)
    now = now_ms()
    held = {
        row.device_id: row
        for row in work.session.scalars(
            select(OfferRow).where(OfferRow.firmware_id == firmware.firmware_id, OfferRow.device_id.in_(ids.values()))
        )
    }
    same_module = select(FirmwareRow.id).where(
        FirmwareRow.product_key == firmware.product_key, FirmwareRow.module == firmware.module, FirmwareRow.id != firmware.firmware_id
    )
    older = work.session.scalars(
        select(OfferRow).where(
            OfferRow.device_id.in_(ids.values()), OfferRow.state.in_(OPEN), OfferRow.firmware_id.in_(same_module.scalar_subquery())
        )
    )
    for one in older:
        one.state, one.updated_ms, one.detail = str(OfferState.CANCELLED), now, f"{firmware.version} is offered instead"
    runs = _versions(work.session, list(ids.values()), firmware.module)
    offers = []
    for name, device_id in ids.items():
        row, there = held.get(device_id), runs.get(device_id) == firmware.version
        if row is not None and row.state in OPEN and not there:
            offers.append(_offer(row, firmware.product_key, name))
            continue
        row = row or OfferRow(firmware_id=firmware.firmware_id, device_id=device_id, token=secrets.token_hex(24), created_ms=now, tries=0)
        row.state, row.step, row.detail = str(OfferState.SUCCEEDED if there else OfferState.OFFERED), 0, ""
        row.updated_ms = now
        row.tries += 1
        work.session.add(row)
        work.session.flush()
        offers.append(_offer(row, firmware.product_key, name))
    return offers, [name for name in device_names if name not in ids]


def _versions(session: Session, device_ids: Sequence[int], module: str) -> dict[int, str]:
    rows = session.execute(
        select(ModuleRow.device_id, ModuleRow.version).where(ModuleRow.device_id.in_(device_ids), ModuleRow.module == module)
    )
    return {row.device_id: row.version for row in rows}


def _offer(row: OfferRow, product_key: str, device_name: str) -> Offer:
    return Offer(
        row.id, row.firmware_id, product_key, device_name, row.state, row.step, row.detail, row.created_ms, row.updated_ms, row.tries
    )


def list_offers(work: UnitOfWork, firmware_id: int, after: int, limit: int) -> list[Offer]:
    """Whom an image was offered to, in the order in which it was."""
    rows = work.session.scalars(
        select(OfferRow).where(OfferRow.firmware_id == firmware_id, OfferRow.id > after).order_by(OfferRow.id).limit(limit)
    ).all()
    keys = device_keys(work.session, [row.device_id for row in rows])
    return [_offer(row, *keys[row.device_id]) for row in rows]


def cancel_offer(work: UnitOfWork, firmware_id: int, device_id: int) -> bool:
    """Take an offer back; False when there is none that is open."""
    row = work.session.scalars(
        select(OfferRow).where(OfferRow.firmware_id == firmware_id, OfferRow.device_id == device_id, OfferRow.state.in_(OPEN))
    ).one_or_none()
    if row is None:
        return False
    row.state, row.updated_ms = str(OfferState.CANCELLED), now_ms()
    work.session.flush()
    return True


def modules_of(work: UnitOfWork, device_id: int) -> dict[str, tuple[str, int]]:
    """`{module: (version, when the device said so)}`."""
    rows = work.session.scalars(select(ModuleRow).where(ModuleRow.device_id == device_id).order_by(ModuleRow.module))
    return {row.module: (row.version, row.time_ms) for row in rows}


def download_of(database: Database, token: str) -> tuple[str, str] | None:
    """(sha256, file name) of what may be downloaded with this token; None once the offer has ended."""
    query = (
        select(FirmwareRow.sha256, FirmwareRow.module, FirmwareRow.version)
        .join(OfferRow, OfferRow.firmware_id == FirmwareRow.id)
        .where(OfferRow.token == token, OfferRow.state.in_(OPEN))
    )
    with database.system_reading() as work:
        row = work.session.execute(query).one_or_none()
    return None if row is None else (row.sha256, f"{row.module}-{row.version}.bin")


# What devices say: `session` is of the whole system, the caller commits.


def image_for(session: Session, device_id: int, module: str, base_url: str) -> Image | None:
    """What is offered to a module of a device now."""
    row = _open(session, device_id, module)
    if row is None:
        return None
    offer, firmware = row
    url = f"{base_url}/firmware/{offer.token}"
    method = SignMethod(firmware.sign_method)
    return Image(firmware.version, firmware.module, firmware.size, url, firmware.md5, firmware.sha256, method, firmware.is_diff)


def _open(session: Session, device_id: int, module: str) -> Row[OfferRow, FirmwareRow] | None:
    query = (
        select(OfferRow, FirmwareRow)
        .join(FirmwareRow, FirmwareRow.id == OfferRow.firmware_id)
        .where(OfferRow.device_id == device_id, OfferRow.state.in_(OPEN), FirmwareRow.module == module)
        .order_by(OfferRow.id.desc())
        .limit(1)
    )
    return session.execute(query).one_or_none()


def device_runs(session: Session, device_id: int, inform: Inform, time_ms: int) -> None:
    """A device said what it runs: an offer of that version has succeeded."""
    module, version = inform.module[:64], inform.version[:64]
    row = {"device_id": device_id, "module": module, "version": version, "time_ms": time_ms}
    upsert(session, _module, [row], keys=("device_id", "module"))
    offers = session.execute(
        select(OfferRow, FirmwareRow.version)
        .join(FirmwareRow, FirmwareRow.id == OfferRow.firmware_id)
        .where(OfferRow.device_id == device_id, FirmwareRow.module == module, FirmwareRow.version == version)
    )
    for offer, offered in offers:
        state = after_inform(OfferState(offer.state), offered, version)
        if state != offer.state:
            offer.state, offer.step, offer.updated_ms, offer.detail = str(state), 100, time_ms, ""
    session.flush()


def device_progressed(session: Session, device_id: int, progress: Progress, time_ms: int) -> bool:
    """A device said how far it is; False when it speaks of nothing that was offered to it."""
    percent = progress.percent
    row = _open(session, device_id, progress.module)
    if row is None or percent is None:
        return False
    offer = row[0]
    told = progress.desc.replace("\0", "")[:400]
    state, offer.step, offer.detail = after_progress(OfferState(offer.state), offer.step, percent, told)
    offer.state, offer.updated_ms = str(state), time_ms
    session.flush()
    return True
