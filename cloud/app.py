"""Composition roots: what each role consists of, and the platform that `hearthline up` supervises.

A role imports what it needs when it is built: `access` never loads DuckDB, the supervisor loads neither.
"""

import asyncio
import contextlib
import gc
import http.client
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.foundation import crashpoint, logs, nats_server
from cloud.foundation.bus import Bus, NobodyAnswers
from cloud.foundation.db import Database
from cloud.foundation.health import Check, ask_role, serve_health
from cloud.foundation.logs import get_logger
from cloud.foundation.metrics import Metrics
from cloud.foundation.priority import stand_back
from cloud.foundation.supervise import ChildSpec, Supervisor, ask_for_renewal, lock
from cloud.foundation.vault import Vault, create_secret_file
from cloud.settings import MEBIBYTE, Settings
from protocols.errors import Reason, Refused, TryAgain

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from cloud.backup.model import Manifest
    from cloud.telemetry.duckdb_store import DuckDbStore
    from cloud.telemetry.ports import TelemetryStore

READY_S = 60.0
ROOM_BYTES = 64 * 1024 * 1024  # below, NATS is left as it is: it would find no room either
# They end in this order, core and ingest together: 9 s at worst, of the 10 that SIGTERM may take.
ENDS_S = {"access": 4.5, "core": 3.0, "ingest": 3.0, "nats": 1.5}


def run_role(role: str, settings: Settings, listeners: Sequence[socket.socket] = ()) -> None:
    """Be one role until SIGTERM. `listeners` are listening sockets handed over by the supervisor; without them the role opens its own.

    Raises Refused (configuration), TryAgain (NATS or the database stayed away).
    """
    import uvloop

    logs.configure(role, settings.log_level)
    crashpoint.arm(settings.crash_dir)
    runners = {"core": run_core, "access": run_access, "ingest": run_ingest}
    uvloop.run(runners[role](settings, listeners))


async def run_core(settings: Settings, listeners: Sequence[socket.socket]) -> None:
    """The owner of the telemetry store, and the API."""
    from cloud.access.service import AccessDownlink
    from cloud.artefacts.service import Depot
    from cloud.backup.service import Backup
    from cloud.backup.worker import serve_backups
    from cloud.devices.delivery import Redelivery
    from cloud.devices.worker import AccessLease, RegistryEvents
    from cloud.foundation.idempotency import forget_regularly
    from cloud.telemetry.duckdb_store import DuckDbStore, Limits
    from cloud.telemetry.model import DAY_MS
    from cloud.telemetry.retention import Retention
    from cloud.telemetry.service import History
    from cloud.telemetry.worker import StoreWorker

    sys.setswitchinterval(0.0005)  # a query comes back from DuckDB a dozen times, and would wait 5 ms for the interpreter each time
    stop = stop_on_signal()
    async with AsyncExitStack() as stack:
        database = Database(settings.database, pool_size=10, pool_timeout_s=0.5)  # a caller hears 503 within a second
        stack.callback(database.close)
        limits = Limits(memory=f"{settings.store_memory_mib}MiB", threads=settings.store_threads, query_s=settings.query_timeout_s)
        embedded = DuckDbStore(settings.dir / "telemetry.duckdb", limits)
        store = embedded if settings.influx_url is None else _influx(settings, embedded)
        stack.callback(store.close)
        bus = await _connect(settings, "core")
        worker = StoreWorker(store, bus)
        stack.push_async_callback(worker.close)
        stack.push_async_callback(bus.close)
        lease = AccessLease()
        await lease.follow(bus)
        await worker.start()
        await serve_backups(bus, Backup(embedded, database, settings.dir, worker.between_appends))
        metrics = Metrics()
        if settings.keep_days is not None:
            keep_ms = round(settings.keep_days * DAY_MS)
            retention = Retention(partial(worker.between_appends, store.expire), embedded.newest_received_ms, keep_ms, metrics)
            expiring = asyncio.create_task(retention.run(), name="retention")
            stack.callback(expiring.cancel)

        app = build_api(
            database=database,
            vault=Vault.from_file(settings.secret_key_file),
            bus=bus,
            metrics=metrics,
            downlink=AccessDownlink(bus),
            sessions=lease,
            changes=RegistryEvents(bus),
            history=History(store),
            depot=Depot(settings.artefact_dir),
            base_url=settings.base_url,
            firmware_bytes=settings.firmware_mib << 20,
            checks={
                "database": partial(check_database, database),
                "bus": partial(check_bus, bus),
                "access": ask_role(bus, "access"),
                "ingest": ask_role(bus, "ingest"),
            },
            device_address=settings.device_address,
        )
        from cloud.console import pages
        from cloud.console.live import Live
        from cloud.console.session import Sessions

        state = app.state
        pages.install(app, Sessions(database, state.vault), Live(database, state.history, bus, state.checks, lease))
        redelivering = asyncio.create_task(Redelivery(database, state.downlink).run(), name="redelivery")
        stack.callback(redelivering.cancel)
        forgetting = asyncio.create_task(forget_regularly(database), name="idempotency")
        stack.callback(forgetting.cancel)
        server = _api_server(app)
        sockets = [*listeners] or [listen(settings.host, settings.api_port)]
        settings.api_address_file.write_text(f"http://{settings.host}:{sockets[0].getsockname()[1]}\n")
        serving = asyncio.create_task(server.serve(sockets), name="api")
        await _until_stopped(serving, stop, end=partial(setattr, server, "should_exit", True))


