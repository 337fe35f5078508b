"""The front door as a process: its stream, its subjects on the bus, its lease; started by `serve`."""

import asyncio
import contextlib
import resource
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloud.access.admission import Admission
from cloud.access.committer import JetStreamPartition
from cloud.access.door import Attendee, FrontDoor, Key
from cloud.access.group import GroupCommit
from cloud.access.model import (
    ACCESS_ITSELF,
    BROADCAST_SUBJECT,
    DELIVER_SUBJECT,
    DOWN_SUBJECT,
    INGESTED_SUBJECT,
    REPLAY_SUBJECT,
    UPLINK_STREAM,
    UPLINK_SUBJECT,
    Broadcast,
    Delivered,
    Kind,
    Lease,
    PresenceNote,
    Reached,
    ReplayAnswer,
    ReplayRequest,
    SessionRow,
    decode_downlink,
    decode_downlinks,
    session_key,
)
from cloud.access.ports import AuthorityLookup, CredentialLookup, Registrar, SubDeviceLookup, TenantLookup
from cloud.access.refusals import Entry
from cloud.access.server import Connection
from cloud.access.tls import Authorities, Tls, ask_for_certificates, keep_renewed, take
from cloud.devices.model import ACCESS_LEASE, AUTHORITIES_CHANGED, REGISTRY_CHANGED, Credentials, RegistryChange, SubDevice
from cloud.foundation.bus import Bus, BusAway
from cloud.foundation.clock import now_ms
from cloud.foundation.logs import get_logger
from cloud.foundation.metrics import Metrics
from protocols.errors import TryAgain
from protocols.mqtt.lobby import Bounds
from protocols.mqtt.packets import ReasonCode

LEASE_S = 2.0
SWEEP_S = 1.0
DRAIN_S = 4.0
BACKLOG = 4096  # what a stock Linux grants a listening socket (net.core.somaxconn)
LISTENERS = 4  # on one port: 10,000 devices at once overflow a single backlog, and a SYN that finds it full waits a second
OTHER_FILES = 256  # that the process needs beside its connections
NOTES_S = 1.0  # between looks at what else was refused; what is refused for the first time is noted at once
REPLAY_S = 4.0  # for a replayed message to get on disk
LOOKUPS_S = 0.05  # between lookups of whose quarantine it belongs to
RECHECK_S = 20.0  # of a round in which sessions are held against the registry, heard of or not; a new one may be first seen in the next
RECHECKED_TOGETHER = 100  # a few ms of the interpreter: who posts meanwhile does not notice
TOLD_TOGETHER = 200  # of a broadcast, before others get a turn

# A device that asked for no keepalive and lost its power is noticed by the kernel, after four minutes.
_HALF_OPEN = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 120),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 30),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 4),
)

_decode_replay = msgspec.msgpack.Decoder(ReplayRequest).decode
_decode_broadcast = msgspec.msgpack.Decoder(Broadcast).decode
_decode_change = msgspec.json.Decoder(RegistryChange).decode


