"""Who may connect. CONNECTs that wait at the same moment are looked up together, in a thread: a reconnecting fleet costs few queries."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from cloud.access.ports import CredentialLookup
from cloud.devices.model import Credentials
from cloud.foundation.logs import get_logger
from protocols.alink.credentials import parse_username, verify
from protocols.errors import Refused, TryAgain
from protocols.mqtt.packets import Connect, ConnectCode

TOGETHER = 500

Key = tuple[str, str]
Verdict = Credentials | ConnectCode
Asker = TypeVar("Asker")


def judge(connect: Connect, known: Mapping[Key, Credentials]) -> Verdict:
    """The credentials that a CONNECT proves, or the code to refuse it with."""
    try:
        credentials = known.get(parse_username(connect.username))
    except Refused:
        return ConnectCode.BAD_CREDENTIALS
    if credentials is None or not verify(connect.client_id, connect.username, connect.password, credentials.secret):
        return ConnectCode.BAD_CREDENTIALS
    return credentials if credentials.enabled else ConnectCode.NOT_AUTHORISED


class Admission(Generic[Asker]):
    """A line of CONNECTs. `decided` hears every verdict in the event loop, in the order of asking."""

    def __init__(self, lookup: CredentialLookup, decided: Callable[[Asker, Verdict], None]) -> None:
        self._lookup = lookup
        self._decided = decided
        self._line: list[tuple[Asker, Connect]] = []
        self._asked = asyncio.Event()

    def ask(self, asker: Asker, connect: Connect) -> None:
        """Put a CONNECT in line."""
        self._line.append((asker, connect))
        self._asked.set()

    async def run(self) -> None:
        """Decide for ever."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="admission") as thread:
            while True:
                await self._asked.wait()
                now, self._line = self._line[:TOGETHER], self._line[TOGETHER:]
                if not self._line:
                    self._asked.clear()
                for (asker, _), verdict in zip(now, await loop.run_in_executor(thread, self._judge_all, now), strict=True):
                    self._decided(asker, verdict)

    def _judge_all(self, line: list[tuple[Asker, Connect]]) -> list[Verdict]:
        keys = list(dict.fromkeys(key for _, connect in line if (key := _key(connect)) is not None))
        try:
            known = self._lookup(keys) if keys else {}
        except TryAgain as error:
            get_logger().warning("admission.unavailable", error=str(error))
            return [ConnectCode.UNAVAILABLE] * len(line)
        return [judge(connect, known) for _, connect in line]


def _key(connect: Connect) -> Key | None:
    try:
        return parse_username(connect.username)
    except Refused:
        return None