def _influx(settings: Settings, ledger: "DuckDbStore") -> "TelemetryStore":
    try:
        from cloud.telemetry.influx_store import InfluxStore
    except ImportError as error:
        message = "HEARTHLINE_INFLUX_URL needs influxdb-client: pip install 'hearthline[cloud,influxdb]'"
        raise Refused(Reason.BAD_CONFIGURATION, message) from error
    assert settings.influx_url is not None
    place = (settings.influx_url, settings.influx_token, settings.influx_org, settings.influx_bucket)
    return InfluxStore(ledger, *place, query_s=settings.query_timeout_s)


async def run_access(settings: Settings, listeners: Sequence[socket.socket]) -> None:
    """The front door for devices."""
    from cloud.access.tls import Tls
    from cloud.access.worker import serve
    from cloud.devices.authorities import trusted_authorities
    from cloud.devices.registration import DeviceRegistrar
    from cloud.devices.service import credentials_for, sub_devices_for, tenants_concerned
    from cloud.foundation.authority import Authority
    from protocols.mqtt.lobby import Bounds

    gc.freeze()  # what was imported stays
    gc.set_threshold(20_000, 10, 10)  # sessions stay too: looking at all of them every 700 objects took a fifth of a reconnect of 10,000
    stop = stop_on_signal()
    async with AsyncExitStack() as stack:
        database = Database(settings.database)
        stack.callback(database.close)
        bus = await _connect(settings, "access")
        stack.push_async_callback(bus.close)
        metrics, ready = Metrics(), asyncio.Event()
        await serve_health(bus, "access", metrics, partial(_check_event, ready))
        vault = Vault.from_file(settings.secret_key_file)
        tls = None
        if settings.mqtts_port is not None:
            authority = Authority(settings.tls_dir)
            renew = partial(authority.ensure_server, settings.names, settings.tls_days)
            renew()
            door = listeners[1] if len(listeners) > 1 else listen(settings.host, settings.mqtts_port)
            tls = Tls(door, authority.context(), renew, authority.load_into)
        serving = serve(
            listener=listeners[0] if listeners else listen(settings.host, settings.mqtt_port),
            tls=tls,
            bus=bus,
            credentials=partial(credentials_for, database, vault),
            sub_devices=partial(sub_devices_for, database, vault),
            tenants=partial(tenants_concerned, database),
            registrar=DeviceRegistrar(database, vault),
            authorities=partial(trusted_authorities, database),
            metrics=metrics,
            stream_bytes=settings.stream_bytes,
            bounds=Bounds(
                settings.mqtt_connections,
                settings.mqtt_strangers,
                settings.mqtt_connect_s,
                settings.mqtt_packet_s,
                settings.mqtt_unread_s,
                settings.mqtt_session_s,
                settings.mqtt_kept_mib * MEBIBYTE,
            ),
            ready=ready.set,
            stuck=partial(_stream_stuck, settings),
        )
        await _until_stopped(asyncio.create_task(serving, name="access"), stop)


