"""What the pages show, gathered once for everybody who looks: values are kept for a second, however many browsers ask."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from prometheus_client.parser import text_string_to_metric_families

from cloud.console import chart
from cloud.devices.model import Device
from cloud.devices.ports import Sessions as Lease
from cloud.devices.registry import count_online, find_device, newest_times, reported, search_devices
from cloud.devices.service import device_with_gateways
from cloud.foundation.bus import Bus
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database
from cloud.foundation.health import ASK_S, Check, run_checks
from cloud.ingest.quarantine import count_held, newest_entries
from cloud.products.service import find_product, product_names
from cloud.telemetry.service import History, Property
from cloud.tenancy.service import operators_tenant
from protocols.errors import TryAgain
from protocols.thing.model import ThingModel

FRESH_S: Final = 1.0
FRESH_CHART_S: Final = 2.0
MOST_KEPT: Final = 500  # answers kept; the oldest go first
A_PAGE: Final = 25
SCORE: Final = "AnomalyScore"
NEWEST: Final = 6

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Platform:
    """The whole platform now: None where a role did not answer, or for tenants that do not run it."""

    faults: Mapping[str, str]
    readings_s: float | None = None
    lag_s: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An entry of the quarantine, in short."""

    id: int
    device: str
    reason: str
    detail: str
    received_ms: int


@dataclass(frozen=True, slots=True)
class Overview:
    platform: Platform
    devices: int
    online: int
    quarantine: int
    refusals: Sequence[Refusal]


@dataclass(frozen=True, slots=True)
class Line:
    """One device in the list."""

    device: Device
    product: str
    newest_ms: int | None


@dataclass(frozen=True, slots=True)
class Page:
    lines: Sequence[Line]
    skip: int
    total: int


@dataclass(frozen=True, slots=True)
class Details:
    """One device with its thing model and its reported values (value, event time)."""

    line: Line
    model: ThingModel
    reported: Mapping[str, tuple[Any, int]]


