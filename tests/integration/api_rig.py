"""The API in this process, as integration tests call it: a real database, store and bus, and ports towards devices in memory."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cloud.app import build_api
from cloud.artefacts.service import Depot
from cloud.devices.model import PresenceChange
from cloud.devices.service import apply_presence, device_facts
from cloud.foundation.db import Database
from cloud.foundation.health import ask_role, serve_health
from cloud.foundation.metrics import Metrics
from cloud.foundation.schema import upgrade
from cloud.foundation.vault import Vault
from cloud.ingest.tables import Quarantine
from cloud.telemetry.duckdb_store import DuckDbStore
from cloud.telemetry.service import History
from cloud.tenancy.service import create_api_key, create_tenant
from tests.contract.databases import sqlite_database
from tests.fakes.devices_ports import FakeChanges, FakeDownlink, FakeSessions
from tests.integration.nats_child import NatsChild

TSL = {
    "properties": [
        {"identifier": "Level", "name": "Level", "accessMode": "rw", "dataType": {"type": "int", "specs": {"min": "0", "max": "9"}}},
        {"identifier": "Power", "name": "Power", "accessMode": "r", "dataType": {"type": "float", "specs": {}}},
    ]
}


@dataclass(slots=True)
class Rig:
    database: Database
    one: httpx.AsyncClient
    two: httpx.AsyncClient
    nobody: httpx.AsyncClient
    downlink: FakeDownlink
    sessions: FakeSessions
    changes: FakeChanges
    faults: dict[str, str]
    paths: dict[str, dict[str, Any]]
    store: DuckDbStore

    async def product(self, client: httpx.AsyncClient) -> str:
        return str(self.created(await client.post("/v1/products", json={"name": "Stove", "tsl": TSL}))["product_key"])

    async def device(self, client: httpx.AsyncClient, product_key: str, name: str, site: str | None = None) -> int:
        self.created(await client.post(f"/v1/products/{product_key}/devices", json={"device_name": name, "site": site}))
        return device_facts(self.database, [(product_key, name)])[product_key, name].device_id

    @staticmethod
    def created(answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 201, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def online(self, device: int, online: bool = True, via: int = 0) -> None:
        with self.database.system() as work:
            apply_presence(work.session, [PresenceChange(device, online, 1000, 1, via)])
            work.commit()

    def quarantined(self, product_key: str, name: str) -> str:
        """The number of an entry that the device's tenant has in the quarantine."""
        facts = device_facts(self.database, [(product_key, name)])[product_key, name]
        with self.database.unit_of_work(facts.tenant_id) as work:
            entry = Quarantine(
                stream_id="s", sequence=1, number=0, product_key=product_key, device_name=name, topic="t", reason="bad_json", detail="x",
                received_ms=1, size=1, payload=b"{",
            )  # fmt: skip
            work.session.add(entry)
            work.session.flush()
            number = str(entry.id)
            work.commit()
        return number


@asynccontextmanager
async def api_rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """The API of one core with two tenants. Its downlink, sessions and changes are fakes that the test looks into."""
    async with AsyncExitStack() as stack:
        nats = NatsChild(tmp_path)
        await nats.start()
        stack.callback(nats.kill)
        bus = await nats.connect("core")
        stack.push_async_callback(bus.close)
        database = sqlite_database(tmp_path)
        stack.callback(database.close)
        upgrade(database)
        with database.system() as work:
            keys = [create_api_key(work, create_tenant(work, name).tenant_id, "test") for name in ("one", "two")]
            work.commit()
        store = DuckDbStore(tmp_path / "telemetry.duckdb")
        stack.callback(store.close)
        faults: dict[str, str] = {}

        async def access() -> str | None:
            return faults.get("access")

        await serve_health(bus, "access", Metrics(), access)
        downlink, sessions, changes = FakeDownlink(), FakeSessions(), FakeChanges()
        app = build_api(
            database=database,
            vault=Vault(bytes(32)),
            bus=bus,
            metrics=Metrics(),
            downlink=downlink,
            sessions=sessions,
            changes=changes,
            history=History(store),
            depot=Depot(tmp_path / "artefacts"),
            base_url=lambda: "http://device.test",
            firmware_bytes=1 << 20,
            checks={"access": ask_role(bus, "access")},
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)

        async def client(key: str | None) -> httpx.AsyncClient:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers))

        yield Rig(
            database=database,
            one=await client(keys[0]),
            two=await client(keys[1]),
            nobody=await client(None),
            downlink=downlink,
            sessions=sessions,
            changes=changes,
            faults=faults,
            paths=app.openapi()["paths"],
            store=store,
        )


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["type"]) == (status, f"urn:hearthline:problem:{kind}"), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body
