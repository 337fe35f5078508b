"""Ours for the comparison: the agent's front door, and the whole platform behind the link, on the same two processors."""

from pathlib import Path

from protocols.alink.credentials import sign
from tests.benchmarks.generator import Client
from tests.benchmarks.peer.contestant import VALUES
from tests.e2e.link import Link
from tests.e2e.platform import Cloud, wait_until
from tests.e2e.scenes import Site, tsl_of


class Hearthline:
    """`Contestant`: an agent with so many appliances, as it is shipped."""

    name = "hearthline"

    def __init__(self, folder: Path, devices: int) -> None:
        self._cloud = Cloud(folder / "platform", crash_points=False)
        self._cloud.start()
        appliances = {f"d{device}": tsl_of({"N": "int"} | dict.fromkeys(VALUES[1:], "double")) for device in range(devices)}
        self._site = Site.build(self._cloud, folder / "gateway", "peer", appliances=appliances)
        self.data = folder / "gateway" / "edge"
        self.uplink: Link = self._site.uplink
        self.front_port = self._site.front_port
        self._devices = devices

    def client(self, device: int) -> Client:
        name = f"d{device}"
        key = self._site.keys[name]
        signed = sign(key, name, self._site.secrets[name])
        topic = f"/sys/{key}/{name}/thing/event/property/post"
        return Client(signed.client_id, topic, signed.username, signed.password.decode())

    def payload(self, device: int, number: int) -> bytes:
        drift, at = (number * 7 + device * 31) % 800, 1_760_000_000_000 + number * 100 + device
        values = zip(VALUES, (f"{number}", f"{100 + drift / 10:.1f}", f"{200 + drift / 5:.1f}", f"{5000 + number / 10:.1f}"), strict=True)
        params = ",".join(f'"{name}":{{"value":{value},"time":{at}}}' for name, value in values)
        return f'{{"id":"{number}","version":"1.0","params":{{{params}}},"method":"thing.event.property.post"}}'.encode()

    def start(self) -> None:
        self._site.gateway.start()
        wait_until(lambda: self._site.gateway.at_work, 30, "the agent")

    @property
    def pid(self) -> int:
        return self._site.gateway.pid

    def kill(self) -> None:
        if self._site.gateway.running:
            self._site.gateway.kill()

    def delivered(self) -> int:
        return int(self._cloud.api.get("/v1/gateways/peer/account")["delivered"]) // len(VALUES)

    def found(self) -> set[tuple[int, int]]:
        every: set[tuple[int, int]] = set()
        for device in range(self._devices):
            name = f"d{device}"
            points = list(self._cloud.api.points(self._site.keys[name], name, "N", raw=True))
            every |= {(device, int(point[1])) for point in points}
        return every

    def close(self) -> None:
        self._site.end()
        self._cloud.end()
