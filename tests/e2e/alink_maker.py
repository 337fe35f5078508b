"""A maker's product with events and services of both kinds, for devices on the vendor's SDKs, and the calls that its applications make."""

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.platform import Cloud

TSL: dict[str, Any] = {
    "properties": [
        {"identifier": "Power", "name": "Power", "accessMode": "rw", "dataType": {"type": "double", "specs": {"min": "0", "max": "3000"}}},
        {"identifier": "Switch", "name": "Switch", "accessMode": "rw", "dataType": {"type": "bool", "specs": {"0": "off", "1": "on"}}},
    ],
    "events": [
        {
            "identifier": "Alarm",
            "name": "Alarm",
            "type": "alert",
            "outputData": [{"identifier": "code", "name": "Code", "dataType": {"type": "int", "specs": {}}}],
        }
    ],
    "services": [
        {
            "identifier": name,
            "name": name,
            "callType": call_type,
            "inputData": [{"identifier": "times", "name": "Times", "dataType": {"type": "int", "specs": {"min": "1", "max": "9"}}}],
            "outputData": [{"identifier": "done", "name": "Done", "dataType": {"type": "int", "specs": {}}}],
        }
        for name, call_type in (("Blink", "async"), ("Beep", "sync"))
    ],
}


@dataclass(slots=True)
class Maker:
    """A maker's product on a running platform. `tsl_file` holds its thing model as the SDKs read it."""

    cloud: Cloud
    folder: Path
    product_key: str
    tsl_file: Path

    @classmethod
    def on(cls, cloud: Cloud, folder: Path) -> "Maker":
        product_key = cloud.product("stove", TSL)
        tsl_file = folder / "tsl.json"
        tsl_file.write_text(json.dumps(cloud.api.get(f"/v1/products/{product_key}/tsl")))
        return cls(cloud, folder, product_key, tsl_file)

    def path(self, name: str, rest: str = "") -> str:
        return f"/v1/devices/{self.product_key}/{name}{rest}"

    def get(self, name: str, rest: str = "") -> Any:
        return self.cloud.api.get(self.path(name, rest))

    def ask(self, name: str, rest: str, body: object) -> dict[str, Any]:
        """A command and its end."""
        answer: dict[str, Any] = self.cloud.post(self.path(name, f"{rest}?wait_s=20"), body)
        return answer

    def send(self, method: str, path: str, body: object) -> Any:
        """A call with a JSON body."""
        request = urllib.request.Request(
            f"{self.cloud.api_url}{path}",
            method=method,
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.cloud.admin_key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def desire(self, name: str, **values: object) -> Any:
        """The shadow after a change of what is desired."""
        return self.send("PATCH", self.path(name, "/shadow"), {"desired": values})

    def upload(self, version: str, image: bytes, method: str) -> int:
        """The number of a new firmware."""
        query = f"product_key={self.product_key}&version={version}&sign_method={method}"
        headers = {"Authorization": f"Bearer {self.cloud.admin_key}", "Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{self.cloud.api_url}/v1/firmware?{query}", data=image, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(json.load(answer)["firmware_id"])

    def offer(self, firmware_id: int) -> Any:
        """What became of the first offer of a firmware."""
        return self.cloud.api.get(f"/v1/firmware/{firmware_id}/offers")["items"][0]

    def open_registration(self) -> str:
        """The product's new secret; devices that were entered may register."""
        path = f"/v1/products/{self.product_key}/registration"
        secret = str(self.cloud.post(f"{path}/secret", {})["product_secret"])
        self.send("PUT", path, {"mode": "registered_only"})
        return secret
