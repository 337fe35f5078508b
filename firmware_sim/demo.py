"""`fwsim demo`: the platform's main job once, on a network that fails, ending with an account that balances.

The cloud, the agent and the simulators are processes of their own; the demo knows their command lines, files and HTTP, and nothing else.
"""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from firmware_sim.account import Account
from firmware_sim.board import Board, DeviceLine
from firmware_sim.equipment import meter, press
from firmware_sim.faults import TcpProxy
from firmware_sim.process import until
from firmware_sim.stage import Child, Cloud, LogTail, StageFailed, account_of, free_port, toml, wait_for, write_private
from firmware_sim.watch import Reaction, reaction
from firmware_sim.wire.registers import Point
from protocols.errors import Reason, Refused
from protocols.thing import library

MARK = ".fwsim-demo"
LINE, HOME, GATEWAY = "line-1", "home-1", "gateway-1"
LINE_ROWS_S, HOME_ROWS_S, POLL_MS = 5.0, 2.0, 50
STEADY_S, CUT_S, DOWN_S, AFTER_S = 8.0, 20.0, 3.0, 3.0
FAULT_AT_S, FAULT_S = 12.5, 5.0  # within the cut: the gateway is alone with it
MODEL = Path(__file__).parent / "models" / "stamping_press.onnx"
SCORE, EVENT = "AnomalyScore", "AnomalyDetected"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """`folder` holds everything of the run and is emptied first; `report` is where the account goes."""

    folder: Path = Path("build/demo")
    report: Path = Path("build/demo.json")
    keep: bool = False
    seed: int = 1


@dataclass(slots=True)
class Member:
    """One device of the demo: where it stands and what it has produced."""

    name: str
    model: str
    log: LogTail
    probe: str  # one of its properties, for the live table
    behind_gateway: bool
    registers: bool
    product_key: str = ""
    secret: str = ""


