"""Scenes for the end-to-end tests: who is there and how they are wired, from command lines, files and HTTP alone."""

import json
import os
import random
import select
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.e2e.account import Account, account_of
from tests.e2e.link import Link
from tests.e2e.platform import ROOT, Cloud, Gateway, Process, simulator, wait_until

POLL_MS = 5
RAISE_AFTER = 3
CLOSE_AFTER_MS = 50
PROMPT = {"start_spread_s": 0, "reconnect_max_s": 5}  # no fleet to spare here


def chance_of_this_run() -> random.Random:
    """Random moments for faults; printed, so that `HEARTHLINE_SEED=<it>` plays a failed run again."""
    seed = int(os.environ.get("HEARTHLINE_SEED") or random.randrange(1 << 32))
    sys.stdout.write(f"HEARTHLINE_SEED={seed}\n")
    return random.Random(seed)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def said(process: Process, event: str, timeout_s: float = 60.0) -> dict[str, Any]:
    """The next line on a simulator's stdout with this event; raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            break
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{process.name} ended before it said {event!r}:\n{process.tail()}")
        entry: dict[str, Any] = json.loads(line)
        if entry.get("event") == event:
            return entry
    raise TimeoutError(f"{process.name} did not say {event!r} within {timeout_s:g} s")


def rows_logged(log: Path) -> int:
    """How many whole rows a simulator has logged so far."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


@dataclass(slots=True)
class Machine:
    """A CSV on Modbus registers, behind a link that hears when it is polled."""

    name: str
    process: Process
    link: Link
    points: list[dict[str, Any]]
    tsl: Any
    log: Path
    unit_id: int = 1

    @classmethod
    def replay(cls, folder: Path, name: str, file: Path, *options: str, rate: float) -> "Machine":
        """Start `fwsim replay --as modbus` on a free port."""
        folder.mkdir(parents=True, exist_ok=True)
        outputs = ["--map-out", str(folder / f"{name}.map.json"), "--tsl-out", str(folder / f"{name}.tsl.json")]
        words = ["replay", str(file), "--as", "modbus", "--port", "0", "--device-name", name, "--log-dir", str(folder), *outputs]
        process = simulator(f"sim-{name}", [*words, "--rate", str(rate), *options], folder)
        process.start()
        ready = said(process, "ready")
        points = json.loads((folder / f"{name}.map.json").read_text())
        tsl = json.loads((folder / f"{name}.tsl.json").read_text())
        return cls(name, process, Link(("127.0.0.1", ready["port"])), points, tsl, folder / f"{name}.jsonl")

    def end(self) -> None:
        self.process.end()
        self.link.close()

    def connector(self) -> str:
        """The [[connector]] of the agent's configuration."""
        head = {
            "name": self.name,
            "kind": "modbus-tcp",
            "device": self.name,
            "host": "127.0.0.1",
            "port": self.link.port,
            "unit_id": self.unit_id,
        }
        head |= {"poll_ms": POLL_MS, "sample_on": "counter", "time_from": "time_ms"}
        blocks = ["[[connector]]\n" + toml(head)]
        blocks += [
            "[[connector.point]]\n" + toml({key: value for key, value in point.items() if value is not None}) for point in self.points
        ]
        return "\n".join(blocks)


