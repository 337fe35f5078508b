"""thingsboard-gateway from PyPI in an environment of its own: one Mosquitto for its appliances, one that plays ThingsBoard."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from tests.benchmarks.generator import Client
from tests.benchmarks.peer.contestant import VALUES
from tests.e2e.link import Link
from tests.e2e.platform import ROOT, wait_until
from tests.e2e.scenes import free_port

VERSION = "3.8.5"
HOME = ROOT / "build" / "thingsboard-gateway"
SESSION_LIMITS = {"maxPayloadSize": 65_536, "maxInflightMessages": 100, "rateLimits": {}, "gatewayRateLimits": {}}
RPC = "v1/devices/me/rpc"
TUNED = ", tuned"
# As it is shipped, but for who and where; tuned it reads a thousand records at a time, and takes messages without a look at each value.
STORAGES: Mapping[str, Mapping[str, Any]] = {
    "memory": {"type": "memory"},
    "SQLite": {"type": "sqlite"},
    "file": {"type": "file"},
    "memory, tuned": {"type": "memory", "read_records_count": 1000},
    "SQLite, tuned": {"type": "sqlite", "max_read_records_count": 1000},
    "file, tuned": {"type": "file", "max_read_records_count": 1000, "max_records_per_file": 1_000_000},
}


def installed() -> Path:
    """The interpreter of its environment, made when it is not there. Raises CalledProcessError."""
    python = HOME / "bin" / "python"
    if not (HOME / VERSION).exists():
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"thingsboard-gateway=={VERSION}"], check=True)
        (HOME / VERSION).touch()
    return python


def mosquitto(folder: Path, name: str) -> tuple[int, "subprocess.Popen[bytes]"]:
    """A Mosquitto that keeps all that a slow reader has not taken."""
    port = free_port()
    file = folder / f"{name}.conf"
    lines = (f"listener {port} 127.0.0.1", "allow_anonymous true", "max_queued_messages 0", "max_inflight_messages 1000")
    file.write_text("\n".join((*lines, "set_tcp_nodelay true", "log_dest none")) + "\n")
    process = subprocess.Popen([shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(file)])
    time.sleep(0.5)
    return port, process


class ThingsBoardGateway:
    """`Contestant`: its MQTT connector, one of its storages."""

    def __init__(self, folder: Path, storage: str) -> None:
        self.name = f"thingsboard-gateway {VERSION}, {storage}"
        self._python, self._folder = installed(), folder
        self.data = folder / "data"
        self._settings, self._tuned = {**STORAGES[storage]}, storage.endswith(TUNED)
        folder.mkdir(parents=True, exist_ok=True)
        self.front_port, self._broker = mosquitto(folder, "appliances")
        platform_port, self._platform = mosquitto(folder, "platform")
        self.uplink = Link(("127.0.0.1", platform_port))
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._found: set[tuple[int, int]] = set()
        self._listener = PahoClient(CallbackAPIVersion.VERSION2, "platform")
        self._listener.on_message = self._heard
        self._listener.connect("127.0.0.1", platform_port)
        for topic in ("v1/gateway/telemetry", f"{RPC}/request/+"):
            self._listener.subscribe(topic, 0)
        self._listener.loop_start()

    def _heard(self, client: PahoClient, _: object, message: MQTTMessage) -> None:
        if message.topic.startswith(RPC):
            if json.loads(message.payload).get("method") == "getSessionLimits":
                client.publish(message.topic.replace("request", "response"), json.dumps(SESSION_LIMITS))
            return
        new = [
            (int(device[1:]), int(entry["values"]["N"]))
            for device, entries in json.loads(message.payload).items()
            if device[1:].isdigit()
            for entry in entries
            if "N" in entry["values"]
        ]
        with self._lock:
            self._found.update(new)

    def client(self, device: int) -> Client:
        return Client(f"d{device}", f"appliance/d{device}/data")

    def payload(self, device: int, number: int) -> bytes:
        drift = (number * 7 + device * 31) % 800
        values = f'"Temperature":{100 + drift / 10:.1f},"Power":{200 + drift / 5:.1f},"Energy":{5000 + number / 10:.1f}'
        return f'{{"ts":{1_760_000_000_000 + number * 100 + device},"N":{number},{values}}}'.encode()

    def start(self) -> None:
        shipped = next(HOME.glob("lib/*/site-packages/thingsboard_gateway/config"))
        own = self._folder / "config"
        own.mkdir(exist_ok=True)
        self.data.mkdir(exist_ok=True)
        main: dict[str, Any] = json.loads((shipped / "tb_gateway.json").read_text())
        main["thingsboard"] |= {"host": "127.0.0.1", "port": self.uplink.port, "remoteConfiguration": False}
        main["thingsboard"]["security"]["accessToken"] = "gateway"
        main["storage"] |= {"data_folder_path": f"{self.data}/", "data_file_path": f"{self.data}/", **self._settings}
        main["connectors"] = [{"type": "mqtt", "name": "appliances", "configuration": "mqtt.json"}]
        (own / "tb_gateway.json").write_text(json.dumps(main))
        mqtt: dict[str, Any] = json.loads((shipped / "mqtt.json").read_text())
        mqtt["broker"] |= {"port": self.front_port}
        device = {
            "deviceNameExpressionSource": "topic",
            "deviceNameExpression": "(?<=appliance/)(.*?)(?=/data)",
            "deviceProfileExpressionSource": "constant",
            "deviceProfileExpression": "default",
        }
        series = ["*"] if self._tuned else [{"type": "double", "key": name, "value": f"${{{name}}}"} for name in VALUES]
        converter = {"type": "json", "deviceInfo": device, "timeout": 60_000, "attributes": [], "timeseries": series}
        mqtt["mapping"] = [{"topicFilter": "appliance/+/data", "subscriptionQos": 1, "converter": converter}]
        for requests in mqtt.get("requestsMapping", {}).values():
            requests.clear()
        (own / "mqtt.json").write_text(json.dumps(mqtt))
        shutil.copy(shipped / "logs.json", own)
        (self._folder / "logs").mkdir(exist_ok=True)
        with (self._folder / "gateway.log").open("ab") as log:
            words = [str(self._python), "-c", "from thingsboard_gateway.tb_gateway import daemon; daemon()"]
            environment = os.environ | {"TB_GW_CONFIG_DIR": str(own)}
            self._process = subprocess.Popen(words, cwd=self._folder, env=environment, stdout=log, stderr=log)
        wait_until(self._subscribed, 60, "the gateway's subscription")

    def _subscribed(self) -> bool:
        """Whether it hears appliances: what one publishes reaches its connector's log of a subscription."""
        log = self._folder / "gateway.log"
        return "subscribe to" in log.read_text(errors="replace")[-20_000:].lower()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        (self._folder / "gateway.log").write_bytes(b"")

    def delivered(self) -> int:
        return len(self._found)

    def found(self) -> set[tuple[int, int]]:
        with self._lock:
            return set(self._found)

    def close(self) -> None:
        self.kill()
        self._listener.loop_stop()
        self.uplink.close()
        for process in (self._broker, self._platform):
            process.kill()
            process.wait()