@dataclass(slots=True)
class Scene:
    """Everything that runs. `close` ends it, whatever state it is in."""

    options: DemoOptions
    board: Board
    children: dict[str, Child] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)
    cloud: Cloud | None = None
    link: TcpProxy | None = None
    mqtt_port: int = 0
    front_door: int = 0
    line_port: int = 0
    fault_ms: tuple[int, int] = (0, 0)  # when the press's die was misaligned

    @property
    def fault_file(self) -> Path:
        return self.options.folder / "press-1.misaligned"

    async def start(self, name: str, *arguments: str) -> Child:
        child = self.children[name] = Child(name, arguments, self.options.folder)
        await child.start()
        return child

    async def wait_for(self, what: str, condition: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> float:
        """Seconds until `condition` holds; raises StageFailed, at once when the cloud or the agent has ended."""
        return await wait_for(what, condition, timeout_s, [self.children[name] for name in ("cloud", "agent") if name in self.children])

    async def stop(self, *names: str) -> None:
        await asyncio.gather(*(self.children[name].stop() for name in names if name in self.children))

    async def close(self) -> None:
        """Simulators first, then the agent, then the cloud; each within its promised time."""
        simulators = [name for name in self.children if name not in ("agent", "cloud")]
        await self.stop(*simulators)
        await self.stop("agent")
        if self.cloud is not None:
            await self.cloud.close()
        await self.stop("cloud")
        if self.link is not None:
            await self.link.stop()


async def demo(options: DemoOptions, stop: asyncio.Event) -> int:
    """Run the demo; 0 = the account balances and the fault was seen, 1 = not so, 3 = a process failed, 130 = interrupted."""
    _empty(options.folder)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.unlink(missing_ok=True)
    with Board() as board:
        scene = Scene(options, board)
        outcome: list[bool] = []
        try:
            finished = await until(stop, _story(scene, outcome))
            if finished and options.keep and scene.cloud is not None:
                await _start_again(scene, options.folder / "kept")
                print(f"API {scene.cloud.url}  key {scene.cloud.key}  MQTT port {scene.mqtt_port}  (Ctrl-C ends it)", flush=True)
                await stop.wait()
        except StageFailed as error:
            board.say(f"FAILED: {error}")
            return 3
        finally:
            board.say("stopping everything")
            await _close(scene)
    if not finished:
        return 130
    return 0 if all(outcome) else 1


def _empty(folder: Path) -> None:
    """A fresh folder; raises Refused for one with things in it that no demo has put there."""
    mark = folder / MARK
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise Refused(Reason.BAD_CONFIGURATION, f"{folder} is not a folder of an earlier demo: choose another --dir")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()


async def _close(scene: Scene) -> None:
    """Clean up even if the loop is being torn down or somebody presses Ctrl-C again."""
    await asyncio.shield(asyncio.ensure_future(scene.close()))


async def _story(scene: Scene, outcome: list[bool]) -> None:
    board, options = scene.board, scene.options
    await _build(scene)
    watching = asyncio.create_task(_watch(scene), name="demo.watch")
    try:
        board.say("everything runs")
        await asyncio.sleep(STEADY_S)
        drain_s = await _break_things(scene)
        board.say("the simulators stop")
        await scene.stop("line", "appliance", "home")
        try:
            await scene.wait_for("the last readings reach the store", lambda: _accounted(scene, None, gateway_only=False))
        except StageFailed as error:
            board.say(f"[problem] {error}")  # the account says what is missing
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    total = Account()
    lines = []
    for member in scene.members:
        member.log.read()
        assert scene.cloud is not None
        account = await account_of(
            scene.cloud,
            member.product_key,
            member.name,
            member.log.rows,
            behind_gateway=member.behind_gateway,
            registers=member.registers,
        )
        total.add(account)
        lines.append(f"{member.name:<10} {account.sentence()}")
    fault = await _reaction(scene)
    outcome += [total.balanced, fault.seen]
    report = {
        "produced": total.produced,
        "stored": total.stored,
        "in_gaps": total.in_gaps,
        "duplicates": total.duplicates,
        "drain_s": round(drain_s, 2),
        "scores_before": len(fault.before),
        "scores_during": len(fault.during),
        "anomaly_events": len(fault.events),
    }
    options.report.write_text(json.dumps(report) + "\n", encoding="utf-8")
    board.end()
    for line in lines:
        board.say(line)
    board.say(f"the account: {total.sentence()}")
    board.say(f"the backlog of {CUT_S:g} s without a network took {drain_s:.1f} s")
    board.say(f"the misaligned die of press-1: {fault.sentence()}")
    board.say("it balances" if total.balanced else "IT DOES NOT BALANCE")
    if not fault.seen:
        board.say("THE MODEL DID NOT SEE THE FAULT")


async def _break_things(scene: Scene) -> float:
    """Cut the gateway's network, kill the agent meanwhile, restore, kill ingest; returns how long the backlog took."""
    board, link = scene.board, scene.link
    assert link is not None
    cut_at = time.monotonic()
    board.say(f"the gateway's network is cut for {CUT_S:g} s")
    await link.cut()
    await asyncio.sleep(5.0)
    board.say(f"SIGKILL to the agent; it comes back after {DOWN_S:g} s")
    await scene.children["agent"].kill()
    await asyncio.sleep(DOWN_S)
    await scene.children["agent"].start()
    await asyncio.sleep(max(0.0, cut_at + FAULT_AT_S - time.monotonic()))
    await _misalign(scene)
    await asyncio.sleep(max(0.0, cut_at + CUT_S - time.monotonic()))
    for member in scene.members:
        member.log.read()
    backlog_to_ms = time.time_ns() // 1_000_000
    board.say("the network is back")
    await link.restore()
    tried = link.accepted

    async def tries() -> bool:
        return link.accepted > tried

    waited_s = await scene.wait_for("the gateway tries again", tries)
    drain_s = waited_s + await scene.wait_for("the backlog drains", lambda: _accounted(scene, backlog_to_ms, gateway_only=True))
    board.say(f"the backlog is in the store after {drain_s:.1f} s; the gateway's next try came after {waited_s:.1f} s of them")
    pid_file = scene.options.folder / "cloud" / "run" / "ingest.pid"
    old = int(pid_file.read_text())
    board.say("SIGKILL to ingest")
    os.kill(old, signal.SIGKILL)

    async def back() -> bool:
        text = pid_file.read_text().strip() if pid_file.exists() else ""
        return bool(text) and int(text) != old

    await scene.wait_for("ingest is started again", back)
    killed_ms = time.time_ns() // 1_000_000
    caught_up_s = await scene.wait_for("ingest catches up", lambda: _accounted(scene, killed_ms, gateway_only=False))
    board.say(f"ingest has caught up after {caught_up_s:.1f} s")
    await asyncio.sleep(AFTER_S)
    return drain_s


async def _misalign(scene: Scene) -> None:
    """The press's die slips for a while; nobody but the gateway's own model can see it now."""
    scene.board.say(f"the die of press-1 slips out of line for {FAULT_S:g} s, while the gateway is cut off")
    began_ms = time.time_ns() // 1_000_000
    scene.fault_file.touch()
    await asyncio.sleep(FAULT_S)
    scene.fault_ms = (began_ms, time.time_ns() // 1_000_000)
    scene.fault_file.unlink()


async def _reaction(scene: Scene) -> Reaction:
    """What the cloud was told of the fault."""
    assert scene.cloud is not None
    press_1 = scene.members[1]
    scores, _ = await scene.cloud.points(press_1.product_key, press_1.name, SCORE, raw=False)
    events, _ = await scene.cloud.points(press_1.product_key, press_1.name, EVENT, raw=False)
    return reaction(scores, events, *scene.fault_ms)


async def _accounted(scene: Scene, to_ms: int | None, *, gateway_only: bool) -> bool:
    """Whether every row produced up to `to_ms` is stored or in a gap, judged by one property of each device."""
    assert scene.cloud is not None
    for member in scene.members:
        member.log.read()
        if gateway_only and not member.behind_gateway:
            continue
        times = [row.time_ms for row in member.log.rows if to_ms is None or row.time_ms <= to_ms]
        if not times:
            continue
        stored, gaps = await scene.cloud.rows(member.product_key, member.name, member.probe, times[-1] + 1)
        if stored + sum(any(gap.holds(at) for gap in gaps) for at in times) < len(times):
            return False
    return True


async def _watch(scene: Scene) -> None:
    """Keep the table up to date; an API that is busy for a moment only delays it."""
    while True:
        await asyncio.sleep(0.5)
        with suppress(StageFailed, OSError, TimeoutError):
            scene.board.show([await _line_of(scene, member) for member in scene.members], _buffered(scene))


async def _line_of(scene: Scene, member: Member) -> DeviceLine:
    assert scene.cloud is not None
    member.log.read()
    online, newest_ms = await scene.cloud.reported(member.product_key, member.name)
    rows, gaps = await scene.cloud.rows(member.product_key, member.name, member.probe)
    width = len(member.log.rows[-1].values) if member.log.rows else 0
    last_ms = member.log.rows[-1].time_ms if member.log.rows else newest_ms
    return DeviceLine(
        member.name,
        "gateway" if member.behind_gateway else "direct",
        online,
        member.log.readings,
        rows * width,
        last_ms - newest_ms,
        len(gaps),
    )


def _buffered(scene: Scene) -> int | None:
    """Readings in the gateway's buffer, by its own status file; None while there is none."""
    try:
        status: dict[str, Any] = msgspec.json.decode((scene.options.folder / "gateway" / "data" / "status.json").read_bytes())
        return sum(int(lane["readings"]) for lane in status["buffer"]["lanes"].values())
    except (OSError, KeyError, msgspec.MsgspecError):
        return None


async def _build(scene: Scene) -> None:
    """Start everything, in the order in which a factory would: cloud, registry, gateway, machines."""
    folder, board = scene.options.folder, scene.board
    board.say("starting the cloud")
    cloud = await scene.start(
        "cloud", "-m", "cloud", "up", "--data", str(folder / "cloud"), "--mqtt-port", "0", "--api-port", "0", "--ready-json"
    )
    ready = await cloud.said("mqtt_port")
    scene.mqtt_port = int(ready["mqtt_port"])
    scene.cloud = Cloud(ready["api_url"], ready["admin_key"])
    logs = folder / "logs"
    scene.members = [
        Member("meter-1", "power_meter", LogTail(logs / "meter-1.jsonl"), "Power", behind_gateway=True, registers=True),
        Member("press-1", "stamping_press", LogTail(logs / "press-1.jsonl"), "Tonnage", behind_gateway=True, registers=True),
        Member("hood-1", "range_hood", LogTail(logs / "hood-1.jsonl"), "SmokeLevel", behind_gateway=True, registers=False),
        Member("stove-1", "integrated_stove", LogTail(logs / "stove-1.jsonl"), "Power", behind_gateway=False, registers=False),
    ]
    board.say("products and devices, over HTTP")
    for member in scene.members:
        model = library.load(member.model).to_dict()
        member.product_key = await scene.cloud.product(member.model.replace("_", " ").capitalize(), model)
        member.secret = await scene.cloud.device(member.product_key, member.name, LINE if member.behind_gateway else HOME)
    gateway_secret = await scene.cloud.device("gateway", GATEWAY, LINE)
    scene.link = TcpProxy("127.0.0.1", scene.mqtt_port)
    scene.front_door = free_port()
    scene.line_port = await _start_line(scene, logs)
    _write_gateway(scene, gateway_secret, await scene.link.start())
    await scene.start("agent", "-m", "edge_agent", "--config", str(folder / "gateway" / "edge.toml"))
    board.say("the gateway's agent is started")
    await _start_home(scene, "appliance", scene.members[2], scene.front_door, logs)
    await _start_home(scene, "home", scene.members[3], scene.mqtt_port, logs)

    async def all_stored() -> bool:
        assert scene.cloud is not None
        counts = [(await scene.cloud.rows(member.product_key, member.name, member.probe))[0] for member in scene.members]
        return min(counts) > 0

    await scene.wait_for("the first reading of every device", all_stored)


async def _start_line(scene: Scene, logs: Path, port: int = 0) -> int:
    words = ["--port", str(port), "--log-dir", str(logs), "--seed", str(scene.options.seed), "--rate", str(LINE_ROWS_S)]
    words += ["--fault-file", str(scene.fault_file)]
    line = await scene.start("line", "-m", "firmware_sim", "line", *words)
    return await line.ready()


async def _start_home(scene: Scene, name: str, member: Member, port: int, logs: Path) -> None:
    devices = scene.options.folder / f"{name}.devices.json"
    identity = {"product_key": member.product_key, "device_name": member.name, "device_secret": member.secret}
    write_private(devices, json.dumps([{"kind": member.model} | identity]))
    words = ["--devices", str(devices), "--port", str(port), "--log-dir", str(logs), "--seed", str(scene.options.seed)]
    child = await scene.start(name, "-m", "firmware_sim", "home", *words, "--rate", str(HOME_ROWS_S))
    await child.ready()


async def _start_again(scene: Scene, logs: Path) -> None:
    """For --keep: the same machines go on, with logs of their own; the account is closed."""
    await _start_line(scene, logs, scene.line_port)
    await _start_home(scene, "appliance", scene.members[2], scene.front_door, logs)
    await _start_home(scene, "home", scene.members[3], scene.mqtt_port, logs)


def _write_gateway(scene: Scene, secret: str, uplink: int) -> None:
    """The agent's one TOML file and its secrets."""
    folder = scene.options.folder / "gateway"
    folder.mkdir()
    meter_1, press_1, hood_1, _ = scene.members
    parts = [
        toml("", {"data_dir": "data"}),
        toml("[gateway]", {"product_key": "gateway", "device_name": GATEWAY, "secret_file": "gateway.secret"}),
        toml("[uplink]", {"host": "127.0.0.1", "port": uplink, "keepalive_s": 5, "start_spread_s": 0, "reconnect_max_s": 5}),
        toml("[front_door]", {"host": "127.0.0.1", "port": scene.front_door, "secrets_file": "appliances.toml"}),
    ]
    parts += [
        toml("[[device]]", {"product_key": member.product_key, "device_name": member.name, "thing_model": member.model})
        for member in (meter_1, press_1, hood_1)
    ]
    model = {"name": "press-anomaly", "file": str(MODEL), "devices": [press_1.name], "score": SCORE, "event": EVENT}
    parts.append(toml("[[model]]", model))
    parts += _connector(meter_1.name, 1, scene.line_port, meter.points())
    parts += _connector(press_1.name, 2, scene.line_port, press.points())
    (folder / "edge.toml").write_text("\n".join(parts), encoding="utf-8")
    write_private(folder / "gateway.secret", secret)
    write_private(folder / "appliances.toml", toml(f"[{hood_1.product_key}]", {hood_1.name: hood_1.secret}))


def _connector(device: str, unit_id: int, port: int, points: tuple[Point, ...]) -> list[str]:
    head = {"name": device, "kind": "modbus-tcp", "device": device, "host": "127.0.0.1", "port": port, "unit_id": unit_id}
    head |= {"poll_ms": POLL_MS, "sample_on": "counter", "time_from": "time_ms"}
    return [toml("[[connector]]", head), *(toml("[[connector.point]]", point.to_map()) for point in points)]