def raise_file_limit() -> int:
    """As many sockets as the system lets us have; how many files that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1_048_576 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def join_listeners(listener: socket.socket, count: int = LISTENERS) -> list[socket.socket]:
    """`listener` and others of this process beside it on the same port; the kernel spreads connections over their backlogs.

    Only `listener` outlives this process: it is the supervisor's. Whoever waits in another line then is reset and comes again.
    """
    listeners = [listener]
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # now, not before: the port of another platform stays refused
        for _ in range(count - 1):
            another = socket.socket(listener.family, listener.type)
            listeners.append(another)
            another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            another.bind(listener.getsockname())
            another.listen(BACKLOG)
    except (OSError, AttributeError) as error:  # not on Linux, or forbidden: one line has to do
        get_logger().info("access.one_backlog", error=str(error))
        for another in listeners[1:]:
            another.close()
        return [listener]
    return listeners


async def serve(
    *,
    listener: socket.socket,
    tls: Tls | None = None,
    bus: Bus,
    credentials: CredentialLookup,
    sub_devices: SubDeviceLookup,
    tenants: TenantLookup,
    registrar: Registrar | None = None,
    authorities: AuthorityLookup = tuple,
    metrics: Metrics,
    stream_bytes: int,
    bounds: Bounds | None = None,
    recheck_s: float = RECHECK_S,
    ready: Callable[[], None] = lambda: None,
    stuck: Callable[[], None] = lambda: None,
) -> None:
    """Take connections on `listener` (already listening) until cancelled; then commit what was read and say goodbye.

    `stuck` is called when NATS is there and the stream takes nothing.

    Ends with an ExceptionGroup of AnotherWriter or another Broken: the process has to end and be started again.
    """
    bounds = bounds or Bounds()
    bounds = replace(bounds, connections=min(bounds.connections, raise_file_limit() - OTHER_FILES))
    instance = secrets.token_hex(8)
    await bus.ensure_stream(UPLINK_STREAM, [UPLINK_SUBJECT], max_bytes=stream_bytes)
    partition = JetStreamPartition(bus, UPLINK_STREAM, UPLINK_SUBJECT)
    commit = GroupCommit(partition, last_sequence=await partition.open(), instance=instance, stuck=stuck)
    door = FrontDoor(commit, bounds)
    admission: Admission[Attendee] = Admission(credentials, door.decided, door.trust, registrar)
    door.ask = lambda connection, connect, suspect: admission.ask(connection, connect, suspect, connection.certificate)
    metrics.registry.register(DoorMetrics(door))
    started = msgspec.structs.replace(ACCESS_ITSELF, epoch=door.next_epoch())
    commit.note(Kind.ACCESS_STARTED, session_key(started), now_ms(), PresenceNote("", instance))
    trusted = Authorities(door.trust, authorities, None if tls is None else tls.context)
    confirm = None if registrar is None else registrar.confirm
    worker = _BusSide(door, bus, credentials, sub_devices, trusted)
    async with asyncio.TaskGroup() as tasks:
        committing = tasks.create_task(commit.run(), name="access.commit")
        tasks.create_task(admission.run(), name="access.admission")
        tasks.create_task(door.subs.run(sub_devices, confirm), name="access.sub_devices")
        tasks.create_task(_sweep(door), name="access.sweep")
        tasks.create_task(_lease(door, bus, instance), name="access.lease")
        tasks.create_task(_note_refusals(door, tenants), name="access.refusals")
        await worker.subscribe()
        tasks.create_task(worker.look_again(recheck_s), name="access.look_again")
        loop = asyncio.get_running_loop()
        servers, taking = [], None
        for one in join_listeners(listener):
            for option, value in _HALF_OPEN:
                one.setsockopt(*option, value)  # accepted sockets inherit it
            servers.append(await loop.create_server(lambda: Connection(door), sock=one, backlog=BACKLOG))
        if tls is not None:
            for option, value in _HALF_OPEN:
                tls.listener.setsockopt(*option, value)
            ask_for_certificates(tls.context)
            tasks.create_task(keep_renewed(tls), name="access.certificate")
            taking = tasks.create_task(_take(door, tls, trusted), name="access.tls")
        get_logger().info("access.ready", address=listener.getsockname()[:2], instance=instance)
        ready()
        try:
            await loop.create_future()
        finally:
            for server in servers:
                server.close()
            if taking is not None:
                taking.cancel()
            if not committing.done():
                await _drain(door, tenants)
            worker.close()


async def _drain(door: FrontDoor, tenants: TenantLookup) -> None:
    """What was read gets on disk and is acknowledged, then everybody is told; a stream that does not answer is not waited for."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            await door.commit.settled()
            door.close_all(ReasonCode.SERVER_SHUTTING_DOWN)
            with contextlib.suppress(TryAgain):  # then the counts since the last notes go with this process, like its metrics
                await note(door, tenants, door.refusals.unnoted())
            await door.commit.settled()
    for connection in tuple(door.connections):
        connection.flush()


async def _take(door: FrontDoor, tls: Tls, trusted: Authorities) -> None:
    """Before the registry has answered, every certificate would be told that nobody added its authority."""
    while not await trusted.refresh():  # noqa: ASYNC110 - another process is waited for
        await asyncio.sleep(1)
    await take(door, tls)


async def _sweep(door: FrontDoor) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        await door.sweep(time.monotonic())


