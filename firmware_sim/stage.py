"""What the demo stands on: the platform's processes, its HTTP API, and the files of a gateway. Nothing here looks inside the others."""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from firmware_sim.account import Account, Gap, balance
from firmware_sim.row_log import Row
from protocols.errors import TryAgain

STOP_S = 12.0
READY_S = 60.0
GET_TRIES = 10
FAR_FUTURE_MS = 4_102_444_800_000
_PR_SET_PDEATHSIG = 1


class StageFailed(TryAgain):
    """A process did not come up, or ended when it should not have; the message ends with its last words."""


def _die_with_parent() -> None:
    """In the child: SIGTERM when the demo dies, however it dies (Linux; elsewhere the demo's own clean-up has to do)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """One process: its standard error goes to LOG, its standard output is JSON lines for us."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self.name, self._arguments, self.log = name, arguments, folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, in a session of its own, so that Ctrl-C reaches only the demo."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEARTHLINE_")}
        with self.log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=environment | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    async def said(self, key: str) -> dict[str, Any]:
        """The next JSON line on its standard output that has `key`; raises StageFailed."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(READY_S):
                while line := await self._process.stdout.readline():
                    entry: dict[str, Any] = json.loads(line)
                    if key in entry:
                        return entry
        except TimeoutError:
            raise StageFailed(f"{self.name} did not get ready in {READY_S:g} s; {self.log}: {self.last_words()}") from None
        raise StageFailed(f"{self.name} ended early; {self.log}: {self.last_words()}")

    async def ready(self) -> int:
        """The port a simulator listens on, 0 for one that does not; raises StageFailed."""
        return int((await self.said("event")).get("port", 0))

    def last_words(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-3:])

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone; raises StageFailed if it had ended by itself, which a kill would hide."""
        if self._process is None or not self.running:
            raise StageFailed(f"{self.name} ended by itself; {self.log}: {self.last_words()}")
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """Not through asyncio's process: that looks whether it has ended, and then takes its exit code from asyncio (255 instead)."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    async def stop(self) -> int:
        """SIGTERM, then SIGKILL for the whole session if it takes too long; the exit code. Stopping twice is harmless."""
        if self._process is None:
            return 0
        if self.running:
            self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                return await self._process.wait()
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            return await self._process.wait()


class Cloud:
    """The API, as any customer's script would use it."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self._client = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30.0)

    async def close(self) -> None:
        await self._client.aclose()

    async def product(self, name: str, tsl: Mapping[str, object]) -> str:
        """Make a product; returns its key."""
        return str((await self._post("/v1/products", {"name": name, "tsl": tsl}))["product_key"])

    async def device(self, product_key: str, device_name: str, site: str) -> str:
        """Make a device; returns its secret."""
        return str((await self._post(f"/v1/products/{product_key}/devices", {"device_name": device_name, "site": site}))["device_secret"])

    async def reported(self, product_key: str, device_name: str) -> tuple[bool, int]:
        """Whether the device is online, and the newest reported time (epoch ms, 0 = nothing yet)."""
        found = await self._get(f"/v1/devices/{product_key}/{device_name}")
        return bool(found["online"]), max((entry["time"] for entry in found["reported"].values()), default=0)

    async def rows(self, product_key: str, device_name: str, identifier: str, to_ms: int = FAR_FUTURE_MS) -> tuple[int, list[Gap]]:
        """How many points a property has before `to_ms`, and its gaps."""
        path = f"/v1/telemetry/{product_key}/{device_name}/{identifier}"
        found = await self._get(path, {"from": 0, "to": to_ms, "buckets": 1})
        return sum(bucket["count"] for bucket in found["buckets"]), _gaps(found)

    async def points(self, product_key: str, device_name: str, identifier: str, *, raw: bool) -> tuple[list[tuple[int, object]], list[Gap]]:
        """Every stored point (time, value) of a property, raw = before duplicates are removed; and its gaps."""
        path = f"/v1/telemetry/{product_key}/{device_name}/{identifier}"
        query: dict[str, Any] = {"from": 0, "to": FAR_FUTURE_MS, "limit": 20_000, "raw": str(raw).lower()}
        points: list[tuple[int, object]] = []
        gaps: list[Gap] = []
        while True:
            page = await self._get(path, query)
            points += [(point[0], point[1]) for point in page["points"]]
            gaps += _gaps(page)
            if not page["next"]:
                return points, gaps
            query["cursor"] = page["next"]

    async def _post(self, path: str, body: object) -> dict[str, Any]:
        try:
            return _answer(await self._client.post(path, json=body))
        except httpx.HTTPError as error:
            raise StageFailed(f"POST {path}: {error!r}") from error

    async def _get(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Asked again for a while when nobody answers: a role may be starting again."""
        for _ in range(GET_TRIES):
            try:
                return _answer(await self._client.get(path, params=query))
            except httpx.HTTPError as error:
                problem = error
            await asyncio.sleep(0.5)
        raise StageFailed(f"GET {path}: {problem!r}")


def _answer(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise StageFailed(f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text[:300]}")
    found: dict[str, Any] = response.json()
    return found


def _gaps(body: Mapping[str, Any]) -> list[Gap]:
    return [Gap(gap["from"], gap["to"], gap["reason"]) for gap in body["gaps"]]


class LogTail:
    """A simulator's log, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.readings, self._offset = path, 0, 0
        self.rows: list[Row] = []

    def read(self) -> None:
        """Take in the whole lines written since."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        for line in data.splitlines():
            entry = json.loads(line)
            self.rows.append(Row(entry["n"], entry["time_ms"], entry["values"]))
            self.readings += len(entry["values"])


async def account_of(
    cloud: Cloud, product_key: str, device_name: str, rows: Sequence[Row], *, behind_gateway: bool, registers: bool
) -> Account:
    """The account of one device; a gateway's counts duplicates among raw rows, a direct device's among what a query shows."""
    points, gaps = {}, {}
    for identifier in sorted({name for row in rows for name in row.values}):
        points[identifier], gaps[identifier] = await cloud.points(product_key, device_name, identifier, raw=behind_gateway)
    return balance(rows, points, gaps, registers=registers)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def toml(table: str, values: Mapping[str, object]) -> str:
    """One table of flat keys; JSON's spelling of texts and numbers is TOML's."""
    return "\n".join([table, *(f"{name} = {json.dumps(value)}" for name, value in values.items())]) + "\n"


def write_private(path: Path, text: str) -> None:
    """A file of secrets, mode 0600 from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


async def wait_for(
    what: str, condition: Callable[[], Awaitable[bool]], timeout_s: float, needed: Iterable[Child] = (), every_s: float = 0.1
) -> float:
    """Seconds until `condition` holds; raises StageFailed naming `what`, or the one of the `needed` that has ended."""
    began = time.monotonic()
    while not await condition():
        for child in needed:
            if not child.running:
                raise StageFailed(f"{child.name} has ended; {child.log}: {child.last_words()}")
        if time.monotonic() - began > timeout_s:
            raise StageFailed(f"{what}: not within {timeout_s:g} s")
        await asyncio.sleep(every_s)
    return time.monotonic() - began