def _stream_stuck(settings: Settings) -> None:
    """A NATS server whose disk was full once takes nothing more, with or without room, until it is started again (seen with 2.15)."""
    free = shutil.disk_usage(settings.dir).free
    ours = settings.nats_url is None
    hint = "NATS is started again" if ours else "start your NATS server again"
    get_logger().error("stream.stuck", free_bytes=free, hint=hint if free >= ROOM_BYTES else "make room on the disk")
    if ours and free >= ROOM_BYTES:
        ask_for_renewal(settings.run_dir, "nats", "its stream takes no messages")


async def run_ingest(settings: Settings, _listeners: Sequence[socket.socket]) -> None:
    """Decodes what devices sent and commits it, to the store and to the metadata."""
    from cloud.devices.answers import ANSWERS
    from cloud.ingest.answering import Answering
    from cloud.ingest.trail import Trail
    from cloud.ingest.worker import serve
    from cloud.rollouts.answers import answers as firmware_answers

    stand_back(5)  # behind the front door, which devices wait for, and charts, which people wait for
    stop = stop_on_signal()
    async with AsyncExitStack() as stack:
        database = Database(settings.database)
        stack.callback(database.close)
        bus = await _connect(settings, "ingest")
        stack.push_async_callback(bus.close)
        metrics, ready = Metrics(), asyncio.Event()
        await serve_health(bus, "ingest", metrics, partial(_check_event, ready))
        trail = Trail(settings.run_dir / "ingest-0.trail")
        stack.callback(trail.close)
        respond = Answering(Vault.from_file(settings.secret_key_file), {**ANSWERS, **firmware_answers(settings.base_url)})
        serving = serve(
            bus=bus,
            database=database,
            metrics=metrics,
            stream_bytes=settings.stream_bytes,
            trail=trail,
            respond=respond,
            ready=ready.set,
        )
        await _until_stopped(asyncio.create_task(serving, name="ingest"), stop)


async def back_up(settings: Settings, folder: Path) -> "Manifest":
    """A backup of the platform in this data directory: made by its `core` if it runs. Raises Refused, TryAgain."""
    from cloud.backup.service import make_alone
    from cloud.backup.worker import ask_for_backup
    from cloud.telemetry.duckdb_store import DuckDbStore

    if not settings.secret_key_file.exists():
        raise Refused(Reason.BAD_CONFIGURATION, f"{settings.dir} holds no platform; --data names the directory of one")
    async with AsyncExitStack() as stack:
        runs = settings.nats_url is not None  # roles that were started by hand hold no lock
        try:
            stack.enter_context(lock(settings.run_dir / "lock"))
        except Refused:
            runs = True
        if runs:
            bus = await _connect(settings, "backup")
            stack.push_async_callback(bus.close)
            with contextlib.suppress(NobodyAnswers):
                return await ask_for_backup(bus, folder)
            if settings.nats_url is None:
                raise TryAgain("the platform runs, and its core does not answer yet")
        database = Database(settings.database)
        stack.callback(database.close)
        store = DuckDbStore(settings.dir / "telemetry.duckdb")
        stack.callback(store.close)
        return await make_alone(store, database, settings.dir, folder)


