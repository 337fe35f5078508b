"""Use cases around versions of a thing model: a draft is written, checked against the active version, and published.

Everything here blocks: asyncio code runs it in a thread. The active thing model of a product is the version published last.
"""

from sqlalchemy import func, select

from cloud.foundation.clock import now_ms
from cloud.foundation.db import UnitOfWork
from cloud.foundation.problems import Problem
from cloud.products.model import GATEWAY, DraftReport, Product, ThingModelVersion, VersionEntry, VersionState
from cloud.products.ports import ProductUse
from cloud.products.service import as_text, checked, find_product, gateway_product, parsed, product_row, touch
from cloud.products.tables import ProductRow, ThingModelVersionRow
from protocols.thing.compatibility import breaking, compare
from protocols.thing.export import plain_tsl
from protocols.thing.model import parse_thing_model
from protocols.thing.slots import type_conflicts

MOST_VERSIONS = 1_000  # all of them are asked whenever one is published

_Row = ThingModelVersionRow


def find_draft(work: UnitOfWork, product_key: str) -> ThingModelVersion | None:
    """The draft of a product of the tenant, None when it has none."""
    query = select(_Row).join(ProductRow, ProductRow.id == _Row.product_id)
    row = work.session.scalars(query.where(ProductRow.product_key == product_key, _Row.state == VersionState.DRAFT)).one_or_none()
    return None if row is None else _version(row, product_key)


def find_version(work: UnitOfWork, product_key: str, number: int) -> ThingModelVersion | None:
    """One version, draft or published, None when there is none of this number."""
    if product_key == GATEWAY:
        return built_in_version() if number == 1 else None
    query = select(_Row).join(ProductRow, ProductRow.id == _Row.product_id)
    row = work.session.scalars(query.where(ProductRow.product_key == product_key, _Row.number == number)).one_or_none()
    return None if row is None else _version(row, product_key)


def find_active(work: UnitOfWork, product_key: str) -> ThingModelVersion | None:
    """The version published last; None when there is no such product."""
    product = find_product(work, product_key)
    return None if product is None else find_version(work, product_key, product.version)


def built_in_version() -> ThingModelVersion:
    """The one version of the built-in product; it changes with the platform."""
    return ThingModelVersion(0, GATEWAY, 1, VersionState.PUBLISHED, gateway_product().thing_model, "", 1, 0, "", 0, "")


def list_versions(work: UnitOfWork, product_key: str, after: int, limit: int) -> list[VersionEntry] | None:
    """The versions whose number is beyond `after`, oldest first; None when there is no such product."""
    if product_key == GATEWAY:
        one = built_in_version()
        entry = VersionEntry(0, 1, one.state, "", 0, "", 0, "")
        return [entry] if after < 1 else []
    if find_product(work, product_key) is None:
        return None
    columns = select(
        _Row.id, _Row.number, _Row.state, _Row.note, _Row.created_ms, _Row.created_by, _Row.published_ms, _Row.published_by
    ).join(ProductRow, ProductRow.id == _Row.product_id)
    found = columns.where(ProductRow.product_key == product_key, _Row.number > after).order_by(_Row.number).limit(limit)
    return [
        VersionEntry(
            version_id=row.id,
            number=row.number,
            state=VersionState(row.state),
            note=row.note,
            created_ms=row.created_ms,
            created_by=row.created_by,
            published_ms=row.published_ms,
            published_by=row.published_by,
        )
        for row in work.session.execute(found)
    ]


def put_draft(work: UnitOfWork, product_key: str, tsl: object, by: str, *, most: int = MOST_VERSIONS) -> ThingModelVersion | None:
    """Make `tsl` the draft, in the place of the one there is; None when there is no such product.

    It may be the vendor's own document: its generated entries, link and product key are left out. Raises Refused naming what is wrong
    in it, Problem 409 for the built-in product or one that has 1,000 versions.
    """
    product = product_row(work, product_key)
    if product is None:
        return None
    text = as_text(parse_thing_model(plain_tsl(checked(tsl))))
    row = _draft_row(work, product)
    if row is None:
        number = 1 + (work.session.scalar(select(func.max(_Row.number)).where(_Row.product_id == product.id)) or 0)
        if number > most:
            detail = f"Product {product_key} has {most} versions, and can have no more; make a new product for what comes now."
            raise Problem(409, "too-many-versions", detail)
        row = _Row(product_id=product.id, number=number, state=str(VersionState.DRAFT), note="", revision=0)
        row.published_ms = row.published_by = None
        work.session.add(row)
    row.tsl, row.revision, row.created_ms, row.created_by = text, row.revision + 1, now_ms(), by
    work.session.flush()
    return _version(row, product_key)