def toml(table: Mapping[str, Any]) -> str:
    """Flat keys as TOML; JSON's spelling of texts and numbers is TOML's."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


@dataclass(slots=True)
class Site:
    """One gateway with what stands behind it, connected to the cloud through a link that can be cut."""

    cloud: Cloud
    gateway: Gateway
    uplink: Link
    front_port: int
    keys: dict[str, str]  # device name -> product key
    secrets: dict[str, str] = field(default_factory=dict)
    name: str = ""

    @classmethod
    def build(
        cls,
        cloud: Cloud,
        folder: Path,
        name: str,
        machines: Sequence[Machine] = (),
        appliances: Mapping[str, Any] | None = None,
        *,
        more: str = "",
        code: Path = ROOT,
    ) -> "Site":
        """Products and devices over HTTP, then the agent's files. `appliances` is device name -> TSL, `more` further tables."""
        gateway_secret = cloud.device("gateway", name, site=name)
        uplink, front_port = Link(("127.0.0.1", cloud.mqtt_port)), free_port()
        keys: dict[str, str] = {}
        secrets: dict[str, str] = {}
        blocks = []
        models = {machine.name: machine.tsl for machine in machines} | dict(appliances or {})
        for device, tsl in models.items():
            keys[device] = cloud.product(f"{name} {device}", tsl)
            secrets[device] = cloud.device(keys[device], device, site=name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{device}.model.json").write_text(json.dumps(tsl))
            blocks.append(
                "[[device]]\n" + toml({"product_key": keys[device], "device_name": device, "thing_model": f"{device}.model.json"})
            )
        configuration = "\n".join(
            [
                toml({"data_dir": "edge"}),
                "[gateway]\n" + toml({"product_key": "gateway", "device_name": name, "secret_file": "gateway.secret"}),
                "[uplink]\n"
                + toml({"host": "127.0.0.1", "port": uplink.port, "keepalive_s": 5, "start_spread_s": 0, "reconnect_max_s": 5}),
                "[front_door]\n" + toml({"host": "127.0.0.1", "port": front_port, "secrets_file": "appliances.toml"}),
                "[buffer]\n" + toml({"close_after_ms": CLOSE_AFTER_MS}),
                *blocks,
                *(machine.connector() for machine in machines),
                more,
            ]
        )
        listed = "".join(f"[{keys[device]}]\n{json.dumps(device)} = {json.dumps(secrets[device])}\n" for device in appliances or {})
        gateway = Gateway(folder, configuration, secret=gateway_secret, appliances=listed, code=code)
        return cls(cloud, gateway, uplink, front_port, keys, secrets, name)

    def agree(self) -> None:
        """The gateway's account of itself, with an empty buffer, is the cloud's account of it."""
        own = self.gateway.edgectl("account")
        assert own["buffered"] == 0
        assert own["collected"] == own["delivered"] + own["in_gaps"]
        theirs = self.cloud.api.get(f"/v1/gateways/{self.name}/account")
        assert (theirs["delivered"], theirs["in_gaps"]) == (own["delivered"], own["in_gaps"]), (own, theirs)
        stretch = datetime.fromtimestamp(time.time() // 600 * 600, UTC).isoformat()
        for bound in ("from", "to"):  # what was collected in the ten minutes of now or later, and what before
            own = self.gateway.edgectl("account", f"--{bound}", stretch)
            theirs = self.cloud.api.get(f"/v1/gateways/{self.name}/account", **{bound: stretch})
            names = (f"{bound}_ms", "delivered", "in_gaps")
            assert [theirs[name] for name in names] == [own[name] for name in names], (own, theirs)

    def differ_by(self, readings: int) -> None:
        """The cloud lacks so many readings that it had taken and then lost with its disk; the gateway's account still has them."""
        own = self.gateway.edgectl("account")
        assert own["collected"] == own["delivered"] + own["in_gaps"]
        theirs = self.cloud.api.get(f"/v1/gateways/{self.name}/account")
        assert own["delivered"] - theirs["delivered"] == readings > 0, (own, theirs)
        assert own["in_gaps"] == theirs["in_gaps"]

    def end(self) -> None:
        self.gateway.end()
        self.uplink.close()


def appliance_replay(
    folder: Path, name: str, file: Path, columns: Mapping[str, str], *, keys: tuple[str, str], port: int, rate: float, rows: int
) -> Process:
    """`fwsim replay --as alink` of one appliance; `keys` is (product key, device secret)."""
    folder.mkdir(parents=True, exist_ok=True)
    devices = folder / f"{name}.devices.json"
    devices.touch(mode=0o600)
    devices.write_text(json.dumps([{"product_key": keys[0], "device_name": name, "device_secret": keys[1], "columns": dict(columns)}]))
    words = ["replay", str(file), "--as", "alink", "--devices", str(devices), "--port", str(port), "--log-dir", str(folder)]
    return simulator(f"sim-{name}", [*words, "--rate", str(rate), "--rows", str(rows), "--window", "10"], folder)


def tsl_of(identifiers: Mapping[str, str]) -> dict[str, Any]:
    """A thing model with one property per identifier: `double` or `int`."""
    return {
        "properties": [
            {"identifier": name, "name": name, "accessMode": "r", "required": False, "dataType": {"type": kind, "specs": {}}}
            for name, kind in identifiers.items()
        ],
        "events": [],
        "services": [],
    }


def settled(cloud: Cloud, product_key: str, device: str, log: Path, *, raw: bool, timeout_s: float = 60.0) -> Account:
    """The account once nothing is missing any more, or as it stands when the time is up."""
    found = account_of(cloud.api, product_key, device, log, raw=raw)
    deadline = time.monotonic() + timeout_s
    while found.lost and time.monotonic() < deadline:
        time.sleep(0.5)
        found = account_of(cloud.api, product_key, device, log, raw=raw)
    return found


def wait_rows(log: Path, rows: int, timeout_s: float = 120.0) -> None:
    """Wait until a simulator has logged so many rows."""
    wait_until(lambda: rows_logged(log) >= rows, timeout_s, f"{rows} rows in {log.name} (there are {rows_logged(log)})", every_s=0.02)


def model_table(name: str, file: Path, device: str, **bounds: int) -> str:
    head = {
        "name": name,
        "file": str(file),
        "devices": [device],
        "score": "AnomalyScore",
        "event": "AnomalyDetected",
        "raise_after": RAISE_AFTER,
    }
    return "[[model]]\n" + toml(head) + ("[inference]\n" + toml(bounds) if bounds else "")


def press_line(cloud: Cloud, folder: Path, name: str, rate: float, *, code: Path = ROOT, **bounds: int) -> tuple[Process, Link, Site, Path]:
    """`fwsim line` behind a gateway that runs the demo's model of the press; its die is misaligned while `folder/fault` exists."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["line", "--port", "0", "--log-dir", str(folder), "--rate", str(rate), "--map-out", str(folder / "map.json")]
    line = simulator("line", [*words, "--fault-file", str(folder / "fault")], folder)
    line.start()
    link = Link(("127.0.0.1", said(line, "ready")["port"]))
    points = json.loads((folder / "map.json").read_text())["press-1"]
    tsl = json.loads((ROOT / "protocols" / "thing" / "library" / "stamping_press.json").read_text())
    machine = Machine("press-1", line, link, points["points"], tsl, folder / "press-1.jsonl", points["unit_id"])
    more = model_table("press", ROOT / "firmware_sim" / "models" / "stamping_press.onnx", "press-1", **bounds)
    site = Site.build(cloud, folder / "edge", name, [machine], more=more, code=code)
    return line, link, site, machine.log