async def _until_stopped(serving: asyncio.Task[None], stop: asyncio.Event, end: Callable[[], object] | None = None) -> None:
    """Let it serve until `stop`, then `end` it (cancel, by default) and wait; its error is ours."""
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        (end or serving.cancel)()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def build_api(
    *,
    database: Database,
    vault: Vault,
    bus: Bus,
    metrics: Metrics,
    downlink: object,
    sessions: object,
    changes: object,
    history: object,
    checks: Mapping[str, Check],
    depot: object = None,
    base_url: Callable[[], str] = str,
    firmware_bytes: int = 1 << 20,
    device_address: tuple[str, int] = ("localhost", 1883),
) -> "FastAPI":
    """The API over these parts; routes find them on `app.state`. `device_address` is what bootstrap tells devices."""
    from fastapi import FastAPI

    from cloud.devices import api as devices
    from cloud.devices import binding_api, groups_api, identity_api, import_api, messages_api, search_api
    from cloud.devices import commands_api as commands
    from cloud.devices import registration_api as device_registration
    from cloud.devices import shadow_api as shadow
    from cloud.devices import topology_api as topology
    from cloud.devices.registry import count_devices
    from cloud.foundation import api as foundation
    from cloud.foundation import problem_answers
    from cloud.ingest import account
    from cloud.ingest import api as ingest
    from cloud.products import api as products
    from cloud.products import library_api, versions_api
    from cloud.products import registration_api as product_registration
    from cloud.rollouts import api as firmware
    from cloud.rollouts import configuration_api, jobs_api
    from cloud.rollouts.configuration import count_configurations
    from cloud.rollouts.service import count_firmware
    from cloud.telemetry import api as telemetry
    from cloud.telemetry import events_api
    from cloud.tenancy import audit_api
    from cloud.tenancy.service import KnownKeys

    app = FastAPI(
        title="Hearthline",
        version="1",
        description="Products, devices, telemetry and commands. Every error is an RFC 9457 problem.",
        redoc_url=None,
    )
    state = app.state
    state.database, state.vault, state.bus, state.metrics = database, vault, bus, metrics
    state.downlink, state.sessions, state.changes, state.history = downlink, sessions, changes, history
    state.checks, state.other_roles = checks, ("access", "ingest")
    state.known_keys = KnownKeys()
    state.device_address, state.doorkeeper = device_address, device_registration.Doorkeeper()
    state.depot, state.base_url, state.firmware_bytes = depot, base_url, firmware_bytes
    state.product_uses = {"devices": count_devices, "configurations": count_configurations, "firmware": count_firmware}
    problem_answers.install(app, larger={"/v1/firmware": firmware_bytes, import_api.PATH_END: import_api.MOST_BYTES})
    of_products = (products, versions_api, library_api, product_registration)
    of_devices = (messages_api, binding_api, search_api, groups_api, devices, identity_api, import_api, commands, shadow, topology)
    delivered = (firmware, configuration_api, jobs_api)
    of_readings = (telemetry, events_api, ingest, account)
    for module in (foundation, *of_products, *of_devices, *delivered, *of_readings, audit_api, device_registration):
        app.include_router(module.router)
    return app


def _api_server(app: "FastAPI") -> "uvicorn.Server":
    import uvicorn

    class ApiServer(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # signals are ours: uvicorn would end the process by the signal, in the middle of our clean-up

    configuration = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2)
    return ApiServer(configuration)


async def _connect(settings: Settings, role: str) -> Bus:
    url = settings.nats_url
    if url is None:
        if not settings.nats_address_file.exists():
            raise Refused(Reason.BAD_CONFIGURATION, "no NATS: run `hearthline up` on this directory, or set HEARTHLINE_NATS_URL")
        url = settings.nats_address_file.read_text().strip()
    token = settings.nats_token or settings.nats_token_file.read_text().strip()
    return await Bus.connect(url, token, role)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises Refused when the port is taken."""
    try:
        return socket.create_server((host, port), backlog=4096)
    except OSError as error:
        raise Refused(Reason.BAD_CONFIGURATION, f"cannot listen on {host}:{port}: {error.strerror}; choose another port, or 0") from error


def stop_on_signal() -> asyncio.Event:
    """Set by SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def check_database(database: Database) -> str | None:
    await asyncio.to_thread(database.ping)
    return None


async def check_bus(bus: Bus) -> str | None:
    return None if bus.connected else "not connected to NATS"


async def _check_event(ready: asyncio.Event) -> str | None:
    return None if ready.is_set() else "starting"


# The platform on one machine


class StartFailed(TryAgain):
    """The platform did not become ready; the log says which part and why."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Where the platform can be reached. `admin_key` is there on the very first start only."""

    mqtt_port: int
    mqtts_port: int | None
    api_url: str
    admin_key: str | None


def prepare_directory(settings: Settings) -> str | None:
    """Make what the data directory lacks: secrets, schema, the first tenant. Returns its admin key if it was made now."""
    # (the tables of every slice, so that the schema is known to be whole)
    import cloud.artefacts.tables
    import cloud.devices.tables
    import cloud.foundation.idempotency
    import cloud.ingest.tables
    import cloud.products.tables
    import cloud.rollouts.tables
    import cloud.tenancy.tables  # noqa: F401
    from cloud.foundation.schema import upgrade
    from cloud.tenancy.service import create_first_tenant

    create_secret_file(settings.secret_key_file)
    create_secret_file(settings.nats_token_file)
    database = Database(settings.database)
    try:
        upgrade(database)
        with database.system() as work:
            admin_key = create_first_tenant(work)
            work.commit()
    finally:
        database.close()
    return admin_key