async def _note_refusals(door: FrontDoor, tenants: TenantLookup) -> None:
    """Put what was refused in line, behind what was published before: the first of a kind at once, then counts."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NOTES_S):
                await door.refused_first.wait()
        door.refused_first.clear()
        if not door.commit.stalled:  # meanwhile the ledger counts on
            try:
                await note(door, tenants, door.refusals.due(time.monotonic()))
            except TryAgain as error:
                get_logger().warning("refusals.delayed", error=str(error))
                await asyncio.sleep(NOTES_S)
        await asyncio.sleep(LOOKUPS_S)


async def note(door: FrontDoor, tenants: TenantLookup, entries: Sequence[Entry]) -> None:
    """Note entries of the ledger, each in the quarantine of its tenant. Raises TryAgain, with nothing noted."""
    strangers = [entry.client for entry in entries if entry.client.tenant_id is None]
    found: dict[Key, int] = {}
    if strangers:
        claims = list(dict.fromkeys((client.product_key, client.device_name) for client in strangers))
        found = dict(zip(claims, await asyncio.to_thread(tenants, claims), strict=True))
    for entry in entries:
        client = entry.client
        tenant_id = found[client.product_key, client.device_name] if client.tenant_id is None else client.tenant_id
        if entry.count:  # nobody else noted it while we looked
            session = session_key(SessionRow(tenant_id, 0, "", "", 0))
            door.commit.note(Kind.REFUSED, session, now_ms(), door.refusals.note(entry, time.monotonic()))


async def _lease(door: FrontDoor, bus: Bus, instance: str) -> None:
    while True:
        with contextlib.suppress(BusAway):  # then nobody believes our sessions, which is right
            await bus.publish(ACCESS_LEASE, msgspec.json.encode(Lease(instance, len(door.sessions), now_ms())))
        await asyncio.sleep(LEASE_S)


class _BusSide:
    """Answers the bus: messages for devices, changes of the registry."""

    def __init__(
        self, door: FrontDoor, bus: Bus, credentials: CredentialLookup, sub_devices: SubDeviceLookup, authorities: Authorities
    ) -> None:
        self._door = door
        self._bus = bus
        self._credentials = credentials
        self._sub_devices = sub_devices
        self._authorities = authorities
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="registry")
        self._rechecking: asyncio.Task[None] | None = None

    async def subscribe(self) -> None:
        await self._bus.serve(DELIVER_SUBJECT, self._deliver)
        await self._bus.serve(REPLAY_SUBJECT, self._replay)
        await self._bus.serve(BROADCAST_SUBJECT, self._broadcast)
        await self._bus.subscribe(DOWN_SUBJECT, self._down)
        await self._bus.subscribe(INGESTED_SUBJECT, self._ingested)
        await self._bus.subscribe(REGISTRY_CHANGED, self._changed)
        await self._bus.subscribe(AUTHORITIES_CHANGED, self._authorities_changed)
        self._bus.on_reconnect(self._reconnected)

    def close(self) -> None:
        if self._rechecking is not None:
            self._rechecking.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _deliver(self, data: bytes) -> bytes:
        return msgspec.msgpack.encode(Delivered(self._door.deliver((decode_downlink(data),)) == 1))

    async def _broadcast(self, data: bytes) -> bytes:
        message = _decode_broadcast(data)
        reached = 0
        for n, key in enumerate(self._door.all_keys(message.product_key), 1):
            reached += self._door.tell(key, message)
            if n % TOLD_TOGETHER == 0:
                await asyncio.sleep(0)
        return msgspec.msgpack.encode(Reached(reached))

    async def _replay(self, data: bytes) -> bytes:
        request, commit = _decode_replay(data), self._door.commit
        if commit.stalled:  # or it would lie in line for ever, and the operator ask again
            return msgspec.msgpack.encode(ReplayAnswer(False))
        self._door.gate.replay(session_key(request.session), request.topic, request.received_ms, request.payload, request.entry)
        try:
            async with asyncio.timeout(REPLAY_S):
                await commit.settled()
        except TimeoutError:
            return msgspec.msgpack.encode(ReplayAnswer(False))
        return msgspec.msgpack.encode(ReplayAnswer(True))

    async def _down(self, data: bytes) -> None:
        self._door.deliver(decode_downlinks(data))

    async def _ingested(self, data: bytes) -> None:
        self._door.gate.committed(int(data), asyncio.get_running_loop().time())

    async def _changed(self, data: bytes) -> None:
        change = _decode_change(data)
        await self._check(self._door.keys_of(change.product_key, change.device_name))

    async def _reconnected(self) -> None:
        """A change that was announced meanwhile went unheard: look at every session."""
        if self._rechecking is None or self._rechecking.done():
            self._rechecking = asyncio.create_task(self._check(self._door.all_keys()), name="access.recheck")

    async def _authorities_changed(self, _event: bytes) -> None:
        """An authority was added or retired: who came with a certificate is looked at again."""
        if await self._authorities.refresh():
            sessions = self._door.sessions.items()
            await self._check([key for key, one in sessions if one.credentials is not None and one.credentials.proof_until_ms is not None])

    async def look_again(self, every_s: float) -> None:
        """Hold every session against the registry, in rounds of `every_s` and small portions, for ever: an event may be lost."""
        while True:
            keys = [*self._door.all_keys()]
            portions = [keys[start : start + RECHECKED_TOGETHER] for start in range(0, len(keys), RECHECKED_TOGETHER)] or [[]]
            for portion in portions:
                await asyncio.sleep(every_s / len(portions))
                if portion is portions[0]:
                    await self._authorities.refresh()
                await self._check(portion)

    async def _check(self, keys: Sequence[Key]) -> None:
        while keys:
            try:
                known, subs, carried = await asyncio.get_running_loop().run_in_executor(self._thread, self._look_up, keys)
            except TryAgain as error:  # a revoked device must not keep its session because a database was busy
                get_logger().warning("access.recheck_delayed", error=str(error))
                await asyncio.sleep(1)
                continue
            for key in keys:
                self._door.recheck(key, known.get(key))
            for key in carried:
                self._door.subs.recheck(key, subs.get(key))
            return

    def _look_up(self, keys: Sequence[Key]) -> tuple[Mapping[Key, Credentials], Mapping[Key, SubDevice], Sequence[Key]]:
        """The last are those that a gateway carried before they were looked up: who logs in meanwhile is not in the answer."""
        carried = [key for key in keys if key in self._door.subs.carriers]
        return self._credentials(keys), self._sub_devices(carried) if carried else {}, carried


class DoorMetrics(Collector):
    """Counted on the hot path as plain integers, read when scraped."""

    def __init__(self, door: FrontDoor) -> None:
        self._door = door

    def collect(self) -> Iterable[Metric]:
        door, commit = self._door, self._door.commit
        yield GaugeMetricFamily("hearthline_access_connections", "Open sockets.", len(door.connections))
        yield GaugeMetricFamily("hearthline_access_strangers", "Open sockets that no device was let in on.", door.lobby.strangers)
        yield GaugeMetricFamily("hearthline_access_sessions", "Devices online.", len(door.sessions))
        kept = door.away.kept
        yield GaugeMetricFamily("hearthline_access_kept_sessions", "Sessions of devices that are away.", len(kept))
        yield GaugeMetricFamily("hearthline_access_kept_bytes", "What they take of memory, about.", kept.size)
        yield CounterMetricFamily("hearthline_access_kept_given_up", "Kept sessions that ended for want of room.", kept.given_up)
        yield CounterMetricFamily("hearthline_access_kept_messages", "Messages that waited for a device that was away.", door.away.waiting)
        yield GaugeMetricFamily("hearthline_access_sub_devices", "Sub-devices logged in through gateways.", len(door.subs.carriers))
        yield GaugeMetricFamily("hearthline_access_waiting_bytes", "Read and not yet on disk.", commit.waiting_bytes)
        yield GaugeMetricFamily("hearthline_access_held_frames", "Frames of gateways that wait until ingest has caught up.", door.gate.held)
        yield GaugeMetricFamily("hearthline_access_stalled", "1 while the stream does not take messages.", float(commit.stalled))
        yield CounterMetricFamily("hearthline_access_accepted", "CONNECTs that were let in.", door.accepted)
        yield CounterMetricFamily("hearthline_access_registered", "Devices that were handed a secret or a token.", door.registered)
        yield CounterMetricFamily("hearthline_access_messages", "Messages committed to the stream.", commit.messages)
        yield CounterMetricFamily("hearthline_access_commits", "Groups committed to the stream.", commit.commits)
        yield CounterMetricFamily("hearthline_access_undelivered", "Messages that a device's connection did not take.", door.undelivered)
        refused = CounterMetricFamily("hearthline_access_refused", "What was refused.", labels=["reason"])
        for reason, count in door.refusals.totals.items():
            refused.add_metric([reason], count)
        yield refused
