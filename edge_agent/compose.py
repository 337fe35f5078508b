"""The agent's composition root: read it from top to bottom and you have read the architecture."""

import resource
from collections.abc import Callable
from dataclasses import replace

from edge_agent.agent import CLEAN, Agent
from edge_agent.buffer.outbox import SqliteOutbox
from edge_agent.buffer.sealing import NO_SEAL, Seal
from edge_agent.documents.registry import DeviceNote, DeviceRegistry
from edge_agent.domain.backoff import Backoff
from edge_agent.domain.batch import Shape
from edge_agent.domain.clock import MARK_PREFIX as CLOCK_MARKS
from edge_agent.domain.clock import AgentClock, Machine
from edge_agent.domain.crashpoint import arm_crash_points
from edge_agent.domain.sampling import LastRow
from edge_agent.domain.seen import SeenRing
from edge_agent.domain.window import Bandwidth, SendWindow
from edge_agent.inference.process import WorkerProcess
from edge_agent.northbound.link import MqttUplink
from edge_agent.pipeline import obey as obeying
from edge_agent.pipeline.collect import Collector
from edge_agent.pipeline.forward import Forwarder
from edge_agent.pipeline.obey import Obey
from edge_agent.pipeline.presence import Presence
from edge_agent.pipeline.refine import Plan, Refine
from edge_agent.ports import DeviceKey, Intake, Outbox, Route, Scorer
from edge_agent.settings import Model, Settings
from edge_agent.southbound.appliance import Appliance
from edge_agent.southbound.catalogue import CONNECTORS, Surroundings
from edge_agent.southbound.mqtt import SOURCE, FrontDoor
from edge_agent.southbound.rows import MARK_PREFIX
from edge_agent.supervise import RestartPolicy
from edge_agent.watchdog import Watchdog
from protocols.edgelink.lanes import Lane

BUFFER = "buffer.db"
OTHER_FILES = 48  # that this process needs beside connections of appliances: buffer, machines, uplink, model, documents
SEEN = {Lane.LIVE: "seen/live/", Lane.ALARM: "seen/alarm/"}


def open_outbox(settings: Settings, clock: Callable[[], AgentClock]) -> SqliteOutbox:
    """The buffer file of this gateway; raises OutboxUnavailable (a second agent, the disk) and OutboxDamaged.

    `clock` is asked first when frames are written or read: it is made of what the buffer remembers.
    """
    return SqliteOutbox(
        settings.data_dir / BUFFER,
        quotas=settings.buffer.quotas,
        gateway=(settings.gateway.product_key, settings.gateway.device_name),
        now_ms=lambda: clock().now_ms(),
        in_doubt=2 * settings.uplink.window,
        shift=lambda period: clock().shift(period),
        ballast_bytes=settings.buffer.ballast_bytes,
        seal=Seal(settings.buffer.key) if settings.buffer.key else NO_SEAL,
    )


