"""The real front door on a NATS that is there, with a registry of made-up devices; prints one JSON line when it takes connections."""

import argparse
import json
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import uvloop

from cloud.access.worker import RECHECK_S, serve
from cloud.devices.model import Credentials, SubDevice
from cloud.foundation.bus import Bus
from cloud.foundation.crashpoint import arm
from cloud.foundation.health import serve_health
from cloud.foundation.logs import configure
from cloud.foundation.metrics import Metrics
from protocols.alink.credentials import sign
from protocols.mqtt.lobby import Bounds

PRODUCT_KEY = "made-up"
SECRET = b"0123456789abcdef0123456789abcdef"


GATEWAY = (PRODUCT_KEY, "gw-alink")  # every device is in its topology

_disabled: set[str] = set()
_ids: dict[tuple[str, str], int] = {}


def lookup(keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Credentials]:
    """Every device of `PRODUCT_KEY` exists but `no-...`; `off-...` and what `test.disable` named are disabled, `gw-...` are gateways."""
    return {
        key: Credentials(
            tenant_id=1,
            device_id=_ids.setdefault(key, len(_ids) + 1),
            product_key=key[0],
            device_name=key[1],
            site_id=None,
            is_gateway=key[1].startswith("gw-"),
            enabled=not key[1].startswith("off-") and key[1] not in _disabled,
            secret=SECRET,
        )
        for key in keys
        if key[0] == PRODUCT_KEY and not key[1].startswith("no-")
    }


def tenants(claims: Sequence[tuple[str, str]]) -> list[int]:
    """Whoever claims to be of `PRODUCT_KEY` concerns tenant 1, everybody else the operator, tenant 9."""
    return [1 if product_key == PRODUCT_KEY else 9 for product_key, _ in claims]


def clients(count: int) -> list[list[str]]:
    """Rows for the generator's `--clients`."""
    rows = []
    for n in range(count):
        connection = sign(PRODUCT_KEY, f"d{n}", SECRET)
        topic = f"/sys/{PRODUCT_KEY}/d{n}/thing/event/property/post"
        rows.append([connection.client_id, topic, connection.username, connection.password.decode()])
    return rows


async def run(nats_url: str, token: str, port: int, stream_bytes: int, bounds: Bounds, recheck_s: float) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    bus = await Bus.connect(nats_url, token, "access")

    async def disable(data: bytes) -> bytes:
        _disabled.add(data.decode())
        return b""

    async def check() -> None:
        return None

    await bus.serve("test.disable", disable)
    metrics = Metrics()
    await serve_health(bus, "access", metrics, check)

    def ready() -> None:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)

    try:
        await serve(
            listener=listener,
            bus=bus,
            credentials=lookup,
            sub_devices=lambda keys: {key: SubDevice(found, lookup([GATEWAY])[GATEWAY].device_id) for key, found in lookup(keys).items()},
            tenants=tenants,
            metrics=metrics,
            stream_bytes=stream_bytes,
            bounds=bounds,
            recheck_s=recheck_s,
            ready=ready,
        )
    finally:
        await bus.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nats", required=True)
    parser.add_argument("--token", default=secrets.token_hex(8))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stream-bytes", type=int, default=4 << 30)
    parser.add_argument("--crash-dir", type=Path)
    parser.add_argument("--recheck-s", type=float, default=RECHECK_S)
    for name, value in asdict(Bounds()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    configure("access")
    arm(options.crash_dir)
    bounds = Bounds(**{name: getattr(options, name) for name in asdict(Bounds())})
    try:
        uvloop.run(run(options.nats, options.token, options.port, options.stream_bytes, bounds, options.recheck_s))
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
