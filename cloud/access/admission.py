"""Who may connect. CONNECTs that wait at the same moment are looked up together, in a thread: a reconnecting fleet costs few queries."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from cloud.access.ports import CredentialLookup
from cloud.devices.model import Credentials
from cloud.foundation.logs import get_logger
from protocols.alink.credentials import parse_username, verify
from protocols.errors import Reason, Refused, TryAgain
from protocols.mqtt.packets import Connect, ConnectCode

TOGETHER: Final = 500
SUSPECTS_TOGETHER: Final = 50  # of these at least so many from addresses where much has failed: nobody waits for ever


@dataclass(frozen=True, slots=True)
class Denied:
    """A CONNECT that is not let in: the answer, and for the operator why. Without a reason it is our fault and nothing was refused."""

    code: ConnectCode
    reason: Reason | None = None
    detail: str = ""

    @property
    def words(self) -> str:
        """What the client is told: a stranger learns nothing about devices."""
        return _WORDS[self.code]


_WORDS: Final = {
    ConnectCode.UNAVAILABLE: "the device registry does not answer: try again later",
    ConnectCode.BAD_CREDENTIALS: "user name (deviceName&productKey) or password is wrong: compare product key, device name and secret",
    ConnectCode.NOT_AUTHORISED: "this device is disabled: its owner can enable it on the platform",
}

Key = tuple[str, str]
Verdict = Credentials | Denied
Asker = TypeVar("Asker")


def judge(connect: Connect, known: Mapping[Key, Credentials]) -> Verdict:
    """The credentials that a CONNECT proves, or how to deny it."""
    try:
        key = parse_username(connect.username)
    except Refused as refused:
        return Denied(ConnectCode.BAD_CREDENTIALS, refused.reason, str(refused))
    credentials = known.get(key)
    if credentials is None:
        detail = "no such device: enter it on the platform, or correct the device name and product key that it sends"
        return Denied(ConnectCode.BAD_CREDENTIALS, Reason.UNKNOWN_DEVICE, detail)
    if not verify(connect.client_id, connect.username, connect.password, credentials.secret):
        detail = "the password is not the one that the device's secret makes: give the device its secret, or find who else uses its name"
        return Denied(ConnectCode.BAD_CREDENTIALS, Reason.BAD_CREDENTIALS, detail)
    if not credentials.enabled:
        return Denied(ConnectCode.NOT_AUTHORISED, Reason.NOT_AUTHORISED, "the device is disabled: enable it, or take it off the network")
    return credentials


class Admission(Generic[Asker]):
    """A line of CONNECTs. `decided` hears every verdict in the event loop, in the order of asking; suspects come after the others."""

    def __init__(self, lookup: CredentialLookup, decided: Callable[[Asker, Connect, Verdict], None]) -> None:
        self._lookup = lookup
        self._decided = decided
        self._line: list[tuple[Asker, Connect]] = []
        self._suspects: list[tuple[Asker, Connect]] = []
        self._asked = asyncio.Event()

    def ask(self, asker: Asker, connect: Connect, suspect: bool = False) -> None:
        """Put a CONNECT in line; `suspect`: it comes from where much has failed."""
        (self._suspects if suspect else self._line).append((asker, connect))
        self._asked.set()

    async def run(self) -> None:
        """Decide for ever."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="admission") as thread:
            while True:
                await self._asked.wait()
                now = self._next()
                for (asker, connect), verdict in zip(now, await loop.run_in_executor(thread, self._judge_all, now), strict=True):
                    self._decided(asker, connect, verdict)

    def _next(self) -> list[tuple[Asker, Connect]]:
        room = TOGETHER - min(len(self._suspects), SUSPECTS_TOGETHER)
        now, self._line = self._line[:room], self._line[room:]
        room = TOGETHER - len(now)
        now += self._suspects[:room]
        del self._suspects[:room]
        if not self._line and not self._suspects:
            self._asked.clear()
        return now

    def _judge_all(self, line: list[tuple[Asker, Connect]]) -> list[Verdict]:
        keys = list(dict.fromkeys(key for _, connect in line if (key := _key(connect)) is not None))
        try:
            known = self._lookup(keys) if keys else {}
        except TryAgain as error:
            get_logger().warning("admission.unavailable", error=str(error))
            return [Denied(ConnectCode.UNAVAILABLE)] * len(line)
        return [judge(connect, known) for _, connect in line]


def _key(connect: Connect) -> Key | None:
    try:
        return parse_username(connect.username)
    except Refused:
        return None