async def compose(settings: Settings, scorer: Scorer | None = None) -> Agent:
    """Build the agent; raises what opening the buffer raises, and OSError for the data directory."""
    arm_crash_points(settings.crash_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)

    # the buffer, and what the run before left in it
    clock: AgentClock
    outbox: Outbox = open_outbox(settings, lambda: clock)
    marks = await outbox.marks()
    clock = AgentClock(Machine(), settings.trust, {key: value for key, value in marks.items() if key.startswith(CLOCK_MARKS)})
    await outbox.remember(clock.take_marks())
    clean = marks.get(CLEAN) == b"1"
    seen = {lane: SeenRing(prefix, marks) for lane, prefix in SEEN.items()}
    collector = Collector(
        outbox, seen, close_after_s=settings.buffer.close_after_ms / 1000, bulk_after_s=settings.buffer.bulk_after_s, now_s=clock.monotonic
    )

    # the devices behind this gateway
    models = {DeviceKey(device.product_key, device.device_name): device.model for device in settings.devices}
    keys = {key.device_name: key for key in models}
    sources = dict.fromkeys(models, SOURCE) | {keys[plan.device]: plan.name for plan in settings.connectors}
    registry = DeviceRegistry(settings.data_dir)
    presence = Presence(sources, collector, clock, lambda board: _note(board, registry))

    # models beside the readings, if there are any
    intake: Intake = collector
    refine = None
    if settings.models:
        plans = [_plan(model, settings) for model in settings.models]
        bounds = settings.inference
        worked = [(model.file, len(model.devices)) for model in settings.models]
        scorer = scorer or WorkerProcess(worked, deadline_s=bounds.deadline_ms / 1000, memory_mib=bounds.memory_mib)
        intake = refine = Refine(collector, scorer, plans, clock, marks, queue_rows=bounds.queue_rows)

    # down: commands
    routes: dict[DeviceKey, Route] = {}
    answered = {key: value for key, value in marks.items() if key.startswith(obeying.MARK_PREFIX)}
    obey = Obey(models, routes, collector, clock, answered, outbox.remember)

    # southbound
    connectors = []
    for plan in settings.connectors:
        key = keys[plan.device]
        last = LastRow.from_bytes(marks.get(MARK_PREFIX + str(key)))
        around = Surroundings(key, models[key], intake, presence, clock, last, clean, routes, obey.answered)
        connectors.append(CONNECTORS[plan.kind](plan, around))
    front_door = listen = None
    if settings.front_door is not None:
        secrets = {DeviceKey(*who): secret for who, secret in settings.front_door.secrets.items()}
        appliances = {key: Appliance(key, models[key], secret) for key, secret in secrets.items()}
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = settings.front_door.bounds
        limited = replace(wanted, connections=max(1, min(wanted.connections, files - OTHER_FILES)))
        front_door = FrontDoor(appliances, intake, presence, routes, seen, clock, obey.answered, limited)
        listen = (settings.front_door.host, settings.front_door.port)

    # northbound
    gateway, uplink = settings.gateway, settings.uplink
    link = MqttUplink(
        uplink.host,
        uplink.port,
        gateway.product_key,
        gateway.device_name,
        gateway.secret,
        keepalive_s=uplink.keepalive_s,
        window=uplink.window,
        tls=uplink.tls,
        ca_file=uplink.ca_file,
        certificate=uplink.certificate,
    )

    async def told_time(cloud_ms: int, give_or_take_ms: int) -> None:
        clock.learn(cloud_ms, give_or_take_ms)
        await outbox.remember(clock.take_marks())  # before a frame leaves with the times that follow from it

    forwarder = Forwarder(
        outbox,
        link,
        clock,
        gateway=(gateway.product_key, gateway.device_name),
        window=SendWindow(uplink.window),
        bandwidth=Bandwidth(uplink.bytes_per_s),
        bulk_hours=uplink.bulk_hours,
        obey=obey.handle,
        linked=presence.linked,
        told_time=told_time,
    )
    link_policy = RestartPolicy(Backoff(first_s=0.5, ceiling_s=float(uplink.reconnect_max_s), jitter=1.0), tries=None)
    spread_s = float(uplink.start_spread_s) if clock.machine_started_just_now() else 0.0  # a whole site has power again
    return Agent(
        settings.data_dir, clock, outbox, collector, forwarder, obey, presence, registry, connectors, refine, front_door, listen,
        link_policy, spread_s, watchdog=Watchdog(settings.notify_socket),
    )  # fmt: skip


def _plan(model: Model, settings: Settings) -> Plan:
    """A model with the devices it watches here."""
    devices = [settings.device(name) for name in model.devices]
    keys = tuple(DeviceKey(device.product_key, device.device_name) for device in devices)
    shapes = tuple(Shape(device.product_key, device.device_name, device.model, (model.score,)) for device in devices)
    outputs = devices[0].model.events[model.event].output if model.event else ()
    return Plan(model.name, model.card, keys, model.score, shapes, model.event, frozenset(outputs), model.raise_after, model.clear_after)


def _note(presence: Presence, registry: DeviceRegistry) -> None:
    """Keep the latest presence of each device, and when it was first seen."""
    before = registry.notes()
    notes = {}
    for key, (online, since_ms, source) in presence.states.items():
        known = before.get((key.product_key, key.device_name))
        first_ms = known.first_seen_ms if known else 0
        notes[key.product_key, key.device_name] = DeviceNote(
            key.product_key, key.device_name, source, online, first_ms or (since_ms if online else 0), since_ms
        )
    registry.keep(notes)