async def run_up(settings: Settings, announce: Callable[[Ready], None]) -> None:
    """Supervise NATS and the roles until SIGTERM; `announce` hears once that devices and API calls are taken.

    Raises Refused (configuration, ports, a directory in use), StartFailed.
    """
    stop = stop_on_signal()
    try:
        settings.run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(Reason.BAD_CONFIGURATION, f"cannot keep data in {settings.dir}: {error.strerror}") from error
    # The supervisor holds the listening sockets: ports stay, and clients wait in line, while a role is started again.
    with (
        lock(settings.run_dir / "lock"),
        listen(settings.host, settings.mqtt_port) as mqtt,
        listen(settings.host, settings.api_port) as api,
        contextlib.ExitStack() as more,
    ):
        mqtts = None if settings.mqtts_port is None else more.enter_context(listen(settings.host, settings.mqtts_port))
        api_port = api.getsockname()[1]
        supervisor = Supervisor(settings.run_dir)
        renewing = asyncio.create_task(supervisor.renew_on_request(), name="renewals")
        try:
            admin_key = await asyncio.to_thread(prepare_directory, settings)
            if settings.nats_url is None:
                await _start_nats(supervisor, settings)
            supervisor.start(_role_spec("core", settings, (api,), mqtt.getsockname()[1]))
            supervisor.start(_role_spec("access", settings, (mqtt,) if mqtts is None else (mqtt, mqtts)))
            supervisor.start(_role_spec("ingest", settings, ()))
            if await _until_ready(supervisor, settings.host, api_port, stop):
                tls_port = None if mqtts is None else mqtts.getsockname()[1]
                announce(Ready(mqtt.getsockname()[1], tls_port, f"http://{_reachable(settings.host)}:{api_port}", admin_key))
                await stop.wait()
        finally:
            renewing.cancel()
            # Devices first, then who works for them, the bus last: what was acknowledged is on its way or on disk.
            await supervisor.stop(("access",), ("ingest", "core"), ("nats",))


async def _start_nats(supervisor: Supervisor, settings: Settings) -> None:
    port = nats_server.free_port()
    token = settings.nats_token_file.read_text().strip()
    configuration = nats_server.write_configuration(settings.dir, port, token, max_file_store=2 * settings.stream_bytes)
    supervisor.start(ChildSpec("nats", nats_server.command(configuration), ends_s=ENDS_S["nats"]))
    await nats_server.wait_ready(port)
    settings.nats_address_file.write_text(f"nats://127.0.0.1:{port}\n")


def _role_spec(role: str, settings: Settings, listeners: Sequence[socket.socket], mqtt_port: int | None = None) -> ChildSpec:
    command = [sys.executable, "-m", "cloud", "run", role, "--data", str(settings.dir)]
    for option, listener in zip(("--listener-fd", "--tls-listener-fd"), listeners, strict=False):
        command += [option, str(listener.fileno())]
    environment = {"HEARTHLINE_MQTTS_PORT": "0"} if len(listeners) > 1 else {}
    if mqtt_port is not None:
        environment["HEARTHLINE_MQTT_PORT"] = str(mqtt_port)  # what devices are told, where it was left to chance
    return ChildSpec(role, command, tuple(listener.fileno() for listener in listeners), ends_s=ENDS_S[role], env=environment)


async def _until_ready(supervisor: Supervisor, host: str, api_port: int, stop: asyncio.Event) -> bool:
    """True when /readyz says so, False when told to stop before. Raises StartFailed."""
    end = asyncio.get_running_loop().time() + READY_S
    while not stop.is_set():
        if await asyncio.to_thread(_answers_ready, _reachable(host), api_port):
            return True
        if (hopeless := supervisor.keeps_dying()) is not None:
            raise StartFailed(f"{hopeless} keeps dying; the log above says why")
        if asyncio.get_running_loop().time() > end:
            raise StartFailed(f"the platform was not ready within {READY_S:g} s; GET /readyz names the part that is missing")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.05)
    return False


def _answers_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=3)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "") else host