def delete_draft(work: UnitOfWork, product_key: str) -> bool:
    """Throw the draft away; False when there is none."""
    product = product_row(work, product_key)
    row = None if product is None else _draft_row(work, product)
    if row is None:
        return False
    work.session.delete(row)
    work.session.flush()
    return True


def check_draft(work: UnitOfWork, product_key: str, devices: ProductUse) -> DraftReport | None:
    """What publishing the draft would change, for whom, and for how many devices; None when there is no draft."""
    draft, product = find_draft(work, product_key), find_product(work, product_key)
    if draft is None or product is None:
        return None
    return _report(work, product, draft, devices)


def publish_draft(
    work: UnitOfWork, product_key: str, by: str, devices: ProductUse, *, accept_breaking: bool = False, note: str = ""
) -> ThingModelVersion | None:
    """Make the draft the active version; None when there is none.

    Raises Problem 409 with the report: `breaking-change` when somebody breaks and that was not accepted, `type-changed` when an identifier
    does not have the type that it had in a published version, which cannot be accepted.
    """
    row, draft, product = product_row(work, product_key), find_draft(work, product_key), find_product(work, product_key)
    if row is None or draft is None or product is None:
        return None
    report = _report(work, product, draft, devices)
    if report.conflicts:
        first = report.conflicts[0]
        detail = (
            f"{first.path} is {first.wanted} in the draft and was {first.was} in version {first.number}: stored values and their readers "
            "rely on that. Give it back its type, or take a new identifier."
        )
        raise Problem(409, "type-changed", detail, more={"report": report_members(report)})
    broken = breaking(report.changes)
    if broken and not accept_breaking:
        whom = ", ".join(sorted({who for change in broken for who in change.breaks}))
        detail = (
            f"{len(broken)} changes break {whom}; the first is {broken[0].path}: {broken[0].en} "
            f"Change the draft, or publish it with `accept_breaking` once those are ready ({report.devices} devices have this product)."
        )
        raise Problem(409, "breaking-change", detail, more={"report": report_members(report)})
    version = work.session.get_one(_Row, draft.version_id)
    version.state, version.note = str(VersionState.PUBLISHED), note
    version.published_ms, version.published_by = now_ms(), by
    row.tsl, row.version = version.tsl, version.number
    touch(row)
    work.session.flush()
    return _version(version, product_key)


def report_members(report: DraftReport) -> dict[str, object]:
    """The report as JSON: of a problem and of the answer to a check alike."""
    broken = breaking(report.changes)
    return {
        "base": report.base,
        "version": report.number,
        "devices": report.devices,
        "publishable": "no" if report.conflicts else "with_accept_breaking" if broken else "yes",
        "breaks": sorted({str(who) for change in broken for who in change.breaks}),
        "changes": [
            {"kind": str(c.kind), "path": c.path, "en": c.en, "zh": c.zh, "breaks": [str(who) for who in c.breaks]} for c in report.changes
        ],
        "conflicts": [{"path": c.path, "version": c.number, "was": c.was, "wanted": c.wanted} for c in report.conflicts],
    }


def _report(work: UnitOfWork, product: Product, draft: ThingModelVersion, devices: ProductUse) -> DraftReport:
    query = select(_Row.number, _Row.tsl).join(ProductRow, ProductRow.id == _Row.product_id)
    rows = work.session.execute(query.where(ProductRow.product_key == product.product_key, _Row.state == VersionState.PUBLISHED))
    published = [(row.number, parsed(row.tsl)) for row in rows]
    return DraftReport(
        base=product.version,
        number=draft.number,
        devices=devices(work, product.product_key),
        changes=compare(product.thing_model, draft.thing_model),
        conflicts=tuple(type_conflicts(published, draft.thing_model)),
    )


def _draft_row(work: UnitOfWork, product: ProductRow) -> ThingModelVersionRow | None:
    return work.session.scalars(select(_Row).where(_Row.product_id == product.id, _Row.state == VersionState.DRAFT)).one_or_none()


def _version(row: ThingModelVersionRow, product_key: str) -> ThingModelVersion:
    return ThingModelVersion(
        version_id=row.id,
        product_key=product_key,
        number=row.number,
        state=VersionState(row.state),
        thing_model=parsed(row.tsl),
        note=row.note,
        revision=row.revision,
        created_ms=row.created_ms,
        created_by=row.created_by,
        published_ms=row.published_ms,
        published_by=row.published_by,
    )