class Live:
    """Asks the use cases; everything that blocks runs in a thread. Every answer belongs to a tenant."""

    def __init__(self, database: Database, history: History, bus: Bus, checks: Mapping[str, Check], lease: Lease) -> None:
        self._database, self._history, self._bus, self._checks, self._lease = database, history, bus, checks, lease
        self._kept: dict[Hashable, tuple[float, asyncio.Task[Any]]] = {}
        self._counted: tuple[float, float] | None = None  # when, rows appended until then
        self._operator: int | None = None

    async def _fresh(self, key: Hashable, seconds: float, ask: Callable[[], Awaitable[_T]]) -> _T:
        """The answer of less than `seconds` ago, or a new one; who asks meanwhile waits for the same."""
        kept = self._kept.get(key)
        if kept is None or kept[0] < time.monotonic() or (kept[1].done() and (kept[1].cancelled() or kept[1].exception())):
            while len(self._kept) >= MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept.pop(key, None)
            kept = self._kept[key] = (time.monotonic() + seconds, asyncio.ensure_future(ask()))
        return cast("_T", await asyncio.shield(kept[1]))

    async def overview(self, tenant_id: int) -> Overview:
        """The tenant at a glance. Raises TryAgain."""

        async def ask() -> Overview:
            platform = await self.platform()
            if self._operator is None:
                self._operator = await asyncio.to_thread(self._find_operator)
            if tenant_id != self._operator:
                platform = Platform(platform.faults)
            return Overview(platform, *await asyncio.to_thread(self._counts, tenant_id))

        return await self._fresh(("overview", tenant_id), FRESH_S, ask)

    def _find_operator(self) -> int:
        with self._database.system_reading() as work:
            return operators_tenant(work)

    def _counts(self, tenant_id: int) -> tuple[int, int, int, Sequence[Refusal]]:
        with self._database.reading(tenant_id) as work:
            devices, online = count_online(work)
            held = sum(count_held(work).values())
            refusals = [Refusal(row.id, row.device_name, row.reason, row.detail, row.received_ms) for row in newest_entries(work, NEWEST)]
        return devices, online if self._lease.lease_held() else 0, held, refusals

    async def platform(self) -> Platform:
        """How the roles are, and what ingest says of itself."""
        return await self._fresh("platform", FRESH_S, self._ask_platform)

    async def _ask_platform(self) -> Platform:
        faults = await run_checks(self._checks)
        try:
            exposition = await self._bus.request("metrics.ingest", b"", timeout_s=ASK_S)
        except TryAgain:
            return Platform(faults)
        wanted = {"hearthline_ingest_rows_total": 0.0, "hearthline_ingest_lag_seconds": 0.0}
        for family in text_string_to_metric_families(exposition.decode()):
            for sample in family.samples:
                if sample.name in wanted:
                    wanted[sample.name] = sample.value
        rows, lag_s = wanted.values()
        now, before = time.monotonic(), self._counted
        self._counted = (now, rows)
        if before is None or rows < before[1]:  # the first look, or ingest was started again
            return Platform(faults, None, lag_s)
        return Platform(faults, (rows - before[1]) / max(now - before[0], 0.1), lag_s)

    async def page(self, tenant_id: int, words: str, skip: int) -> Page:
        """One page of the tenant's devices. Raises TryAgain."""
        return await self._fresh(("page", tenant_id, words, skip), FRESH_S, lambda: asyncio.to_thread(self._page, tenant_id, words, skip))

    def _page(self, tenant_id: int, words: str, skip: int) -> Page:
        with self._database.reading(tenant_id) as work:
            devices, total = search_devices(work, words, skip, A_PAGE, lease_held=self._lease.lease_held())
            newest = newest_times(work, [device.device_id for device in devices])
            names = product_names(work, {device.product_key for device in devices})
        lines = [Line(device, names.get(device.product_key, device.product_key), newest.get(device.device_id)) for device in devices]
        return Page(lines, skip, total)

    async def details(self, tenant_id: int, product_key: str, device_name: str) -> Details | None:
        """One device of the tenant, None where there is none. Raises TryAgain."""
        key = ("device", tenant_id, product_key, device_name)
        return await self._fresh(key, FRESH_S, lambda: asyncio.to_thread(self._details, tenant_id, product_key, device_name))

    def _details(self, tenant_id: int, product_key: str, device_name: str) -> Details | None:
        with self._database.reading(tenant_id) as work:
            device = find_device(work, product_key, device_name, lease_held=self._lease.lease_held())
            product = None if device is None else find_product(work, product_key)
            if device is None or product is None:
                return None
            values = reported(work, device.device_id)
        newest = max((time_ms for _, time_ms in values.values()), default=None)
        return Details(Line(device, product.name, newest), product.thing_model, values)

    async def history(self, details: Details, identifier: str, seconds: int) -> chart.History:
        """One property of a device that `details` found, over the last `seconds`. Raises TryAgain."""
        device = details.line.device
        key = ("history", device.device_id, identifier, seconds)
        return await self._fresh(key, FRESH_CHART_S, lambda: asyncio.to_thread(self._ask_history, details, identifier, seconds))

    def _ask_history(self, details: Details, identifier: str, seconds: int) -> chart.History:
        device, shown = details.line.device, chart.range_until(now_ms(), seconds)
        found = device_with_gateways(self._database, device.product_key, device.device_name)
        gateways = found[1] if found else []
        of = Property(device.product_key, device.device_name, identifier, gateways)
        buckets = self._history.buckets(of, shown.start, shown.end, shown.width)
        gaps = self._history.gaps(of, shown.start, shown.end)
        anomalies: Sequence[tuple[int, int]] = ()
        if SCORE in details.model.properties:
            scored = Property(device.product_key, device.device_name, SCORE)
            scores = buckets if identifier == SCORE else self._history.buckets(scored, shown.start, shown.end, shown.width)
            anomalies = chart.anomalous(scores, shown.width)
        return chart.History(shown, buckets, gaps, anomalies)
